"""Cases of element-wise operators: two tensors, tensors with constants, clamps, PRelu, and functions by table."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy import special

from operators import exact
from operators.cases import Case, Make
from operators.exact import Q, Tensor, quantization

BINARY = ("Add", "Sub", "Mul", "Min", "Max")
KIND = {"Add": "add", "Sub": "sub", "Mul": "mul", "Min": "min", "Max": "max"}


def _shape(case: Case) -> list[int]:
    rank = case.choice([4, 4, 4, 3, 2])
    shape = [case.choice([1, 1, 1, 2]), *case.ints(1, 9, rank - 1)]
    case.narrow &= rank == 4
    return shape


def _out_span(case: Case, kind: str, first: float, second: float) -> tuple[float, float]:
    reach = first * second if kind == "Mul" else first + second
    return case.span(reach * float(np.exp(case.rng.uniform(-1.5, 0.7))))


def _reach(case: Case, name: str) -> float:
    return max(abs(v) for v in case.spans[name])


def two_tensors(kind: str) -> Make:
    """Tensors of one shape, or one of them a single row, pixel, channel or value of every sample."""

    def make(case: Case) -> Case:
        shape = _shape(case)
        other = [s if k == 0 or case.chance(0.7) else 1 for k, s in enumerate(shape)]
        shapes = [shape, other] if case.chance(0.6) else [other, shape]
        a = case.input(shapes[0], name="x")
        b = case.input(shapes[1], case.spans["x"] if case.chance(0.2) else None, name="y")
        span = _out_span(case, kind, _reach(case, "x"), _reach(case, "y"))
        tensor, clamps = case.clamps(case.add(kind, ["x", "y"]), span)
        return case.want(exact.eltwise(KIND[kind], a, b, case.out(tensor, span), clamps))

    return make


def with_constant(kind: str) -> Make:
    """A constant of any shape that repeats over the tensor's, on either side."""

    def make(case: Case) -> Case:
        shape = _shape(case)
        x = case.input(shape)
        size = [1, *(s if case.chance(0.5) else 1 for s in shape[1:])]
        if all(s == 1 for s in size) and len(size) == 4:
            size[1] = shape[1]
        values = (case.rng.normal(size=size) * _reach(case, "x") * float(np.exp(case.rng.uniform(-1, 1)))).astype(
            np.float32
        )
        if kind == "Div":
            values = np.where(np.abs(values) < 0.01, np.float32(0.5), values)
        first = kind in ("Sub", "Add", "Mul", "Min", "Max") and case.chance(0.4)
        name = case.const(values)
        reach = float(np.abs(values).max())
        span = _out_span(case, kind, _reach(case, "x"), 1 / reach if kind == "Div" else reach)
        tensor, clamps = case.clamps(case.add(kind, [name, "x"] if first else ["x", name]), span)
        out = case.out(tensor, span)
        if kind == "Sub" and first:  # c - x, with the exact negative of x in 16 bits
            negative = Tensor(np.clip(-x.centred, -(1 << 15), (1 << 15) - 1), Q(16, x.q.scale, 0))
            return case.want(exact.eltwise("add", negative, exact.constant(values), out, clamps))
        if kind == "Sub":
            return case.want(exact.eltwise("add", x, exact.constant(-values), out, clamps))
        if kind == "Div":
            return case.want(exact.eltwise("mul", x, exact.constant(np.float32(1) / values), out, clamps))
        return case.want(exact.eltwise(KIND[kind], x, exact.constant(values), out, clamps))

    return make


