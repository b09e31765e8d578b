"""What README and CONTRIBUTING name is there."""

import re
from pathlib import Path

import pytest

NOT_IN_A_CHECKOUT = ("NAME", "SHARED", ".venv")


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md"])
def test_paths_of_a_page_exist(page: str, repo_root: Path) -> None:
    text = (repo_root / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|toml|md))`", text))
    named = {path for path in named if not any(word in path for word in NOT_IN_A_CHECKOUT)}
    roots = (repo_root, repo_root / "python" / "qaccel")
    assert len(named) > 5
    assert not [path for path in sorted(named) if not any((root / path).exists() for root in roots)]
