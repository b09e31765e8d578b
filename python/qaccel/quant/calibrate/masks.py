"""What a Softmax sees of its operand: masks of -1e9, -3.4e38 or -inf before it need no range of their own.

A value far below the largest of its row is nothing after the exponential. Where a tensor is read by Softmax alone, directly or
through additions, choices and moves of values, and some of its values vanish in float32 already, its range begins where the
exponential still tells values apart.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from tvm import ir, relax

from ...emulate.float_operators import RULES
from ...model import Model
from ...relax_tools import bindings, node_name, use_counts, variables

# All masked values of a row together weigh exp(-SEEN) at most beside its largest: -87 dB.
SEEN = 10.0
# So far below the largest of its row a value is 0 after the exponential in float32 too: nobody writes that but for a mask.
VANISHES = -math.log(np.finfo(np.float32).tiny)
# Below this lie masks: a row with no value above it is masked as a whole, and what comes of it is nobody's result.
MASKED = -5000.0
_MOVES = {
    "relax.reshape", "relax.permute_dims", "relax.expand_dims", "relax.squeeze", "relax.flatten", "relax.broadcast_to",
    "relax.strided_slice", "relax.take", "relax.astype",
}  # fmt: skip
_LARGEST = np.finfo(np.float32).max
Limits = tuple[float, float]
Rows = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class _Reader:
    """A call that reads a tensor as its operand ``place``, and gives ``out``, which Softmax alone reads as well."""

    out: relax.Var
    call: relax.Call
    place: int


class Masks:
    """The tensors of a model that only Softmax reads in the end, and how low their ranges must reach.

    ``names``: the inputs and nodes whose values these are.
    """

    def __init__(self, model: Model) -> None:
        function = model.mod["main"]
        steps = bindings(function)
        uses = use_counts(function)
        self._names: dict[relax.Var, str] = {
            param: spec.name for param, spec in zip(function.params, model.inputs, strict=True)
        }
        last: dict[str, relax.Var] = {}
        for binding in steps:
            if isinstance(binding.value, relax.Call) and node_name(binding.value):
                last[node_name(binding.value)] = binding.var
        self._names |= {var: name for name, var in last.items()}
        self._made = made = {binding.var: binding.value for binding in steps}
        self._readers: dict[relax.Var, list[_Reader]] = {}
        self._order: list[relax.Var] = []
        self._rows: dict[str, list[Rows]] = {}
        self._lowest: dict[str, float] = {}
        self._masked: set[str] = set()
        counted: Counter[relax.Var] = Counter()
        for binding in reversed(steps):
            call = binding.value
            if not isinstance(call, relax.Call) or not isinstance(call.op, ir.Op):
                continue
            if call.op.name == "relax.nn.softmax":
                var, rows = self._seen(call, made)
                if var in self._names and all(uses[each] == 1 for each in variables(call) if each != var):
                    self._rows.setdefault(self._names[var], []).append(rows)
                    counted[var] += 1
                    self._readers.setdefault(var, [])
                continue
            inside = binding.var in self._readers and counted[binding.var] == uses[binding.var]
            if not inside:
                self._readers.pop(binding.var, None)
                continue
            self._order.append(binding.var)
            for place in _passes(call):
                arg = call.args[place]
                if isinstance(arg, relax.Var):
                    counted[arg] += 1
                    self._readers.setdefault(arg, []).append(_Reader(binding.var, call, place))
        self._order += [param for param in function.params if counted[param] == uses[param] and counted[param]]
        kept = set(self._order)
        self._readers = {var: readers for var, readers in self._readers.items() if var in kept}
        self.names = {self._names[var] for var in self._readers if var in self._names}
        self._rows = {name: rows for name, rows in self._rows.items() if name in self.names}

    @property
    def made(self) -> set[str]:
        """Nodes that make a mask: they take numbers times -10000 or beyond, as (1 - mask) * -10000 is."""
        calls = {var: self._made[var] for var in self._readers if var in self._made}
        large = [
            var
            for var, call in calls.items()
            if call.op.name == "relax.multiply"
            and any(isinstance(a, ir.GenericConst) and np.abs(_constant(a)).max(initial=0) > -MASKED for a in call.args)
        ]
        return {self._names[var] for var in large if var in self._names}

    def _seen(self, call: relax.Call, made: Mapping[relax.Var, relax.Expr]) -> tuple[relax.Var, Rows]:
        """The tensor that calibration sees before a Softmax, and how its values become rows [..., n]."""
        axis, var, steps = int(call.attrs.axis), call.args[0], list[relax.Call]()
        while var not in self._names and isinstance(made.get(var), relax.Call) and made[var].op.name == "relax.reshape":
            steps.insert(0, made[var])
            var = made[var].args[0]

        def rows(value: np.ndarray) -> np.ndarray:
            for step in steps:
                value = RULES["relax.reshape"](step)(value)  # type: ignore[misc]
            return np.moveaxis(value, axis, -1)

        return var, rows

    def finite(self, name: str, value: np.ndarray) -> np.ndarray:
        """The values that count for a range: of what Softmax alone reads, infinities as the largest numbers.

        Notes how low the rows of a Softmax reach.
        """
        if name not in self.names:
            return value
        for rows in self._rows.get(name, ()):
            seen = rows(value)
            most = seen.max(axis=-1)
            if (seen.min(axis=-1) < np.maximum(most, MASKED) - VANISHES).any():
                self._masked.add(name)
            most = most[most > MASKED]
            if most.size:
                lowest = float(most.min()) - SEEN - math.log(seen.shape[-1])
                self._lowest[name] = min(self._lowest.get(name, math.inf), lowest)
        return np.clip(value, -_LARGEST, _LARGEST)

    def limited(self, extremes: Mapping[str, Limits]) -> dict[str, Limits]:
        """The ranges, those of what Softmax alone reads cut to what it sees; each still holds zero."""
        low: dict[relax.Var, float] = {}
        high: dict[relax.Var, float] = {}
        result = dict(extremes)
        for var in self._order:
            name = self._names.get(var, "")
            ends = [self._ends(reader, low, high, result) for reader in self._readers[var]]
            seen = self._lowest.get(name, -math.inf) if name in self._masked else -math.inf
            bounds = [seen] if name in self._rows else []
            low[var] = min([*bounds, *(end[0] for end in ends)])
            high[var] = max([math.inf] * len(bounds) + [end[1] for end in ends])
            if name in result:
                lo, hi = result[name]
                result[name] = min(max(lo, low[var]), 0.0), max(min(hi, high[var]), 0.0)
        return result

    def _ends(
        self, reader: _Reader, low: Mapping[relax.Var, float], high: Mapping[relax.Var, float],
        ranges: Mapping[str, Limits],
    ) -> Limits:  # fmt: skip
        """Beyond which values of an operand the reader's output is out of sight anyway."""
        lo, hi = low[reader.out], high[reader.out]
        operator = reader.call.op.name
        if operator not in ("relax.add", "relax.subtract", "relax.multiply"):
            return lo, hi
        other = self._range(reader.call.args[1 - reader.place], ranges)
        if operator == "relax.add":
            return lo - other[1], hi - other[0]
        if operator == "relax.subtract":
            return (lo + other[0], hi + other[1]) if reader.place == 0 else (other[0] - hi, other[1] - lo)
        return lo / other[0], hi / other[0]

    def _range(self, expr: relax.Expr, ranges: Mapping[str, Limits]) -> Limits:
        if isinstance(expr, relax.Var):
            return ranges.get(self._names.get(expr, ""), (-math.inf, math.inf))
        values = _constant(expr)
        values = values[np.isfinite(values)]
        return (float(values.min()), float(values.max())) if values.size else (0.0, 0.0)


def _passes(call: relax.Call) -> tuple[int, ...]:
    """Which operands of a call give it values one by one, so that what cannot be seen of it cannot be seen of them."""
    name = call.op.name
    if name in _MOVES:
        return (0,)
    if name in ("relax.add", "relax.subtract"):
        return 0, 1
    if name in ("relax.where",):
        return 1, 2
    if name in ("relax.maximum", "relax.minimum"):
        return tuple(k for k in (0, 1) if isinstance(call.args[1 - k], ir.GenericConst))
    if name == "relax.multiply" and isinstance(call.args[1], ir.GenericConst):
        values = _constant(call.args[1])
        return (0,) if values.size and (values > 0).all() and values.min() == values.max() else ()
    return ()


def _constant(expr: relax.Expr) -> np.ndarray:
    return np.asarray(expr.value.numpy(), np.float64)
