"""What a report holds: ``report.json``, field by field. It is written from these classes and read back through them.

All counts are of one sample on the accelerator, as the simulator's cycle mode counts it, unless a field says otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ...dialect.chosen import Chosen, Drop
from .record import Misfit as Misfit
from .record import Record, read_as


@dataclass(frozen=True, eq=False, repr=False)
class Stalls(Record):
    """What the compute engine did in each cycle of a layer: compute, or what it waited for; ``wait``: latency and start-ups."""

    compute: int
    activation_load: int
    weight_load: int
    decode: int
    store: int
    wait: int


@dataclass(frozen=True, eq=False, repr=False)
class DramBytes(Record):
    """Bytes that pass DRAM, by kind. ``weights``: streams, parameter records and tables; ``program``: its instructions."""

    weights: int
    activations_read: int
    activations_written: int
    program: int


REPORT_VERSION = 2  # 1, which did not say so, had no bounds of layers
STALLS = tuple(field.name for field in fields(Stalls))
DRAM_KINDS = tuple(field.name for field in fields(DramBytes))


@dataclass(frozen=True, eq=False, repr=False)
class Post(Record):
    """A layer that runs in the post stage of another, in the same pass."""

    name: str
    op: str


@dataclass(frozen=True, eq=False, repr=False)
class Gap(Record):
    """How far figures are above their bounds, in per cent; None where they are not: the bound counts what the CPU does, too, or
    part of a layer's work was done in the time of another."""

    cycles: float | None
    dram_bytes: float | None


@dataclass(frozen=True, eq=False, repr=False)
class Cure(Record):
    """A change that would make a layer quicker: ``parameter`` of the config, or "weight_bits" or "activation_bits" of the layer,
    from ``before`` to ``after``; and the ``cycles`` of the layer that it is estimated to save."""

    parameter: str
    before: int
    after: int
    cycles: int


