"""qaccel compiles neural networks for a quantized accelerator: an out-of-tree Apache TVM backend.

q = qaccel.quantize("model.onnx", calibration_data="data.npz")
m = qaccel.compile(q, hw="qaccel-256")
m.export_library("model.so")
qaccel.load("model.so").run({"x": x})
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from .errors import CompilerFault, QaccelError, UserError, check_compiler
from .version import __version__

if TYPE_CHECKING:
    from .api import analyze, compile, evaluate, explore, quantize
    from .exploration import Exploration
    from .networks import Module, load
    from .quantized_network import QuantizedNetwork
    from .relax_idioms import partition_for_qaccel
    from .report.record.schema import Report
    from .run.evaluate import Evaluation

__all__ = [
    "CompilerFault",
    "Evaluation",
    "Exploration",
    "Module",
    "QaccelError",
    "QuantizedNetwork",
    "Report",
    "UserError",
    "__version__",
    "analyze",
    "compile",
    "evaluate",
    "explore",
    "load",
    "partition_for_qaccel",
    "quantize",
]

# Silent until the program that uses qaccel wants to hear it.
logging.getLogger(__name__).addHandler(logging.NullHandler())

# `import tvm` imports this package to find the backend, so what compiles is imported when it is first asked for,
# and what only runs modules does not import it at all.
_HOMES = {
    "Evaluation": "run.evaluate",
    "Exploration": "exploration",
    "Module": "networks",
    "QuantizedNetwork": "quantized_network",
    "Report": "report.record.schema",
    "analyze": "api",
    "compile": "api",
    "evaluate": "api",
    "explore": "api",
    "load": "networks",
    "partition_for_qaccel": "relax_idioms",
    "quantize": "api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'qaccel' has no attribute {name!r}")
    import importlib

    if _HOMES[name] != "networks":
        check_compiler()
    return getattr(importlib.import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
