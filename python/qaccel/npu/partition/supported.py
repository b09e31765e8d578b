"""The page of supported operators, from the operators that quantization knows and the limits in `constraints.py`.

``python -m qaccel.npu.partition.supported`` prints it; a test holds SUPPORTED_OPS.md against that.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...dialect import operators
from .constraints import RULES

WEIGHTED = "weights and activations of 4, 8 or 16 bits, in any pair"
ACTIVATIONS = "activations of 4, 8 or 16 bits"


@dataclass(frozen=True)
class Row:
    """ONNX operators that become one operation of the dialect, and what has to hold of them before any limit of the machine."""

    onnx: tuple[str, ...]
    kind: type
    widths: str
    conditions: str


ROWS = (
    Row(("Conv",), operators.ConvAttrs, WEIGHTED,
        "1-D and 2-D; constant weights; any stride, dilation, padding and groups (depthwise with a mode of its own); longer "
        "kernels than limit 2 allows become shorter ones over more channels"),
    Row(("ConvTranspose",), operators.ConvAttrs, WEIGHTED,
        "1-D and 2-D; constant weights; one convolution for every phase of the strides, their outputs interleaved"),
    Row(("Gemm", "MatMul"), operators.ConvAttrs, WEIGHTED,
        "a constant matrix on one side; the activation of 2 dimensions and more; products of two activations run on the CPU"),
    Row(("BatchNormalization",), operators.ConvAttrs, WEIGHTED,
        "folded into the convolution or product before it; elsewhere a Mul and an Add"),
    Row(("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool", "ReduceMean", "ReduceMax", "ReduceSum"),
        operators.PoolAttrs, ACTIVATIONS,
        "1-D and 2-D; reductions over any constant axes but the batch (a sum is a mean and a Mul); no index output"),
    Row(("LSTM", "GRU", "RNN"), operators.ConvAttrs, WEIGHTED,
        "spelled out step by step, at most 512 steps, with constant weights: products, tables, Add and Mul; no peepholes, no clip"),
    Row(("Add", "Sub", "Mul", "Div", "Min", "Max"), operators.EltwiseAttrs, ACTIVATIONS,
        "two activations, or one and constants (Div: constants only); one operand may be repeated along rows, pixels or channels"),
    Row(("PRelu",), operators.EltwiseAttrs, ACTIVATIONS, "constant slopes"),
    Row(("Relu", "Clip"), operators.RequantizeAttrs, ACTIVATIONS,
        "constant bounds; the clamp of the layer before where that alone is read, else a copy that clamps"),
    Row(("LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Swish", "Gelu", "Elu", "Selu", "Celu", "Softplus", "Softsign",
         "Mish", "Erf", "Exp", "Log", "Sqrt", "Pow", "Reciprocal", "Abs", "Neg", "Floor", "Ceil", "Round", "Sin", "Cos"),
        operators.TableAttrs, ACTIVATIONS,
        "a table; any chain of element-wise operators of one tensor and single constants is one table, however it is spelled; "
        "4 and 8-bit inputs exact, 16-bit ones interpolated (a function that bends too sharply for that runs on the CPU)"),
    Row(("Concat", "Split", "Slice", "Pad", "Gather", "Expand", "Tile", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze",
         "DepthToSpace", "SpaceToDepth", "Resize (nearest)", "Upsample (nearest)"), operators.MoveAttrs, ACTIVATIONS,
        "constant indices, bounds and amounts, nothing moved between samples of the network's batch; at most 4096 strided pieces; "
        "Reshape and Transpose move nothing until an operator needs another order"),
    Row(("Resize (linear)", "Upsample (linear)"), operators.ConvAttrs, ACTIVATIONS,
        "by whole factors of height and width, in half_pixel or asymmetric coordinates"),
    Row(("Identity", "Dropout", "Cast (to the same type)", "Constant"), operators.RequantizeAttrs, ACTIVATIONS,
        "gone before quantization"),
)  # fmt: skip


def page() -> str:
    """SUPPORTED_OPS.md."""
    lines = [
        "# Supported operators",
        "",
        "Made by `python -m qaccel.npu.partition.supported`; do not edit. What is not here, or breaks a limit, runs on the CPU",
        "in the same module wherever TVM can import it, and the report names the node, the reason and a way out. ONNX opsets",
        "1 to the newest. With `--target llvm` everything runs on the CPU.",
        "",
        "| operator | on the accelerator as | widths | conditions | limits |",
        "|---|---|---|---|---|",
    ]
    for row in ROWS:
        limits = [str(k) for k, (_, kinds) in enumerate(RULES, 1) if issubclass(row.kind, kinds)]
        name = str(vars(row.kind)["operator"])
        lines.append(f"| {', '.join(row.onnx)} | `{name}` | {row.widths} | {row.conditions} | {', '.join(limits)} |")
    lines += ["", "Limits of the machine:", ""]
    lines += [f"{k}. {(rule.__doc__ or '').strip()}" for k, (rule, _) in enumerate(RULES, 1)]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
