"""Compiled functions of any size against NumPy: convolutions, integers to the last one, functions of one value, passes in order."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from scipy.special import erf

from frontend.onnx_models import model, node, ort_run, worst
from qaccel.dialect import kernels, operators
from qaccel.emulate import compiled, executor, integers, side_by_side, steps
from qaccel.emulate.integer_layers import layer_of
from qaccel.frontend.import_onnx import import_onnx

# samples, plane, channels, kernels, taps, strides, dilations, groups, pads
CONVOLUTIONS = {
    "dense": (2, (9, 13), 5, 37, (3, 2), (2, 1), (1, 1), 1, (1, 0, 2, 1)),
    "dilated": (1, (12, 11), 16, 16, (3, 3), (1, 1), (2, 3), 1, (2, 3, 2, 3)),
    "1x1": (3, (7, 5), 24, 40, (1, 1), (1, 1), (1, 1), 1, (0, 0, 0, 0)),
    "1x1 strided": (1, (8, 9), 8, 3, (1, 1), (2, 2), (1, 1), 1, (0, 0, 0, 0)),
    "grouped": (2, (6, 6), 12, 18, (3, 3), (1, 1), (1, 1), 3, (1, 1, 1, 1)),
    "depthwise": (2, (9, 15), 19, 19, (3, 5), (2, 1), (1, 2), 19, (1, 4, 1, 4)),
    "depthwise with a multiplier": (1, (6, 7), 4, 8, (3, 3), (1, 1), (1, 1), 4, (1, 1, 1, 1)),
    "one pixel": (1, (1, 1), 50, 10, (1, 1), (1, 1), (1, 1), 1, (0, 0, 0, 0)),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    n, plane, ic, oc, taps, strides, dilation, groups, pads = CONVOLUTIONS[name]
    rng = np.random.default_rng(0)
    window = kernels.SlidingWindow(taps, strides, dilation, pads)
    weight = rng.integers(-127, 128, (oc, ic // groups, *taps))
    x = rng.integers(-128, 128, (n, *plane, ic)).astype(np.int8)
    zero_point = -7
    wanted = kernels.conv2d((x.astype(np.int64) - zero_point).transpose(0, 3, 1, 2), weight, window, groups)
    for dtype in ("float32", "float64"):
        got = compiled.Convolution(weight, window, groups, dtype)(x, zero_point)
        np.testing.assert_array_equal(got, wanted.transpose(0, 2, 3, 1))  # all sums are below 2**24
    real = rng.standard_normal(x.shape).astype(np.float32)
    got = compiled.Convolution(weight, window, groups, "float32")(real)
    exact = kernels.conv2d(real.astype(np.float64).transpose(0, 3, 1, 2), weight, window, groups).transpose(0, 2, 3, 1)
    assert np.abs(got - exact).max() < 1e-5 * np.abs(exact).max()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sums_within_limits(dtype: str) -> None:
    """Against Python's integers: whole values, bias and ends, some of them at the ends, which do not count as inside."""
    rng = np.random.default_rng(4)
    values = rng.integers(-50, 50, (3, 5, 7, 6)).astype(dtype)
    bias, lo, hi = (np.array(each) for each in ([3, -9, 0, 4, 1, 2], [-20] * 5 + [60], [10, 20, 30, 40, 25, 61]))
    sums, inside = compiled.limited(values, bias, lo, hi)
    for c in range(6):
        moved = [int(v) + int(bias[c]) for v in values[..., c].reshape(-1)]
        assert sums[c] == sum(min(max(v, int(lo[c])), int(hi[c])) for v in moved)
        assert inside[c] == sum(int(lo[c]) < v < int(hi[c]) for v in moved)
    for ours, theirs in zip((sums, inside), compiled.limited_in_numpy(values, bias, lo, hi), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("name", ["sigmoid", "tanh", "exp", "erf", "nn.silu"])
def test_functions_of_one_value(name: str) -> None:
    """In any memory order, of sizes that fill no whole row, of arrays that are not to be written."""
    exact = {"sigmoid": lambda v: 1 / (1 + np.exp(-v)), "nn.silu": lambda v: v / (1 + np.exp(-v)), "erf": erf}
    x = np.random.default_rng(1).uniform(-6, 6, (2, 9, 70, 3)).astype(np.float32)
    frozen = x[:1].copy()
    frozen.flags.writeable = False
    for view in (x, x.transpose(0, 3, 1, 2), x[:, ::2, 1:], x[:, ::-1], np.broadcast_to(x[:, :1], x.shape), frozen):
        got = compiled.elementwise(name)(view)
        wanted = exact.get(name, getattr(np, name, None))(view.astype(np.float64))
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)


def _q(scale: float, zero_point: int, bits: int = 8) -> operators.Quantization:
    return operators.Quantization(bits, float(np.float32(scale)), zero_point)


def _ending(result: operators.Quantization) -> dict[str, object]:
    return {"op": "X", "result": result, "clamp": operators.Clamp(-100, 120 if result.bits == 8 else 30000)}


