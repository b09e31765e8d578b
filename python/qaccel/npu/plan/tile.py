"""Tiling: how one layer is cut over height, width, input and output channels so that it fits and takes the fewest cycles.

The search is small and explicit: halvings of each dimension, scored by ``cost.py`` from the work of a tile and the DRAM
traffic that the loop order causes. Reduction is split only where nothing fits otherwise, since that occupies the accumulators.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from math import ceil
from typing import NamedTuple

from ...machine import cost
from ...machine.hw import HwConfig
from ...machine.isa import isa
from ...machine.layer_cost import LayerWork, layer_cycles
from ..extents import halvings, input_pixels, input_rows, made_map, made_maps, spans, window_of
from ..layers import (
    AnyLayer,
    ConvLayer,
    DepthwiseLayer,
    FeatureMap,
    LayerGraph,
    MoveLayer,
    PoolLayer,
    channel_bytes,
    table_of,
)
from .strided import move_candidates
from .tile_work import (
    AxisTiles,
    axis_tiles,
    conv_tile,
    pointwise_tile,
    row_tiles,
    store_beats,
    tile_beats,
    window_anywhere,
    window_tile,
)  # fmt: skip
from .tiling import Tiling

Candidate = Callable[[], Tiling]  # made only when it is looked at


class _Scored(NamedTuple):
    """A tiling with its estimated cycles and its SRAM."""

    cycles: int
    working_bytes: int
    tiling: Tiling


class LayerTilings:
    """The tilings of one layer, made and scored once, while SRAM budgets are tried."""

    def __init__(self, groups: Iterator[Sequence[Candidate]], hw: HwConfig) -> None:
        """``groups``: the most desirable first."""
        self._more, self._hw = groups, hw
        self._made: list[list[_Scored]] = []

    def __iter__(self) -> Iterator[list[_Scored]]:
        yield from self._made
        for group in self._more:
            sizes = [(tiling, tiling.working_bytes) for tiling in (make() for make in group)]
            fitting = [each for each in sizes if each[1] <= self._hw.sram_bytes]
            self._made.append([_Scored(layer_cycles(t.work, self._hw), size, t) for t, size in fitting])
            yield self._made[-1]


# By a layer's output, and which of its own maps are resident.
KnownTilings = dict[tuple[int, frozenset[int]], LayerTilings]


def plan_layer(
    layer: AnyLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    resident: frozenset[int],
    budget_bytes: int,
    known: KnownTilings,
) -> Tiling | None:
    """The quickest tiling whose blocks fit ``budget_bytes`` of SRAM, or None if there is none.

    ``resident`` holds the indices of feature maps that lie whole in SRAM; ``known`` what earlier calls made of the subgraph.
    """
    key = layer.output, resident.intersection((*layer.inputs, layer.output))
    if key not in known:
        known[key] = LayerTilings(_candidates(layer, maps, hw, resident), hw)
    enough = min(made_map(layer, maps).c, _columns(layer, hw))
    best: _Scored | None = None
    for group in known[key]:
        fitting = [each for each in group if each.working_bytes <= budget_bytes]
        if best is not None:
            fitting.append(best)
        if fitting:
            best = min(fitting, key=lambda each: (each.cycles, each.working_bytes))
            if best.tiling.tile_oc >= enough:
                break  # the array is filled; splitting further only costs
    return None if best is None else best.tiling


def plan_stripe(layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int]) -> Tiling | None:
    """The tiling that computes in the fewest cycles, or None if there is none: for layers whose transfers others hide.

    Where one tile takes all rows and pixels, none is better. As for `plan_layer`, splitting the reduction further only costs.
    """
    y = made_map(layer, maps)
    for candidates in _candidates(layer, maps, hw, resident):
        first = candidates[0]()
        if (first.tile_h, first.tile_w) == (y.h, y.w):
            return first
        made = (make() for make in candidates)
        return min(made, key=lambda t: sum(count * cost.work_cycles(work, hw) for work, count in t.work.computes))
    return None


def tiling_alone(layer: AnyLayer, graph: LayerGraph, hw: HwConfig) -> Tiling | None:
    """The quickest tiling of a layer if what passes between layers takes no room in SRAM, or None if there is none."""
    inside = frozenset({each.output for each in graph.layers} - {*graph.outputs})
    return plan_layer(layer, graph.maps, hw, inside, hw.sram_bytes, {})


def _columns(layer: AnyLayer, hw: HwConfig) -> int:
    return hw.array_columns(layer.weight_bits if isinstance(layer, ConvLayer | DepthwiseLayer) else 8)


def _candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int]
) -> Iterator[Sequence[Candidate]]:
    if isinstance(layer, ConvLayer):
        return _conv_candidates(layer, maps, hw, resident)
    if isinstance(layer, MoveLayer):
        return move_candidates(layer, maps, hw, resident)
    return _pixelwise_candidates(layer, maps, hw, resident)


def fitting_working_bytes(layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig) -> int | None:
    """SRAM bytes of some tiling that fits with nothing resident, else of the smallest; None if none fits the buffers at all."""
    least: int | None = None
    for group in _candidates(layer, maps, hw, frozenset()):
        size = min((make().working_bytes for make in group), default=None)
        if size is not None:
            if size <= hw.sram_bytes:
                return size
            least = size if least is None else min(least, size)
    return least


def has_room(layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig) -> bool:
    """Whether a small tiling fits with nothing resident; it may say no where only another one does."""
    return any(group[-1]().working_bytes <= hw.sram_bytes for group in _candidates(layer, maps, hw, frozenset()))


def _conv_candidates(
    layer: ConvLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int]
) -> Iterator[Sequence[Candidate]]:
    """Groups of candidates, the most desirable group first: reduction whole, rows whole."""
    seen = made_maps(layer, maps)
    x, y, window = seen[layer.inputs[0]], seen[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    columns, rows = hw.array_columns(layer.weight_bits), hw.array_rows(x.bits)
    input_resident = layer.inputs[0] in resident
    for tile_kh in halvings(window.kernel_h):
        for tile_ic in halvings(part.in_channels, rows):
            if tile_kh < window.kernel_h and tile_ic > 2:
                continue  # split channels before kernel rows
            chunks = ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh)
            depth = tile_kh * window.kernel_w * tile_ic
            output_tiles = []
            for tile_oc in halvings(part.out_channels, columns):
                weight_tile_bytes = depth * channel_bytes(tile_oc, layer.weight_bits)
                if weight_tile_bytes > hw.weight_buffer_bytes // 2:
                    continue
                output_tiles.append((tile_oc, weight_tile_bytes))
            for tile_w in halvings(y.w):
                widths = row_tiles(layer, maps, tile_w)
                found = []
                for tile_h in halvings(y.h):
                    for tile_oc, weight_tile_bytes in output_tiles:
                        if chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
                            continue
                        # Where one tile takes all pixels, all chunks of the input can stay for the next output channels.
                        whole = tile_h >= y.h and sum(widths.values()) == 1 and tile_oc < part.out_channels
                        alone = len(layer.inputs) == 1 or layer.inputs[1] in resident
                        in_slots = (2, chunks) if whole and chunks > 2 and alone else (2,)
                        for weights_outer, slots in ((True, 2), *((False, slots) for slots in in_slots)):
                            shape = (tile_h, tile_w, tile_oc, tile_ic, tile_kh, weights_outer, slots)
                            sizes = shape, widths, weight_tile_bytes, input_resident, resident
                            found.append(partial(_conv_tiling, layer, seen, hw, *sizes))
                if found:
                    yield found


def _conv_tiling(
    layer: ConvLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    shape: tuple[int, int, int, int, int, bool, int],
    widths: Mapping[int, int],
    weight_tile_bytes: int,
    input_resident: bool,
    resident: frozenset[int],
) -> Tiling:
    """``maps`` as the layer's instructions see them; ``widths``: how many tiles of which width a row has."""
    tile_h, tile_w, tile_oc, tile_ic, tile_kh, weights_outer, in_slots = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], layer.window
    part = max(layer.parts, key=lambda p: p.weight.size)
    parts = len(layer.parts)
    bands = ceil(y.h / tile_h)
    spaces = bands * sum(widths.values())
    oc_tiles = ceil(part.out_channels / tile_oc)
    chunks = ceil(part.in_channels / tile_ic) * ceil(window.kernel_h / tile_kh)
    in_h, in_w = min(x.h, input_rows(tile_h, window, tile_kh)), min(x.w, input_pixels(tile_w, window))
    in_tile_bytes = in_h * in_w * channel_bytes(tile_ic, x.bits)
    if chunks > 1:
        in_loads = chunks if spaces == 1 and in_slots >= chunks else spaces * oc_tiles * chunks
    else:
        in_loads = 1 if spaces == 1 else spaces * (oc_tiles if weights_outer else 1)
    weight_set = oc_tiles * chunks
    if weights_outer:
        again = spaces if chunks > 1 and chunks * weight_tile_bytes > hw.weight_buffer_bytes else 1
    else:
        again = spaces if weight_set * weight_tile_bytes > hw.weight_buffer_bytes else 1
    depth, streams = tile_kh * window.kernel_w * tile_ic, layer.streams or cost.raw_streams(layer.weight_bits, hw)
    stream_bytes = streams.stream_bytes(depth * tile_oc)
    out_tile_bytes = tile_h * tile_w * channel_bytes(tile_oc, y.bits)
    param_bytes = tile_oc * isa().params_bytes
    tiles = spaces * oc_tiles * parts
    reductions = [
        (each, count * bands * tiles_of_width * oc_tiles * parts)
        for width, tiles_of_width in widths.items()
        for each, count in conv_tile(layer, part, maps, (tile_h, width, tile_oc), tile_ic, tile_kh)
    ]
    beside, beside_beats = _beside(layer, maps, hw, (tile_h, tile_w, tile_oc), resident)
    table_bytes = len(table_of(layer))
    output_resident = layer.output in resident
    work = LayerWork(
        computes=tuple(reductions),
        loads=parts * (oc_tiles + (0 if input_resident else in_loads)) + tiles * (beside > 0) + (table_bytes > 0),
        load_beats=parts
        * (
            oc_tiles * cost.bytes_beats(param_bytes, hw)
            + (0 if input_resident else in_loads * tile_beats(x, in_h, in_w, tile_ic, hw))
        )
        + tiles * beside_beats
        + cost.bytes_beats(table_bytes, hw),
        weight_loads=parts * weight_set * again,
        weight_bytes=parts * weight_set * again * stream_bytes,
        decode_cycles=parts * weight_set * again * streams.decode_cycles(depth, tile_oc),
        stores=0 if output_resident else tiles,
        store_beats=0 if output_resident else store_beats(y, tile_h, tile_w, tile_oc, hw),
        first_bytes=stream_bytes + (0 if input_resident else in_tile_bytes) + beside,
        last_bytes=0 if output_resident else out_tile_bytes,
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=tile_w,
        tile_oc=tile_oc,
        tile_ic=tile_ic,
        tile_kh=tile_kh,
        weights_outer=weights_outer,
        in_slot_bytes=(0 if input_resident else in_tile_bytes, *((beside,) if len(layer.inputs) > 1 else ())),
        in_slots=min(in_slots, max(in_loads * parts, min(2, tiles) if beside else 0)),
        out_slot_bytes=0 if output_resident else out_tile_bytes,
        out_slots=min(2, tiles),
        param_slot_bytes=param_bytes,
        param_slots=min(2, oc_tiles * parts),
        table_bytes=table_bytes,
        work=work,
    )


