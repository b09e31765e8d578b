"""The forms in which a quantized model comes, all read as plain QDQ: what the pipeline hands to the import."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from types import MappingProxyType

import onnx
from onnx import helper

from ..errors import UserError
from ..frontend.forms import Forms
from ..model import Model
from . import dynamic, qoperator
from .as_float import without_rounding
from .read import read
from .settle import settled
from .spelling import MICROSOFT, Spelling


def spelled(proto: onnx.ModelProto, every_run: bool = False) -> onnx.ModelProto:
    """The model with operators on integers as float operators between QuantizeLinear and DequantizeLinear.

    ``every_run``: scales that the model finds anew in every run stay so; else such activations become float. Raises UserError
    naming an operator that has no such form.
    """
    known = (*qoperator.SPELLINGS, *dynamic.LAYERS, dynamic.SOURCE)
    for node in proto.graph.node:
        if node.domain == MICROSOFT and node.op_type in qoperator.REFUSED:
            raise UserError(
                f"node '{node.name or node.output[0]}': operator {node.op_type} of domain '{MICROSOFT}' is not supported; quantize "
                "the float model statically, as QDQ"
            )
    if not any(node.op_type in known for node in proto.graph.node):
        return proto
    nodes = dynamic.nodes_of(proto.graph)
    taken = set(nodes.makers) | set(nodes.readers) | {n.name for n in proto.graph.node} | set(nodes.constants)
    result: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    products = {}
    if not every_run:
        found = [(n, dynamic.product_of(n, nodes)) for n in proto.graph.node if n.op_type in dynamic.LAYERS]
        products = {n.output[0]: product for n, product in found if product is not None}
    gone = {name for product in products.values() for n in product.gone for name in n.output}
    for node in proto.graph.node:
        spelling = Spelling(node, taken)
        if node.op_type in qoperator.SPELLINGS:
            qoperator.SPELLINGS[node.op_type](spelling)
        elif node.op_type in dynamic.LAYERS:
            _spell_product(spelling, products.get(node.output[0]), nodes, every_run)
        elif node.op_type == dynamic.SOURCE and every_run:
            dynamic.in_every_run(spelling)
        elif node.op_type == dynamic.SOURCE and not _all_products(node, nodes, products):
            raise spelling.refuse(
                "its integers are read by other operators than ConvInteger and MatMulInteger; only those are known"
            )
        elif node.op_type != dynamic.SOURCE and not set(node.output) & gone:
            result.append(node)
        result += spelling.nodes
        constants += spelling.constants
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    del made.graph.node[:]
    made.graph.node.extend(live(result, proto.graph))
    made.graph.initializer.extend(constants)
    if not any(each.domain == MICROSOFT for each in made.opset_import):
        made.opset_import.append(helper.make_opsetid(MICROSOFT, 1))
    return made


def _spell_product(
    spelling: Spelling, product: dynamic.Product | None, nodes: dynamic.Nodes, every_run: bool
) -> None:  # fmt: skip
    made = nodes.makers.get(spelling.node.input[0])
    if made is None or made.op_type != dynamic.SOURCE:
        raise spelling.refuse("its activation is made by no DynamicQuantizeLinear; only that is known")
    if every_run:
        dynamic.on_real_integers(spelling)
    elif product is None:
        raise spelling.refuse(
            "no Cast and Mul with the scales of its activation and weights follow it; only that is known"
        )
    else:
        dynamic.calibrated(spelling, product, nodes)


def _all_products(node: onnx.NodeProto, nodes: dynamic.Nodes, products: dict[str, dynamic.Product]) -> bool:
    return all(
        reader.op_type in dynamic.LAYERS and reader.output[0] in products
        for reader in nodes.readers.get(node.output[0], [])
    )


def live(nodes: list[onnx.NodeProto], graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes without those that nothing reads any more."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(nodes):
        if wanted & set(node.output):
            kept.append(node)
            wanted.update(node.input)
            wanted.update(name for a in node.attribute for inner in a.g.node for name in inner.input)
    return kept[::-1]


QUANTIZED = Forms(spelled, read, settled)
EVERY_RUN = Forms(partial(spelled, every_run=True), read, settled)


def requantized(clamped: Mapping[str, tuple[bool, bool]] | None = MappingProxyType({})) -> Forms:
    """A model that came quantized as a float one; ``clamped``: as `without_rounding`."""
    return Forms(spelled, lambda graph: without_rounding(read(graph), clamped), lambda graph: graph)


def of_floats(model: Model) -> Model:
    """A model that is taken as float, without what only told whether clamps were left to its integers."""
    given = model.given
    return replace(model, given=replace(given, saturates={}) if given is not None and given.ends else None)
