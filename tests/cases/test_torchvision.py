"""Networks of torchvision, exported as they are with random weights: they compile, on the accelerator, close to float.

Needs PyTorch and torchvision.
"""

import io

import numpy as np
import onnx
import pytest

import qaccel
from cases.nets import decibels, floats, outputs

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torchvision = pytest.importorskip("torchvision", reason="torchvision is not installed")

pytestmark = pytest.mark.slow

NETWORKS = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1", "mnasnet1_0", "efficientnet_b0",
    "regnet_y_400mf", "convnext_tiny", "swin_t",
)  # fmt: skip
ATTENTION = ("swin_t",)  # its products of two activations are none of the accelerator's
FLOORS = {"W8A8": 25, "W16A16": 50}
SEED = 20261129


def exported(name: str) -> onnx.ModelProto:
    """The network as `torch.onnx.export` writes it."""
    torch.manual_seed(SEED)
    network = torchvision.models.get_model(name, weights=None)
    network.eval()
    written = io.BytesIO()
    torch.onnx.export(
        network, (torch.from_numpy(images(1, 9)),), written, input_names=["x"], output_names=["y"], dynamo=False
    )
    return onnx.load_from_string(written.getvalue())


def images(count: int, seed: int) -> np.ndarray:
    """Smooth made-up pictures [count, 3, 224, 224], normalised."""
    rng = np.random.default_rng([SEED, seed])
    coarse = rng.normal(size=(count, 3, 14, 14))
    fine = rng.normal(size=(count, 3, 224, 224))
    return (np.kron(coarse, np.ones((16, 16))) + 0.3 * fine).astype("f4")


@pytest.mark.parametrize("bits", FLOORS)
@pytest.mark.parametrize("name", NETWORKS)
def test_compiles_as_it_is(name: str, bits: str) -> None:
    model = exported(name)
    module = qaccel.compile(model, calibration_data={"x": images(8, 1)}, bits=bits)
    report = module.report
    on_the_cpu = sum(each["macs"] for each in report["fallback"] if name not in ATTENTION or each["op"] != "MatMul")
    assert on_the_cpu <= 0.01 * (report["macs"] + on_the_cpu), report["fallback"]
    test = {"x": images(2, 2)}
    found = decibels(floats(model, test), outputs(module, test))
    print(f"{name} {bits}: {found:.1f} dB, {report['cycles']:,} cycles, {on_the_cpu:,} MACs on the CPU")
    assert found >= FLOORS[bits]
