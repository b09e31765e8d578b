"""Plain QDQ in: QuantizeLinear and DequantizeLinear of a graph become what the model says of its tensors (`model.Given`).

The graph is float afterwards. A constant behind a DequantizeLinear is the real constant, its scales kept by the node that reads
it; a tensor between QuantizeLinear and DequantizeLinear is a node ROUNDED with scale, zero point and the machine's bits. A
Clip between the two narrows the integers (QCDQ). Operators that only move values may stand between them too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import UserError
from ..frontend.graph import DOMAIN, ROUNDED, Graph, attrs_of, fresh_name, remade, substitute
from ..frontend.passes.contrib import is_border
from ..frontend.passes.fold import fold
from ..model import Given
from .fixed import LAYERS, MOVES, Fixed, FixedIntegers, dequantized, moved, quantized, weights_of
from .scales import Scales, kind_of, placed, scales_of

# What works on integers as on the real values that they stand for. A Resize that interpolates is rounded to the same integers.
INTEGER_MOVES = (*MOVES, "MaxPool", "DepthToSpace", "SpaceToDepth", "Split", "Tile", "Pad", "Resize")
ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Min", "Max", "PRelu")
END_TYPES = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT16, TensorProto.UINT16)


def read(graph: Graph) -> Graph:
    """The float graph with its `given`; the graph itself where nothing in it is quantized.

    Takes and gives a folded graph. Raises UserError naming the node for scales that are none, that contradict each other or are
    computed at run time, and for an operator that works on integers and has no real form.
    """
    if not any(is_border(node) for node in graph.nodes):
        return graph
    reader = _Reader(graph)
    for node in graph.nodes:
        reader.take(node)
    return reader.finished()


@dataclass(frozen=True)
class _Quantized:
    """An integer tensor: it is ``source`` rounded by ``scales``, or ``real`` holds its real values already."""

    scales: Scales
    source: str
    real: str = ""


class _Reader:
    """The new graph as it grows, node by node."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.consts = dict(graph.consts)
        self.types = dict(graph.types)
        self.nodes: list[onnx.NodeProto] = []
        self.alias: dict[str, str] = {}
        self.integers: dict[str, _Quantized] = {}
        self.fixed_integers: dict[str, FixedIntegers] = {}
        self.fixed: dict[str, Fixed] = {}
        self.rounded: dict[tuple[str, float, int, int, int, int], str] = {}
        self.tensors = {o for n in graph.nodes for o in n.output} | set(graph.inputs) | set(self.consts)
        self.names = {n.name for n in graph.nodes} | set(graph.inputs)
        self.spread = False  # whether activations have scales by channel
        self.ends: dict[str, str] = {}
        self.given = Given({}, {}, {}, False)
        self.makers = graph.producers()
        self.readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.nodes:
            for name in dict.fromkeys(node.input):
                self.readers.setdefault(name, []).append(node)
        for name in graph.inputs:
            self._integer_input(name)

    def take(self, node: onnx.NodeProto) -> None:
        """One node of the old graph."""
        if is_border(node):
            self._quantize(node) if node.op_type == "QuantizeLinear" else self._dequantize(node)
            return
        data = [name for name in node.input if name]
        if any(name in self.fixed or name in self.fixed_integers for name in data) and self._moves_constants(
            node, data
        ):
            return
        if any(name in self.integers for name in data):
            self._on_integers(node)
            return
        self._remember(node)
        self.nodes.append(node)

    def finished(self) -> Graph:
        """The float graph."""
        for name in self.graph.outputs:
            if name in self.integers:
                held = self.integers[name]
                self.ends[name] = _numpy_name(held.scales.kind)
                self.alias[name] = self._real(name, f"{name}_rounded")
        given = replace(self.given, activations=bool(self.rounded) or self.spread, ends=self.ends)
        types = dict(self.types)
        for name in self.ends:
            types[name] = (types[name][0], TensorProto.FLOAT)
        changed = replace(self.graph, nodes=tuple(self.nodes), consts=self.consts, types=types, given=given)
        return fold(substitute(changed, self.alias))

    def _integer_input(self, name: str) -> None:
        """An input that is integers: what they mean says the DequantizeLinear that they come to."""
        shape, kind = self.types[name]
        pending, border = [name], None
        while kind in END_TYPES and pending and border is None:
            for reader in self.readers.get(pending.pop(), []):
                if is_border(reader) and reader.op_type == "DequantizeLinear":
                    border = reader
                elif reader.op_type in INTEGER_MOVES:
                    pending += reader.output
        if border is None:
            return
        scales = scales_of(border, self.graph.shape(border.input[0]), kind, self.consts)
        if not scales.per_tensor:
            raise UserError(
                f"input '{name}': node '{border.name}' gives its integers a scale for each channel; give them one"
            )
        self.ends[name] = _numpy_name(kind)
        self.integers[name] = _Quantized(scales, name)

    def _quantize(self, node: onnx.NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        shape, kind = self.types[out]
        scales = scales_of(node, shape, kind, self.consts)
        if source in self.fixed or source in self.consts:
            values = self.fixed[source].real if source in self.fixed else self.consts[source]
            self.fixed_integers[out] = quantized(values, scales)
        elif scales.per_tensor:
            self.integers[out] = _Quantized(scales, self.alias.get(source, source))
        else:
            real = _rounded_by_channel(
                node, self.alias.get(source, source), scales, shape, self._fresh, self.consts, self.nodes
            )
            self.types[real] = shape, TensorProto.FLOAT
            self.spread = True
            self.integers[out] = _Quantized(scales, source, real)

    def _dequantize(self, node: onnx.NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        if source in self.consts or source in self.fixed_integers:
            self._dequantize_constant(node)
            return
        scales = scales_of(node, self.types[out][0], self.types[source][1], self.consts)
        if source not in self.integers:
            maker = self.makers.get(source)
            what = f"node '{maker.name}' ({maker.op_type}) makes" if maker is not None else f"input '{source}' is"
            raise UserError(
                f"node '{node.name}' (DequantizeLinear): its integers are none that a QuantizeLinear made ({what}); only "
                "constants and quantized tensors can be dequantized"
            )
        held = self.integers[source]
        if not held.scales.same(scales):
            raise UserError(
                f"node '{node.name}' (DequantizeLinear): {_words(scales)} contradicts {_words(held.scales)}, with which "
                f"'{source}' was quantized; a tensor has one scale and zero point"
            )
        self.alias[out] = self._real(source, node.name if source in self.graph.inputs else "")

    def _dequantize_constant(self, node: onnx.NodeProto) -> None:
        source, out = node.input[0], node.output[0]
        integers = self.fixed_integers.get(source)
        if integers is None:
            values = self.consts[source]
            kind = kind_of(values)
            scales = scales_of(node, values.shape, kind, self.consts)
            integers = FixedIntegers(values.astype(np.int64), scales.lo, scales.hi)
        else:
            scales = scales_of(node, integers.values.shape, self.types[source][1], self.consts)
        self._know(out, dequantized(integers, scales))

    def _know(self, name: str, fixed: Fixed) -> None:
        self.fixed[name] = fixed
        self.consts[name] = fixed.real

    def _moves_constants(self, node: onnx.NodeProto, data: list[str]) -> bool:
        """Whether the node was one on quantized constants alone, a move or the Clip of QCDQ."""
        if node.op_type == "Clip" and data[0] in self.fixed_integers:
            self.fixed_integers[node.output[0]] = self._clipped(node, self.fixed_integers[data[0]])
            return True
        if node.op_type not in MOVES or not all(name in self.consts or name in self.fixed_integers for name in data):
            return False
        if any(name in self.fixed_integers for name in data):
            raise UserError(
                f"node '{node.name}' ({node.op_type}) stands between QuantizeLinear and DequantizeLinear of a constant; "
                "quantize the constant in its final form"
            )
        made = moved(node, [self.fixed.get(name, self.consts[name]) for name in data], self.graph)
        if made is not None:
            self._know(node.output[0], made)
        return made is not None

    def _clipped(self, node: onnx.NodeProto, integers: FixedIntegers) -> FixedIntegers:
        lo, hi = self._bounds(node, integers.lo, integers.hi)
        return FixedIntegers(np.clip(integers.values, lo, hi), lo, hi)

    def _bounds(self, node: onnx.NodeProto, lo: int, hi: int) -> tuple[int, int]:
        """What a Clip leaves of lo..hi. Raises UserError where its bounds are computed or leave nothing."""
        found = []
        for position, (key, default) in enumerate((("min", lo), ("max", hi)), 1):
            name = node.input[position] if len(node.input) > position else ""
            if name and name not in self.consts:
                raise UserError(
                    f"node '{node.name}' (Clip): its bound '{name}' is computed when the model runs; make it constant"
                )
            found.append(
                float(np.asarray(self.consts[name]).reshape(-1)[0]) if name else attrs_of(node).get(key, default)
            )
        least, most = max(lo, int(np.ceil(found[0]))), min(hi, int(np.floor(found[1])))
        if least > most:
            raise UserError(f"node '{node.name}' (Clip): nothing lies within {found[0]:g}..{found[1]:g}")
        return least, most

    def _on_integers(self, node: onnx.NodeProto) -> None:
        """A node that reads integers of quantized tensors."""
        first = self.integers.get(node.input[0])
        if node.op_type == "Clip" and first is not None:
            lo, hi = self._bounds(node, first.scales.lo, first.scales.hi)
            source = first.source if not first.real else self._real(node.input[0])
            self.integers[node.output[0]] = _Quantized(replace(first.scales, lo=lo, hi=hi), source)
            return
        held = [self.integers[name] for name in node.input if name in self.integers]
        alike = all(each.scales.same(held[0].scales) for each in held)
        if node.op_type not in INTEGER_MOVES or not alike or not held[0].scales.per_tensor:
            raise UserError(
                f"node '{node.name}' ({node.op_type}) computes with the integers of quantized tensors, which is not known here; "
                "put it behind a DequantizeLinear"
            )
        outputs = [self._fresh(f"{name}_real") for name in node.output]
        inputs = [self._real(name) if name in self.integers else name for name in node.input]
        if node.op_type == "Pad" and attrs_of(node).get("mode", "constant") == "constant":
            inputs[2:3] = [self._fill(node, held[0].scales)]
        self.nodes.append(remade(node, inputs, outputs))
        between = node.op_type == "Resize" and attrs_of(node).get("mode", "nearest") != "nearest"
        for name, real in zip(node.output, outputs, strict=True):
            self.types[real] = self.types[name][0], TensorProto.FLOAT
            self.integers[name] = _Quantized(held[0].scales, real, "" if between else real)
            if between:
                self._real(name, fresh_name(f"{node.name}_rounded", self.names))

    def _fill(self, node: onnx.NodeProto, scales: Scales) -> str:
        """The real value of the integer that a Pad fills with; 0 where it names none. Raises UserError where it is computed."""
        name = node.input[2] if len(node.input) > 2 else ""
        if name and name not in self.consts:
            raise UserError(
                f"node '{node.name}' (Pad): its value '{name}' is computed when the model runs; make it constant"
            )
        integer = int(self.consts[name].reshape(-1)[0]) if name else 0
        fill = self._fresh(f"{node.name}_fill")
        self.consts[fill] = np.asarray((integer - int(scales.zero_point)) * np.float32(scales.scale), np.float32)
        return fill

    def _real(self, name: str, label: str = "") -> str:
        """The float tensor of an integer tensor's real values; ``label``: the node's name, else its QuantizeLinear's."""
        held = self.integers[name]
        if held.real:
            return held.real
        scales = held.scales
        bits, shift = placed(scales.lo, scales.hi, int(scales.zero_point))
        numbers = int(scales.zero_point) - shift, bits, scales.lo - shift, scales.hi - shift
        key = (held.source, float(scales.scale), *numbers)
        if key not in self.rounded:
            maker = self.makers.get(name)
            node = label or (maker.name if maker is not None else fresh_name(f"{name}_rounded", self.names))
            out = self._fresh(f"{name}_real")
            self.types[out] = self.types[name][0], TensorProto.FLOAT
            zero_point, bits, lo, hi = numbers
            self.nodes.append(
                helper.make_node(
                    ROUNDED, [held.source], [out], name=node, domain=DOMAIN, scale=float(scales.scale), zero_point=zero_point,
                    bits=bits, lo=lo, hi=hi, shift=shift,
                )
            )  # fmt: skip
            self.rounded[key] = out
        return self.rounded[key]

    def _remember(self, node: onnx.NodeProto) -> None:
        """What a float node is told of its constant operands."""
        for position, name in enumerate(node.input):
            fixed = self.fixed.get(name)
            if fixed is None:
                continue
            layer = node.op_type in LAYERS and (position == 1 or position == 0 and node.op_type in LAYERS[2:])
            if layer or node.op_type == "PRelu":
                weights = {**self.given.weights, node.name: weights_of(node, position, fixed)}
                self.given = replace(self.given, weights=weights)
            elif node.op_type in LAYERS and position == 2:
                self.given = replace(self.given, biases={**self.given.biases, node.name: fixed.exact})
            elif node.op_type in ELEMENTWISE:
                self.given = replace(self.given, biases={**self.given.biases, node.name: fixed.exact})
                if fixed.scale.size and (fixed.scale == fixed.scale.reshape(-1)[0]).all():
                    scale = float(fixed.scale.reshape(-1)[0])
                    self.given = replace(self.given, constants={**self.given.constants, node.name: scale})

    def _fresh(self, base: str) -> str:
        name = fresh_name(base, self.tensors)
        self.tensors.add(name)
        return name


def _rounded_by_channel(
    node: onnx.NodeProto, source: str, scales: Scales, shape: tuple[int, ...], fresh: Callable[[str], str],
    consts: dict[str, np.ndarray], nodes: list[onnx.NodeProto],
) -> str:  # fmt: skip
    """An activation with a scale for each channel or block, which the machine has not, rounded in float operators on the CPU.

    Writes the float nodes that round ``source`` as the QuantizeLinear ``node`` and its DequantizeLinear do; gives the tensor.

    Blocks' scales are spread over its ``shape``. ``consts`` and ``nodes`` grow.
    """
    scale, zero_point = scales.scale, scales.zero_point
    if scales.block:
        scale, zero_point = scales.spread(shape)

    def const(what: str, value: np.ndarray) -> str:
        name = fresh(f"{node.name}_{what}")
        consts[name] = np.ascontiguousarray(value, np.float32)
        return name

    def do(op: str, *inputs: str) -> str:
        out = fresh(f"{node.name}_{op}")
        nodes.append(helper.make_node(op, list(inputs), [out], name=out))
        return out

    factor = const("scale", scale)
    steps = do("Round", do("Div", source, factor))
    held = do("Min", do("Max", steps, const("lo", scales.lo - zero_point)), const("hi", scales.hi - zero_point))
    return do("Mul", held, factor)


def _numpy_name(kind: int) -> str:
    return str(np.dtype(helper.tensor_dtype_to_np_dtype(kind)).name)


def _words(scales: Scales) -> str:
    if not scales.per_tensor:
        return f"scales of {list(scales.scale.shape)}"
    kind = TensorProto.DataType.Name(scales.kind).lower()
    return f"scale {float(scales.scale):g} and zero point {int(scales.zero_point)} ({kind})"
