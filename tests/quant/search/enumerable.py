"""Networks small enough that every plan of theirs can be tried, with samples."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

KINDS = ("chain", "residual", "depthwise", "values")
SAMPLES = 32
SIZE = 8


def network(seed: int, layers: int = 2) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    """A network of so many layers with weights, of the kind and sizes that the seed gives, and SAMPLES samples.

    "values" ends in a map, the others in the scores of 6 classes; weights have outliers, so that widths differ in what they lose.
    """
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    nodes: list[onnx.NodeProto] = []
    weights: dict[str, np.ndarray] = {}

    def conv(x: str, ic: int, oc: int, kernel: int, groups: int = 1) -> str:
        name = f"conv{len(weights)}"
        value = rng.standard_normal((oc, ic // groups, kernel, kernel)) / np.sqrt(ic // groups * kernel * kernel)
        value *= np.where(rng.random(value.shape) < 0.03, 6, 1)
        weights[f"w_{name}"] = value
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [x, f"w_{name}"], [name], name, pads=pads, group=groups))
        return name

    def node(op: str, *inputs: str, **attributes: object) -> str:
        name = f"{op.lower()}{len(nodes)}"
        nodes.append(helper.make_node(op, inputs, [name], name, **attributes))
        return name

    ic, c = 3, int(rng.integers(4, 13)) * 2
    x = conv("x", ic, c, int(rng.choice([1, 3])))
    if rng.random() < 0.5:
        x = node("Relu", x)
    for _ in range(layers - 2):
        if kind == "depthwise":
            x = node("Relu", conv(x, c, c, 3, groups=c))
        else:
            y = conv(x, c, c, 3)
            x = node("Add", x, y) if kind == "residual" else node("Relu", y)
    if kind == "values":
        y = conv(x, c, 4, 3)
        shape = [1, 4, SIZE, SIZE]
    else:
        weights["head"] = rng.standard_normal((c, 6)) * 2 / np.sqrt(c)
        y = node("MatMul", node("Flatten", node("GlobalAveragePool", node("Mul", x, x))), "head")
        shape = [1, 6]
    nodes[-1].output[0] = "y"
    initializers = [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes)
        for name, sizes in (("x", [1, 3, SIZE, SIZE]), ("y", shape))
    ]
    graph = helper.make_graph(nodes, f"{kind}{seed}", ends[:1], ends[1:], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    size, offset = rng.uniform(0.3, 2, (SAMPLES, 1, 1, 1)), rng.standard_normal((SAMPLES, 3, 1, 1))
    return model, {"x": (rng.standard_normal((SAMPLES, 3, SIZE, SIZE)) * size + offset).astype(np.float32)}
