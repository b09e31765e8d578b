"""The documentation as a site: builds without a warning, and has what only other places own."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import qaccel
from qaccel.cli.main import VERBS


@pytest.mark.wide
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("sphinx", "myst_parser", "furo")),
    reason="Sphinx, myst-parser or furo is missing; pip install '.[docs]'",
)
def test_the_site_has_everything(repo_root: Path, tmp_path: Path):
    env = {**os.environ, "PYTHONPATH": str(Path(qaccel.__file__).parents[1])}
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", "docs", str(tmp_path)]
    done = subprocess.run(command, cwd=repo_root, env=env, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    api, cli, machine = (
        (tmp_path / f"{name}.html").read_text(encoding="utf-8") for name in ("api", "generated/cli", "generated/manual")
    )
    for verb in VERBS:
        assert f"usage: tvmc {verb}" in cli
    for name in ("quantize", "compile", "load", "evaluate", "analyze", "explore", "partition_for_qaccel"):
        assert f'id="qaccel.{name}"' in api
    for name in ("Layer.cycles", "Stalls.decode", "Report.bound_cycles"):
        assert f'id="qaccel.report.record.schema.{name}"' in api
    assert "LOADW" in machine
    index = (tmp_path / "index.html").read_text(encoding="utf-8")
    for page in repo_root.glob("docs/*.md"):
        assert page.stem == "index" or re.search(rf'href="{page.stem}\.html"', index)
