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


# Operators that others spell on the way in, and where these run.
SPELLED = (
    ("Einsum", "MatMul, ReduceSum, Transpose and Reshape",
     "one operand, or two of which what is not summed stays in order; a constant one makes it a layer, else it runs on the CPU"),
    ("Sum, Mean", "Add, Mul", "on the accelerator"),
    ("ThresholdedRelu, Sign, Tan, Asinh, Atan, Cosh, Sinh", "tables",
     "on the accelerator; where they jump, 8-bit activations"),
    ("Gelu, BiasGelu, FastGelu, QuickGelu, FusedConv, FusedGemm, FusedMatMul, TransposeMatMul (`com.microsoft`)",
     "Conv, Gemm, MatMul, Add, Mul and tables", "on the accelerator, as these"),
    ("LpNormalization", "ReduceL1 or ReduceL2, Where and Div", "on the CPU"),
    ("Attention, CausalConvWithState, CenterCropPad, LinearAttention, RotaryEmbedding, SwiGLU (opset 18 and later)",
     "ONNX's own definitions", "products of two activations and Softmax on the CPU, the rest as it is spelled"),
    ("functions of the model", "their bodies", "as these"),
    ("If, Loop, Scan", "the branch that is taken, their steps one after the other",
     "as these, where the condition and the number of steps (at most 512) are known"),
    ("Range", "a product and a sum", "of a length that the model states"),
    ("DFT, STFT", "a product with, or a convolution by, the Fourier matrix",
     "on the accelerator; constant window, steps, length and axis"),
)  # fmt: skip
# Operators that always run on the CPU, in float.
ON_THE_CPU = (
    ("normalizations over features", "InstanceNormalization, LayerNormalization, GroupNormalization, MeanVarianceNormalization, "
     "RMSNormalization, LRN, LpPool, GlobalLpPool"),
    ("Softmax and decisions", "Softmax, LogSoftmax, Hardmax, ArgMax, ArgMin, TopK, Equal, Greater, GreaterOrEqual, Less, "
     "LessOrEqual, And, Or, Xor, Not, Where, IsInf, IsNaN"),
    ("other reductions", "ReduceMin, ReduceProd, ReduceL1, ReduceL2, ReduceSumSquare, ReduceLogSum, ReduceLogSumExp, CumSum"),
    ("moves whose indices are computed", "Gather, GatherElements, GatherND, ScatterElements, ScatterND, OneHot, GridSample, "
     "AffineGrid, RoiAlign, MaxUnpool, Trilu"),
    ("anything in 3-D, and integers of 32 and 64 bits", "Conv, ConvTranspose and pools in 3-D, Cast, Mod, shapes"),
)  # fmt: skip

# Forms of quantized models: how they are spelled, what becomes of them.
FORMS = (
    ("QDQ", "QuantizeLinear, DequantizeLinear (ONNX opset 10 to the newest, `com.microsoft` at any)",
     "int4, uint4, int8, uint8, int16, uint16 activations, one scale for a tensor; weights by tensor or by output channel; "
     "int32 or float bias. Every operator above between its pairs; pairs may be shared, doubled, or left out before and behind "
     "what only moves values, MaxPool, Relu and Clip. An operator without a pair runs on the CPU in float"),
    ("QCDQ (Brevitas)", "a Clip between QuantizeLinear and DequantizeLinear",
     "the Clip gives the bits: 2 to 8 of them in the machine's next width, values unchanged"),
    ("QOperator", "QLinearConv, QLinearMatMul; `com.microsoft` QLinearAdd, QLinearMul, QLinearConcat, QLinearAveragePool, "
     "QLinearGlobalAveragePool, QLinearSigmoid, QLinearLeakyRelu, QGemm", "as QDQ; QLinearSoftmax runs on the CPU"),
    ("dynamic", "DynamicQuantizeLinear before ConvInteger or MatMulInteger",
     "the weights keep their integers, activations are calibrated (`--calibration-data`, `--input-range`); with `--target llvm` "
     "alone their scales are found in every run"),
    ("weights alone", "DequantizeLinear before weights", "the weights keep their integers, activations are calibrated"),
    ("TFLite", "int8, int16×8, uint8 and int4 weights, by tensor and by channel; every operator that TVM's frontend knows in "
     "float, between the scales of its tensors; weights alone (dynamic range) as above",
     "as QDQ; CAST of quantized integers is refused by name. LiteRT's reference kernels round convolutions twice: 0.1 to 0.3% of "
     "their outputs differ from the exact sums rounded once, by one"),
    ("PyTorch (`.pt2`, torchao's PT2E)", "quantize_per_tensor, dequantize_per_tensor, quantize_per_channel, dequantize_per_channel",
     "as QDQ; quant_min and quant_max give the bits, biases are float in the file"),
    ("Relax (`partition_for_qaccel`, the pipeline)", "relax.quantize, relax.dequantize", "as QDQ"),
    ("zero points", "weights around another zero point than 0 (unsigned: the middle)",
     "in the next width that holds them, up to 16 bits; 16-bit activations around another than 0 (uint16: 32768): on the CPU"),
    ("integer ends", "inputs and outputs of int8, uint8, int16, uint16", "the module takes and gives those types"),
    ("on the CPU, with the reason", "block-wise scales; activations with a scale for each channel; weights at run time", ""),
    ("refused by name", "MatMulIntegerToFloat, DynamicQuantizeMatMul, DynamicQuantizeLSTM, QAttention; scales computed at run "
     "time, of 0, NaN, or that contradict each other", ""),
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
    lines += ["", "Operators that others spell on the way in:", ""]
    lines += ["| operator | becomes | where |", "|---|---|---|"]
    lines += [f"| {spelled} | {becomes} | {where} |" for spelled, becomes, where in SPELLED]
    lines += ["", "On the CPU in float, with the reason in the report:", ""]
    lines += ["| kind | operators |", "|---|---|"]
    lines += [f"| {kind} | {names} |" for kind, names in ON_THE_CPU]
    lines += [
        "",
        "Refused by name: operators that draw random numbers, sequences and optionals, Compress, NonZero, Unique and others whose",
        "result's size depends on data (with `--target llvm` alone TVM may take them), DeformConv, Col2Im, losses.",
    ]
    lines += ["", "Limits of the machine:", ""]
    lines += [f"{k}. {(rule.__doc__ or '').strip()}" for k, (rule, _) in enumerate(RULES, 1)]
    lines += [
        "",
        "Models that came quantized keep bits, scales and zero points (`--requantize` takes them as float models):",
        "",
    ]
    lines += ["| form | operators | on the accelerator |", "|---|---|---|"]
    lines += [f"| {form} | {spelled} | {becomes} |" for form, spelled, becomes in FORMS]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
