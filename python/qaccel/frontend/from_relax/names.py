"""What ONNX calls the operators of Relax, by Relax's name without its prefix."""

from __future__ import annotations

from tvm import ir, relax

from ...dialect import kinds

# Relax operators that are one ONNX operator of the same operands, and those with one attribute of the same name besides.
PLAIN = {
    "add": "Add", "subtract": "Sub", "multiply": "Mul", "divide": "Div", "maximum": "Max", "minimum": "Min",
    "power": "Pow", "matmul": "MatMul", "where": "Where", "nn.relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh",
    "erf": "Erf", "exp": "Exp", "log": "Log", "sqrt": "Sqrt", "abs": "Abs", "negative": "Neg", "floor": "Floor",
    "ceil": "Ceil", "round": "Round", "sign": "Sign", "sin": "Sin", "cos": "Cos", "equal": "Equal",
    "greater": "Greater", "less": "Less", "greater_equal": "GreaterOrEqual", "less_equal": "LessOrEqual",
    "logical_and": "And", "logical_or": "Or", "logical_not": "Not", "logical_xor": "Xor",
}  # fmt: skip
SCALED = {
    "nn.leakyrelu": ("LeakyRelu", "alpha"), "nn.softmax": ("Softmax", "axis"), "nn.log_softmax": ("LogSoftmax", "axis"),
}  # fmt: skip
# Those whose operands or attributes differ; `kinds` has the names of layers.
OTHERS = {
    "concat": "Concat", "split": "Split", "strided_slice": "Slice", "take": "Gather", "nn.pad": "Pad", "tile": "Tile",
    "broadcast_to": "Expand", "astype": "Cast", "sum": "ReduceSum", "min": "ReduceMin", "topk": "TopK",
    "nn.pixel_shuffle": "DepthToSpace", "nn.softplus": "Softplus", "nn.gelu": "Gelu", "nn.conv1d": "Conv",
    "nn.conv1d_transpose": "ConvTranspose", "nn.max_pool1d": "MaxPool", "nn.avg_pool1d": "AveragePool",
    "nn.layer_norm": "LayerNormalization", "nn.group_norm": "GroupNormalization",
    "nn.instance_norm": "InstanceNormalization", "nn.batch_norm": "BatchNormalization",
}  # fmt: skip


def onnx_name(call: relax.Call) -> str:
    """ONNX's name for the operator of a call, or Relax's own where there is none; "Call" for a function of the module."""
    if not isinstance(call.op, ir.Op):
        return "Call"
    name = str(call.op.name).removeprefix("relax.")
    if name in SCALED:
        return SCALED[name][0]
    return PLAIN.get(name) or OTHERS.get(name) or kinds.kind_of((str(call.op.name),), call).op or name
