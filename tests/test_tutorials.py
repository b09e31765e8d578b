"""Every tutorial runs as it stands, in a short mode; `-m slow` runs them whole."""

import subprocess
import sys
from pathlib import Path

import onnx
import pytest

import small_models

TUTORIALS = sorted((Path(__file__).resolve().parents[1] / "tutorials").glob("[0-9]*.py"))
# By tutorial: how it is made shorter beside few images, what it has to say, and what it has to leave behind.
SHORTER = {
    "02_train_for_four_bits": ["--train", "500"],
    "05_bits_under_a_limit": ["--calibrate", "16", "--effort", "fast"],
    "10_tune_the_cpu": ["--trials", "4", "--tasks", "0"],
    "11_sweep_an_accelerator": ["--sweep", "rows=8,16"],
}
# Those whose steps do not need a trained network run on one of three layers.
SMALL = {
    "04_read_a_report", "05_bits_under_a_limit", "07_quantized_or_trained_model", "08_deploy_from_python", "10_tune_the_cpu", "11_sweep_an_accelerator",
}  # fmt: skip
SAYS = {
    "03_your_own_images": ("agreement", "wrong      top-1", "scaled otherwise than the training's"),
    "04_read_a_report": ("above it", "all cycles by cause", "W8A8 became W4A8", "the program begins"),
    "05_bits_under_a_limit": ("auto, at most 1 point", "would take"),
    "07_quantized_or_trained_model": ("from its file the same scores", "accelerator              the same scores"),
    "08_deploy_from_python": ("scores as before: True", "with a module each: True"),
    "10_tune_the_cpu": ("measurements of", "remote     the same scores: True"),
    "11_sweep_an_accelerator": ("mine ", "no other machine is better", "slowest    waits"),
    "12_from_pytorch": ("file       the same scores: True",),
}
LEAVES = {
    "03_your_own_images": ("module.so", "report.html"),
    "04_read_a_report": ("W8A8/report.html", "W4A8/report.json", "W8A8/timeline.json"),
    "10_tune_the_cpu": ("records", "tuned.so"),
    "11_sweep_an_accelerator": ("machines/explore.html", "machines/explore.csv"),
}


def run(tutorial: Path, folder: Path, *arguments: str) -> None:
    """Skips where the tutorial says that something is missing."""
    command = [sys.executable, str(tutorial), "--out", str(folder / "out"), *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    if done.stdout.startswith("skipped"):
        pytest.skip(done.stdout)
    for words in SAYS.get(tutorial.stem, ("top-1",)):
        assert words in done.stdout, done.stdout
    for path in LEAVES.get(tutorial.stem, ("report.json",)):
        assert (folder / "out" / path).exists(), done.stdout


@pytest.mark.wide
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(tutorial: Path, tmp_path: Path):
    small = tmp_path / "classifier.onnx"
    onnx.save(small_models.classifier(), small)
    model = ("--model", str(small)) if tutorial.stem in SMALL else ()
    run(tutorial, tmp_path, "--count", "20", *model, *SHORTER.get(tutorial.stem, []))


@pytest.mark.slow
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs_whole(tutorial: Path, tmp_path: Path):
    run(tutorial, tmp_path)


def test_every_tutorial_is_listed(repo_root: Path):
    """README of the folder names each, in order."""
    text = (repo_root / "tutorials" / "README.md").read_text(encoding="utf-8")
    places = [text.find(path.name) for path in sorted((repo_root / "tutorials").glob("[0-9]*"))]
    assert -1 not in places and places == sorted(places)
