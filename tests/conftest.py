"""Fixtures for all tests: where things are, the two trained networks, and labelled images for them."""

import os
from pathlib import Path
from typing import Any

# Tests run side by side, one per core: before numpy, each process keeps to one thread.
for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TVM_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import hypothesis
import numpy as np
import pytest

from networks import data

ROOT = Path(__file__).resolve().parents[1]

# The same examples in every run, and no time limit per example: machines differ.
hypothesis.settings.register_profile("qaccel", deadline=None, derandomize=True, print_blob=True)
hypothesis.settings.load_profile("qaccel")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden files instead of comparing")


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test sees ranges that another one, or the user, has measured."""
    monkeypatch.setenv("QACCEL_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def update_golden(request: pytest.FixtureRequest) -> bool:
    """True when golden files are to be rewritten."""
    return bool(request.config.getoption("--update-golden"))


@pytest.fixture(scope="session")
def repo_root() -> Path:
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of larger models and data beside the checkout, or $QACCEL_SHARED; without it the test skips."""
    path = Path(os.environ.get("QACCEL_SHARED", ROOT.parent / "shared"))
    if not (path / "models").is_dir():
        pytest.skip("the shared folder of models and data is not here")
    return path


@pytest.fixture(scope="session")
def resnet_path() -> Path:
    """ResNet-like network, BatchNormalization left in. Input and output: data.INPUT_NAME, data.OUTPUT_NAME."""
    return data.HERE / "resnet.onnx"


@pytest.fixture(scope="session")
def mobilenet_path() -> Path:
    """MobileNet-like network with inverted residuals, depthwise layers and ReLU6, BatchNormalization folded."""
    return data.HERE / "mobilenet.onnx"


@pytest.fixture(scope="session", params=["resnet", "mobilenet"])
def network_path(request: pytest.FixtureRequest) -> Path:
    """Each of the two networks in turn."""
    return data.HERE / f"{request.param}.onnx"


@pytest.fixture(scope="session")
def calibration_data() -> dict[str, np.ndarray]:
    """64 calibration images: {input name: float32 [64, 3, 32, 32]}."""
    return {data.INPUT_NAME: data.load("calibration", 64)["images"]}


@pytest.fixture(scope="session")
def labelled_data() -> dict[str, Any]:
    """500 test images: images float32 [500, 3, 32, 32], labels int64 [500]."""
    return data.load("test", 500)


@pytest.fixture(scope="session")
def calibration_npz(tmp_path_factory: pytest.TempPathFactory, calibration_data: dict[str, np.ndarray]) -> Path:
    """The calibration images as `tvmc compile --calibration-data` reads them."""
    path = tmp_path_factory.mktemp("data") / "calibration.npz"
    np.savez(path, **calibration_data)
    return path
