"""ONNX's backend node tests through our import and through TVM's own, both compiled for llvm."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import onnx
import tvm
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from qaccel import link
from qaccel.frontend.import_model import import_for_cpu

LLVM = tvm.target.Target("llvm")
Runner = Callable[[onnx.ModelProto, dict[str, Any]], list[np.ndarray]]


@dataclass(frozen=True)
class Case:
    """A model with its data. `frozen`: operands that give shapes are initializers, as exporters write them."""

    name: str
    op: str
    model: onnx.ModelProto
    frozen: onnx.ModelProto
    data: tuple[tuple[list[Any], list[Any]], ...]
    rtol: float
    atol: float


@lru_cache(maxsize=1)
def cases() -> tuple[Case, ...]:
    """All node tests; those of functions' expanded bodies have the suffix _expanded."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = load_model_tests(kind="node")
    sets = [tuple((_arrays(given), _arrays(expected)) for given, expected in t.data_sets) for t in loaded]
    return tuple(
        Case(t.name, _op(t.name, t.model), t.model, _frozen(t.model, data), data, t.rtol, t.atol)
        for t, data in zip(loaded, sets, strict=True)
    )


def _arrays(values: Any) -> list[Any]:
    """The loader leaves tensors of some types as they are in the file."""
    return [numpy_helper.to_array(v) if isinstance(v, onnx.TensorProto) else v for v in values]


def _op(name: str, model: onnx.ModelProto) -> str:
    """The operator tested; a function written out is counted with its operator's name in lower case."""
    return name.split("_expanded")[0] if "_expanded" in name else model.graph.node[0].op_type


# Operands that ONNX lets a model compute, and exporters write as constants: by operator, their positions.
SHAPE_OPERANDS = {
    "Reshape": [1], "Expand": [1], "Tile": [1], "Slice": [1, 2, 3, 4], "Pad": [1, 2, 3], "Resize": [1, 2, 3],
    "Upsample": [1], "Unsqueeze": [1], "Squeeze": [1], "Split": [1], "TopK": [1], "OneHot": [1], "ConstantOfShape": [0],
    "Range": [0, 1, 2], "CumSum": [1], "Trilu": [1], "CenterCropPad": [1], "AffineGrid": [1], "MaxUnpool": [2],
    "ReduceSum": [1], "ReduceMean": [1], "ReduceMax": [1], "ReduceMin": [1], "ReduceProd": [1], "ReduceL1": [1],
    "ReduceL2": [1], "ReduceLogSum": [1], "ReduceLogSumExp": [1], "ReduceSumSquare": [1], "Dropout": [1, 2],
    "BlackmanWindow": [0], "HannWindow": [0], "HammingWindow": [0], "Col2Im": [1, 2], "NonMaxSuppression": [2, 3, 4],
    "LSTM": [1, 2, 3, 4, 7], "GRU": [1, 2, 3, 4], "RNN": [1, 2, 3, 4],
}  # fmt: skip


def _frozen(model: onnx.ModelProto, data: Any) -> onnx.ModelProto:
    names = {
        node.input[k] for node in model.graph.node for k in SHAPE_OPERANDS.get(node.op_type, []) if k < len(node.input)
    }
    inputs = list(model.graph.input)
    if not any(i.name in names for i in inputs) or all(i.name in names for i in inputs):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for k in reversed(range(len(inputs))):
        if inputs[k].name in names and isinstance(data[0][0][k], (np.ndarray, np.generic)):
            copy.graph.initializer.append(numpy_helper.from_array(np.asarray(data[0][0][k]), inputs[k].name))
            del copy.graph.input[k]
    return copy


def ours(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[np.ndarray]:
    """Our import, compiled as `tvmc compile --target llvm` does."""
    imported, _ = import_for_cpu(model, None, None)
    machine = relax.VirtualMachine(link.build(imported.mod, LLVM, {}).executable, tvm.cpu())
    return _results(machine["main"](*[_tensor(feeds[s.name]) for s in imported.inputs]))


def plain(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[np.ndarray]:
    """TVM's own importer and pipeline."""
    logging.disable(logging.WARNING)
    try:
        mod = from_onnx(model, keep_params_in_input=False)
    finally:
        logging.disable(logging.NOTSET)
    machine = relax.VirtualMachine(tvm.compile(mod, LLVM), tvm.cpu())
    names = [i.name for i in model.graph.input if i.name not in {t.name for t in model.graph.initializer}]
    return _results(machine["main"](*[_tensor(feeds[name]) for name in names]))


def _tensor(value: np.ndarray) -> Any:
    return tvm.runtime.tensor(np.ascontiguousarray(value).reshape(value.shape))


def _results(value: Any) -> list[np.ndarray]:
    values = [value] if hasattr(value, "numpy") else list(value)
    return [v.numpy() for v in values]


def failure(case: Case, model: onnx.ModelProto, run: Runner) -> BaseException | None:
    """What went wrong with a case: None if all outputs are those of ONNX."""
    try:
        for given, expected in case.data:
            names = [i.name for i in case.model.graph.input]
            feeds = dict(zip(names, given, strict=False))
            got = run(model, feeds)
            assert len(got) == len(expected), f"{len(got)} outputs, {len(expected)} expected"
            for a, b in zip(got, expected, strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape, f"{a.dtype}{a.shape}, expected {b.dtype}{b.shape}"
                kind = np.float64 if b.dtype.kind in "fV" else b.dtype
                np.testing.assert_allclose(a.astype(kind), b.astype(kind), rtol=case.rtol, atol=case.atol)
    except Exception as error:  # noqa: BLE001 - whatever it is, the case does not pass
        return error
    return None
