"""Channels that must be scaled alike for a network to give the same, read off its float Relax.

A layer with weights may read channels and give channels of any scale: its weights and bias make up for it. What lies between layers
gives a channel in the scale of those that it is made of (Relu, PRelu, pools, Add, Concat: all positively homogeneous), so these
are of one class. What an operator of another kind reads or gives, and the ends of the network, keep their scale.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tvm import ir, relax

from ...model import Model
from ...relax_tools import bindings, known_shape, node_name, use_counts, variables

LAYERS, ADD = ("Conv", "Gemm", "MatMul"), "Add"  # whose constants are scaled, as ONNX calls them


@dataclass(frozen=True, eq=False)
class Layer:
    """A layer with constant weights and the channels that it reads and gives.

    ``weight`` float64 [groups, outputs, inputs, taps], both of a group; ``product``: the call that multiplies, ``added``: the one
    that adds its bias, or None; ``output``: the tensor behind the bias.
    """

    node: str
    product: relax.Var
    added: relax.Var | None
    source: relax.Var
    weight: np.ndarray

    @property
    def output(self) -> relax.Var:
        return self.product if self.added is None else self.added


@dataclass(frozen=True, eq=False)
class Made:
    """A tensor whose channel k is made of channel ``channels[k]`` of each of ``sources``, of which -1 is none.

    ``shifted``: a constant of one value for each channel is added to it.
    """

    sources: tuple[tuple[relax.Var, np.ndarray], ...]
    shifted: bool = False


@dataclass(frozen=True, eq=False)
class Classes:
    """``of``: the class of each channel by tensor; ``count`` classes, of which those in ``fixed`` (bool) keep their scale.

    ``made``: what is between layers; ``read``: tensors that others than these and layers read. ``names``: the node or input whose
    final value a tensor is. ``order``: the tensors as they are made. ``merged``: those that only a limit reads, which becomes part
    of what makes them: they are never rounded.
    """

    of: dict[relax.Var, np.ndarray]
    count: int
    fixed: np.ndarray
    layers: tuple[Layer, ...]
    made: dict[relax.Var, Made]
    read: frozenset[relax.Var]
    names: dict[relax.Var, str]
    order: tuple[relax.Var, ...]
    merged: frozenset[relax.Var]


def classes_of(model: Model) -> Classes:
    """The classes of the channels of a float network of one dataflow block. Tensors are NCHW, or [N, C]."""
    function = model.mod["main"]
    reader = _Reader(model)
    for param in function.params:
        reader.keep(param)
    for binding in bindings(function):
        reader.read(binding)
    for var in variables(function.body.body):
        reader.keep(var)
    return reader.classes()


class _Reader:
    """Goes through the bindings once; ``pairs`` of first classes become one class at the end."""

    def __init__(self, model: Model) -> None:
        function, inputs = model.mod["main"], [spec.name for spec in model.inputs]
        self.op_types = {each.name: each.op_type for each in model.operators}
        self.uses = use_counts(function)
        self.tuples: dict[relax.Var, relax.Tuple] = {}
        self.of: dict[relax.Var, np.ndarray] = {}
        self.count = 0
        self.pairs: list[tuple[np.ndarray, np.ndarray]] = []
        self.fixed: list[np.ndarray] = []
        self.layers: dict[relax.Var, Layer] = {}
        self.made: dict[relax.Var, Made] = {}
        self.others: set[relax.Var] = set()
        self.last: dict[str, relax.Var] = dict(zip(inputs, function.params, strict=True))
        self.order: list[relax.Var] = []
        self.merged: set[relax.Var] = set()

    def read(self, binding: relax.Binding) -> None:
        """Takes in one binding."""
        var, value = binding.var, binding.value
        if isinstance(value, relax.Tuple):
            self.tuples[var] = value
            return
        call = isinstance(value, relax.Call) and isinstance(value.op, ir.Op)
        if call and node_name(value):
            self.last[node_name(value)] = var
        if _channels(var) is not None:
            self.order.append(var)
        rule = _RULES.get(value.op.name) if call else None
        if rule is None or _channels(var) is None or not rule(self, var, value):
            for each in variables(value):
                self.keep(each)
            self.keep(var)

    def keep(self, var: relax.Var) -> None:
        """The channels of a tensor keep their scale, as do those of the fields of a tuple."""
        if var in self.tuples:
            for each in variables(self.tuples[var]):
                self.keep(each)
        elif _channels(var) is not None:
            self.fixed.append(self.classes_in(var))
            self.others.add(var)

    def classes_in(self, var: relax.Var) -> np.ndarray:
        """The first classes of a tensor's channels."""
        if var not in self.of:
            channels = _channels(var) or 0
            self.of[var] = np.arange(self.count, self.count + channels)
            self.count += channels
        return self.of[var]

    def makes(self, var: relax.Var, *sources: tuple[relax.Var, np.ndarray], shifted: bool = False) -> bool:
        """A tensor is made channel by channel of others."""
        for source, channels in sources:
            here = channels >= 0
            self.pairs.append((self.classes_in(var)[here], self.classes_in(source)[channels[here]]))
        self.made[var] = Made(sources, shifted)
        return True

    def layer(self, var: relax.Var, source: relax.Var, node: str, weight: np.ndarray) -> bool:
        """A layer with weights [groups, outputs, inputs, taps]."""
        if self.op_types.get(node) not in LAYERS:
            return False
        self.classes_in(source), self.classes_in(var)
        self.layers[var] = Layer(node, var, None, source, weight.astype(np.float64))
        return True

    def classes(self) -> Classes:
        """What was found."""
        first, second = (np.concatenate([pair[k] for pair in self.pairs] or [np.zeros(0, int)]) for k in (0, 1))
        links = coo_array((np.ones(len(first)), (first, second)), shape=(self.count, self.count))
        count, label = connected_components(links, directed=False)
        fixed = np.zeros(count, bool)
        fixed[label[np.concatenate(self.fixed or [np.zeros(0, int)])]] = True
        of = {var: label[own] for var, own in self.of.items()}
        layers = tuple(self.layers.values())
        names = {var: name for name, var in self.last.items()}
        read, merged = frozenset(self.others), frozenset(self.merged)
        return Classes(of, count, fixed, layers, self.made, read, names, tuple(self.order), merged)


