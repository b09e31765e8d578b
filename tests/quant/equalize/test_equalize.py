"""Cross-layer equalisation: the same network to the bit, ranges that need no second look, and what it saves."""

import numpy as np
import onnx
import onnxruntime
import pytest

import qaccel
from qaccel import QuantizedNetwork
from qaccel.emulate.executor import execute
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.options import BitWidths
from qaccel.quant.calibrate.calibration import Calibration
from qaccel.quant.calibrate.ranges import METHODS, calibrate
from qaccel.quant.equalize import equalize as room
from qaccel.quant.equalize import scaled as writing
from qaccel.quant.equalize.classes import classes_of
from quant.layers import model, node

W8A8 = BitWidths(8, 8)
OUTLIER = 500.0  # weight of one depthwise channel, as a pose network has it


class Network:
    """Layers of random weights in a row; ``spread``: how unlike the channels of one tensor are, as a standard deviation in bits."""

    def __init__(self, seed: int, spread: float = 3.0) -> None:
        self.rng, self.spread = np.random.default_rng(seed), spread
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, np.ndarray] = {}

    def add(self, op: str, inputs: list[str], **attributes: object) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(node(op, name, inputs, **attributes))
        return name

    def constant(self, value: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value, np.float32)
        return name

    def unlike(self, count: int) -> np.ndarray:
        return 2 ** (self.spread * self.rng.standard_normal(count))

    def conv(self, x: str, ic: int, oc: int, kernel: int = 1, groups: int = 1) -> str:
        weight = self.rng.standard_normal((oc, ic // groups, kernel, kernel)) / np.sqrt(ic // groups * kernel**2)
        unlike = self.unlike(oc)
        operands = [
            x,
            self.constant(weight * unlike[:, None, None, None]),
            self.constant(0.3 * unlike * self.rng.standard_normal(oc)),
        ]
        return self.add("Conv", operands, group=groups, pads=[kernel // 2] * 4)

    def act(self, x: str, kind: str, channels: int) -> str:
        if kind == "PRelu":
            return self.add("PRelu", [x, self.constant(self.rng.uniform(0, 0.5, (channels, 1, 1)))])
        if kind == "Clip":
            return self.add("Clip", [x, self.constant(np.float32(0)), self.constant(np.float32(6))])
        return self.add(kind, [x])

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.rng.standard_normal((outputs, inputs)) / np.sqrt(inputs)
        return self.add("Gemm", [x, self.constant(weight), self.constant(self.rng.standard_normal(outputs))], transB=1)

    def finished(self, output: str) -> onnx.ModelProto:
        return model(self.nodes, {"x": (1, 3, 12, 12)}, [output], self.constants)


def mobile(seed: int, act: str, spread: float = 3.0) -> onnx.ModelProto:
    """Everything that factors pass: a residual, two branches that are joined, pools, a plane that is flattened."""
    net = Network(seed, spread)
    stem = net.act(net.conv("x", 3, 8, 3), act, 8)
    deep = net.act(net.conv(stem, 8, 8, 3, groups=8), act, 8)
    y = net.add("Add", [net.conv(deep, 8, 6), net.conv(stem, 8, 6)])
    y = net.add("MaxPool", [y], kernel_shape=[2, 2], strides=[2, 2])
    parts = [net.act(net.conv(y, 6, 4), act, 4), net.act(net.conv(y, 6, 8, 3, groups=2), "LeakyRelu", 8)]
    y = net.act(net.conv(net.add("Concat", parts, axis=1), 12, 5), "Relu", 5)
    y = net.add("AveragePool", [y], kernel_shape=[2, 2], strides=[2, 2])
    return net.finished(net.gemm(net.add("Flatten", [y]), 5 * 9, 7))


def pose(act: str) -> onnx.ModelProto:
    """Blocks of depthwise and pointwise layers; one depthwise channel has the weight OUTLIER, and its readers as much less."""
    net = Network(3, spread=0.0)
    y = net.act(net.conv("x", 3, 16, 3), act, 16)
    for k in range(3):
        y = net.conv(y, 16, 16, 3, groups=16)
        if k == 1:
            depthwise = net.nodes[-1]
            for name in depthwise.input[1:]:
                net.constants[name][5] *= OUTLIER
        y = net.conv(net.act(y, act, 16), 16, 16)
        if k == 1:
            net.constants[net.nodes[-1].input[1]][:, 5] /= OUTLIER
        y = net.act(y, act, 16)
    return net.finished(net.conv(y, 16, 4))


def samples(seed: int, count: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(seed).normal(0.2, 1, (count, 3, 12, 12)).astype(np.float32)}


def by_onnxruntime(proto: onnx.ModelProto, data: dict[str, np.ndarray]) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    run = onnxruntime.InferenceSession(proto.SerializeToString(), options)
    return np.concatenate([run.run(None, {"x": x[None]})[0] for x in data["x"]])


def prepared(proto: onnx.ModelProto, method: str = "minmax") -> tuple[Model, Calibration]:
    imported, data = import_onnx(proto), samples(1, 16)
    return imported, Calibration(calibrate(imported, data, method), data, measured=True)


@pytest.mark.parametrize("act", ["Relu", "PRelu", "Clip"])
@pytest.mark.parametrize("seed", range(3))
def test_the_network_is_the_same_to_the_bit(seed: int, act: str) -> None:
    before, calibration = prepared(mobile(seed, act))
    after, _ = room.equalize(before, calibration, W8A8)
    assert len(after.factors) >= 3
    data = samples(2, 8)
    (output,) = execute(before, data)
    np.testing.assert_array_equal(execute(before, data)[output], execute(after, data)[output])
    np.testing.assert_array_equal(by_onnxruntime(before.onnx_model, data), by_onnxruntime(after.onnx_model, data))
    seen: dict[str, list[np.ndarray]] = {}
    for each in (before, after):
        execute(each, data, lambda name, value: seen.setdefault(name, []).append(value.copy()))
    for name, (own, divided) in seen.items():
        factors = after.factors.get(name, np.ones(own.shape[1])).reshape(-1, *(1,) * (own.ndim - 2))
        np.testing.assert_array_equal(own, divided * factors.astype(np.float32), err_msg=name)


@pytest.mark.parametrize("method", METHODS)
def test_ranges_are_those_of_the_new_network(method: str) -> None:
    before, calibration = prepared(mobile(0, "PRelu"), method)
    after, moved = room.equalize(before, calibration, W8A8)
    measured = calibrate(after, calibration.samples, method)
    assert moved.ranges.values.keys() == measured.values.keys() and after.factors
    for name, span in measured.values.items():
        np.testing.assert_allclose(moved.ranges.values[name], span, rtol=1e-6, atol=1e-12, err_msg=name)
    for name, means in measured.means.items():
        np.testing.assert_allclose(moved.ranges.means[name], means, rtol=1e-5, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("fault", ["_weight", "_shift"])
def test_a_constant_that_is_left_alone_shows(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    before, calibration = prepared(mobile(0, "Relu"))
    monkeypatch.setattr(writing, fault, lambda value, *rest, **named: value)
    after, _ = room.equalize(before, calibration, W8A8)
    (output,) = execute(before, calibration.samples)
    made, wanted = (execute(each, calibration.samples)[output] for each in (after, before))
    assert np.abs(made - wanted).max() > 1e-3 * np.abs(wanted).max()


def test_nothing_changes_where_nothing_is_gained() -> None:
    net = Network(0, spread=0.0)
    before, calibration = prepared(net.finished(net.conv(net.add("Tanh", [net.conv("x", 3, 3)]), 3, 3)))
    assert room.equalize(before, calibration, W8A8) == (before, calibration)
    without = Calibration(calibration.ranges, calibration.samples, measured=False)
    unlike, _ = prepared(mobile(0, "Relu"))
    assert room.equalize(unlike, without, W8A8) == (unlike, without)


def test_what_must_keep_its_scale_does() -> None:
    """Inputs, outputs, and what any function reads or gives that is not positively homogeneous."""
    net = Network(0)
    y = net.add("Sigmoid", [net.conv("x", 3, 4)])
    output = net.conv(net.act(net.conv(y, 4, 4), "Relu", 4), 4, 2)
    imported = import_onnx(net.finished(output))
    classes = classes_of(imported)
    kept = {
        classes.names[var]: bool(classes.fixed[own].all()) for var, own in classes.of.items() if var in classes.names
    }
    assert kept == {"x": True, "conv0": True, "sigmoid1": True, "conv2": False, "relu3": False, "conv4": True}


def test_what_a_limit_holds_keeps_its_scale() -> None:
    """A Clip to 6 is one for all channels of the machine's tensors."""
    before, calibration = prepared(mobile(1, "Clip"))
    after, _ = room.equalize(before, calibration, W8A8)
    assert after.factors and not any(name.startswith("clip") for name in after.factors)


def test_no_channel_is_made_to_reach_farthest() -> None:
    """Unseen samples may go farther in a channel that the samples show little of: there is room for twice as far."""
    before, calibration = prepared(pose("Relu"))
    after, moved = room.equalize(before, calibration, W8A8)
    scaled = [name for name in after.factors if name.startswith("relu")]
    for name in scaled:
        seen, factors = moved.ranges.channels[name], after.factors[name]
        assert (seen.hi[factors < 1] <= 0.75 * seen.hi.max()).all()
    assert scaled


def decibels(network: QuantizedNetwork, proto: onnx.ModelProto, data: dict[str, np.ndarray]) -> float:
    wanted = by_onnxruntime(proto, data)
    (made,) = network.run(data).values()
    return float(10 * np.log10((wanted**2).sum() / ((wanted - made) ** 2).sum()))


@pytest.mark.parametrize("act", ["Relu", "PRelu"])
def test_a_depthwise_weight_of_500(act: str) -> None:
    """What loses everything else at one scale for all channels keeps it on unseen samples, at 8 bits."""
    proto, data, unseen = pose(act), samples(1, 16), samples(2, 16)
    without = qaccel.quantize(proto, data, bits=8, passes=["bias_correction"])
    default = qaccel.quantize(proto, data, bits=8)
    assert decibels(without, proto, unseen) < 20
    assert decibels(default, proto, unseen) > 30
    alone = qaccel.quantize(proto, data, bits=8, passes=["equalization"])
    assert decibels(alone, proto, unseen) > 30


def test_modules_say_what_their_integers_are_in_the_source(tmp_path) -> None:
    """Tensor by tensor against the user's own network, on the machine and as integers written to ONNX."""
    proto, data = pose("PRelu"), samples(1, 16)
    onnx.save(proto, tmp_path / "m.onnx")
    network = qaccel.quantize(proto, data, bits=8)
    module = qaccel.compile(network)
    batch = {"x": data["x"][:1]}
    differences = module.compare(batch, tmp_path / "m.onnx")
    assert len(differences) >= 10 and not any(each.parts for each in differences)
    meanings = module.metadata["tensors"]
    assert any("factors" in each for each in meanings.values())
    for each in meanings.values():
        each.pop("factors", None)
    assert any(each.parts for each in module.compare(batch, tmp_path / "m.onnx"))
    network.save_onnx(tmp_path / "q.onnx")
    written = by_onnxruntime(onnx.load(tmp_path / "q.onnx"), data)
    (made,) = network.run(data).values()
    assert (np.abs(written - made) > 1e-6).mean() < 0.02  # ONNX Runtime multiplies in float32
