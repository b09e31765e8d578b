"""Instructions of each layer: loops over its tiles that append to the program, one function per kind of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from ...machine.hw import HwConfig
from ...machine.numerics import activation_limits
from ..extents import InputSpan, first_pixel, in_steps, kernel_chunks, nothing_under, spans, two_windows, valid_taps
from ..layers import (
    AnyLayer,
    ConvLayer,
    ConvPart,
    CopyLayer,
    DepthwiseLayer,
    EltwiseLayer,
    LayerGraph,
    MoveLayer,
    PoolLayer,
    TableLayer,
    Window,
    channel_bytes,
    first_output,
    post_of,
)
from ..plan.allocate import Allocation
from ..plan.tiles.two_steps import bits_between
from .builder import Program, ProgramBuilder
from .cascades import emit_cascade
from .moves import emit_move
from .views import Box, View
from .weights import Streams, TileName


def emit_program(graph: LayerGraph, allocation: Allocation, streams: Streams, hw: HwConfig) -> Program:
    """All layers' instructions, without semaphores. ``streams`` has every tile of weights that the plan cuts."""
    builder = ProgramBuilder(graph, allocation, streams, hw)

    def emit_layer() -> None:
        _EMITTERS[type(builder.layer)](builder, builder.layer)

    cascades = {cascade.first: cascade for cascade in allocation.cascades}
    step = 0
    while step < len(graph.layers):
        if step in cascades:
            emit_cascade(builder, cascades[step], emit_layer)
        else:
            builder.begin_layer(step)
            emit_layer()
        builder.end_layer(step)
        step = cascades[step].last + 1 if step in cascades else step + 1
    return builder.program()


def _spaces(builder: ProgramBuilder) -> list[tuple[int, int, int, int]]:
    """(first row, rows, first pixel, pixels) of the output tiles of the present stripe."""
    layer, maps, tiling = builder.layer, builder.graph.maps, builder.tiling
    rows = spans(layer, maps, True, tiling.tile_h, builder.within)
    pixels = spans(layer, maps, False, tiling.tile_w)
    return [(y, h, x, w) for y, h in rows for x, w in pixels]


def _window_fields(window: Window, view: View, kernel_rows: int) -> dict[str, int]:
    return {
        "in_h": view.rows,
        "in_w": view.pixels,
        "kernel_h": kernel_rows,
        "kernel_w": window.kernel_w,
        "stride_h": window.stride_h,
        "stride_w": window.stride_w,
        "dilation_h": window.dilation_h,
        "dilation_w": window.dilation_w,
        "pad_top": view.pad_top,
        "pad_left": view.pad_left,
    }


def _nowhere(window: Window, box: Box, kernel_rows: int) -> View:
    """The input of an instruction whose taps all lie in the padding: it reads nothing."""
    rows, pixels = nothing_under(window, box.rows, kernel_rows)
    return View(0, 0, 0, rows.length, pixels.length, rows.pad, pixels.pad, frozenset())


def _numeric_fields(builder: ProgramBuilder, layer: AnyLayer) -> dict[str, int]:
    x, y = builder.graph.maps[layer.inputs[0]], first_output(layer, builder.graph.maps)
    return {
        "in_bits": x.bits,
        "in_zero_point": x.zero_point,
        "out_bits": y.bits,
        "out_zero_point": y.zero_point,
        "clamp_lo": layer.clamp_lo,
        "clamp_hi": layer.clamp_hi,
    }


def _emit_conv(builder: ProgramBuilder, layer: ConvLayer) -> None:
    tiling = builder.tiling
    spaces = _spaces(builder)
    for number, part in enumerate(layer.parts):
        channels = in_steps(part.out_channels, tiling.tile_oc)
        chunks = [
            (k, rows, c, count)
            for k, rows in in_steps(layer.window.kernel_h, tiling.tile_kh)
            for c, count in in_steps(part.in_channels, tiling.tile_ic)
        ]
        rows_bytes = layer.window.kernel_w * sum(channel_bytes(n, layer.weight_bits) for _, n in channels)
        builder.reserve_weights(sum(rows * count for _, rows, _, count in chunks) * rows_bytes)
        if tiling.weights_outer:
            order = [(space, channel) for channel in channels for space in spaces]
        else:
            order = [(space, channel) for space in spaces for channel in channels]
        for (y, h, x, w), (n, count) in order:
            box = Box(y, h, x, w, part.out_begin + n, count)
            _conv_tile(builder, layer, part, number, box, chunks)


