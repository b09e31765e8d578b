"""How far 16-bit tables are off: a few steps, whatever the function and wherever it bends."""

import numpy as np
import onnxruntime
import pytest
from scipy.special import erf, expit

import qaccel
from frontend.onnx_models import model, node
from qaccel.dialect.operators import Quantization
from qaccel.dialect.ops.table import interpolated
from qaccel.quant.rules.tables import make_table

# The function, the range of its input, and by how many steps of 16 bits it may be off; one of them is rounding, twice.
FUNCTIONS = {
    "sqrt": (np.sqrt, (0, 1), 1.5),
    "cbrt": (np.cbrt, (0, 5), 1.5),
    "log": (lambda x: np.log(x + 1e-6), (0, 1), 1.5),
    "log10": (lambda x: 10 * np.log10(np.maximum(x, 1e-10)), (0, 300), 1.5),
    "log1p": (np.log1p, (0, 1e4), 1.5),
    "exp": (np.exp, (-8, 8), 2),
    "exp(-x)": (np.exp, (-30, 0), 2),
    "reciprocal": (lambda x: 1 / (x + 0.01), (0, 10), 1.5),
    "reciprocal from afar": (lambda x: 1 / x, (0.05, 9), 1.5),
    "rsqrt": (lambda x: 1 / np.sqrt(x + 1e-3), (0, 10), 1.5),
    "cube": (lambda x: x**3, (-4, 4), 4),
    "root with a sign": (lambda x: np.sign(x) * np.sqrt(abs(x)), (-3, 3), 1.5),
    "sigmoid": (expit, (-60, 60), 1.5),
    "tanh": (np.tanh, (-60, 60), 2),
    "silu": (lambda x: x * expit(x), (-60, 60), 1.5),
    "gelu": (lambda x: 0.5 * x * (1 + erf(x / 2**0.5)), (-60, 60), 1.5),
    "softplus": (lambda x: np.logaddexp(0, x), (-60, 60), 1.5),
    "hard swish": (lambda x: x * np.clip(x / 6 + 0.5, 0, 1), (-8, 8), 1.5),
    "sin": (np.sin, (-6, 6), 3),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_table_is_off_by_few_steps(name):
    function, (lo, hi), most = FUNCTIONS[name]
    source = Quantization(16, float(np.float32(max(-lo, hi) / 32767)), 0)
    q = np.arange(-(1 << 15), 1 << 15)
    q = q[(q * source.scale >= lo) & (q * source.scale <= hi)]
    with np.errstate(all="ignore"):
        wanted = function(q * source.scale)
    span = min(0.0, float(wanted.min())), max(0.0, float(wanted.max()))
    out = Quantization(16, float(np.float32(max(-span[0], span[1]) / 32767)), 0)
    table = make_table(function, source, out, (lo, hi), span)
    error = np.abs(interpolated(q, table.values, table.knots, table.origin) - wanted / out.scale)
    assert error.max() <= most
    # What it says of itself; at the range's ends one value more may count.
    assert abs(table.off_by - error.max()) < 1.01


CURVED = {
    "sin": (np.sin, 12),
    "gelu": (FUNCTIONS["gelu"][0], 3),
    "tanh": (np.tanh, 6),
    "bell": (lambda x: np.exp(-x * x), 6),
    "wave": (lambda x: x + np.sin(x) ** 2, 40),
}


@pytest.mark.parametrize("name", CURVED)
def test_entries_are_fitted(name):
    """Better than entries on the function, whose straight lines, as NumPy draws them, are off to one side along every bend."""
    function, top = CURVED[name]
    source = Quantization(16, float(np.float32(top / 32767)), 0)
    q = np.arange(-32767, 32768)
    wanted = function(q * source.scale)
    low, high = float(wanted.min()), float(wanted.max())
    out = Quantization(16, float(np.float32(1.5 * max(-low, high) / 32767)), 0)
    table = make_table(function, source, out, (-top, top), (low, high))
    got = interpolated(q, table.values, table.knots, table.origin) * out.scale
    knots = np.arange(-(1 << 15), (1 << 15) + 1, 128)
    plain = np.interp(q, knots, function(knots * source.scale))
    rounding = np.rint(wanted / out.scale) * out.scale
    off, least, before = (float(np.square(each - wanted).mean()) for each in (got, rounding, plain))
    assert off - least < 0.5 * before + least, (off, least, before)


@pytest.mark.parametrize("op", ["Gelu", "Mish", "Elu"])
def test_functions_of_a_small_end_keep_their_bits(op):
    """At W16A16, inputs of a normal distribution: 53 to 55 dB where the entry beyond the range met the end of the output's integers."""
    proto = model([node(op, ["x"], ["y"], name="y")], {}, (1, 1, 32, 64), opset=20)
    cal, x = (np.random.default_rng(seed).normal(size=(n, 1, 32, 64)).astype("f4") for seed, n in ((1, 16), (2, 4)))
    module = qaccel.compile(proto, calibration_data={"x": cal}, bits="W16A16")
    assert not module.report.fallback
    session = onnxruntime.InferenceSession(proto.SerializeToString())
    wanted, got = (
        np.stack([run({"x": each[None]}) for each in x])
        for run in (lambda feed: session.run(None, feed)[0], lambda feed: module.run(feed)["y"])
    )
    assert 10 * np.log10(np.square(wanted).sum() / np.square(wanted - got).sum()) > 75


def test_inputs_beyond_where_a_function_saturates():
    """A range that ends there on one side: 16 bits are as wide on the other, and inputs from there gave -0.0175 instead of 0."""
    proto = model([node("HardSigmoid", ["x"], ["y"], name="y", alpha=0.3, beta=0.1)], {}, (1, 1, 16, 64))
    x = np.linspace(-4, 4, 1024, dtype=np.float32).reshape(1, 1, 16, 64)
    wanted = onnxruntime.InferenceSession(proto.SerializeToString()).run(None, {"x": x})[0]
    assert np.abs(qaccel.compile(proto).run({"x": x})["y"] - wanted).max() < 1e-3


def test_functions_of_one_kind_keep_their_own_constants():
    """Tables are kept for the next network: of one input, one range and one operator, the constants and attributes tell them apart."""
    kinds = {"a": 0.25, "b": 0.5, "c": -0.5}
    nodes = [node("LeakyRelu", ["x"], [name], name=name, alpha=alpha) for name, alpha in kinds.items()]
    nodes += [node("Max", [name, "half"], [f"m{name}"], name=f"m{name}") for name in kinds]
    nodes += [
        node("Sigmoid", [f"m{name}"], [f"y{name}"], name=f"y{name}") for name in kinds
    ]  # so that it is one table each
    proto = model(nodes, {"half": np.float32(-0.5)}, (1, 1, 16, 16), outputs=[f"y{name}" for name in kinds])
    x = np.linspace(-1, 1, 256, dtype=np.float32).reshape(1, 1, 16, 16)
    got = qaccel.compile(proto, calibration_data={"x": x}, bits="W16A16").run({"x": x})
    for name, alpha in kinds.items():
        wanted = expit(np.maximum(np.where(x < 0, alpha * x, x), -0.5))
        assert np.abs(got[f"y{name}"] - wanted).max() < 1e-3, name
