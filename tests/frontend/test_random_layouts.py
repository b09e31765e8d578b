"""Random graphs full of Transposes: whatever moves, the values stay those of ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import pytest

from frontend.onnx_models import model, node, ort_run, worst
from qaccel.emulate.executor import execute
from qaccel.frontend.import_onnx import import_onnx
from tiers import wide_after

Shape = tuple[int, ...]


@dataclass
class Draft:
    """A graph while it is drawn: `tensors` are names with shapes."""

    rng: np.random.Generator
    opset: int
    tensors: list[tuple[str, Shape]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    consts: dict[str, np.ndarray] = field(default_factory=dict)

    def const(self, value: Any) -> str:
        name = f"c{len(self.consts)}"
        self.consts[name] = value if isinstance(value, np.ndarray) else np.array(value, np.int64)
        return name

    def add(self, op: str, inputs: list[str], shape: Shape, **attrs: Any) -> None:
        out = f"v{len(self.tensors)}"
        self.nodes.append(node(op, inputs, [out], **attrs))
        self.tensors.append((out, shape))

    def one_of(self, *choices: Any) -> Any:
        return choices[int(self.rng.integers(len(choices)))]


def transpose(d: Draft, a: str, s: Shape) -> None:
    perm = [int(v) for v in d.rng.permutation(len(s))]
    d.add("Transpose", [a], tuple(s[p] for p in perm), perm=perm)


def unary(d: Draft, a: str, s: Shape) -> None:
    d.add(d.one_of("Relu", "Sigmoid", "Abs", "Neg"), [a], s)


def with_constant(d: Draft, a: str, s: Shape) -> None:
    shape = tuple(size if d.rng.random() < 0.6 else 1 for size in s)[int(d.rng.integers(len(s))) :]
    operands = [a, d.const(d.rng.standard_normal(shape).astype(np.float32))]
    d.add(d.one_of("Add", "Mul", "Sub"), operands[:: d.one_of(1, -1)], s)


def binary(d: Draft, a: str, s: Shape) -> None:
    d.add(d.one_of("Add", "Mul"), [a, d.one_of(*[n for n, shape in d.tensors if shape == s])], s)


def concat(d: Draft, a: str, s: Shape) -> None:
    axis = int(d.rng.integers(len(s)))
    fits = [(n, t) for n, t in d.tensors if len(t) == len(s) and all(t[k] == s[k] for k in range(len(s)) if k != axis)]
    other, t = d.one_of(*fits)
    d.add("Concat", [a, other], (*s[:axis], s[axis] + t[axis], *s[axis + 1 :]), axis=axis)


def reduce(d: Draft, a: str, s: Shape) -> None:
    axes = sorted(int(v) for v in d.rng.choice(len(s), size=int(d.rng.integers(1, len(s))), replace=False))
    keep = d.one_of(0, 1)
    shape = tuple(1 if k in axes else size for k, size in enumerate(s) if keep or k not in axes)
    op = d.one_of("ReduceMean", "ReduceMax")
    if d.opset >= 18:
        d.add(op, [a, d.const(axes)], shape, keepdims=keep)
    else:
        d.add(op, [a], shape, axes=axes, keepdims=keep)


def softmax(d: Draft, a: str, s: Shape) -> None:
    d.add("Softmax", [a], s, axis=int(d.rng.integers(len(s))) if d.opset >= 13 else len(s) - 1)


def pad(d: Draft, a: str, s: Shape) -> None:
    amounts = [int(v) for v in d.rng.integers(0, 2, 2 * len(s))]
    shape = tuple(size + amounts[k] + amounts[k + len(s)] for k, size in enumerate(s))
    if d.opset >= 11:
        d.add("Pad", [a, d.const(amounts)], shape)
    else:
        d.add("Pad", [a], shape, pads=amounts)


def cut(d: Draft, a: str, s: Shape) -> None:
    axis = int(d.rng.integers(len(s)))
    end = int(d.rng.integers(1, s[axis] + 1))
    shape = (*s[:axis], end, *s[axis + 1 :])
    if d.opset >= 10:
        d.add("Slice", [a, d.const([0]), d.const([end]), d.const([axis])], shape)
    else:
        d.add("Slice", [a], shape, starts=[0], ends=[end], axes=[axis])


def gather(d: Draft, a: str, s: Shape) -> None:
    axis = int(d.rng.integers(len(s)))
    indices = d.rng.integers(0, s[axis], size=3).astype(np.int64)
    d.add("Gather", [a, d.const(indices)], (*s[:axis], 3, *s[axis + 1 :]), axis=axis)


STEPS: list[Callable[[Draft, str, Shape], None]] = [
    transpose, transpose, transpose, unary, unary, with_constant, binary, concat, reduce, softmax, pad, cut, gather,
]  # fmt: skip


def random_model(seed: int) -> onnx.ModelProto:
    rng = np.random.default_rng(seed)
    shape = (1, *(int(v) for v in rng.integers(1, 5, size=int(rng.integers(2, 4)))))
    draft = Draft(rng, int(rng.choice([9, 12, 13, 18])), [("x", shape)])
    for _ in range(int(rng.integers(4, 14))):
        recent = [(name, s) for name, s in draft.tensors[-4:] if len(s) > 1] or [("x", shape)]
        draft.one_of(*STEPS)(draft, *draft.one_of(*recent))
    read = {name for n in draft.nodes for name in n.input}
    outputs = [name for name, _ in draft.tensors[1:] if name not in read][:3]
    return model(draft.nodes, draft.consts, shape, tuple(outputs), draft.opset)


@pytest.mark.parametrize("seed", wide_after(20, range(80)))
def test_values_stay(seed: int) -> None:
    proto = random_model(seed)
    imported = import_onnx(proto)
    onnx.checker.check_model(imported.onnx_model, full_check=True)
    x = np.random.default_rng(seed).standard_normal(imported.inputs[0].shape).astype(np.float32)
    expected = ort_run(proto, {"x": x})
    assert worst(execute(imported, {"x": x}), expected) < 1e-5
    assert worst(ort_run(imported.onnx_model, {"x": x}), expected) < 1e-5
