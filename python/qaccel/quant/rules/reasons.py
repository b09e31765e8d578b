"""Why a layer with weights stays in float, where that is for its weights or bias."""

from __future__ import annotations

from tvm import ir, relax

from ...dialect.kinds import WEIGHTED
from .emitter import Emitter
from .match import Node


def computed_weights(node: Node, emitter: Emitter) -> str:
    """Why a layer whose weights or bias are no constants stays in float; empty for every other node."""
    for binding in node.bindings:
        call = binding.value
        name = call.op.name if isinstance(call, relax.Call) and isinstance(call.op, ir.Op) else ""
        if name not in WEIGHTED and not (name == "relax.add" and _follows_product(call, node)):
            continue
        weight = call.args[1]
        what, are = ("bias", "is") if name == "relax.add" else ("weights", "are")
        if not isinstance(weight, relax.Var):
            continue
        within = {each.var: each.value for each in node.bindings}
        while isinstance(within.get(weight), relax.Call):  # a bias that its own node brings into shape
            weight = within[weight].args[0]
        if not isinstance(weight, relax.Var):
            continue
        maker = emitter.maker(weight)
        if maker is None:
            return f"its {what} {are} an input of the model, not constant"
        if maker.op == "DequantizeLinear":
            return (
                f"its {what} {are} quantized already and made real by node '{maker.name}'; such layers run on the CPU"
            )
        if name != "relax.matmul":
            return f"its {what} {are} computed by node '{maker.name}' ({maker.op}), not constant"
    return ""


def _follows_product(call: relax.Call, node: Node) -> bool:
    return isinstance(node.bindings[0].value, relax.Call) and call.args[0] in {each.var for each in node.bindings}