def squeeze_excite(case: Case) -> Case:
    """x * gate, the gate a value per channel that a pool, a convolution and a clip (or a Sigmoid) have made."""
    case.weighted = True
    channels = case.ints(1, 10, 1)[0]
    x = case.input([1, channels, *case.ints(2, 8, 2)])
    bits, reach = case.activation_bits, _reach(case, "x")
    spans = {"mean": case.span(reach), "conv": case.span(3 * reach), "gate": (0.0, 1.0)}
    case.spans |= spans
    case.add("GlobalAveragePool", ["x"], "mean")
    weight = case.rng.normal(size=(channels, channels, 1, 1)).astype(np.float32)
    mean = exact.mean(x, [2, 3], True, quantization(spans["mean"], bits)).tensor
    smooth = bits != 16 and case.chance(0.5)
    gate_q = quantization(spans["gate"], bits)
    sums = exact.convolution([1, 1], [0] * 4, [1, 1], 1)
    zeros = np.zeros(channels, np.float32)
    case.add("Conv", ["mean", case.const(weight)], "conv")
    if smooth:
        case.add("Sigmoid", ["conv"], "gate")
        inner = quantization(spans["conv"], bits)
        made = exact.weighted(mean, weight, zeros, case.weight_bits, inner, (), sums, 1)
        gate = exact.table(made.tensor, special.expit, gate_q)
    else:
        case.add("Clip", ["conv", case.const(0.0), case.const(1.0)], "gate")
        gate = exact.weighted(mean, weight, zeros, case.weight_bits, gate_q, [(0.0, 1.0)], sums, 1)
    tensor = case.add("Mul", ["x", "gate"] if case.chance(0.5) else ["gate", "x"])
    out = case.out(tensor, case.span(reach))
    return case.want(exact.eltwise("mul", x, gate.tensor, out))


def prelu(case: Case) -> Case:
    """One slope for each channel."""
    rank = case.choice([4, 4, 3])
    case.narrow &= rank == 4
    channels = case.ints(2, 9, 1)[0]
    x = case.input([1, channels, *case.ints(1, 8, rank - 2)])
    slopes = case.rng.uniform(-0.5, 1.5, (channels, *(1,) * (rank - 2))).astype(np.float32)
    span = case.span(_reach(case, "x"))
    out = case.out(case.add("PRelu", ["x", case.const(slopes)]), span)
    return case.want(exact.prelu(x, slopes, out))


def clamp(case: Case) -> Case:
    """A Relu or Clip that no layer takes in."""
    x = case.input(_shape(case))
    tensor, clamps = case.clamps("x", case.spans["x"])
    if not clamps:
        tensor, clamps = case.add("Relu", ["x"]), [(0.0, float("inf"))]
    span = case.span(_reach(case, "x"))
    return case.want(exact.copy(x, case.out(tensor, span), clamps))


Function = Callable[[np.ndarray], np.ndarray]
Spelling = Callable[[Case, str], str]


def _one(op: str, **attributes: float) -> Spelling:
    return lambda case, x: case.add(op, [x], **attributes)


def _f(value: float) -> float:
    return float(np.float32(value))


def _swish(case: Case, x: str) -> str:
    return case.add("Mul", [x, case.add("Sigmoid", [x])])


def _hard_swish(case: Case, x: str) -> str:
    inner = case.add("Clip", [case.add("Add", [x, case.const(3.0)]), case.const(0.0), case.const(6.0)])
    return case.add("Div", [case.add("Mul", [x, inner]), case.const(6.0)])


def _gelu(case: Case, x: str) -> str:
    inner = case.add("Erf", [case.add("Div", [x, case.const(np.sqrt(2.0))])])
    product = case.add("Mul", [x, case.add("Add", [inner, case.const(1.0)])])
    return case.add("Mul", [product, case.const(0.5)])


def _mish(case: Case, x: str) -> str:
    return case.add("Mul", [x, case.add("Tanh", [case.add("Softplus", [x])])])


def _power(exponent: float) -> Spelling:
    return lambda case, x: case.add("Pow", [x, case.const(exponent)])


