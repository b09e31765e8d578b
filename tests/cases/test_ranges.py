"""Ranges that what makes and what reads a tensor decides: bounded outputs, and values that a saturating function reads."""

import numpy as np
import onnx
import pytest
from onnx import helper

import qaccel
from cases.nets import BITS, Net, decibels, floats, floats_of, ints, normal, outputs, scalar, weights
from qaccel.quant.quantize import attributes

pytestmark = pytest.mark.wide  # whole compilations, one for each member of a family


def _in_both_modes(count: int, *cases) -> list:
    """Each case at 8 and at 16 bits, those at 16 bits behind the first ``count`` marked slow."""
    slow = [() if k < count else pytest.mark.slow for k in range(len(cases))]
    at_16 = [pytest.param(*case, "16", marks=mark) for case, mark in zip(cases, slow, strict=True)]
    return [*((*case, "8") for case in cases), *at_16]


# ---- bounded functions at a network's output

PATTERN = np.where(weights(1, 16, 1, 1) > 0, 1, -1).astype("f4")


def _score(net):
    """A matched filter: below -7 without its pattern, 4 or more with it."""
    return net("Conv", "x", PATTERN, np.full(1, -10, "f4"))


def _pictures(samples: int, seed: int, with_pattern: bool) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (samples, 16, 8, 8))
    x *= np.where((x * PATTERN[0]).sum(axis=1, keepdims=True) > 2.5, -1, 1)
    if with_pattern:
        x[:, :, :4] = PATTERN[0] * rng.uniform(0.9, 1, (samples, 16, 4, 8))
    return {"x": x.astype("f4")}


def _of_quiet_samples(make, shape, mode, **how) -> tuple[onnx.ModelProto, qaccel.Module, dict[str, np.ndarray]]:
    net = Net()
    make(net)
    model = net.model({"x": [1, 16, 8, 8]}, {"y": shape})
    module = qaccel.compile(model, calibration_data=_pictures(32, 1, False), bits=BITS[mode], **how)
    return model, module, _pictures(4, 2, True)


def _sigmoid(net):
    net("Sigmoid", _score(net), out="y")


def _sigmoid_of_parts(net):
    one = net("Exp", net("Neg", _score(net)))
    net("Reciprocal", net("Add", one, scalar(1)), out="y")


def _hard_sigmoid(net):
    net("HardSigmoid", _score(net), out="y", alpha=0.1)


def _hard_sigmoid_of_parts(net):
    net("Clip", net("Add", net("Mul", _score(net), scalar(0.1)), scalar(0.5)), scalar(0), scalar(1), out="y")


def _relu6_of_parts(net):
    six = net("Clip", net("Add", _score(net), scalar(3)), scalar(0), scalar(6))
    net("Div", six, scalar(6), out="y")


def _tanh(net):
    net("Tanh", _score(net), out="y")


def _scaled_tanh(net):
    net("Add", net("Mul", net("Tanh", net("Mul", _score(net), scalar(0.5))), scalar(0.5)), scalar(0.5), out="y")


def _softsign(net):
    net("Softsign", _score(net), out="y")


def _erf(net):
    net("Erf", net("Mul", _score(net), scalar(0.3)), out="y")


def _clip(net):
    net("Clip", _score(net), scalar(0), scalar(1), out="y")


def _product(net):
    """Objectness times class score, as YOLO's heads have it."""
    score = _score(net)
    net("Mul", net("Sigmoid", score), net("Sigmoid", net("Mul", score, scalar(0.5))), out="y")


def _complement(net):
    """Both classes, of which the Sigmoid is one."""
    score = net("Sigmoid", _score(net))
    net("Concat", net("Sub", scalar(1), score), score, out="y", axis=1)


def _reshaped(net):
    net("Reshape", net("Sigmoid", _score(net)), ints(1, 1, 64), out="y")


def _reshaped_before(net):
    flat = net("Transpose", net("Reshape", _score(net), ints(1, 1, 64)), perm=[0, 2, 1])
    net("Reshape", net("Sigmoid", flat), ints(1, 1, 64), out="y")


