"""One subgraph through the accelerator's half of the compiler; ``compile_layers`` is the list of its steps.

Lowered layers get the order of channels that compresses best; those that are not slower in another's post stage join it, and
branches take turns where that is quicker. By an estimate of their streams the planner cuts them into tiles and gives every map and
block its place. The tiles' weights are compressed; the instructions name the streams. Last come semaphores, the encoding, and the
check of what came out.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from tvm import relax

from ..machine.artefact import Artefact
from ..machine.hw import HwConfig
from ..machine.streams import entropy_bits, estimate_streams
from ..machine.timeline import Turn, network_cycles
from ..options.schedule import Schedule, SubgraphSchedule
from .check.program import check_program
from .emit.encode import build_artefact
from .emit.instructions import emit_program
from .emit.weights import compress, weight_tiles
from .layers import AnyLayer, ConvLayer, DepthwiseLayer, FeatureMap, LayerGraph, channel_bytes, post_of
from .lower.channel_order import order_channels
from .lower.from_relax import lower
from .lower.layer_order import in_given_order, other_order
from .lower.wide_pixels import may_widen, with_wide_pixels
from .plan.allocate import Allocation
from .plan.estimate import planned_cycles, quickest_plan
from .plan.place import Block
from .plan.post import with_posts
from .plan.price.bounds import least_cycles, least_dram_bytes
from .plan.price.cures import Cure, cures_of
from .plan.schedule.resolve import check_layers, check_posts, given_posts, given_wide, wishes_of, with_given_sram
from .plan.stripes import map_name
from .plan.tiles.tile import tiling_alone, tiling_beside
from .plan.tiles.tiling import Tiling, weight_buffer_bytes, weight_tile_count
from .written import as_schedule

log = logging.getLogger(__name__)

_KINDS = {
    "map": "map", "ring": "rows", "in": "input", "out": "output", "param": "parameters", "table": "table",
    "records": "parameters", "stock": "weights", "between": "sums",
}  # fmt: skip


@dataclass(frozen=True)
class LayerFacts:
    """What the report says of a layer beside what the machine counts; index = layer number in the program.

    ``quantized_bytes``: its integer weights at their width; ``codecs``: how many of its streams each codec made;
    ``entropy_bits``: order-0 entropy of the weights times their number. Shapes are [h, w, c] of one sample. ``sources``: which
    layers make its inputs. ``cascade``: the first layer of the cascade that it belongs to, None outside of one. ``post``: name and
    operator of the layer that takes its values in the post stage; the shapes and the cycles are of both. ``bound_cycles`` and
    ``bound_dram_bytes``: the least of any plan. ``cures``: what would make it quicker, if that was looked for.
    """

    name: str
    op: str
    weight_bits: int
    activation_bits: int
    macs: int
    weight_count: int
    quantized_bytes: int
    stream_bytes: int
    codecs: dict[str, int]
    entropy_bits: float
    input_shapes: tuple[tuple[int, int, int], ...]
    output_shape: tuple[int, int, int]
    sources: tuple[int, ...]
    cascade: int | None
    post: tuple[str, str] | None
    bound_cycles: int
    bound_dram_bytes: int
    cures: tuple[Cure, ...]

    def __repr__(self) -> str:
        return f"<LayerFacts of '{self.name[:60]}': {self.op}, {self.macs:,} MACs, {self.stream_bytes:,} B of streams>"


@dataclass(frozen=True)
class SramBlock:
    """Bytes of SRAM that are kept free for one thing from layer ``first`` to layer ``last``.

    ``kind``: "map" for one that lies there whole, "rows" for those of a map that a cascade has at hand, "input" and "output" for
    tiles, "parameters", "table", "weights" for streams that wait, "sums" for what a pool in two steps
    has between them. ``name``: of the map, or of the layer whose these are.
    """

    kind: str
    name: str
    addr: int
    size_bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class CompiledSubgraph:
    """What runs, what the report says of each layer and block of SRAM of it, and the plan as a schedule says it."""

    artefact: Artefact
    layers: tuple[LayerFacts, ...]
    sram: tuple[SramBlock, ...] = ()
    schedule: SubgraphSchedule = SubgraphSchedule()

    def __repr__(self) -> str:
        return f"<CompiledSubgraph '{self.artefact.symbol[:60]}' for {self.artefact.hw.name[:60]}: {len(self.layers)} layers>"


def compile_subgraph(
    function: relax.Function, symbol: str, hw: HwConfig, proven: bool = True, schedule: Schedule | None = None,
    cured: bool = True,
) -> CompiledSubgraph:  # fmt: skip
    """Relax function of ``qaccel.*`` calls (NHWC, batch outside) to an artefact. Raises UserError naming the layer.

    ``proven``: what came out is checked; without it is for what is priced and thrown away. ``schedule``: what is given of the plan.
    ``cured``: what would make layers quicker is looked for.
    """
    return compile_layers(lower(function, symbol, hw), hw, proven, schedule, cured)


@contextmanager
def _uncollected() -> Iterator[None]:
    """No looks for cycles of garbage meanwhile: millions of small objects are made, none of which is in one."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


