"""Einsum as what it sums: transpositions, reshapes and one matrix product, which the accelerator has."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from ....errors import UserError
from ...graph import Graph, attrs_of
from ...writer import Writer

_MOST_BATCH = 2  # axes of a product beside its matrices; more become one


@dataclass(frozen=True)
class Equation:
    """``operands`` and ``result``: a label for each axis of each, of which those of an ellipsis are numbers from the right."""

    operands: tuple[tuple[str, ...], ...]
    result: tuple[str, ...]


def parse(text: str, ranks: Sequence[int]) -> Equation:
    """The equation of an ONNX Einsum over operands of these ranks, which shape inference has found to fit each other."""
    left, arrow, right = text.replace(" ", "").partition("->")
    terms = left.split(",")
    wide = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    operands = tuple(_labels(term, rank) for term, rank in zip(terms, ranks, strict=True))
    if arrow:
        return Equation(operands, _labels(right, len(right) - 3 + wide if "..." in right else len(right)))
    letters = [label for term in operands for label in term if label.isalpha()]
    once = sorted(label for label in set(letters) if letters.count(label) == 1)
    return Equation(operands, (*map(str, reversed(range(wide))), *once))


def _labels(term: str, rank: int) -> tuple[str, ...]:
    before, _, after = term.partition("...")
    return (*before, *map(str, reversed(range(rank - len(before) - len(after)))), *after)


def einsum(node: onnx.NodeProto, graph: Graph, writer: Writer) -> bool:
    """An Einsum of one operand as a sum and a transposition, of two as a MatMul around which there are some.

    A constant is second. Left and right of the product are the labels of one operand; those of both are summed, or are its batch.
    Raises UserError for more operands, and for a label that is repeated within one.
    """
    shapes, text = [graph.shape(name) for name in node.input], attrs_of(node)["equation"]
    equation = parse(text, [len(shape) for shape in shapes])
    result = equation.result
    if len(shapes) > 2 or any(len(set(labels)) < len(labels) for labels in (*equation.operands, result)):
        raise UserError(
            f"node '{node.name}' (Einsum) has the equation '{text}'; only those of one or two operands, no label twice in one, are "
            "known: write it as several nodes"
        )
    size: dict[str, int] = {}
    for labels, shape in zip(equation.operands, shapes, strict=True):
        size |= {label: max(length, size.get(label, 1)) for label, length in zip(labels, shape, strict=True)}
    terms = []
    for k, (source, own) in enumerate(zip(node.input, equation.operands, strict=True)):
        kept = [label for label in own if _lasts(label, k, equation)]
        terms.append(_prepared(node.name, source, own, kept, size, graph, writer))
    if len(terms) == 1:
        ((only, remaining),) = terms
        if list(remaining) == list(result):
            writer.node("Identity", [only], node.name, node.output[0])
        else:
            writer.transpose(only, [remaining.index(label) for label in result], node.name, node.output[0])
        return True
    if node.input[0] in graph.consts:
        terms.reverse()
    (first, a), (second, b) = terms
    batch = [label for label in result if label in a and label in b]
    summed = [label for label in a if label in b and label not in batch]
    left = [label for label in a if label not in b]
    right = [label for label in b if label not in a]

    def matrices(source: str, labels: Sequence[str], parts: Sequence[Sequence[str]], name: str) -> str:
        """The operand as a batch of matrices of which each axis is a part of the labels."""
        order = [label for part in (batch, *parts) for label in part]
        if order != list(labels):
            source = writer.transpose(source, [labels.index(label) for label in order], f"{node.name}:{name}_turned")
        sides = [math.prod(size[label] for label in part) for part in parts]
        return writer.reshape(source, [*_merged([size[label] for label in batch]), *sides], f"{node.name}:{name}")

    factors = matrices(first, a, (left, summed), "left"), matrices(second, b, (summed, right), "right")
    product = writer.node("MatMul", factors, node.name)
    made = [*batch, *left, *right]
    if made == list(result):
        writer.reshape(product, graph.shape(node.output[0]), f"{node.name}:shape", node.output[0])
        return True
    whole = writer.reshape(product, [size[label] for label in made], f"{node.name}:shape")
    writer.transpose(whole, [made.index(label) for label in result], f"{node.name}:order", node.output[0])
    return True


def _lasts(label: str, operand: int, equation: Equation) -> bool:
    """Whether a label of an operand is in the result or in another operand, too."""
    others = (labels for k, labels in enumerate(equation.operands) if k != operand)
    return label in equation.result or any(label in labels for labels in others)


def _prepared(
    name: str,
    source: str,
    labels: Sequence[str],
    kept: Sequence[str],
    size: Mapping[str, int],
    graph: Graph,
    writer: Writer,
) -> tuple[str, Sequence[str]]:
    """An operand summed over the labels that are not kept, and as large as an ellipsis that broadcasts makes it; its labels."""
    shape = graph.shape(source)
    axes = [axis for axis, label in enumerate(labels) if label not in kept]
    whole = [size[label] for label in labels]
    if any(length != full for length, full in zip(shape, whole, strict=True)):
        source = writer.node("Expand", [source, writer.const(f"{name}_whole", whole, np.int64)], f"{name}:expand")
    if not axes:
        return source, labels
    if graph.opset < 13:
        return writer.node("ReduceSum", [source], f"{name}:sum", axes=axes, keepdims=0), kept
    return writer.node(
        "ReduceSum", [source, writer.const(f"{name}_axes", axes, np.int64)], f"{name}:sum", keepdims=0
    ), kept


def _merged(sizes: Sequence[int]) -> list[int]:
    return [*sizes] if len(sizes) <= _MOST_BATCH else [*sizes[: _MOST_BATCH - 1], math.prod(sizes[_MOST_BATCH - 1 :])]
