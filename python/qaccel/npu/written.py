"""A plan as a schedule says it: what `allocate` decided, by the names of layers."""

from __future__ import annotations

from collections.abc import Mapping

from ..machine.hw import HwConfig
from ..options.schedule import (
    FIRST_MAP,
    INSIDE,
    LAST_MAP,
    NO_POST,
    OUTSIDE,
    CascadeChoice,
    HoldChoice,
    LayerChoice,
    PieceChoice,
    RecordsChoice,
    StockChoice,
    SubgraphSchedule,
    TileChoice,
)
from .layers import AnyLayer, ConvLayer, DepthwiseLayer, LayerGraph, MoveLayer, post_of
from .plan.allocate import Allocation
from .plan.schedule.resolve import described
from .plan.stripes import Cascade, map_name
from .plan.tiles.tiling import Tiling, weight_buffer_bytes


def as_schedule(graph: LayerGraph, allocation: Allocation, hw: HwConfig) -> SubgraphSchedule:
    """Every decision but for addresses that follow from the others: planning with it makes the same bytes."""
    names = [layer.name for layer in graph.layers]
    read = {index for layer in graph.layers for index in layer.inputs}
    return SubgraphSchedule(
        layers={
            layer.name: LayerChoice(
                layer=described(layer, graph),
                post=_post(layer),
                wide=layer.wide if isinstance(layer, ConvLayer) else None,
                tile=_tile(layer, tiling),
                output_in_sram=layer.output in allocation.sram_addr if layer.output in read else None,
            )
            for layer, tiling in zip(graph.layers, allocation.tilings, strict=True)
        },
        order=tuple(names),
        sram_bytes=allocation.sram_bytes if allocation.sram_bytes < hw.sram_bytes else None,
        cascades=tuple(_cascade(graph, each) for each in allocation.cascades),
        records=tuple(
            RecordsChoice(tuple(names[step] for step in each.offsets), names[each.step], each.addr)
            for each in allocation.records
        ),
        stocks=tuple(
            StockChoice(
                names[each.layer],
                tuple(PieceChoice(names[step], size, addr) for step, addr, size in each.pieces),
                each.refilled,
            )
            for each in allocation.stocks
        ),
        holds=tuple(
            HoldChoice(names[each.step], LAST_MAP if each.behind_last else FIRST_MAP) for each in allocation.holds
        ),
    )


def _post(layer: AnyLayer) -> str | None:
    if not isinstance(layer, ConvLayer | DepthwiseLayer):
        return None
    post = post_of(layer)
    return NO_POST if post is None else post.name


def _tile(layer: AnyLayer, tiling: Tiling) -> TileChoice:
    if isinstance(layer, MoveLayer):
        return TileChoice(values=tiling.tile_values)
    more: Mapping[str, int | str] = {}
    if isinstance(layer, ConvLayer):
        order = OUTSIDE if tiling.weights_outer else INSIDE
        more = {"in_channels": tiling.tile_ic, "weights": order, "input_copies": max(2, tiling.in_slots)}
    sizes = tiling.tile_h, tiling.tile_w, tiling.tile_oc, tiling.tile_kh
    return TileChoice(*sizes, **more)  # type: ignore[arg-type]


def _cascade(graph: LayerGraph, cascade: Cascade) -> CascadeChoice:
    layers = graph.layers[cascade.first : cascade.last + 1]
    held = sum(weight_buffer_bytes(layer, tiling) for layer, tiling in zip(layers, cascade.tilings, strict=True))
    return CascadeChoice(
        first=graph.layers[cascade.first].name,
        last=graph.layers[cascade.last].name,
        stripe_rows=cascade.stripes[0][-1][1],
        opening_rows=cascade.opening,
        weights_stay=cascade.weight_bytes == held,
        rings={map_name(graph, ring.map): ring.rows for ring in cascade.rings},
    )