@_uncollected()
def compile_layers(
    graph: LayerGraph, hw: HwConfig, proven: bool = True, schedule: Schedule | None = None, cured: bool = True
) -> CompiledSubgraph:
    """The same from layer operations."""
    graph, allocation = planned(graph, hw, schedule)
    for layer, tiling in zip(graph.layers, allocation.tilings, strict=True):
        log.debug("%s: %s", layer.name, tiling)
    streams = compress(weight_tiles(graph, allocation), hw)
    program = emit_program(graph, allocation, streams, hw)
    artefact = build_artefact(graph, allocation, program, hw)
    if proven:
        check_program(artefact, program.intent)
    made = {layer.output: step for step, layer in enumerate(graph.layers)}
    cascade = {step: c.first for c in allocation.cascades for step in range(c.first, c.last + 1)}
    cures = cures_of(graph, allocation, hw) if cured else {}
    facts = tuple(
        _facts(graph, step, stream_bytes, codecs, made, cascade.get(step), hw, cures.get(step, ()))
        for step, (stream_bytes, codecs) in enumerate(zip(program.stream_bytes, program.codecs, strict=True))
    )
    sram = tuple(_sram_block(graph, *each) for each in allocation.sram)
    return CompiledSubgraph(artefact, facts, sram, as_schedule(graph, allocation, hw))


@_uncollected()
def planned(graph: LayerGraph, hw: HwConfig, schedule: Schedule | None = None) -> tuple[LayerGraph, Allocation]:
    """The subgraph as it is planned, its channels in another order, layers in post stages, pixels made as one and layers in another
    order where that pays, and its plan. Raises UserError for what of a ``schedule`` cannot be obeyed."""
    chosen = None if schedule is None else schedule.subgraphs.get(graph.symbol)
    graph = _with_estimates(order_channels(graph), hw)
    if schedule is None or chosen is None:
        graph = with_posts(graph, hw, partial(_cycles_of, graph, hw))
        graph = with_wide_pixels(graph, hw, partial(_turn_alone, graph, hw))
        return _quicker(graph, other_order(graph, hw), hw)
    origin = f"{schedule.origin}: {graph.symbol}"
    check_layers(chosen, origin, graph)
    graph = with_posts(graph, hw, partial(_cycles_of, graph, hw), given_posts(chosen))
    check_posts(chosen, origin, graph)
    wide = given_wide(chosen, origin, graph, may_widen)
    graph = with_wide_pixels(graph, hw, partial(_turn_alone, graph, hw), wide)
    if chosen.order is not None:
        graph = in_given_order(graph, chosen.order, origin)
    hw = with_given_sram(chosen, origin, hw)
    return graph, quickest_plan(graph, hw, wishes_of(chosen, origin, graph, hw))


def _quicker(own: LayerGraph, other: LayerGraph | None, hw: HwConfig) -> tuple[LayerGraph, Allocation]:
    """A subgraph, or the same in another order if its plan takes fewer cycles, and its plan."""
    plans = [(graph, quickest_plan(graph, hw)) for graph in (own, other) if graph is not None]
    if len(plans) == 1:
        return plans[0]
    cycles = [sum(each for _, each in planned_cycles(graph, allocation, hw)) for graph, allocation in plans]
    return plans[cycles[1] < cycles[0]]


