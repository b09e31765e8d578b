"""Functions of rows of neighbouring values: softmax, normalization, sums and extremes. They are made with their schedule.

A row is summed in as many vectors side by side as the core adds at a time; what no vector fills is done in shorter ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ..host import FMAS_IN_FLIGHT, Host
from ..integer.loops import each, function, loop, read, register, write
from ..integer.vectors import Expr, const, load, of, shuffle
from .loops import PARALLEL_WORK

Value = Callable[[Expr, int], Expr]  # of an index and a number of lanes: the values from there on

_FLOAT = "float32"
# Work for each value, in the multiply-adds of a register tile, as PARALLEL_WORK is.
_WORK_OF_SUM, _WORK_OF_EXP = 4, 16
_EXPS_IN_FLIGHT = 2  # with what an exponential needs, all registers are taken
_ROUNDS = 2  # a sum of fewer vectors is not worth another one beside it

_COMBINE: dict[str, Callable[[Expr, Expr], Expr]] = {
    "sum": lambda a, b: a + b, "mean": lambda a, b: a + b, "max": tirx.max, "min": tirx.min,
}  # fmt: skip
_START = {"sum": 0.0, "mean": 0.0, "max": -math.inf, "min": math.inf}
REDUCTIONS = tuple(_COMBINE)


@dataclass(frozen=True)
class Rows:
    """A tensor of ``shape`` whose values are ``rows`` of ``columns`` neighbours."""

    shape: tuple[int, ...]
    columns: int

    @property
    def rows(self) -> int:
        """How many there are."""
        return math.prod(self.shape) // self.columns


def reduction(kind: str, x: Rows, out_shape: tuple[int, ...], host: Host) -> tirx.PrimFunc:
    """Each row's sum, mean, max or min (``kind``), as a tensor of ``out_shape``."""
    rows, columns = x.rows, x.columns

    def body(source: Expr, out: Expr) -> None:
        with loop(rows, rows * columns * _WORK_OF_SUM >= PARALLEL_WORK) as row:
            found = _combined(kind, columns, host, lambda k, lanes: load(source, row * columns + k, lanes))
            write(out, row, found * const(1 / columns, _FLOAT) if kind == "mean" else found, 1)

    return function([(x.shape, _FLOAT)], [], (out_shape, _FLOAT), body)


def softmax(x: Rows, host: Host, log: bool = False) -> tirx.PrimFunc:
    """Softmax of each row, or its logarithm."""
    rows, columns = x.rows, x.columns

    def body(source: Expr, out: Expr) -> None:
        def values(k: Expr, lanes: int) -> Expr:
            return load(source, begin + k, lanes)

        with loop(rows, rows * columns * _WORK_OF_EXP >= PARALLEL_WORK) as row:
            begin = T.Bind(row * columns)
            most = _combined("max", columns, host, values)

            def exponential(k: Expr, lanes: int) -> Expr:
                value = T.Bind(exp_below(values(k, lanes) - _wide(most, lanes)))
                if not log:
                    write(out, begin + k, value, lanes)
                return value

            total = _combined("sum", columns, host, exponential, _EXPS_IN_FLIGHT)
            if log:
                less = T.Bind(most + tirx.log(total))
                _covered(columns, host.lanes, lambda k, n: write(out, begin + k, values(k, n) - _wide(less, n), n))
                return
            part = T.Bind(const(1.0, _FLOAT) / total)
            each(columns, host.lanes, lambda k, n: write(out, begin + k, load(out, begin + k, n) * _wide(part, n), n))

    return function([(x.shape, _FLOAT)], [], (x.shape, _FLOAT), body)


@dataclass(frozen=True)
class Affine:
    """How gains or biases belong to the values of a tensor: one for each ``run`` neighbours, the first again after ``count``."""

    count: int
    run: int


@dataclass(frozen=True)
class Norm:
    """(x - mean) / sqrt(variance + epsilon) of each row, then times a gain and plus a bias where there are such.

    With `affine`, a row consists of whole runs, or each of its columns is a run.
    """

    epsilon: float
    affine: Affine | None = None
    gain: bool = False
    bias: bool = False


