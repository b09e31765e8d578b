"""The tutorial that adds an operator, and CONTRIBUTING's recipe for an algorithm, followed on a copy of the sources."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from qaccel.machine.native import library_path

PAGE = "tutorials/13_add_an_operator.md"
COPIED = ("python", "schedules", "target", "tests")


def blocks(text: str, kind: str) -> list[str]:
    """The fenced blocks of a kind, in order."""
    return [body for found, body in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M) if found == kind]


def copy_of(root: Path, folder: Path) -> Path:
    """A checkout to work in, with the simulator that this one has."""
    for name in COPIED:
        shutil.copytree(root / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    for name in ("pyproject.toml", "SUPPORTED_OPS.md"):
        shutil.copy(root / name, folder / name)
    (folder / "build").mkdir()
    shutil.copy(library_path(), folder / "build")
    return folder


def shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """As a contributor types it, with the Python and the sources of the copy."""
    env = {**os.environ, "PYTHONPATH": str(folder / "python")}
    env["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), env["PATH"]])
    return subprocess.run(command, shell=True, cwd=folder, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.wide
@pytest.mark.skipif(shutil.which("git") is None, reason="git, which applies the page's changes, is not here")
def test_who_follows_the_page_has_the_operator(repo_root: Path, tmp_path: Path):
    folder, text = copy_of(repo_root, tmp_path / "checkout"), (repo_root / PAGE).read_text(encoding="utf-8")
    (test,), (page, run) = blocks(text, "python"), blocks(text, "")
    name = re.search(r"`(tests/\S+\.py)`:\n\n```python", text)[1]
    (folder / name).write_text(test, encoding="utf-8")

    before = shell(run, folder)
    assert before.returncode == 1 and "test_every_integer" in before.stdout, (
        before.stdout
    )  # its tests see that it is not there

    for number, change in enumerate(blocks(text, "diff")):
        (tmp_path / f"{number}.patch").write_text(change, encoding="utf-8")
        done = shell(f"git apply --recount {tmp_path / f'{number}.patch'}", folder)
        assert done.returncode == 0, done.stderr
    done = shell(page, folder)
    assert done.returncode == 0, done.stderr
    assert "Shrink" in (folder / "SUPPORTED_OPS.md").read_text(encoding="utf-8")
    after = shell(run, folder)
    assert after.returncode == 0, after.stdout
    changed = f"python/qaccel/frontend/passes/expand python/qaccel/npu/partition {name}"
    lint = shell(f"python -m ruff check {changed} && python -m ruff format --check {changed}", folder)
    assert lint.returncode == 0, lint.stdout
    assert not re.search(
        "Shrink", (repo_root / "SUPPORTED_OPS.md").read_text(encoding="utf-8")
    )  # the checkout is as it was


PASS = """
from dataclasses import replace


def count_layers(q, calibration):
    return replace(q, notes=(*q.notes, f"{len(q.plan)} layers, ranges of {len(calibration.ranges.means)}"))
"""
USE = """
import numpy as np
import qaccel
import small_models

samples = {"x": np.ones((4, 3, 16, 16), np.float32)}
for passes in (["counting"], None, []):
    q = qaccel.quantize(small_models.chain(), samples, passes=passes)
    print(any(note.startswith("3 layers, ") for note in q.notes))
"""


@pytest.mark.wide
def test_an_algorithm_is_a_file_and_a_line(repo_root: Path, tmp_path: Path):
    """Steps 1 and 2 of the recipe: `--passes` can choose it, and every door runs it."""
    folder = copy_of(repo_root, tmp_path / "checkout")
    passes = folder / "python" / "qaccel" / "quant" / "passes"
    (passes / "counting.py").write_text(PASS, encoding="utf-8")
    listed = (passes / "__init__.py").read_text(encoding="utf-8")
    listed = listed.replace("from .rounding", "from .counting import count_layers\nfrom .rounding", 1)
    listed = listed.replace("PASSES = (", 'PASSES = (\n    Pass("counting", count_layers),', 1)
    (passes / "__init__.py").write_text(listed, encoding="utf-8")
    (folder / "use.py").write_text(USE, encoding="utf-8")
    done = shell("PYTHONPATH=python:tests python use.py", folder)
    assert done.stdout.split() == ["True", "True", "False"], done.stderr