def _transposed(net):
    net("Transpose", net("Sigmoid", _score(net)), out="y", perm=[0, 2, 3, 1])


def _sliced(net):
    net("Slice", net("Sigmoid", _score(net)), ints(2), ints(6), ints(2), out="y")


def _concat_with_others(net):
    net("Concat", net("Sigmoid", _score(net)), net("Mul", "x", scalar(0.25)), out="y", axis=1)


def _peaks(net):
    """CenterNet: the largest of each neighbourhood."""
    net("MaxPool", net("Sigmoid", _score(net)), out="y", kernel_shape=[3, 3], pads=[1] * 4)


def _enlarged(net):
    net("Sigmoid", _resized(net, _score(net)), out="y")


def _enlarged_behind(net):
    _resized(net, net("Sigmoid", _score(net)), out="y")


def _resized(net, x, out=""):
    sizes = np.array([1, 1, 2, 2], "f4")
    return net("Resize", x, "", sizes, out=out, mode="linear", coordinate_transformation_mode="half_pixel")


def _two_readers(net):
    """The Sigmoid's values go on into the network as well."""
    score = net("Sigmoid", _score(net), out="y")
    net("Conv", score, weights(4, 1, 3, 3))


IMAGE = [1, 1, 8, 8]
BOUNDED = [
    (_sigmoid, IMAGE), (_tanh, IMAGE), (_product, IMAGE), (_hard_sigmoid_of_parts, IMAGE), (_sigmoid_of_parts, IMAGE),
    (_hard_sigmoid, IMAGE), (_relu6_of_parts, IMAGE), (_scaled_tanh, IMAGE), (_softsign, IMAGE), (_erf, IMAGE), (_clip, IMAGE),
    (_complement, [1, 2, 8, 8]), (_reshaped, [1, 1, 64]), (_reshaped_before, [1, 1, 64]), (_transposed, [1, 8, 8, 1]),
    (_sliced, [1, 1, 4, 8]), (_concat_with_others, [1, 17, 8, 8]), (_peaks, IMAGE), (_enlarged, [1, 1, 16, 16]),
    (_enlarged_behind, [1, 1, 16, 16]), (_two_readers, IMAGE),
]  # fmt: skip


@pytest.mark.parametrize(("make", "shape", "mode"), _in_both_modes(4, *BOUNDED))
def test_bounded_outputs_reach_their_bounds(make, shape, mode):
    model, module, test = _of_quiet_samples(make, shape, mode)
    wanted, got = floats(model, test), outputs(module, test)
    assert wanted.max() > 0.8
    assert got.max() >= 0.9 * wanted.max()
    assert decibels(wanted, got) >= {"8": 20, "16": 45}[mode]


def test_a_bounded_output_of_integers_keeps_its_range():
    _, module, _ = _of_quiet_samples(_sigmoid, IMAGE, "8", io_dtype="int8")
    q = attributes(module.compiled.quantized.mod)["sigmoid1"].result
    assert (127 - q.zero_point) * q.scale == pytest.approx(1, rel=0.01)


def test_a_threshold_counts_as_an_output():
    """The network says where there is something; the scores themselves do not leave it."""

    def make(net):
        above = net("Greater", net("Sigmoid", _score(net)), scalar(0.5))
        net("Cast", above, out="y", to=onnx.TensorProto.FLOAT)

    model, module, test = _of_quiet_samples(make, IMAGE, "8")
    assert floats(model, test).max() == 1
    np.testing.assert_array_equal(outputs(module, test), floats(model, test))


@pytest.mark.parametrize("bound", [1e4, 100.0])
def test_a_guard_against_overflow_is_no_range(bound):
    net = Net()
    net("Clip", net("Conv", "x", weights(4, 3, 3, 3)), scalar(-bound), scalar(bound), out="y")
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 6, 6]})
    module = qaccel.compile(model, calibration_data={"x": normal(3, 8, 8, samples=64, seed=1)}, bits=8)
    test = {"x": normal(3, 8, 8, samples=4, seed=2, gain=0.8)}
    assert decibels(floats(model, test), outputs(module, test)) >= 30