def normalization(norm: Norm, x: Rows, out_shape: tuple[int, ...], host: Host) -> tirx.PrimFunc:
    """The normalization of each row, as a tensor of ``out_shape``. Parameters: x, gains, biases, the result."""
    rows, columns, affine = x.rows, x.columns, norm.affine
    each_column = affine is not None and affine.run == 1 and columns > 1
    run = affine.run if affine is not None and not each_column else columns
    parts = columns // run

    def body(source: Expr, *rest: Expr) -> None:
        tables, out = list(rest[:-1]), rest[-1]
        gains = tables.pop(0) if norm.gain else None
        biases = tables.pop(0) if norm.bias else None
        with loop(rows, rows * columns * _WORK_OF_SUM >= PARALLEL_WORK) as row:
            begin = T.Bind(row * columns)
            total = _combined("sum", columns, host, lambda k, lanes: load(source, begin + k, lanes))
            mean = T.Bind(total * const(1 / columns, _FLOAT))

            def square(k: Expr, lanes: int) -> Expr:
                centred = T.Bind(load(source, begin + k, lanes) - _wide(mean, lanes))
                return centred * centred

            spread = _combined("sum", columns, host, square)
            variance = spread * const(1 / columns, _FLOAT) + const(norm.epsilon, _FLOAT)
            scale = T.Bind(const(1.0, _FLOAT) / tirx.sqrt(variance))

            def columnwise(k: Expr, lanes: int) -> None:
                value = (load(source, begin + k, lanes) - _wide(mean, lanes)) * _wide(scale, lanes)
                value = value if gains is None else value * load(gains, k, lanes)
                write(out, begin + k, value if biases is None else value + load(biases, k, lanes), lanes)

            if each_column or affine is None:
                _covered(columns, host.lanes, columnwise)
                return
            with loop(parts) as part:
                at = T.Bind(tirx.floormod(row * parts + part, affine.count))
                first = T.Bind(begin + part * run)
                times = scale if gains is None else T.Bind(scale * gains[at])
                plus = None if biases is None else T.Bind(biases[at])

                def piecewise(k: Expr, lanes: int) -> None:
                    value = (load(source, first + k, lanes) - _wide(mean, lanes)) * _wide(times, lanes)
                    write(out, first + k, value if plus is None else value + _wide(plus, lanes), lanes)

                _covered(run, host.lanes, piecewise)

    tables = [((affine.count,), _FLOAT)] * (norm.gain + norm.bias) if affine is not None else []
    return function([(x.shape, _FLOAT), *tables], [], (out_shape, _FLOAT), body)


def _combined(kind: str, columns: int, host: Host, value: Value, most: int = FMAS_IN_FLIGHT) -> Expr:
    """One value of a row of ``columns``: ``value`` of all indices together, in up to ``most`` sums side by side."""
    lanes, combine = host.lanes, _COMBINE[kind]
    while lanes > columns:
        lanes //= 2
    whole = columns // lanes
    side = min(most, max(whole // _ROUNDS, 1))
    sums = [register(lanes, _FLOAT) for _ in range(side)]
    for each_sum in sums:
        write(each_sum, 0, const(_START[kind], of(_FLOAT, lanes)), lanes)

    def take(to: Expr, k: Expr) -> None:
        write(to, 0, combine(read(to, lanes), value(k, lanes)), lanes)

    rounds = whole // side
    with loop(rounds) as turn:
        for k, each_sum in enumerate(sums):
            take(each_sum, T.Bind((turn * side + k) * lanes))
    for k in range(whole % side):
        take(sums[k], tirx.const((rounds * side + k) * lanes, "int32"))
    done = columns - whole * lanes
    if done:  # the last vector lies over others, of which it takes nothing
        last = value(tirx.const(columns - lanes, "int32"), lanes)
        fresh = tirx.Ramp(tirx.const(0, "int32"), 1, lanes) >= const(lanes - done, of("int32", lanes))
        last = tirx.Select(fresh, last, const(_START[kind], of(_FLOAT, lanes)))
        write(sums[-1], 0, combine(read(sums[-1], lanes), last), lanes)
    while len(sums) > 1:
        half = (len(sums) + 1) // 2
        for k in range(len(sums) - half):
            write(sums[k], 0, combine(read(sums[k], lanes), read(sums[half + k], lanes)), lanes)
        sums = sums[:half]
    return _across(read(sums[0], lanes), lanes, combine)


def _across(vector: Expr, lanes: int, combine: Callable[[Expr, Expr], Expr]) -> Expr:
    """All lanes of a vector together."""
    while lanes > 1:
        lanes //= 2
        whole = T.Bind(vector)
        vector = combine(shuffle([whole], range(lanes)), shuffle([whole], range(lanes, 2 * lanes)))
    return T.Bind(vector)


def _covered(columns: int, lanes: int, body: Callable[[Expr, int], None]) -> None:
    """``body(index, lanes)`` for vectors that cover ``columns`` values; the last may lie over the one before it."""
    while lanes > columns:
        lanes //= 2
    with loop(columns // lanes) as k:
        body(k * lanes, lanes)
    if columns % lanes:
        body(tirx.const(columns - lanes, "int32"), lanes)


def _wide(value: Expr, lanes: int) -> Expr:
    return tirx.Broadcast(value, lanes) if lanes > 1 else value


def exp_below(x: Expr) -> Expr:
    """e to the power of x <= 0 in vectors, with a relative error below 2e-7 down to -16 and 2e-6 beyond; no less than 1e-38.

    x is a whole multiple of log 2, which goes into the exponent's bits, and a rest for which a polynomial of degree 6 does (the
    coefficients of Moshier's Cephes library, expf).
    """
    dtype = str(x.ty.dtype)
    bits = dtype.replace(_FLOAT, "int32")

    def number(value: float) -> Expr:
        return const(value, dtype)

    held = T.Bind(tirx.max(x, number(-87.3)))
    whole = T.Bind(tirx.nearbyint(held * number(1.44269504088896341)))
    rest = T.Bind(held - whole * number(0.693147180559945309))
    found = number(1.9875691500e-4)
    for factor in (1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1, 1.0, 1.0):
        found = found * rest + number(factor)
    exponent = tirx.shift_left(whole.astype(bits), const(23, bits))
    return tirx.reinterpret(dtype, tirx.reinterpret(bits, found) + exponent)