@dataclass(frozen=True, eq=False, repr=False)
class Layer(Record):
    """One layer on the accelerator, with what runs in its post stage: cycles and shapes are of both, and no memory holds what
    passes between the two.

    Shapes are [rows, columns, channels]. ``weight_bits``: 0 for a layer without weights. ``utilization``: MACs done by MACs
    possible in its cycles at its bits. ``stalls`` sum to ``cycles``. ``sram_bytes``: kept for it while it runs. ``codecs``: how
    many weight streams each codec made. ``entropy_bits``: order-0 entropy of all its weights. ``sources``: numbers of the layers
    that it reads, in `Report.layers`. ``cascade``: the first layer of its cascade. ``subgraph``: number of its program.
    ``bound_cycles``: the least that multipliers and the port of its output allow; ``bound_dram_bytes``: what has to pass for it.
    ``cures``: what would save most of its cycles, the most first.
    """

    name: str
    op: str
    post: Post | None
    input_shapes: tuple[tuple[int, ...], ...]
    output_shape: tuple[int, ...]
    weight_bits: int
    activation_bits: int
    macs: int
    cycles: int
    utilization: float
    stalls: Stalls
    dram_bytes: DramBytes
    sram_bytes: int
    weight_count: int
    quantized_bytes: int
    stream_bytes: int
    codecs: Mapping[str, int]
    entropy_bits: float
    sources: tuple[int, ...]
    cascade: str | None
    subgraph: int
    bound_cycles: int
    bound_dram_bytes: int
    gap_percent: Gap
    cures: tuple[Cure, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Block(Record):
    """A block of SRAM: ``bytes`` from ``addr``, in use from cycle ``begin`` to ``end`` of all programs one after the other.

    ``kind``: map, rows, input, output, parameters, table, weights for streams that wait, or sums of a pool in two steps.
    """

    name: str
    kind: str
    addr: int
    bytes: int
    begin: int
    end: int


@dataclass(frozen=True, eq=False, repr=False)
class Fallback(Record):
    """An operator that the CPU computes: why, and what would bring it to the accelerator. ``macs``: of one sample."""

    name: str
    op: str
    macs: int
    reason: str
    fix: str


@dataclass(frozen=True, eq=False, repr=False)
class SharedScale(Record):
    """A part that shares the scale of a wider one it is joined with.

    ``share``: of the range. ``sqnr_db``: what it keeps at ``bits``. ``plan``: the lines of a plan.json that give it 16 bits;
    ``taken``: the compiler took them.
    """

    join: str
    part: str
    share: float
    bits: int
    sqnr_db: float | None
    plan: Mapping[str, Mapping[str, int]]
    taken: bool


@dataclass(frozen=True, eq=False, repr=False)
class Memory(Record):
    """The SRAM that programs reach up to; the most that their blocks take at a time (``live_sram_bytes``), which no packing of them
    does with less than; and what programs, constants and maps take of DRAM."""

    peak_sram_bytes: int
    live_sram_bytes: int
    dram_footprint_bytes: int


@dataclass(frozen=True, eq=False, repr=False)
class Weights(Record):
    """All weights: in float32, as integers, as the streams that the programs fetch, and by order-0 entropy."""

    float_bytes: int
    quantized_bytes: int
    stream_bytes: int
    entropy_bits: float


@dataclass(frozen=True, eq=False, repr=False)
class Report(Record):
    """What the accelerator did with its time, memory and weights.

    ``hw``: the machine, as its config has it. ``version``: of this form. ``calibration``: what was seen of each input.
    ``subgraphs``: how many programs. ``cycles_per_batch``: of ``batch`` samples, over which the runtime loops. ``macs``: padding
    taps counted. ``bound_cycles``: the least that multipliers and DRAM allow for the whole network, fallback included;
    ``bound_dram_bytes``: what has to pass once. ``latency_ms``: at the config's clock. ``layers``' cycles sum to ``cycles``.
    ``notes``: what the quantizer said. ``ranges``: how they were found. ``drop``: what the network is estimated to lose,
    ``search``: how bits were chosen; None where not done.

    Example:
        >>> report = qaccel.compile("model.onnx", calibration_data="data.npz").report
        >>> report.cycles == report["cycles"] == sum(layer.cycles for layer in report.layers)
        True
        >>> max(report.layers, key=lambda layer: layer.cycles).name
        'conv1'
    """

    model: str
    hw: Mapping[str, Any]
    version: int
    calibration: tuple[Mapping[str, Any], ...]
    subgraphs: int
    batch: int
    cycles: int
    cycles_per_batch: int
    macs: int
    utilization: float
    bound_cycles: int
    bound_dram_bytes: int
    gap_percent: Gap
    latency_ms: float
    dram_bytes: DramBytes
    memory: Memory
    weights: Weights
    layers: tuple[Layer, ...]
    sram: tuple[Block, ...]
    fallback: tuple[Fallback, ...]
    shared_scales: tuple[SharedScale, ...]
    notes: tuple[str, ...]
    ranges: Mapping[str, Any]
    drop: Drop | None
    search: Chosen | None

    def __repr__(self) -> str:
        return f"<Report of '{self.model[:60]}': {len(self.layers)} layers, {self.cycles:,} cycles>"


class OtherVersion(Misfit):
    """A report of another version of this form."""


def report_of(found: Any) -> Report:
    """A report from what JSON gave. Raises Misfit for what is none, OtherVersion for one of another."""
    given = found.get("version") if isinstance(found, Mapping) and "cycles" in found else REPORT_VERSION
    if given != REPORT_VERSION:
        older = given is None or (isinstance(given, int) and given < REPORT_VERSION)
        said = "says no version" if given is None else f"is of version {given!r}"
        raise OtherVersion(
            f"{said}, and this qaccel reads {REPORT_VERSION}: {'an older' if older else 'another'} qaccel wrote it"
        )
    return read_as(Report, found)