def _beside(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, tile: tuple[int, int, int], resident: frozenset[int]
) -> tuple[int, int]:
    """Bytes of the second operand under a tile of (rows, pixels, channels), and cycles of the DRAM channel; 0 if it is resident, or
    there is none."""
    if len(layer.inputs) == 1 or layer.inputs[1] in resident:
        return 0, 0
    b = maps[layer.inputs[1]]
    rows, pixels, channels = (min(size, most) for size, most in zip((b.h, b.w, b.c), tile, strict=True))
    return rows * pixels * channel_bytes(channels, b.bits), tile_beats(b, rows, pixels, channels, hw)


def _pixelwise_candidates(
    layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, resident: frozenset[int]
) -> Iterator[Sequence[Candidate]]:
    """Everything whose output channel depends on one input channel: depthwise, pooling, element-wise, copy, table."""
    y, window = maps[layer.output], window_of(layer)
    weight_bits = layer.weight_bits if isinstance(layer, DepthwiseLayer) else 8
    columns = hw.array_columns(weight_bits)
    window_columns = columns if isinstance(layer, DepthwiseLayer) else hw.cols  # more channels need no more line buffer

    @cache
    def fits(tile_h: int, tile_w: int, channels: int, tile_kh: int) -> bool:
        if not isinstance(layer, DepthwiseLayer | PoolLayer):
            return True
        return _line_buffer_fits(layer, maps, hw, rows_of[tile_h], pixels_of[tile_w], channels, tile_kh)

    rows_of = {step: axis_tiles(spans(layer, maps, True, step)) for step in halvings(y.h)}
    pixels_of = {step: axis_tiles(spans(layer, maps, False, step)) for step in halvings(y.w)}
    for tile_kh in halvings(window.kernel_h):
        chunks = ceil(window.kernel_h / tile_kh)
        found = []
        for tile_w, pixels in pixels_of.items():
            for tile_oc in halvings(y.c, columns):
                if isinstance(layer, DepthwiseLayer):
                    weight_tile_bytes = tile_kh * window.kernel_w * channel_bytes(tile_oc, weight_bits)
                    if weight_tile_bytes > hw.weight_buffer_bytes // 2:
                        continue
                for tile_h, rows in rows_of.items():
                    if chunks > 1 and tile_h * tile_w * tile_oc > hw.accumulator_entries:
                        continue
                    if not fits(tile_h, tile_w, min(tile_oc, window_columns), tile_kh):
                        continue
                    shape = (tile_h, tile_w, tile_oc, tile_kh)
                    found.append(partial(_pixelwise_tiling, layer, maps, hw, shape, rows, pixels, resident))
        if found:
            yield found