def _channels(var: relax.Expr) -> int | None:
    """How many channels a float tensor has on axis 1; None where it has no such axis."""
    shape = known_shape(var)
    return shape[1] if shape is not None and len(shape) in (2, 4) and str(var.ty.dtype) == "float32" else None


def _constant(expr: relax.Expr) -> np.ndarray | None:
    return expr.value.numpy() if isinstance(expr, ir.GenericConst) else None


def _same(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    """Every channel is made of the same one of each operand."""
    sources = variables(call)
    count = _channels(var) or 0
    if any(_channels(each) != count for each in sources):
        return False
    return reader.makes(var, *((each, np.arange(count)) for each in dict.fromkeys(sources)))


def _conv(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    weight, groups = _constant(call.args[1]), int(call.attrs.groups)
    if weight is None or (str(call.attrs.data_layout), str(call.attrs.kernel_layout)) != ("NCHW", "OIHW"):
        return False
    return reader.layer(
        var, call.args[0], node_name(call), weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    )


def _matmul(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    weight = _constant(call.args[1])
    if weight is None or weight.ndim != 2 or len(known_shape(var) or ()) != 2:
        return False
    return reader.layer(var, call.args[0], node_name(call), weight.T[None, :, :, None])


def _add(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    data, other = call.args
    value = _constant(other)
    if value is None:
        return (
            isinstance(data, relax.Var)
            and isinstance(other, relax.Var)
            and _whole(var, call)
            and _same(reader, var, call)
        )
    if by_channel(value, var) is None:
        return False
    layer = reader.layers.get(data)
    if layer is not None and reader.uses[data] == 1:
        reader.of[var] = reader.classes_in(data)
        reader.layers[data] = Layer(layer.node, data, var, layer.source, layer.weight)
        return True
    if reader.op_types.get(node_name(call)) != ADD:
        return False
    return reader.makes(var, (data, np.arange(_channels(var) or 0)), shifted=True)


def _whole(var: relax.Var, call: relax.Call) -> bool:
    """Whether the operands have the result's shape."""
    return all(known_shape(arg) == known_shape(var) for arg in call.args)


def by_channel(value: np.ndarray, var: relax.Var) -> np.ndarray | None:
    """A constant beside a tensor as one value for each of its channels; None where it has others."""
    shape = known_shape(var) or ()
    if value.ndim > len(shape):
        return None
    sizes = (1,) * (len(shape) - value.ndim) + value.shape
    if any(size != 1 for axis, size in enumerate(sizes) if axis != 1):
        return None
    return np.broadcast_to(value.reshape(-1), shape[1:2])


def _scaled(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    """A product with a constant."""
    return (
        _constant(call.args[1]) is not None
        and known_shape(call.args[0]) == known_shape(var)
        and _same(reader, var, call)
    )


def _relu(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    if reader.uses[call.args[0]] == 1:
        reader.merged.add(call.args[0])
    return _same(reader, var, call)


def _clip(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    """One without an upper end is a Relu. Any other limits all channels alike, which no longer fits where they are scaled."""
    lo, hi = (float(getattr(arg.value, "value", arg.value)) for arg in call.args[1:3])
    return lo == 0 and hi == np.inf and _relu(reader, var, call)


def _prelu(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    return int(call.attrs.axis) == 1 and _constant(call.args[1]) is not None and _same(reader, var, call)


def _mean(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    axes = {int(axis) for axis in call.attrs.axis or ()}
    return bool(axes) and axes <= {2, 3} and _same(reader, var, call)


def _pad(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    widths = [int(width) for width in call.attrs.pad_width]
    value = call.args[1] if len(call.args) > 1 else None
    zero = value is None or not isinstance(value, relax.Var) and float(getattr(value.value, "value", value.value)) == 0
    return zero and str(call.attrs.pad_mode) == "constant" and not any(widths[:4]) and _same(reader, var, call)


def _concat(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    joined = reader.tuples.get(call.args[0], call.args[0]) if isinstance(call.args[0], relax.Var) else call.args[0]
    fields = joined.fields if isinstance(joined, relax.Tuple) else ()
    if int(call.attrs.axis) % len(known_shape(var) or (0,)) != 1 or not all(_channels(each) for each in fields):
        return False
    begin, sources = 0, []
    for each in fields:
        if not isinstance(each, relax.Var):
            return False
        own = np.full(_channels(var) or 0, -1)
        own[begin : begin + (_channels(each) or 0)] = np.arange(_channels(each) or 0)
        begin += _channels(each) or 0
        sources.append((each, own))
    return reader.makes(var, *sources)


def _reshape(reader: _Reader, var: relax.Var, call: relax.Call) -> bool:
    """A plane that is flattened, or one of one pixel that is written with other axes."""
    before, after = known_shape(call.args[0]) or (), known_shape(var) or ()
    planes = before[2:] if len(before) > len(after) else after[2:]
    pixels = int(np.prod(planes))
    flattened = len(before) == 4 and len(after) == 2 and after == (before[0], before[1] * pixels)
    grown = pixels == 1 and before[:2] == after[:2]
    if not isinstance(call.args[0], relax.Var) or not (flattened or grown) or _channels(call.args[0]) is None:
        return False
    return reader.makes(var, (call.args[0], np.repeat(np.arange(before[1]), pixels if flattened else 1)))


_RULES: dict[str, Callable[[_Reader, relax.Var, relax.Call], bool]] = {
    "relax.nn.conv2d": _conv, "relax.matmul": _matmul, "relax.add": _add, "relax.multiply": _scaled, "relax.divide": _scaled,
    "relax.nn.relu": _relu, "relax.nn.leakyrelu": _same, "relax.nn.prelu": _prelu, "relax.clip": _clip,
    "relax.nn.max_pool2d": _same, "relax.nn.avg_pool2d": _same, "relax.mean": _mean, "relax.nn.pad": _pad,
    "relax.image.resize2d": _same, "relax.concat": _concat, "relax.reshape": _reshape, "relax.squeeze": _reshape,
    "relax.flatten": _reshape,
}  # fmt: skip