@pytest.mark.parametrize(("make", "floor"), [("Tanh", 20), ("Reciprocal", 30)])
def test_a_bounded_output_keeps_its_bits(make, floor):
    """Small values before a Tanh: its operand gets four times their range, not the 40 times to the Tanh's end.

    And a function that is bounded but falls slowly for ever is not followed to there.
    """
    net = Net()
    before = net("Conv", "x", weights(8, 8, 1, 1, gain=0.02 if make == "Tanh" else 1))
    if make == "Reciprocal":
        before = net("Add", net("Abs", before), scalar(0.5))
    net(make, before, out="y")
    model = net.model({"x": [1, 8, 8, 8]}, {"y": [1, 8, 8, 8]})
    data, test = ({"x": normal(8, 8, 8, samples=n, seed=n, gain=g)} for n, g in ((32, 1), (8, 0.8)))
    module = qaccel.compile(model, calibration_data=data, bits=8)
    assert decibels(floats(model, test), outputs(module, test)) >= floor


def test_an_inner_gate_keeps_the_range_of_its_values():
    """Nothing but a product reads the gate: its values are where calibration saw them, and so are its steps."""
    net = Net()
    gate = net("Sigmoid", net("Conv", "x", weights(4, 3, 1, 1, gain=0.02), np.full(4, -3, "f4")))
    net("Conv", net("Mul", gate, net("Conv", "x", weights(4, 3, 1, 1, seed=1))), weights(4, 4, 1, 1), out="y")
    model = net.model({"x": [1, 3, 8, 8]}, {"y": [1, 4, 8, 8]})
    made = qaccel.quantize(model, {"x": normal(3, 8, 8, samples=64, seed=1)}, bits=8)
    q = attributes(made.quantized.mod)["sigmoid1"].result
    assert (127 - q.zero_point) * q.scale < 0.1


def test_bounds_that_do_not_hold_together_are_none():
    """A step of a GRU mixes two values by a gate: between them, and not as far as both and the gate together could take it."""
    net = Net()
    names = [net.const(weights(1, 21, 5)), net.const(weights(1, 21, 7, seed=2))]
    net.nodes.append(helper.make_node("GRU", ["x", *names], ["", "h"], "gru", hidden_size=7))
    net("Identity", "h", out="y")
    model = net.model({"x": [8, 1, 5]}, {"y": [1, 1, 7]})
    rng = np.random.default_rng(6)
    data, test = ([{"x": rng.normal(size=(8, 1, 5)).astype("f4")} for _ in range(n)] for n in (16, 6))
    module = qaccel.compile(model, calibration_data=data, bits=8, effort="fast")
    wanted = np.concatenate([floats_of(model, each) for each in test])
    got = np.concatenate([module.run(each)["y"].ravel() for each in test])
    assert decibels(wanted, got) >= 25


# ---- saturating functions


def _gate(function):
    return lambda net, before: net(function, before, out="y")


def _erf_gate(net, before):
    net("Erf", net("Mul", before, scalar(0.7)), out="y")


def _clip_of_parts(net, before):
    net("Clip", net("Add", net("Mul", before, scalar(0.1)), scalar(0.5)), scalar(0), scalar(1), out="y")


def _behind_a_reshape(net, before):
    net("Sigmoid", net("Transpose", net("Reshape", before, ints(1, 8, 256)), perm=[0, 2, 1]), out="y")


def _behind_slices(net, before):
    """Gates of a recurrent layer: parts of one tensor."""
    parts = [net("Slice", before, ints(a), ints(a + 4), ints(1)) for a in (0, 4)]
    net("Mul", net("Sigmoid", parts[0]), net("Tanh", parts[1]), out="y")


def _behind_a_concat(net, before):
    parts = [net("Slice", before, ints(a), ints(a + 4), ints(1)) for a in (4, 0)]
    net("Sigmoid", net("Concat", *parts, axis=1), out="y")


