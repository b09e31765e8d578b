"""The contracts of the house in pyproject.toml: that they see every room, and what an import against them says."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SEEDED = {
    "upward": ("machine/hw.py", "from ..npu import codegen  # noqa: F401", "rooms import downwards BROKEN"),
    "in a function": (
        "dialect/check.py",
        "def _late() -> None:\n    from ..cpu import compile  # noqa: F401",
        "rooms import downwards BROKEN",
    ),
    "for a type": (
        "frontend/graph.py",
        "import typing\nif typing.TYPE_CHECKING:\n    from ..quant import quantize  # noqa: F401",
        "rooms import downwards BROKEN",
    ),
    "siblings": ("npu/codegen.py", "from ..quant import quantize  # noqa: F401", "rooms import downwards BROKEN"),
    "circle": ("run/files.py", "from ..report import text  # noqa: F401", "no circles BROKEN"),
    "schedules": ("schedules/host.py", "from ..cpu import compile  # noqa: F401", "rooms import downwards BROKEN"),
    "interpreter": (
        "machine/interpreter/streams.py",
        "from ..streams import encode_stream  # noqa: F401",
        "the interpreter shares nothing with what it checks BROKEN",
    ),
    "plan": ("npu/plan/allocate.py", "from ..emit import builder  # noqa: F401", "who chose it BROKEN"),
}


def contracts(root: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"]
    command += ["--config", str(root / "pyproject.toml")]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env={"PYTHONPATH": str(folder)})


@pytest.mark.parametrize("seed", ["nothing", *SEEDED])
def test_contracts(seed: str, repo_root: Path, tmp_path: Path) -> None:
    package = tmp_path / "qaccel"
    shutil.copytree(repo_root / "python" / "qaccel", package, ignore=shutil.ignore_patterns("__pycache__"))
    if seed == "nothing":
        done = contracts(repo_root, tmp_path)
        assert done.returncode == 0, done.stdout
        return
    name, line, verdict = SEEDED[seed]
    with (package / name).open("a", encoding="utf-8") as file:
        file.write(f"\n\n{line}\n")
    done = contracts(repo_root, tmp_path)
    assert done.returncode == 1 and verdict in " ".join(done.stdout.split()), done.stdout
