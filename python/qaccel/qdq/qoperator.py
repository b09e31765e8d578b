"""QOperator models in: each operator on integers as its float operator between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from collections.abc import Callable

from .spelling import Spelling

_NCHW, _NHWC = [0, 3, 1, 2], [0, 2, 3, 1]


def _conv(s: Spelling) -> None:
    """QLinearConv(x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, bias in units of x_scale * w_scale)."""
    x = s.operand(0)
    operands = [x, s.operand(3, axis=0)]
    if s.input(8):
        operands.append(s.real(s.input(8), s.do("Mul", s.input(1), s.input(4)), "", axis=0))
    s.rounded(s.do("Conv", *operands, name=s.node.name, **s.attrs), s.input(6), s.input(7))


def _matmul(s: Spelling) -> None:
    """QLinearMatMul(a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero); scales by column of b, by row of a."""
    a = s.operand(0, axis=-2)
    b = s.operand(3, axis=-1)
    s.rounded(s.do("MatMul", a, b, name=s.node.name), s.input(6), s.input(7))


def _gemm(s: Spelling) -> None:
    """QGemm(a, a_scale, a_zero, b, b_scale, b_zero, bias in units of alpha * a_scale * b_scale, y_scale, y_zero).

    Without y_scale its output is float.
    """
    turned = bool(s.attrs.get("transB", 0))
    operands = [
        s.operand(0), s.operand(3, axis=0 if turned else 1)
    ]  # fmt: skip
    if s.attrs.get("alpha", 1.0) != 1.0:
        raise s.refuse(f"alpha is {s.attrs['alpha']:g}; only 1 is known")
    if s.input(6):
        operands.append(s.real(s.input(6), s.do("Mul", s.input(1), s.input(4)), "", axis=0))
    attrs = {name: value for name, value in s.attrs.items() if name != "alpha"}
    if not s.input(7):
        s.do("Gemm", *operands, out=s.node.output[0], name=s.node.name, **attrs)
        return
    s.rounded(s.do("Gemm", *operands, name=s.node.name, **attrs), s.input(7), s.input(8))


def _binary(op: str) -> Callable[[Spelling], None]:
    """QLinearAdd and the like (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero)."""

    def spell(s: Spelling) -> None:
        a, b = (s.operand(first) for first in (0, 3))
        s.rounded(s.do(op, a, b, name=s.node.name), s.input(6), s.input(7))

    return spell


def _concat(s: Spelling) -> None:
    """QLinearConcat(y_scale, y_zero, then x, x_scale, x_zero of each)."""
    parts = [s.operand(first) for first in range(2, len(s.node.input), 3)]
    s.rounded(s.do("Concat", *parts, name=s.node.name, axis=s.attrs["axis"]), s.input(0), s.input(1))


def _unary(op: str) -> Callable[[Spelling], None]:
    """QLinearSigmoid and the like (x, x_scale, x_zero, y_scale, y_zero) with the attributes of the float operator."""

    def spell(s: Spelling) -> None:
        x = s.operand(0)
        attrs = {name: value for name, value in s.attrs.items() if name not in ("channels_last", "opset")}
        nhwc = bool(s.attrs.get("channels_last", 0))
        if nhwc:
            x = s.do("Transpose", x, perm=_NCHW)
        made = s.do(op, x, name=s.node.name, **attrs)
        s.rounded(s.do("Transpose", made, perm=_NHWC) if nhwc else made, s.input(3), s.input(4))

    return spell


SPELLINGS: dict[str, Callable[[Spelling], None]] = {
    "QLinearConv": _conv,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _binary("Add"),
    "QLinearMul": _binary("Mul"),
    "QLinearConcat": _concat,
    "QLinearAveragePool": _unary("AveragePool"),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu"),
    "QLinearSoftmax": _unary("Softmax"),
}
# Of ONNX Runtime, and computed at run time as a whole: named when they are refused.
REFUSED = (
    "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "QAttention", "QLinearWhere", "QLinearReduceMean",
    "MatMulNBits", "QMoE", "QOrderedMatMul",
)  # fmt: skip
