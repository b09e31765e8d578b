"""Every tutorial runs as it stands."""

import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("[0-9]*.py"))
SHORTER = {"02_train_for_four_bits": ["--train", "500"]}


@pytest.mark.wide
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(tutorial: Path, tmp_path: Path):
    command = [
        sys.executable,
        str(tutorial),
        "--count",
        "20",
        "--out",
        str(tmp_path / "out"),
        *SHORTER.get(tutorial.stem, []),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    assert "top-1" in done.stdout
    assert (tmp_path / "out" / "report.json").is_file()