# Name: how ONNX has it, the function in float64, whether it is for positive values only.
FUNCTIONS: dict[str, tuple[Spelling, Function, bool]] = {
    "LeakyRelu": (_one("LeakyRelu", alpha=0.1), lambda x: np.where(x < 0, _f(0.1) * x, x), False),
    "Sigmoid": (_one("Sigmoid"), special.expit, False),
    "Tanh": (_one("Tanh"), np.tanh, False),
    "HardSigmoid": (
        _one("HardSigmoid", alpha=0.3, beta=0.4), lambda x: np.clip(_f(0.3) * x + _f(0.4), 0, 1), False,
    ),
    "HardSwish": (_one("HardSwish"), lambda x: x * np.clip(x / 6 + 0.5, 0, 1), False),
    "HardSwish spelled out": (_hard_swish, lambda x: x * np.clip(x + 3, 0, 6) / 6, False),
    "Swish spelled out": (_swish, lambda x: x * special.expit(x), False),
    "Gelu spelled out": (_gelu, lambda x: x * special.ndtr(x), False),
    "Mish spelled out": (_mish, lambda x: x * np.tanh(np.logaddexp(0, x)), False),
    "Elu": (_one("Elu", alpha=0.7), lambda x: np.where(x < 0, _f(0.7) * np.expm1(x), x), False),
    "Selu": (
        _one("Selu"), lambda x: _f(1.0507009873554805) * np.where(x < 0, _f(1.6732632423543772) * np.expm1(x), x), False,
    ),
    "Celu": (_one("Celu", alpha=0.7), lambda x: np.where(x < 0, _f(0.7) * np.expm1(x / _f(0.7)), x), False),
    "Softplus": (_one("Softplus"), lambda x: np.logaddexp(0, x), False),
    "Softsign": (_one("Softsign"), lambda x: x / (1 + np.abs(x)), False),
    "Erf": (_one("Erf"), special.erf, False),
    "Exp": (_one("Exp"), np.exp, False),
    "Log": (_one("Log"), np.log, True),
    "Sqrt": (_one("Sqrt"), np.sqrt, True),
    "Pow": (_power(1.5), lambda x: x**1.5, True),
    "Square": (_power(2.0), lambda x: x * x, False),
    "Reciprocal": (_one("Reciprocal"), lambda x: 1 / x, True),
    "Abs": (_one("Abs"), np.abs, False),
    "Neg": (_one("Neg"), np.negative, False),
    "Floor": (_one("Floor"), np.floor, False),
    "Ceil": (_one("Ceil"), np.ceil, False),
    "Round": (_one("Round"), np.rint, False),
    "Sin": (_one("Sin"), np.sin, False),
    "Cos": (_one("Cos"), np.cos, False),
}  # fmt: skip
BENT = ("Floor", "Ceil", "Round")  # too sharply for 16-bit tables


def function(name: str) -> Make:
    """A function by table, now and then with a clip behind it."""
    spell, real, positive = FUNCTIONS[name]

    def make(case: Case) -> Case:
        if name in BENT and case.activation_bits == 16:
            case.activation_bits = 8
        reach = float(np.exp(case.rng.uniform(-0.5, 2.2)))
        shape = _shape(case)
        x = case.input(shape, (0.0, reach) if positive else case.span(reach))
        tensor = spell(case, "x")
        with np.errstate(all="ignore"):
            values = real(np.linspace(*case.spans["x"], 99))
        finite = values[np.isfinite(values)]
        lo, hi = min(0.0, float(finite.min())), max(0.0, float(finite.max()))
        wide = case.rng.uniform(0.6, 1.3)
        span = (lo * wide, max(hi, 0.1 - lo if lo == 0 else 0.0) * wide)
        case.function = real
        if case.chance(0.3) and case.activation_bits != 16:  # a bend anywhere: the CPU's
            low, high = sorted(float(np.float32(v)) for v in case.rng.uniform(*span, 2))
            tensor = case.add("Clip", [tensor, case.const(low), case.const(high)])
            case.function = lambda v: np.clip(real(v), low, high)
        out = case.out(tensor, span)
        return case.want(exact.table(x, case.function, out))

    return make


ELEMENTWISE: dict[str, Make] = {
    **{kind: two_tensors(kind) for kind in BINARY},
    **{f"{kind} with constants": with_constant(kind) for kind in (*BINARY, "Div")},
    "squeeze and excite": squeeze_excite,
    "PRelu": prelu,
    "Relu, Clip": clamp,
}  # fmt: skip
TABLES: dict[str, Make] = {name: function(name) for name in FUNCTIONS}