def _behind_a_pool(net, before):
    net("Tanh", net("MaxPool", before, kernel_shape=[2, 2], strides=[2, 2]), out="y")


def _two_gates(net, before):
    net("Mul", net("Sigmoid", before), net("Conv", net("Tanh", before), weights(8, 8, 1, 1)), out="y")


def _inside(net, before):
    net("Conv", net("Sigmoid", before), weights(8, 8, 1, 1), out="y")


GATES = {
    "Sigmoid": (_gate("Sigmoid"), [1, 8, 16, 16]), "Tanh": (_gate("Tanh"), [1, 8, 16, 16]),
    "behind slices": (_behind_slices, [1, 4, 16, 16]), "inside": (_inside, [1, 8, 16, 16]),
    "HardSigmoid": (_gate("HardSigmoid"), [1, 8, 16, 16]), "Erf": (_erf_gate, [1, 8, 16, 16]),
    "Clip of parts": (_clip_of_parts, [1, 8, 16, 16]), "behind a Reshape": (_behind_a_reshape, [1, 256, 8]),
    "behind a Concat": (_behind_a_concat, [1, 8, 16, 16]), "behind a pool": (_behind_a_pool, [1, 8, 8, 8]),
    "two": (_two_gates, [1, 8, 16, 16]),
}  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), _in_both_modes(4, *((name,) for name in GATES)))
def test_a_saturating_function_loses_nothing_to_values_beyond(name, mode):
    """Values to +-60 before it, against the same network with a Clip that says that those beyond +-9 do not matter."""
    make, shape = GATES[name]
    reached = {}
    for clip in (True, False):
        net = Net()
        before = net("Conv", "x", weights(8, 8, 1, 1, gain=12))
        make(net, net("Clip", before, scalar(-9), scalar(9)) if clip else before)
        model = net.model({"x": [1, 8, 16, 16]}, {"y": shape})
        data, test = ({"x": normal(8, 16, 16, samples=n, seed=n)} for n in (32, 8))
        module = qaccel.compile(model, calibration_data=data, bits=BITS[mode])
        assert module.report["fallback"] == []
        reached[clip] = decibels(floats(model, test), outputs(module, test))
    assert reached[False] >= reached[True] - 1, reached


@pytest.mark.parametrize(("function", "mode"), _in_both_modes(1, ("Exp",), ("Elu",), ("Softplus",)))
def test_a_function_that_is_flat_on_one_side(function, mode):
    """Values to -300 and to 4, of which the function tells those above -10 apart."""
    reached = {}
    for clip in (True, False):
        net = Net(14)
        before = net("Conv", "x", weights(8, 8, 1, 1, gain=0.7))
        before = net(
            "Min", net("Mul", before, np.where(np.arange(8) % 2, 1, 100)[None, :, None, None].astype("f4")), scalar(4)
        )
        before = net("Clip", before, scalar(-10), scalar(4)) if clip else before
        net(function, before, out="y")
        model = net.model({"x": [1, 8, 16, 16]}, {"y": [1, 8, 16, 16]})
        data, test = ({"x": normal(8, 16, 16, samples=n, seed=n)} for n in (32, 8))
        module = qaccel.compile(model, calibration_data=data, bits=BITS[mode])
        reached[clip] = decibels(floats(model, test), outputs(module, test))
    assert reached[False] >= reached[True] - 1, reached


def test_what_others_read_keeps_its_range():
    """The values before the gate are an output as well."""
    net = Net()
    before = net("Conv", "x", weights(8, 8, 1, 1, gain=12), out="z")
    net("Sigmoid", before, out="y")
    model = net.model({"x": [1, 8, 8, 8]}, {"z": [1, 8, 8, 8], "y": [1, 8, 8, 8]})
    data, test = ({"x": normal(8, 8, 8, samples=n, seed=n)} for n in (32, 8))
    module = qaccel.compile(model, calibration_data=data, bits=8)
    assert decibels(floats(model, test), outputs(module, test)) >= 30
