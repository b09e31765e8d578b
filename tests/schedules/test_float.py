"""Float operators on the CPU against ONNX Runtime, over random shapes, strides, paddings, groups and dilations."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tvm
from onnx import TensorProto, helper, numpy_helper
from tvm import relax

import qaccel
from qaccel import link
from qaccel.cpu.compile import compile_cpu
from qaccel.frontend.import_model import import_model
from qaccel.host import host_target
from qaccel.options import parse_target
from qaccel.schedules.host import host_of
from tiers import wide_after

RELATIVE = 1e-5  # of the largest output


def one_node(
    op: str, shapes: Sequence[Sequence[int]], constants: Sequence[np.ndarray] = (), opset: int = 17, **attrs: Any
):
    """A model of one node over float inputs x0, x1, ... and constants."""
    inputs = [helper.make_tensor_value_info(f"x{k}", TensorProto.FLOAT, list(s)) for k, s in enumerate(shapes)]
    initializers = [numpy_helper.from_array(array, f"c{k}") for k, array in enumerate(constants)]
    names = [each.name for each in inputs] + [each.name for each in initializers]
    node = helper.make_node(op, names, ["y"], name="node", **attrs)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([node], "graph", inputs, [output], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def check(model: onnx.ModelProto, feeds: Mapping[str, np.ndarray], target: str = "llvm -mcpu=native") -> None:
    """Our outputs are within RELATIVE of ONNX Runtime's."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    expected = dict(zip([o.name for o in session.get_outputs()], session.run(None, dict(feeds)), strict=True))
    module = _compiled(model, target)
    for name, value in module.run(feeds).items():
        assert value.shape == expected[name].shape
        np.testing.assert_allclose(value, expected[name], rtol=0, atol=RELATIVE * np.abs(expected[name]).max())


def _compiled(model: onnx.ModelProto, target: str) -> qaccel.Module:
    from qaccel.options import CompileOptions, parse_target
    from qaccel.pipeline import compile_model
    from qaccel.stages import Stages

    return qaccel.Module(compile_model(model, CompileOptions(target=parse_target(target)), "model", Stages(False)))


