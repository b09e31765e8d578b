"""A schedule's names and sizes against the subgraph that it is for: what cannot be is refused here, before anything is planned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ....errors import UserError, did_you_mean
from ....machine.hw import HwConfig
from ....machine.isa import field_maximum
from ....options.schedule import (
    NO_POST,
    CascadeChoice,
    LayerChoice,
    Schedule,
    SubgraphSchedule,
    TileChoice,
    digest_of,
)
from ...extents import ALIGN_BYTES, align, made_map, window_of
from ...layers import AnyLayer, ConvLayer, DepthwiseLayer, FeatureMap, LayerGraph, MoveLayer, first_output, post_of
from ..stripes import has_stripes, map_name
from ..tiles.tile import fitting_working_bytes, given_sizes
from .wishes import CascadeWish, Wishes

_ALL_BUT_MOVES = ("rows", "columns", "channels", "kernel_rows", "in_channels", "weights", "input_copies")


def check_for(schedule: Schedule, hw: HwConfig, symbols: Sequence[str]) -> None:
    """Raises UserError for a schedule of another machine, or of a program that the network does not have."""
    if schedule.hw != hw.name:
        raise UserError(
            f"{schedule.origin} is for {schedule.hw!r}, and the accelerator is {hw.name!r}; compile for the former, or write the "
            "schedule anew with --emit-schedule"
        )
    if schedule.hw_digest not in (None, digest_of(hw)):
        raise UserError(
            f"{schedule.origin} is for a config {hw.name!r} with other parameters (hw_digest {schedule.hw_digest}, here "
            f"{digest_of(hw)}); write it anew with --emit-schedule, or leave hw_digest out"
        )
    for symbol in schedule.subgraphs:
        if symbol not in symbols:
            known = f"the network's programs are {', '.join(symbols)}" if symbols else "the network has none"
            raise UserError(
                f"{schedule.origin} has the subgraph {symbol!r}; {known}: it is for another network or bits"
            )


def described(layer: AnyLayer, graph: LayerGraph) -> str:
    """``Conv W8A8 32x32x3 to 16x16x32``: what a layer is, but for what runs in its post stage."""
    x, y = graph.maps[layer.inputs[0]], first_output(layer, graph.maps)
    weights = f"W{layer.weight_bits}" if isinstance(layer, ConvLayer | DepthwiseLayer) else ""
    return f"{layer.op} {weights}A{x.bits} {_shape(x)} to {_shape(y)}"


def check_layers(chosen: SubgraphSchedule, origin: str, graph: LayerGraph) -> None:
    """Before layers run in post stages: raises UserError for a layer that there is not, or that is another one."""
    layers = {layer.name: layer for layer in graph.layers}
    for name, choice in chosen.layers.items():
        if name not in layers:
            raise UserError(
                f"{origin}: there is no layer {name!r}{did_you_mean(name, layers)}; take it out, or write the schedule of this "
                "network at these bits with --emit-schedule"
            )
        found = described(layers[name], graph)
        if choice.layer not in (None, found):
            raise UserError(
                f"{origin}: {name} is {found!r} here, and {choice.layer!r} in the schedule, which is for another network or other "
                'bits; write it anew with --emit-schedule, or leave its "layer" out'
            )


def given_posts(chosen: SubgraphSchedule) -> dict[str, str]:
    """By name, what is to run in the post stage of some layers."""
    return {name: choice.post for name, choice in chosen.layers.items() if choice.post is not None}


def check_posts(chosen: SubgraphSchedule, origin: str, graph: LayerGraph) -> None:
    """Raises UserError where a layer does not run in the post stage that is given for it."""
    layers = {layer.name: layer for layer in graph.layers}
    for name, wanted in given_posts(chosen).items():
        post = post_of(layers[name]) if name in layers else None
        if wanted != (NO_POST if post is None else post.name):
            raise UserError(
                f"{origin}: {name}: {wanted!r} cannot run in its post stage, which takes an element-wise layer or a table behind a "
                "convolution whose output nothing else reads, and SRAM for the operands of both; leave post out"
            )


def given_wide(
    chosen: SubgraphSchedule, origin: str, graph: LayerGraph, may: Callable[[AnyLayer, int, LayerGraph], bool]
) -> dict[str, int]:
    """Output pixels that layers are to make as one, by name. ``may``: whether a layer can. Raises UserError where it cannot."""
    layers = {layer.name: layer for layer in graph.layers}
    found = {name: choice.wide for name, choice in chosen.layers.items() if choice.wide is not None and name in layers}
    for name, pixels in found.items():
        if not may(layers[name], pixels, graph):
            raise UserError(
                f"{origin}: {name}: wide {pixels}: only a convolution in one group can make neighbouring pixels as one, no "
                "more than fields of the instruction hold, and whole bytes of each; say wide: 1"
            )
    return found


def with_given_sram(chosen: SubgraphSchedule, origin: str, hw: HwConfig) -> HwConfig:
    """The machine with as much SRAM as is to be planned for. Raises UserError where it has less."""
    if chosen.sram_bytes is None:
        return hw
    if not 0 < chosen.sram_bytes <= hw.sram_bytes:
        raise UserError(
            f"{origin}: sram_bytes {chosen.sram_bytes} must be from 1 to the {hw.sram_bytes} of {hw.name}; leave it out for all"
        )
    return replace(hw, sram_bytes=chosen.sram_bytes)


def wishes_of(chosen: SubgraphSchedule, origin: str, graph: LayerGraph, hw: HwConfig) -> Wishes:
    """What is given for a subgraph as it is planned, layers in post stages and pixels made as one. Raises UserError for what is
    no such thing."""
    steps = {layer.name: step for step, layer in enumerate(graph.layers)}
    hosts = {post.name: layer.name for layer in graph.layers if (post := post_of(layer)) is not None}
    tiles, kept, sent, addresses = {}, set[int](), set[int](), {}
    lasting = {index for layer in graph.layers for index in layer.inputs} - set(graph.inputs)
    wishes = Wishes(origin=origin)
    for name, choice in chosen.layers.items():
        if name in hosts:
            raise wishes.refused(
                name, f'it runs in the post stage of {hosts[name]}; say "post": null there, or take its entry out'
            )
        step = steps[name]
        if choice.tile is not None:
            _check_tile(wishes, graph.layers[step], graph.maps, hw, choice.tile)
            tiles[step] = choice.tile
        output = graph.layers[step].output
        if choice.output_in_sram is not None:
            if output not in lasting:
                raise wishes.refused(
                    name, "no layer of the program reads its output, which goes to DRAM; leave output_in_sram out"
                )
            (kept if choice.output_in_sram else sent).add(output)
        _check_kept(wishes, name, choice, graph.maps[output], hw)
        if choice.output_address is not None:
            addresses[output] = choice.output_address
    cascades = None if chosen.cascades is None else _cascades(wishes, chosen.cascades, graph, steps, hosts)
    for first, wish in (cascades or {}).items():
        for index in wish.rings or {}:
            if index in kept:
                raise wishes.refused(
                    graph.layers[first].name,
                    f"the ring of {map_name(graph, index)!r} is for a map that is not whole in SRAM; say output_in_sram: false",
                )
            sent |= {index} & lasting
    return Wishes(
        tiles, frozenset(kept), frozenset(sent), addresses, cascades, chosen.records, chosen.stocks, chosen.holds, steps, origin
    )  # fmt: skip


def step_of(wishes: Wishes, name: str, steps: Mapping[str, int], hosts: Mapping[str, str], what: str) -> int:
    """The number of a layer. Raises UserError where there is none of that name."""
    if name in steps:
        return steps[name]
    if name in hosts:
        raise wishes.refused(name, f"it runs in the post stage of {hosts[name]}; name that in {what}")
    raise UserError(f"{wishes.origin}: {what} names the layer {name!r}, which there is not{did_you_mean(name, steps)}")


def _shape(m: FeatureMap) -> str:
    return f"{m.h}x{m.w}x{m.c}"


def _check_tile(wishes: Wishes, layer: AnyLayer, maps: tuple[FeatureMap, ...], hw: HwConfig, tile: TileChoice) -> None:
    moves = isinstance(layer, MoveLayer)
    given = {name for name in (*_ALL_BUT_MOVES, "values") if getattr(tile, name) is not None}
    allowed = {"values"} if moves else set(_ALL_BUT_MOVES)
    if not isinstance(layer, ConvLayer):
        allowed -= {"in_channels", "weights", "input_copies"}
    if given - allowed:
        wrong = sorted(given - allowed)[0]
        raise wishes.refused(layer.name, f"a tile of {layer.op} has no {wrong!r}; it has {', '.join(sorted(allowed))}")
    for name, (least, most, even) in _limits(layer, maps).items():
        value = getattr(tile, name)
        if value is not None and not (value == most or (least <= value < most and not (even and value % 2))):
            kind = "all of them or an even number" if even else "a number"
            raise wishes.refused(layer.name, f"tile {name} {value} must be {kind} from {least} to {most}")
    if fitting_working_bytes(layer, maps, hw, tile) is None:
        raise wishes.refused(
            layer.name,
            f"no tile has {given_sizes(tile)}: a tile of weights may take half the weight buffer of {hw.weight_buffer_bytes} B, a "
            f"reduction in parts {hw.accumulator_entries} accumulators, rows of a window the line buffer of "
            f"{hw.line_buffer_bytes} B; give fewer channels or rows, or leave some out",
        )


def _limits(layer: AnyLayer, maps: tuple[FeatureMap, ...]) -> dict[str, tuple[int, int, bool]]:
    """By entry of a tile: the least and the most, and whether what is between must be even."""
    if isinstance(layer, MoveLayer):
        return {"values": (2, max(piece.rows * piece.pixels * piece.channels for piece in layer.pieces), True)}
    y, channels, deep = made_map(layer, maps), made_map(layer, maps).c, maps[layer.inputs[0]].c
    if isinstance(layer, ConvLayer):
        part = max(layer.parts, key=lambda p: p.weight.size)
        channels, deep = part.out_channels, part.in_channels
    return {
        "rows": (1, y.h, False), "columns": (1, y.w, False), "channels": (2, channels, True),
        "kernel_rows": (1, window_of(layer).kernel_h, False), "in_channels": (2, deep, True),
        "input_copies": (2, field_maximum("CONV", "in_channels"), False),
    }  # fmt: skip


def _check_kept(wishes: Wishes, name: str, choice: LayerChoice, output: FeatureMap, hw: HwConfig) -> None:
    size, addr = align(output.total_bytes), choice.output_address
    if choice.output_in_sram and size > hw.sram_bytes:
        raise wishes.refused(
            name, f"its output takes {size} B, and SRAM has {hw.sram_bytes}; say output_in_sram: false"
        )
    if addr is None:
        return
    if not choice.output_in_sram:
        raise wishes.refused(name, "output_address is for an output that stays; add output_in_sram: true")
    if addr % ALIGN_BYTES or addr + size > hw.sram_bytes:
        raise wishes.refused(
            name,
            f"output_address {addr}: its {size} B must begin at a multiple of {ALIGN_BYTES} and end within {hw.sram_bytes}",
        )


def _cascades(
    wishes: Wishes, given: Sequence[CascadeChoice], graph: LayerGraph, steps: Mapping[str, int], hosts: Mapping[str, str]
) -> dict[int, CascadeWish]:  # fmt: skip
    found: dict[int, CascadeWish] = {}
    for choice in given:
        first, last = (step_of(wishes, name, steps, hosts, "a cascade") for name in (choice.first, choice.last))
        where = f"the cascade to {choice.last}"
        if last < first:
            raise wishes.refused(choice.first, f"{where} ends before it begins; exchange first and last")
        for other, wish in found.items():
            if first <= wish.last and other <= last:
                shared = graph.layers[max(first, other)].name
                raise wishes.refused(
                    choice.first, f"{where} and another one have {shared}; a layer is in one at the most"
                )
        _check_chain(wishes, graph, first, last, where)
        rows = graph.maps[graph.layers[last].output].h
        if choice.stripe_rows is not None and not 1 <= choice.stripe_rows <= rows:
            raise wishes.refused(
                choice.first, f"{where}: stripe_rows {choice.stripe_rows}; the last layer's output has {rows} rows"
            )
        rings = None if choice.rings is None else _rings(wishes, graph, choice, first, last)
        found[first] = CascadeWish(last, choice.stripe_rows, choice.opening_rows, choice.weights_stay, rings)
    return found


def _check_chain(wishes: Wishes, graph: LayerGraph, first: int, last: int, where: str) -> None:
    """Each layer but the last must be read inside, and each must be one that stripes can be cut of."""
    for step in range(first, last + 1):
        layer = graph.layers[step]
        if not has_stripes(layer, graph):
            raise wishes.refused(
                layer.name, f"{layer.op} cannot be cut into stripes as {where} asks; end it before, or begin it behind"
            )
        if step < last and not any(layer.output in graph.layers[k].inputs for k in range(step + 1, last + 1)):
            raise wishes.refused(
                layer.name,
                f"{where} is no chain: no layer of it reads the output of this one; end it before, or begin it behind",
            )


def _rings(wishes: Wishes, graph: LayerGraph, choice: CascadeChoice, first: int, last: int) -> dict[int, int]:
    used = {i for layer in graph.layers[first : last + 1] for i in (*layer.inputs, layer.output)}
    used.remove(graph.layers[last].output)
    names = {map_name(graph, index): index for index in sorted(used) if graph.maps[index].data is None}
    found = {}
    for name, rows in (choice.rings or {}).items():
        if name not in names:
            raise wishes.refused(
                choice.first, f"the cascade has no map {name!r}{did_you_mean(name, names)}; it has {', '.join(names)}"
            )
        if not 1 <= rows <= graph.maps[names[name]].h:
            raise wishes.refused(
                choice.first, f"the ring of {name!r} has {rows} rows, the map {graph.maps[names[name]].h}; give no more"
            )
        found[names[name]] = rows
    return found
