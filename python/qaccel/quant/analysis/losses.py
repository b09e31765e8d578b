"""What quantization costs each tensor, measured on samples: against the float network, one tensor alone and accumulated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from tvm import relax

from ...dialect import operators
from ...dialect.operators import BITS, ConvAttrs, Quantization, TableAttrs
from ...dialect.quantized import HeldTensor, QuantizedModel
from ...emulate.executor import execute
from ...emulate.integer_layers import layer_with_weights
from ...emulate.integers import run_model
from ...machine.numerics import activation_limits
from ...relax_tools import bindings, static_shape
from ..calibrate.runs import first_runs, runs_of
from ..rules.weights import activation_quantization

HELD_BYTES = 1 << 29  # of float tensors at once; fewer runs are measured where they are large, at least one
RUNS = 32  # of the network, at most
_FINE_BITS = 16  # of a layer's input, where the error of its weights alone is measured


@dataclass(frozen=True)
class TensorLoss:
    """Errors of one tensor of the quantized network, in dB of the float tensor's power; infinite where there is none.

    ``node``: whose result it is, or the input; ``tensor``: its name in the float model; ``reads``: the calls whose integers it is
    made of. ``accumulated_db``: of what the quantized network computes. ``rounded_db``: of the float tensor rounded to its scale,
    so of this tensor alone; ``cut_share``: how much of that error lies beyond the range's ends. ``weights_db``: of the layer's
    products with rounded weights on the float network's input, apart from their channels' means; None for what has no weights,
    and where the input was moved before it was read. ``table_db``: of a look-up table on the float network's rounded input.

    What would change ``rounded_db``: ``wider_db`` with the next width, on the same range or on the samples' whole range,
    ``uncut_db`` with the same bits on the samples' whole range; ``channels_gain_db``: by how much the error of the median channel
    would fall with a scale of its own.
    ``channel``: the one of the largest values, and ``channel_ratio``: how many times as far as their median it reaches.
    """

    node: str
    tensor: str
    op: str
    reads: tuple[str, ...]
    q: Quantization
    weight_bits: int | None
    accumulated_db: float
    rounded_db: float
    cut_share: float
    weights_db: float | None
    table_db: float | None
    wider_db: float
    uncut_db: float
    channels_gain_db: float
    channel: int
    channel_ratio: float


def measure_losses(q: QuantizedModel, samples: Mapping[str, np.ndarray]) -> tuple[TensorLoss, ...]:
    """Losses of every tensor of ``q`` that the float model has too, in order.

    ``samples``: real values by input name; the first RUNS runs of the network are measured, or fewer of a large one.
    """
    made = {b.var: b.value for b in bindings(q.mod["main"]) if operators.is_quantized(b.value)}
    names = {var: operators.read(call).name for var, call in made.items()}
    made_of_integers = {var for var, call in made.items() if operators.output_of(operators.read(call)) is not None}
    held = {var: q.held[names[var]] for var in made if var in made_of_integers and names[var] in q.held}
    raw = {
        var: replace(held[var], tensor=q.added.get(names[var], names[var]))
        for var in held
        if made[var].op.name == ConvAttrs.operator
    }
    wanted = {each.tensor for each in (*held.values(), *raw.values())}
    bytes_per_run = 8 * sum(math.prod(static_shape(made[var])) for var in held)
    runs = min(RUNS, runs_of(q.model, samples), max(1, HELD_BYTES // max(1, bytes_per_run)))
    few = first_runs(q.model, samples, runs)
    floats = _seen(lambda see: execute(q.model, few, see), wanted)
    integers = _seen(lambda see: run_model(q, few, see), {names[var] for var in held})

    def real(which: HeldTensor, call: relax.Expr) -> np.ndarray | None:
        """The float tensor as [runs * batch, rows, pixels, channels], in the order of a call's integers."""
        shape, value = static_shape(call), floats.get(which.tensor)
        if value is None or value.size != runs * math.prod(shape):
            return None
        return which.arranged(value, shape)

    losses = []
    for var, tensor in held.items():
        own_values = real(tensor, made[var])
        if own_values is None or names[var] not in integers:
            continue
        source = made[var].args[0]
        products = real(raw[var], made[var]) if var in raw and source in held else None
        given = real(held[source], made[source]) if source in held else None
        reads = tuple(names[each] for each in made[var].args if each in names)
        loss = _loss(made[var], tensor, reads, own_values, integers[names[var]])
        if given is not None and products is not None:
            loss = replace(loss, weights_db=_weights_db(made[var], given, products))
        if given is not None and made[var].op.name == TableAttrs.operator:
            loss = replace(loss, table_db=_table_db(made[var], given, own_values))
        losses.append(loss)
    return tuple(losses)


def decibels(signal: float, error: float) -> float:
    """The ratio of two powers; infinite without an error, minus infinite for one without a signal, NaN where either is."""
    if error <= 0:
        return math.inf
    if math.isnan(signal + error):
        return math.nan
    return 10 * math.log10(signal / error) if signal > 0 and error < math.inf else -math.inf


