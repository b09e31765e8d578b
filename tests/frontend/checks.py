"""What the tests of the import have in common: constants, short names, one comparison with ONNX Runtime."""

from __future__ import annotations

import numpy as np
import onnx
from tvm import relax

from frontend.onnx_models import ort_run, worst
from qaccel.emulate.executor import execute
from qaccel.emulate.float_operators import RULES
from qaccel.emulate.steps import plan_of
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.relax_tools import node_name

RNG = np.random.default_rng(33)


def f(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def i(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def calls(imported: Model) -> list[relax.Call]:
    return [
        b.value for block in imported.mod["main"].body.blocks for b in block.bindings if isinstance(b.value, relax.Call)
    ]


def relax_ops(imported: Model) -> list[str]:
    return [c.op.name.removeprefix("relax.") for c in calls(imported)]


def onnx_ops(imported: Model) -> list[str]:
    return [n.op_type for n in imported.operators]


def assert_equals_onnx_runtime(proto: onnx.ModelProto, tolerance: float = 1e-5, scale: float = 1.0) -> Model:
    """NumPy rules for every call, and the result of ONNX Runtime; the written ONNX model too, and two samples at once."""
    imported = import_onnx(proto)
    rng = np.random.default_rng(5)
    assert [c.op.name for c in calls(imported) if c.op.name not in RULES] == []
    onnx.checker.check_model(imported.onnx_model, full_check=True)
    assert {node_name(c) for c in calls(imported)} <= {n.name for n in imported.operators}
    feeds = [
        {s.name: (rng.standard_normal(s.shape) * scale).astype(s.dtype) for s in imported.inputs} for _ in range(2)
    ]
    expected = [ort_run(proto, each) for each in feeds]
    for each, wanted in zip(feeds, expected, strict=True):
        assert worst(execute(imported, each), wanted) < tolerance
        assert worst(ort_run(imported.onnx_model, each), wanted) < tolerance
    if plan_of(imported).batchable:
        both = {name: np.concatenate([each[name] for each in feeds]) for name in feeds[0]}
        assert (
            worst(execute(imported, both), {k: np.concatenate([w[k] for w in expected]) for k in expected[0]})
            < tolerance
        )
    return imported
