"""The PyTorch copies of the ONNX networks compute what ONNX Runtime does."""

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from networks import data

if importlib.util.find_spec("torch") is None:
    pytest.skip("the package torch is not installed", allow_module_level=True)

import torch

from networks import torch_networks


def scores(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def before_softmax(model: onnx.ModelProto) -> onnx.ModelProto:
    last = model.graph.node.pop()
    assert last.op_type == "Softmax"
    model.graph.output[0].name = last.input[0]
    return model


def test_resnet8_is_mltks(shared_dir: Path):
    path = shared_dir / "models" / "mltk_image_classification.onnx"
    images = np.random.default_rng(0).uniform(-1, 1, (32, 3, 32, 32)).astype(np.float32)
    wanted = scores(before_softmax(onnx.load(path)), images)
    for network in (torch_networks.resnet8(path), torch_networks.folded(torch_networks.resnet8(path))):
        with torch.no_grad():
            got = network(torch.from_numpy(images)).numpy()
        np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["resnet", "mobilenet"])
def test_networks_are_the_files(name: str, repo_root: Path):
    path = repo_root / "tests" / "networks" / f"{name}.onnx"
    images = data.load("test", 32)["images"]
    with torch.no_grad():
        got = getattr(torch_networks, name)(path)(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(got, scores(onnx.load(path), images), atol=1e-4, rtol=0)