def drawn(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.standard_normal(shape, dtype=np.float32)


def convolution(rng: np.random.Generator) -> tuple[onnx.ModelProto, tuple[int, ...]]:
    """Dense, grouped, depthwise, any window, odd sizes; one spatial dimension now and then."""
    kind = rng.choice(["dense", "grouped", "depthwise"])
    groups = {"dense": 1, "grouped": int(rng.integers(2, 4))}.get(str(kind), int(rng.integers(2, 40)))
    ic = groups * (1 if kind == "depthwise" else int(rng.integers(1, 20)))
    oc = ic if kind == "depthwise" else groups * int(rng.integers(1, 45))
    rank = int(rng.choice([1, 2, 2, 2]))
    kernel = [int(rng.integers(1, 6)) for _ in range(rank)]
    dilations = [int(rng.integers(1, 3)) for _ in range(rank)]
    pads = [int(rng.integers(0, k + 1)) for _ in range(2) for k in kernel]
    plane = [int(rng.integers((k - 1) * d + 1, 40)) for k, d in zip(kernel, dilations, strict=True)]
    shape = (int(rng.integers(1, 3)), ic, *plane)
    weight, bias = drawn(rng, oc, ic // groups, *kernel), drawn(rng, oc)
    model = one_node(
        "Conv", [shape], [weight, bias], kernel_shape=kernel, dilations=dilations, pads=pads, group=groups,
        strides=[int(rng.integers(1, 4)) for _ in range(rank)],
    )  # fmt: skip
    return model, shape


@pytest.mark.parametrize("seed", wide_after(4, range(16)))
def test_convolutions(seed: int) -> None:
    rng = np.random.default_rng(seed)
    model, shape = convolution(rng)
    check(model, {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize(("width", "channels"), wide_after(2, [(17, 40), (41, 5), (23, 130), (37, 24), (19, 16)]))
def test_pixels_and_channels_that_no_tile_divides(width: int, channels: int) -> None:
    rng = np.random.default_rng(width)
    model = one_node("Conv", [(1, 7, 3, width)], [drawn(rng, channels, 7, 1, 1), drawn(rng, channels)])
    check(model, {"x0": drawn(rng, 1, 7, 3, width)})


@pytest.mark.parametrize("mcpu", ["x86-64", "haswell"])
@pytest.mark.parametrize("seed", wide_after(1, range(100, 103)))
def test_convolutions_of_narrower_vectors(seed: int, mcpu: str) -> None:
    rng = np.random.default_rng(seed)
    model, shape = convolution(rng)
    check(model, {"x0": drawn(rng, *shape)}, f"llvm -mcpu={mcpu}")


@pytest.mark.parametrize("seed", wide_after(2, range(6)))
def test_transposed_convolutions(seed: int) -> None:
    rng = np.random.default_rng(200 + seed)
    groups = int(rng.integers(1, 3))
    ic, ocg = groups * int(rng.integers(1, 9)), int(rng.integers(1, 20))
    kernel, strides = [int(rng.integers(1, 5)) for _ in range(2)], [int(rng.integers(1, 4)) for _ in range(2)]
    pads = [int(rng.integers(0, k)) for _ in range(2) for k in kernel]
    extra = [int(rng.integers(0, s)) for s in strides]
    shape = (1, ic, int(rng.integers(4, 12)), int(rng.integers(4, 12)))
    model = one_node(
        "ConvTranspose", [shape], [drawn(rng, ic, ocg, *kernel), drawn(rng, ocg * groups)], kernel_shape=kernel,
        strides=strides, pads=pads, output_padding=extra, group=groups,
    )  # fmt: skip
    check(model, {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize(
    ("left", "right"),
    [((1, 64), (64, 100)), ((1, 7), (7, 3)), ((33, 65), (65, 1001)), ((2, 3, 19, 24), (24, 40)), ((4, 1), (1, 1))],
)
def test_products_with_constants(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    check(one_node("MatMul", [left], [drawn(rng, *right)]), {"x0": drawn(rng, *left)})


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((1, 2, 17, 16), (1, 2, 16, 17)),
        ((2, 33, 33), (2, 33, 8)),
        ((5, 6), (6, 130)),
        ((1, 9), (9, 5)),
        ((2, 1, 4, 8), (1, 3, 8, 4)),
    ],
)
def test_products_of_two_inputs(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    check(one_node("MatMul", [left, right]), {"x0": drawn(rng, *left), "x1": drawn(rng, *right)})


def test_what_is_added_may_be_computed_too() -> None:
    """Gemm scales its third input: two values that come from elsewhere meet after the product."""
    rng = np.random.default_rng(8)
    model = one_node("Gemm", [(4, 3), (5, 4), (1, 5)], alpha=0.25, beta=0.35, transA=1, transB=1)
    check(model, {"x0": drawn(rng, 4, 3), "x1": drawn(rng, 5, 4), "x2": drawn(rng, 1, 5)})


ROWS = {
    "softmax": ("Softmax", (2, 5, 33), {"axis": -1}, 0, 17),
    "softmax over channels": ("Softmax", (1, 21, 9, 10), {"axis": 1}, 0, 17),
    "softmax of one row": ("Softmax", (1, 1000), {"axis": 1}, 0, 17),
    "layer norm": ("LayerNormalization", (2, 13, 48), {"axis": -1}, 48, 17),
    "layer norm of odd length": ("LayerNormalization", (3, 37), {"axis": -1}, 37, 17),
    "instance norm": ("InstanceNormalization", (1, 6, 9, 11), {}, 6, 17),
    "mean": ("ReduceMean", (3, 7, 40), {"axes": [-1]}, 0, 17),
    "mean of planes": ("ReduceMean", (2, 19, 6, 7), {"axes": [2, 3], "keepdims": 0}, 0, 17),
    "max": ("ReduceMax", (4, 9, 20), {"axes": [1]}, 0, 17),
    "sum of squares": ("ReduceSumSquare", (4, 64), {"axes": [1]}, 0, 17),
    "log softmax": ("LogSoftmax", (6, 50), {"axis": -1}, 0, 17),
    "gelu": ("Gelu", (3, 70), {}, 0, 20),
    "tanh": ("Tanh", (3, 5, 7), {}, 0, 17),
    "sigmoid": ("Sigmoid", (2, 3, 17, 19), {}, 0, 17),
    "exp": ("Exp", (1000,), {}, 0, 17),
    "erf": ("Erf", (2, 31), {}, 0, 17),
    "sinh": ("Sinh", (3, 32), {}, 0, 17),
    "atan": ("Atan", (3, 32), {}, 0, 17),
    "hard swish": ("HardSwish", (1, 8, 6, 6), {}, 0, 17),
    "max pool": ("MaxPool", (1, 20, 15, 17), {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]}, 0, 17),
    "average pool": ("AveragePool", (2, 16, 12, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}, 0, 17),
    "global pool": ("GlobalAveragePool", (2, 24, 7, 5), {}, 0, 17),
    "transpose": ("Transpose", (2, 3, 5, 7), {"perm": [0, 2, 3, 1]}, 0, 17),
}  # fmt: skip


@pytest.mark.parametrize("name", wide_after(8, ROWS))
def test_other_operators(name: str) -> None:
    op, shape, attrs, channels, opset = ROWS[name]
    rng = np.random.default_rng(3)
    constants = [drawn(rng, channels), drawn(rng, channels)] if channels else []
    check(one_node(op, [shape], constants, opset, **attrs), {"x0": drawn(rng, *shape)})


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
def test_resize(mode: str) -> None:
    shape = (1, 12, 9, 11)
    scales = [np.zeros(0, np.float32), np.array([1, 1, 2, 3], np.float32)]
    model = one_node("Resize", [shape], scales, mode=mode, coordinate_transformation_mode="half_pixel")
    check(model, {"x0": drawn(np.random.default_rng(4), *shape)})


def test_a_batch_of_any_size() -> None:
    """A module whose shapes are known only when it runs gets rules that need no sizes."""
    size = tvm.tirx.Var("n", "int64")
    x = relax.Var("x", relax.TensorType((size, 8), "float32"))
    weight = np.random.default_rng(5).standard_normal((8, 24), dtype=np.float32)
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            soft = builder.emit(relax.op.nn.softmax(x, axis=1))
            centred = builder.emit(relax.op.subtract(soft, builder.emit(relax.op.mean(soft, [1], True))))
            out = builder.emit_output(relax.op.matmul(centred, relax.const(weight)))
        builder.emit_func_output(out)
    executable = link.build(builder.get(), host_target(parse_target("llvm")), {}).executable
    values = drawn(np.random.default_rng(6), 5, 8)
    soft = np.exp(values) / np.exp(values).sum(1, keepdims=True)
    result = relax.VirtualMachine(executable.jit(), tvm.cpu())["main"](tvm.runtime.tensor(values)).numpy()
    np.testing.assert_allclose(result, (soft - soft.mean(1, keepdims=True)) @ weight, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("width", "channels"), [(28, 32), (14, 1024)])
@pytest.mark.parametrize(
    ("target", "instruction"),
    [
        ({"mtriple": "aarch64-linux-gnu"}, r"fmla\s+v\d+\.4s"),
        ({"mcpu": "haswell", "mtriple": "x86_64-linux-gnu"}, r"vfmadd\d+ps.*%ymm"),
        ({"mcpu": "skylake-avx512", "mtriple": "x86_64-linux-gnu"}, r"vfmadd\d+ps.*%zmm"),
    ],
)
def test_a_register_tile_is_what_the_cpu_multiplies_with(
    target: dict[str, str], instruction: str, width: int, channels: int
) -> None:
    """The inner loop of a 1x1 convolution: vectors of the CPU's full width, and no sum that goes through memory."""
    made = tvm.target.Target({"kind": "llvm", "num-cores": 2, **target})
    weight = np.zeros((256, channels, 1, 1), np.float32)
    mod, _ = compile_cpu(import_model(one_node("Conv", [(1, channels, 28, width)], [weight]), None, None).mod, made)
    (function,) = [f for v, f in mod.functions_items() if isinstance(f, tvm.tirx.PrimFunc) and "conv" in v.name_hint]
    built = tvm.compile(tvm.IRModule({"main": function.with_attr("global_symbol", "main")}), target=made)
    # Basic blocks: up to a label or a jump.
    blocks = re.split(r"\n\S+:|\n\s+(?:j\w+|b\.\w+|cbn?z)\s[^\n]*", built.mod.inspect_source("asm"))
    inner = max(blocks, key=lambda block: len(re.findall(instruction, block)))
    assert len(re.findall(instruction, inner)) >= host_of(made).accumulators // 2
    assert not re.findall(r"vmov[au]ps\s+%[yz]mm\d+, .*\(|\sst[rp]\s+q", inner)
