"""README's commands, as written, in a plain shell; and its Python. What `make` does is CI's."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from processes import environment

SHELL = re.compile(r"^```(sh|python)\n(.*?)^```$", re.S | re.M)


@pytest.fixture
def plain(repo_root: Path, tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """A folder that has of the checkout what README names, and an environment in which `tvmc` and `python` are these."""
    folder, shims = tmp_path / "folder", tmp_path / "bin"
    folder.mkdir()
    shims.mkdir()
    (folder / "tests").symlink_to(repo_root / "tests")
    for name, line in (("python", f'"{sys.executable}" "$@"'), ("tvmc", f'"{sys.executable}" -m qaccel.cli.main "$@"')):
        (shims / name).write_text(f"#!/bin/sh\nexec {line}\n")
        (shims / name).chmod(0o755)
    env = environment(tmp_path)
    return folder, {**env, "PATH": f"{shims}{os.pathsep}{env['PATH']}"}


@pytest.mark.wide
@pytest.mark.skipif(shutil.which("sh") is None, reason="there is no sh")
def test_every_command_works_as_written(repo_root: Path, plain: tuple[Path, dict[str, str]]):
    folder, env = plain
    found = SHELL.findall((repo_root / "README.md").read_text(encoding="utf-8"))
    assert [kind for kind, _ in found] == ["sh", "sh", "python", "sh", "sh"]
    for kind, text in found:
        command = ["sh", "-exc", text] if kind == "sh" else ["python", "-c", text]
        done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, f"{text}\n{done.stdout}\n{done.stderr}"
    for path in (
        "report/report.html",
        "report8/report.json",
        "four.so",
        "mine/layers.csv",
        "machines/explore.html",
        "program",
    ):
        assert (folder / path).exists()


def test_from_a_model_to_numbers_are_five_commands(repo_root: Path):
    text = (repo_root / "README.md").read_text(encoding="utf-8")
    first = SHELL.search(text[text.index("## Your own model") :])
    assert first is not None and len(first[2].strip().splitlines()) <= 5