def _cycles_of(graph: LayerGraph, hw: HwConfig, layers: Sequence[AnyLayer]) -> int | None:
    """Estimate for layers of a subgraph one after the other, in wide pixels where that pays; None if one fits in no way."""
    wide = with_wide_pixels(replace(graph, layers=tuple(layers)), hw, partial(_turn_alone, graph, hw)).layers
    tilings = [tiling_beside(layer, graph, hw) for layer in wide]
    cut = [(layer, tiling) for layer, tiling in zip(wide, tilings, strict=True) if tiling is not None]
    if len(cut) < len(layers):
        return None
    # Where the first one's maps come from DRAM, nothing is computed before it that records could come behind.
    begins = any(cut[0][1].in_slot_bytes)
    return network_cycles([_turn(layer, tiling, begins or any(tiling.in_slot_bytes)) for layer, tiling in cut], hw)


def _turn_alone(graph: LayerGraph, hw: HwConfig, layer: AnyLayer) -> Turn | None:
    """A layer of a subgraph in its turn, cut as is best for it alone; None if it fits in no way.

    Its records take the channel, but come ahead; while maps are loaded, LOADW holds back.
    """
    tiling = tiling_alone(layer, graph, hw)
    return None if tiling is None else _turn(layer, tiling, any(tiling.in_slot_bytes))


def _turn(layer: AnyLayer, tiling: Tiling, loads: bool) -> Turn:
    """A layer in its turn; ``loads``: whether what it loads is waited for."""
    work = tiling.work if loads else replace(tiling.work, loads=0)
    size, tiles = weight_buffer_bytes(layer, tiling), weight_tile_count(layer, tiling)
    return Turn(work=work, weight_bytes=size, weight_tiles=tiles, held="last" if any(tiling.in_slot_bytes) else None)


def _with_estimates(graph: LayerGraph, hw: HwConfig) -> LayerGraph:
    """The subgraph with what each layer's weights take in DRAM, so that tiles are planned for compressed weights."""
    weighted = [layer for layer in graph.layers if isinstance(layer, ConvLayer | DepthwiseLayer)]
    estimates = iter(estimate_streams([(layer.matrix, layer.weight_bits) for layer in weighted], hw))
    layers = tuple(
        replace(layer, streams=next(estimates)) if isinstance(layer, ConvLayer | DepthwiseLayer) else layer
        for layer in graph.layers
    )
    return replace(graph, layers=layers)


def _sram_block(graph: LayerGraph, block: Block, addr: int) -> SramBlock:
    kind, *numbers = block.key
    if kind in ("map", "ring"):
        name = map_name(graph, int(numbers[-1]))
    else:
        layer = graph.layers[int(numbers[0])]
        maps = {"in": layer.inputs[int(numbers[1])]} if kind == "in" else {"out": layer.output}
        name = map_name(graph, maps[kind]) if kind in maps else layer.name
    return SramBlock(_KINDS[str(kind)], name, addr, block.size_bytes, block.first, block.last)


def _facts(
    graph: LayerGraph, step: int, stream_bytes: int, codecs: dict[str, int], made: dict[int, int], cascade: int | None,
    hw: HwConfig, cures: tuple[Cure, ...],
) -> LayerFacts:  # fmt: skip
    layer = graph.layers[step]
    weighted = isinstance(layer, ConvLayer | DepthwiseLayer)
    weights = layer.weights if isinstance(layer, ConvLayer | DepthwiseLayer) else np.zeros(0, np.int32)
    bits = layer.weight_bits if isinstance(layer, ConvLayer | DepthwiseLayer) else 0
    post, entropy = post_of(layer), entropy_bits(weights)
    return LayerFacts(
        name=layer.name,
        op=layer.op,
        weight_bits=bits,
        activation_bits=graph.maps[layer.inputs[0]].bits,
        macs=layer.macs if isinstance(layer, ConvLayer | DepthwiseLayer) else 0,
        weight_count=int(weights.size),
        quantized_bytes=channel_bytes(int(weights.size), bits) if weighted else 0,
        stream_bytes=stream_bytes,
        codecs=codecs,
        entropy_bits=entropy,
        input_shapes=tuple(_shape(graph.maps[index]) for index in layer.inputs),
        output_shape=_shape(graph.maps[layer.output]),
        sources=tuple(made[index] for index in dict.fromkeys(layer.inputs) if index in made),
        cascade=cascade,
        post=None if post is None else (post.name, post.op),
        bound_cycles=least_cycles(layer, graph, hw),
        bound_dram_bytes=least_dram_bytes(step, graph, entropy, stream_bytes),
        cures=cures,
    )


def _shape(m: FeatureMap) -> tuple[int, int, int]:
    return m.h, m.w, m.c
