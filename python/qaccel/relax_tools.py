"""Small tools on Relax modules."""

from __future__ import annotations

from tvm import relax


def node_name(call: relax.Call) -> str:
    """The ONNX node that a Relax call came from; empty for a call that no node stands behind."""
    return "" if call.span is None else str(call.span.source_name.name)