def _conv_tile(
    builder: ProgramBuilder,
    layer: ConvLayer,
    part: ConvPart,
    number: int,
    box: Box,
    chunks: list[tuple[int, int, int, int]],
) -> None:
    """One output tile: its reduction chunks one after the other into the accumulators."""
    # A wide pixel that begins earlier than its place says has as much more of the input at its left.
    earlier = box.x * layer.wide - first_pixel(layer, builder.graph.maps[layer.output], box.x)
    window = replace(layer.window, pad_left=layer.window.pad_left + earlier * layer.window.stride_w // layer.wide)

    def view_of(chunk: tuple[int, int, int, int]) -> View:
        k, rows, c, count = chunk
        source = Box(box.y, box.rows, box.x, box.pixels, part.in_begin + c, count)
        return builder.input_view(0, source, window, k, rows) or _nowhere(window, box, rows)

    in_h = builder.graph.maps[layer.inputs[0]].h
    rows = kernel_chunks(layer.window, box.y, box.rows, builder.tiling.tile_kh, in_h)
    needed = [chunk for chunk in chunks if chunk[:2] in rows]
    param_addr, param_load = builder.params(layer.params, box.c, box.channels)
    output, post = builder.output_view(box), None
    for position, chunk in enumerate(needed):
        view = view_of(chunk)
        k, _, c, _ = chunk
        weight_addr, decode = builder.weights(TileName(builder.step, number, k, c, box.c - part.out_begin))
        finish = position == len(needed) - 1
        reads = view.writers | {decode} | ({param_load} if finish else set())
        post = _post_of_tile(builder, layer, box) if finish else None
        index = builder.emit(
            "CONV",
            reads,
            **view.fields("in"),
            **_window_fields(window, view, chunk[1]),
            in_channels=chunk[3],
            **(output.fields("out") if post is None else {"forward": 1}),
            out_h=box.rows,
            out_w=box.pixels,
            out_channels=box.channels,
            weight_addr=weight_addr,
            param_addr=param_addr,
            weight_bits=layer.weight_bits,
            **_numeric_fields(builder, layer),
            accumulate=int(position > 0),
            finish=int(finish),
        )
    builder.finish_output(box, output, post.emit(builder, output, reads) if post else index)


def _emit_depthwise(builder: ProgramBuilder, layer: DepthwiseLayer) -> None:
    channels = layer.weights.shape[2]
    for n, count in in_steps(channels, builder.tiling.tile_oc):
        row_bytes = channel_bytes(count, layer.weight_bits)
        builder.reserve_weights(layer.window.kernel_h * layer.window.kernel_w * row_bytes)
        for y, h, x, w in _spaces(builder):
            box = Box(y, h, x, w, n, count)
            param_addr, param_load = builder.params(layer.params, n, count)

            def operands(k: int, n: int = n) -> tuple[dict[str, int | str], int]:
                weight_addr, decode = builder.weights(TileName(builder.step, 0, k, 0, n))
                return {"weight_addr": weight_addr, "weight_bits": layer.weight_bits}, decode

            _windowed_tile(builder, layer, "DEPTHWISE", box, {"param_addr": param_addr}, {param_load}, operands)


def _emit_pool(builder: ProgramBuilder, layer: PoolLayer) -> None:
    x, y, window = builder.graph.maps[layer.inputs[0]], builder.graph.maps[layer.output], layer.window
    for n, count in in_steps(y.c, builder.tiling.tile_oc):
        for row, h, pixel, w in _spaces(builder):
            if layer.kind == "max":
                taps = 1
            elif layer.count_include_pad:
                taps = window.kernel_h * window.kernel_w
            else:
                taps = valid_taps(row, window.stride_h, window.kernel_h, window.dilation_h, window.pad_top, x.h)
                taps *= valid_taps(pixel, window.stride_w, window.kernel_w, window.dilation_w, window.pad_left, x.w)
            multiplier, shift = layer.scales[taps]
            fixed: dict[str, int | str] = {"kind": layer.kind, "multiplier": multiplier, "shift": shift}
            box = Box(row, h, pixel, w, n, count)
            under = builder.input_view(0, box, window, 0, window.kernel_h) if builder.tiling.first_step else None
            if under is not None:
                _pool_in_two_steps(builder, layer, box, under, fixed)
            else:
                _windowed_tile(builder, layer, "POOL", box, fixed, set(), None)


def _pool_in_two_steps(
    builder: ProgramBuilder, layer: PoolLayer, box: Box, view: View, scale: dict[str, int | str]
) -> None:
    """``view``: all of the input under the tile. What lies between the steps is exact; only the second one rounds."""
    x, y = builder.graph.maps[layer.inputs[0]], builder.graph.maps[layer.output]
    spans = InputSpan(0, view.rows, view.pad_top), InputSpan(0, view.pixels, view.pad_left)
    first, second = two_windows(layer.window, *spans, (box.rows, box.pixels), builder.tiling.first_step)
    bits, zero_point = bits_between(layer, x), x.zero_point if layer.kind == "max" else 0
    pixel = channel_bytes(box.channels, bits)
    between = View(builder.blocks.between, first.out_w * pixel, pixel, first.out_h, first.out_w, 0, 0, frozenset())
    lo, hi = activation_limits(bits)
    both: dict[str, int | str] = {"channels": box.channels, "kind": layer.kind, "finish": 1}
    index = builder.emit(
        "POOL", view.writers, **view.fields("in"), **between.fields("out"), **vars(first), **both, multiplier=1, shift=0,
        in_bits=x.bits, in_zero_point=x.zero_point, out_bits=bits, out_zero_point=zero_point, clamp_lo=lo, clamp_hi=hi,
    )  # fmt: skip
    output = builder.output_view(box)
    index = builder.emit(
        "POOL", frozenset({index}), **between.fields("in"), **output.fields("out"), **vars(second), **(both | scale),
        in_bits=bits, in_zero_point=zero_point, out_bits=y.bits, out_zero_point=y.zero_point,
        clamp_lo=layer.clamp_lo, clamp_hi=layer.clamp_hi,
    )  # fmt: skip
    builder.finish_output(box, output, index)


def _windowed_tile(
    builder: ProgramBuilder,
    layer: DepthwiseLayer | PoolLayer,
    op: str,
    box: Box,
    fixed: dict[str, int] | dict[str, int | str],
    finish_reads: set[int],
    operands: Callable[[int], tuple[dict[str, int | str], int]] | None,
) -> None:
    """One output tile of a channel-wise window, its kernel rows in chunks. ``operands`` gives the weights of a kernel row."""
    in_h = builder.graph.maps[layer.inputs[0]].h
    chunks = kernel_chunks(layer.window, box.y, box.rows, builder.tiling.tile_kh, in_h)
    output, post = builder.output_view(box), None
    for position, (k, rows) in enumerate(chunks):
        view = builder.input_view(0, box, layer.window, k, rows) or _nowhere(layer.window, box, rows)
        more, decode = operands(k) if operands else ({}, None)
        finish = position == len(chunks) - 1
        reads = view.writers | ({decode} if decode is not None else set()) | (finish_reads if finish else set())
        post = _post_of_tile(builder, layer, box) if finish else None
        index = builder.emit(
            op,
            reads,
            **view.fields("in"),
            **_window_fields(layer.window, view, rows),
            **(output.fields("out") if post is None else {"forward": 1}),
            out_h=box.rows,
            out_w=box.pixels,
            channels=box.channels,
            **fixed,
            **more,
            **_numeric_fields(builder, layer),
            accumulate=int(position > 0),
            finish=int(finish),
        )
    builder.finish_output(box, output, post.emit(builder, output, reads) if post else index)


def _emit_pointwise(builder: ProgramBuilder, layer: EltwiseLayer | CopyLayer | TableLayer) -> None:
    if isinstance(layer, TableLayer):
        builder.table(layer.table)  # before the first tile
    for n, count in in_steps(builder.graph.maps[layer.output].c, builder.tiling.tile_oc):
        for row, h, pixel, w in _spaces(builder):
            box = Box(row, h, pixel, w, n, count)
            view = builder.input_view(0, box, Window(), 0, 1)
            assert view is not None  # no padding
            op, fields, reads = _pointwise(builder, layer, box)
            reads |= view.writers
            output = builder.output_view(box)
            fields |= view.fields("in") | output.fields("out")
            runs = layer.runs(n, count) if isinstance(layer, EltwiseLayer) else []
            parts = [_run(fields, first - n, channels, kind) for first, channels, kind in runs] or [fields]
            builder.finish_output(box, output, *(builder.emit(op, reads, **part) for part in parts))


def _pointwise(
    builder: ProgramBuilder, layer: EltwiseLayer | CopyLayer | TableLayer, box: Box
) -> tuple[str, dict[str, int | str], frozenset[int]]:
    """Instruction of a tile, its fields but for the views of input and output, and whose data it reads beside its input."""
    fields: dict[str, int | str] = {"h": box.rows, "w": box.pixels, "channels": box.channels}
    if isinstance(layer, TableLayer):
        x, y = builder.graph.maps[layer.inputs[0]], builder.graph.maps[layer.output]
        addr, load = builder.table(layer.table)
        fields |= {"table_addr": addr, "in_bits": x.bits, "out_bits": y.bits}
        return "TABLE", fields | {"knots": layer.knots, "origin": layer.origin}, frozenset({load})
    fields |= _numeric_fields(builder, layer) | {"multiplier": layer.multiplier, "shift": layer.shift}
    if isinstance(layer, CopyLayer):
        return "COPY", fields, frozenset()
    second, b = _second_operand(builder, layer, box), builder.graph.maps[layer.inputs[1]]
    fields |= second.fields("b") | {"b_bits": b.bits, "b_zero_point": b.zero_point, "kind": layer.kind}
    fields |= {"b_scalar": int(layer.b_scalar), "b_multiplier": layer.b_multiplier}
    return "ELTWISE", fields, second.writers


@dataclass(frozen=True)
class _Post:
    """The instruction that takes a tile in the post stage; what it reads is there."""

    op: str
    fields: dict[str, int | str]
    reads: frozenset[int]

    def emit(self, builder: ProgramBuilder, output: View, first_reads: frozenset[int]) -> int:
        """Behind the instruction that forwards, which reads the data of ``first_reads`` until this one ends."""
        return builder.emit(self.op, self.reads | first_reads, **self.fields, **output.fields("out"), forwarded=1)


def _post_of_tile(builder: ProgramBuilder, layer: AnyLayer, box: Box) -> _Post | None:
    post = post_of(layer)
    return None if post is None else _Post(*_pointwise(builder, post, box))


def _run(fields: dict[str, int | str], skipped: int, channels: int, kind: str) -> dict[str, int | str]:
    """An element-wise instruction on some of the channels of a tile, without the first ``skipped`` ones."""
    moved = {}
    for operand in ("in", "b", "out"):
        moved[f"{operand}_addr"] = int(fields[f"{operand}_addr"]) + channel_bytes(
            skipped, int(fields[f"{operand}_bits"])
        )
    return fields | moved | {"channels": channels, "kind": kind}


def _second_operand(builder: ProgramBuilder, layer: EltwiseLayer, box: Box) -> View:
    """The second operand's part for an output box; strides of 0 repeat a single row or pixel."""
    b = builder.graph.maps[layer.inputs[1]]
    part = Box(
        box.y if b.h > 1 else 0,
        box.rows if b.h > 1 else 1,
        box.x if b.w > 1 else 0,
        box.pixels if b.w > 1 else 1,
        0 if layer.b_scalar else box.c,
        1 if layer.b_scalar else box.channels,
    )
    view = builder.input_view(1, part, Window(), 0, 1)
    assert view is not None  # no padding
    return View(
        view.addr,
        view.row_stride if b.h > 1 else 0,
        view.pixel_stride if b.w > 1 else 0,
        view.rows,
        view.pixels,
        0,
        0,
        view.writers,
    )


_EMITTERS: dict[type, Callable] = {
    ConvLayer: _emit_conv,
    DepthwiseLayer: _emit_depthwise,
    PoolLayer: _emit_pool,
    EltwiseLayer: _emit_pointwise,
    CopyLayer: _emit_pointwise,
    TableLayer: _emit_pointwise,
    MoveLayer: emit_move,
}