def _seen(
    run: Callable[[Callable[[str, np.ndarray], None]], object], wanted: set[str]
) -> dict[str, np.ndarray]:  # fmt: skip
    """What a run shows under the ``wanted`` names, all its passes one after the other."""
    parts: dict[str, list[np.ndarray]] = {}

    def see(name: str, value: np.ndarray) -> None:
        if name in wanted:
            parts.setdefault(name, []).append(np.array(value))

    run(see)
    return {name: np.concatenate([each.reshape(-1) for each in values]) for name, values in parts.items()}


def _loss(
    call: relax.Call, tensor: HeldTensor, reads: tuple[str, ...], real: np.ndarray, integers: np.ndarray
) -> TensorLoss:  # fmt: skip
    attrs = operators.read(call)
    q = operators.output_of(attrs)
    assert q is not None
    signal = _power(real)

    def of(rounded: np.ndarray) -> float:
        return decibels(signal, _power(real - rounded))

    lows, highs = np.minimum(real.min((0, 1, 2)), 0), np.maximum(real.max((0, 1, 2)), 0)
    lo, hi = (q.scale * (limit - q.zero_point) for limit in activation_limits(q.bits))
    cut = _power(np.maximum(real - (hi + q.scale / 2), 0)) + _power(np.maximum(lo - q.scale / 2 - real, 0))
    error = _power(real - _rounded(real, q))
    wider = next((bits for bits in BITS if bits > q.bits), q.bits)
    steps = np.maximum((highs - lows) / (2**q.bits - 1), np.finfo(np.float32).tiny)
    whole = float(lows.min()), float(highs.max())
    reach = np.maximum(highs, -lows)
    median = float(np.median(reach))
    return TensorLoss(
        node=attrs.name,
        tensor=tensor.tensor,
        op=getattr(attrs, "op", "input"),
        reads=reads,
        q=q,
        weight_bits=attrs.weight_bits if isinstance(attrs, ConvAttrs) else None,
        accumulated_db=of(_real(integers.reshape(real.shape), q)),
        rounded_db=decibels(signal, error),
        cut_share=min(1.0, cut / error) if error else 0.0,
        weights_db=None,
        table_db=None,
        wider_db=max(of(_rounded(real, activation_quantization(*ends, wider))) for ends in ((lo, hi), whole)),
        uncut_db=of(_rounded(real, activation_quantization(*whole, q.bits))),
        channels_gain_db=_median_gain(real - _rounded(real, q), real - np.rint(real / steps) * steps),
        channel=int(reach.argmax()),
        channel_ratio=float(reach.max()) / median if median > 0 else math.inf,
    )


def _weights_db(call: relax.Call, given: np.ndarray, products: np.ndarray) -> float:
    """The layer with its integer weights on the float input ``given``, against the float model's ``products``.

    What a channel is off by in the mean is left out: biases make up for it.
    """
    attrs = operators.read(call)
    assert isinstance(attrs, ConvAttrs)
    weight, _, scale = (operators.constant(arg) for arg in call.args[1:])
    largest = float(np.abs(given).max())
    fine = activation_quantization(-largest, largest, _FINE_BITS)
    layer = layer_with_weights(replace(attrs, source=fine), weight, scale, True)
    sums = layer.sums(np.rint(given / np.float32(fine.scale)).astype(np.int16))
    error = products - sums * (fine.scale * scale.astype(np.float64))
    return decibels(_power(products), _power(error - error.mean((0, 1, 2))))


def _median_gain(before: np.ndarray, after: np.ndarray) -> float:
    """By how many dB the error of the median channel falls; both [..., channels]."""
    powers = (np.square(each, dtype=np.float64).mean((0, 1, 2)) for each in (before, after))
    least = np.finfo(np.float64).tiny
    first, second = (np.maximum(each, least) for each in powers)
    return float(np.median(10 * np.log10(first / second)))


def _table_db(call: relax.Call, given: np.ndarray, real: np.ndarray) -> float:
    """The table on the rounded float input ``given``, against the float result ``real``."""
    attrs = operators.read(call)
    assert isinstance(attrs, TableAttrs)
    constants = [operators.constant(arg) for arg in call.args[1:]]
    made = attrs.meaning(_integers(given, attrs.source).astype(operators.carrier(attrs.source.bits)), *constants)
    return decibels(_power(real), _power(real - _real(made, attrs.result)))


def _integers(real: np.ndarray, q: Quantization) -> np.ndarray:
    lo, hi = activation_limits(q.bits)
    return np.clip(np.rint(real / np.float32(q.scale)) + q.zero_point, lo, hi)


def _real(integers: np.ndarray, q: Quantization) -> np.ndarray:
    return (integers.astype(np.float32) - np.float32(q.zero_point)) * np.float32(q.scale)


def _rounded(real: np.ndarray, q: Quantization) -> np.ndarray:
    return _real(_integers(real, q), q)


def _power(values: np.ndarray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