def _line_buffer_fits(
    layer: DepthwiseLayer | PoolLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, rows: AxisTiles, pixels: AxisTiles,
    channels: int, tile_kh: int,
) -> bool:  # fmt: skip
    """Whether every tile fits, remainders included: a narrow one needs more lines."""
    return all(
        cost.line_buffer_bytes(window_anywhere(layer, maps, (height, width, channels), tile_kh), hw)
        <= hw.line_buffer_bytes
        for height in rows.lengths
        for width in pixels.lengths
    )


def _pixelwise_tiling(
    layer: AnyLayer,
    maps: tuple[FeatureMap, ...],
    hw: HwConfig,
    shape: tuple[int, int, int, int],
    rows: AxisTiles,
    pixels: AxisTiles,
    resident: frozenset[int],
) -> Tiling:
    """A candidate for a tile of (rows, pixels, channels, rows of the kernel); ``rows`` and ``pixels``: where tiles lie."""
    tile_h, tile_w, tile_oc, tile_kh = shape
    x, y, window = maps[layer.inputs[0]], maps[layer.output], window_of(layer)
    spaces, oc_tiles = rows.count * pixels.count, ceil(y.c / tile_oc)
    chunks = ceil(window.kernel_h / tile_kh)
    slots, in_beats = [], 0
    for index, source in enumerate(layer.inputs):
        if source in resident:
            slots.append(0)
        elif index == 1:
            beside, beats = _beside(layer, maps, hw, (tile_h, tile_w, tile_oc), resident)
            slots.append(beside)
            in_beats += beats
        else:
            in_h, in_w = min(x.h, input_rows(tile_h, window, tile_kh)), min(x.w, input_pixels(tile_w, window))
            slots.append(in_h * in_w * channel_bytes(tile_oc, x.bits))
            in_beats += tile_beats(x, in_h, in_w, tile_oc, hw)
    tiles = spaces * oc_tiles
    in_bytes = sum(slots)
    depthwise = isinstance(layer, DepthwiseLayer)
    param_bytes = tile_oc * isa().params_bytes if depthwise else 0
    stream_bytes = decode_cycles = 0
    if isinstance(layer, DepthwiseLayer):
        streams, weights = layer.streams or cost.raw_streams(layer.weight_bits, hw), tile_kh * window.kernel_w * tile_oc
        stream_bytes = streams.stream_bytes(weights)
        decode_cycles = streams.decode_cycles(tile_kh * window.kernel_w, tile_oc)
    output_resident = layer.output in resident
    out_tile_bytes = tile_h * tile_w * channel_bytes(tile_oc, y.bits)
    table_bytes = len(table_of(layer))
    tile: Sequence[cost.Work]
    if isinstance(layer, DepthwiseLayer | PoolLayer):
        tile = window_tile(layer, maps, rows.typical, pixels.typical, tile_oc, tile_kh)
    else:
        tile = pointwise_tile(layer, maps, tile_h, tile_w, tile_oc)
    work = LayerWork(
        computes=tuple((each, tiles) for each in tile),
        loads=tiles * chunks * sum(1 for s in slots if s) + (oc_tiles if depthwise else 0) + (table_bytes > 0),
        load_beats=tiles * chunks * in_beats
        + oc_tiles * cost.bytes_beats(param_bytes, hw)
        + cost.bytes_beats(table_bytes, hw),
        weight_loads=oc_tiles * chunks if depthwise else 0,
        weight_bytes=oc_tiles * chunks * stream_bytes,
        decode_cycles=oc_tiles * chunks * decode_cycles,
        stores=0 if output_resident else tiles,
        store_beats=0 if output_resident else store_beats(y, tile_h, tile_w, tile_oc, hw),
        first_bytes=in_bytes + stream_bytes,
        last_bytes=0 if output_resident else out_tile_bytes,
    )
    return Tiling(
        tile_h=tile_h,
        tile_w=tile_w,
        tile_oc=tile_oc,
        tile_ic=tile_oc,
        tile_kh=tile_kh,
        weights_outer=True,
        in_slot_bytes=tuple(slots),
        in_slots=min(2, tiles * chunks),
        out_slot_bytes=0 if output_resident else out_tile_bytes,
        out_slots=min(2, tiles),
        param_slot_bytes=param_bytes,
        param_slots=min(2, oc_tiles) if depthwise else 0,
        table_bytes=table_bytes,
        work=work,
    )