RESULTS = (_q(0.03, 3), _q(0.0004, 0, 16))
INTEGERS: dict[str, list[operators.Attrs]] = {
    "eltwise": [
        operators.EltwiseAttrs("e", **_ending(result), kind=kind, a=_q(0.02, -9), b=_q(0.011, 17))
        for kind in ("add", "sub", "mul", "min", "max")
        for result in RESULTS
    ],
    "requantize": [operators.RequantizeAttrs("r", **_ending(result), source=_q(0.02, -9)) for result in RESULTS],
    "pool": [
        operators.PoolAttrs("p", **_ending(RESULTS[0]), source=_q(0.02, -9), strides=(2, 1), padding=(1, 1, 0, 1),
                            dilation=(1, 1), kind="max", kernel=(3, 2), count_include_pad=False)
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", INTEGERS)
def test_integers(name: str) -> None:
    """Every value that an int8 can hold, to the last integer; halves among them where scales are powers of two."""
    rng = np.random.default_rng(2)
    first, second = (rng.integers(-128, 128, (2, 8, 16, 16)).astype(np.int8) for _ in range(2))
    for attrs in INTEGERS[name]:
        operands = [first, second[:, :1, :1]] if name == "eltwise" else [first]
        made = layer_of(attrs, [], ["int8"] * len(operands))
        assert made is not None
        np.testing.assert_array_equal(made(*operands), attrs.meaning(*operands), err_msg=str(attrs))


def test_eltwise_at_ties() -> None:
    attrs = operators.EltwiseAttrs("e", **_ending(_q(0.5, 1)), kind="add", a=_q(0.25, 0), b=_q(0.125, 0))
    first, second = (v.astype(np.int8) for v in np.meshgrid(np.arange(-128, 128), np.arange(-128, 128)))
    operands = [v.reshape(1, 256, 256, 1) for v in (first, second)]
    made = layer_of(attrs, [], ["int8", "int8"])
    assert made is not None
    np.testing.assert_array_equal(made(*operands), attrs.meaning(*operands))


def test_table_of_4_bits() -> None:
    attrs = operators.TableAttrs("t", "X", _q(0.1, 0), _q(0.1, 0, 4))
    table = np.random.default_rng(3).integers(-128, 128, 16).astype(np.int8)
    q = np.arange(-8, 8, dtype=np.int8).reshape(1, 1, 4, 4)
    made = layer_of(attrs, [table], ["int8"])
    assert made is not None
    np.testing.assert_array_equal(made(q), attrs.meaning(q, table))


def _network() -> object:
    """Every kind of step once: convolutions, SiLU, a pooling, a join, a residual, a product."""
    rng = np.random.default_rng(4)
    nodes = [
        node("Conv", ["x", "w", "b"], ["c"], pads=[1] * 4), node("Sigmoid", ["c"], ["s"]), node("Mul", ["c", "s"], ["m"]),
        node("Conv", ["m", "d"], ["e"], pads=[1] * 4, group=8), node("Add", ["e", "m"], ["a"]),
        node("MaxPool", ["a"], ["p"], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1]),
        node("Concat", ["p", "m"], ["j"], axis=1), node("GlobalAveragePool", ["j"], ["g"]), node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "v"], ["y"]),
    ]  # fmt: skip
    shapes = {"w": (8, 3, 3, 3), "b": (8,), "d": (8, 1, 3, 3), "v": (16, 5)}
    weights = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    return model(nodes, weights, (1, 3, 12, 10))


def test_large_networks_give_what_small_ones_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same network as a large and as a small one: float near ONNX Runtime's, observed in order; integers the same."""
    from qaccel.options import BitWidths
    from qaccel.quant.calibrate.calibration import Calibration
    from qaccel.quant.calibrate.ranges import calibrate
    from qaccel.quant.passes import run_passes
    from qaccel.quant.quantize import quantize

    proto, x = _network(), np.random.default_rng(5).standard_normal((6, 3, 12, 10)).astype(np.float32)
    small = import_onnx(proto)
    ranges = calibrate(small, {"x": x})
    quantized = quantize(small, ranges, BitWidths(8, 8))
    results = [run_passes(quantized, Calibration(ranges, {"x": x}, True))]
    outputs = [integers.run_model(results[0], {"x": x})]
    for module in (steps, integers):
        monkeypatch.setattr(module, "WORTH_MACS", 1)
        monkeypatch.setattr(module, "COMFORTABLE_ELEMENTS", 1)  # a pass for each sample
    monkeypatch.setattr(compiled, "WORTH_VALUES", 1)
    monkeypatch.setattr(side_by_side, "physical_cores", lambda: 3)
    large = import_onnx(proto)
    assert steps.plan_of(large).compiled and not steps.plan_of(small).compiled
    seen: list[tuple[str, bytes]] = []
    got = executor.execute(large, {"x": x}, lambda name, value: seen.append((name, value.tobytes())))
    wanted = {"y": np.concatenate([ort_run(proto, {"x": x[k : k + 1]})["y"] for k in range(len(x))])}
    assert worst(got, wanted) < 1e-5
    assert [value for name, value in seen if name == "x"] == [x[k : k + 1].tobytes() for k in range(len(x))]
    again: list[tuple[str, bytes]] = []
    monkeypatch.setattr(side_by_side, "physical_cores", lambda: 1)
    executor.execute(large, {"x": x}, lambda name, value: again.append((name, value.tobytes())))
    assert sorted(seen) == sorted(again)  # the same bytes in any number of threads
    for held in (1 << 20, 0):  # sums kept, and computed twice
        monkeypatch.setattr(integers, "HELD_BYTES", held)
        results.append(run_passes(quantized, Calibration(ranges, {"x": x}, True)))
        outputs.append(integers.run_model(results[-1], {"x": x}))
        np.testing.assert_array_equal(outputs[-1]["y"], outputs[0]["y"])


def test_a_pass_that_fails_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, seen = side_by_side.Turns(3), []
    monkeypatch.setattr(side_by_side, "physical_cores", lambda: 3)
    ready = threading.Barrier(3)

    def run(number: int) -> None:
        ready.wait()
        try:
            for step in range(3):
                if (number, step) == (1, 1):
                    raise ValueError("it fails")
                turns.take(number, seen.append, (step, number))
        finally:
            turns.end(number)

    with pytest.raises(ValueError, match="it fails"):
        side_by_side.side_by_side(run, range(3))
    for step in range(3):
        assert [number for at, number in seen if at == step] == [k for k in range(3) if k != 1 or step < 1]
