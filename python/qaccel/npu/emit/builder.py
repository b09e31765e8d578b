"""The program while it is written: its instructions so far, and what each block of SRAM and weight buffer holds by then.

``instructions.py`` asks for views of inputs, weights and parameters; what is not there yet is loaded first. Instructions come in an
order that is right one after the other; ``semaphores.py`` finds afterwards what may overlap. Beside each instruction its intent is
noted: the instructions whose data it means to read, which ``check/`` holds against what the addresses say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from ...machine.hw import HwConfig
from ...machine.isa import Instruction, instruction, isa
from ...machine.streams import codec_of
from ..extents import Span, align, first_pixel, made_map, made_maps, pixels_under, rows_under
from ..layers import AnyLayer, ChannelParams, FeatureMap, LayerGraph, Window, channel_bytes
from ..plan.ahead import record_bytes
from ..plan.allocate import Allocation, LayerBlocks
from ..plan.tiles.strided import Strided
from ..plan.tiles.tiling import Tiling
from .ahead import Ahead, channel_records
from .rows import SramRows
from .slots import Slots
from .stocks import Pace, Stocks
from .views import Box, View
from .weights import Streams, TileName


@dataclass(frozen=True)
class Program:
    """``constants`` lie in DRAM from ``constants_addr`` on. ``intent``: (reader, instructions whose data it reads).

    By layer: ``stream_bytes``, what its weight streams take, each once; ``codecs``, how many of them each codec made.
    ``pieces``: of maps that are nowhere as a whole, what `MapSlot` says.
    """

    instructions: tuple[Instruction, ...]
    intent: tuple[tuple[int, frozenset[int]], ...]
    constants: bytes
    constants_addr: int
    stream_bytes: tuple[int, ...]
    codecs: tuple[dict[str, int], ...]
    pieces: dict[int, list[tuple[int, int, int]]]


class ProgramBuilder:
    """Instructions of the layers so far; methods give addresses and append what loads and stores. ``step``: the layer in work."""

    def __init__(self, graph: LayerGraph, allocation: Allocation, streams: Streams, hw: HwConfig) -> None:
        self.graph, self.allocation, self.streams, self.hw = graph, allocation, streams, hw
        self.instructions: list[Instruction] = []
        self.intent: list[tuple[int, frozenset[int]]] = []
        self.constants = bytearray()
        self._constant_addr: dict[object, tuple[int, int]] = {}
        self.rows: dict[int, SramRows] = {
            index: SramRows(graph.maps[index], addr, graph.maps[index].h)
            for index, addr in allocation.sram_addr.items()
        }
        self._slots: dict[tuple[int, str], Slots] = {}
        self._tables: dict[int, int] = {}
        self._ahead = Ahead(graph, allocation.records, self.constant, self.emit)
        self._stocks = Stocks(allocation.stocks, streams, self._stock_stream)
        self._pace = Pace(allocation)
        self.pieces: dict[int, list[tuple[int, int, int]]] = {}
        self._keeping_weights = False
        self._stores: dict[int, set[int]] = {}
        self._ring: list[tuple[TileName, int, int, int]] = []  # tile, begin, end, instruction
        self._ring_end = 0
        self.stream_bytes = [0] * len(graph.layers)
        self.codecs: list[Counter[str]] = [Counter() for _ in graph.layers]
        self.begin_layer(0)

    def end_layer(self, step: int) -> None:
        """A layer, or the cascade that begins with it, is done."""
        self._stocks.go_on(step, 1.0)
        self._ahead.go_on(step)

    def begin_layer(self, step: int, within: Span | None = None) -> None:
        """Go on with a layer: with all of it, or with the rows ``(begin, length)`` of its output."""
        self.step = step
        self.within = within or (0, self.graph.maps[self.layer.output].h)
        blocks = self.blocks
        self._inputs = [self._slots_of(f"in{which}", addresses) for which, addresses in enumerate(blocks.inputs)]
        self._outputs, self._params = self._slots_of("out", blocks.output), self._slots_of("param", blocks.params)

    def _slots_of(self, kind: str, addresses: tuple[int, ...]) -> Slots:
        return self._slots.setdefault((self.step, kind), Slots(addresses))

    @property
    def layer(self) -> AnyLayer:
        return self.graph.layers[self.step]

    @property
    def tiling(self) -> Tiling:
        return self.allocation.tilings[self.step]

    @property
    def blocks(self) -> LayerBlocks:
        return self.allocation.blocks[self.step]

    def emit(self, op: str, reads: frozenset[int] = frozenset(), **values: int | str) -> int:
        index = len(self.instructions)
        self.instructions.append(instruction(op, **{"layer": self.step, **values}))
        if reads:
            self.intent.append((index, reads))
        return index

    def constant(self, key: object, make: Callable[[], bytes]) -> tuple[int, int]:
        """DRAM address and size of a constant, made on first use."""
        if key not in self._constant_addr:
            data = make()
            self._constant_addr[key] = (self.allocation.dram_bytes + len(self.constants), len(data))
            self.constants += data
        return self._constant_addr[key]

    def input_view(self, which: int, box: Box, window: Window, kernel_begin: int, kernel_rows: int) -> View | None:
        """The input that an output box needs through some rows of the kernel; ``box.c`` counts input channels.

        None if all of it is padding. Loads it unless it is resident or already in a slot.
        """
        source = self.layer.inputs[which]
        feature_map = made_maps(self.layer, self.graph.maps)[source]
        rows = rows_under(window, box.y, box.rows, kernel_begin, kernel_rows, feature_map.h)
        pixels = pixels_under(window, box.x, box.pixels, feature_map.w)
        if rows.length <= 0 or pixels.length <= 0:
            return None
        part = Box(rows.begin, rows.length, pixels.begin, pixels.length, box.c, box.channels)
        return self._sram_view(which, source, feature_map, part, rows.pad, pixels.pad)

    def _sram_view(
        self, which: int, source: int, feature_map: FeatureMap, part: Box, pad_top: int, pad_left: int
    ) -> View:
        map_row, map_pixel = feature_map.row_bytes, feature_map.pixel_bytes
        offset = part.y * map_row + part.x * map_pixel + channel_bytes(part.c, feature_map.bits)
        if source in self.rows:
            held = self.rows[source]
            addr = held.address(part.y) + offset - part.y * map_row
            writers = held.writers(part.y, part.rows)
            return View(addr, map_row, map_pixel, part.rows, part.pixels, pad_top, pad_left, writers)
        pixel = channel_bytes(part.channels, feature_map.bits)
        slots = self._inputs[which]
        found = slots.find(part)
        if found is None:
            addr = slots.next_addr
            index = self.emit(
                "LOAD",
                frozenset(self._stores.get(source, ())),
                dram_addr=self._dram_addr(source) + offset,
                dram_row_stride=map_row,
                dram_pixel_stride=map_pixel,
                sram_addr=addr,
                sram_row_stride=part.pixels * pixel,
                sram_pixel_stride=pixel,
                rows=part.rows,
                pixels=part.pixels,
                pixel_bytes=pixel,
            )
            slots.put(part, index)
            found = addr, index
        return View(
            found[0], part.pixels * pixel, pixel, part.rows, part.pixels, pad_top, pad_left, frozenset({found[1]})
        )

    def strided_input(self, which: int, part: Strided) -> View:
        """A strided part of an input; unless it is resident or already in a slot, it is loaded, repeated runs once."""
        source = self.layer.inputs[which]
        if source in self.rows:
            held = self.rows[source]
            writers = held.writers(*part.map_rows(held.map.row_bytes))
            addr = held.addr + part.begin
            return View(addr, part.row_stride, part.pixel_stride, part.rows, part.pixels, 0, 0, writers)
        rows = part.rows if part.row_stride else 1
        pixels = part.pixels if part.pixel_stride else 1
        row_bytes = pixels * part.run_bytes
        slots = self._inputs[which]
        found = slots.find(part)
        if found is None:
            addr = slots.next_addr
            index = self.emit(
                "LOAD",
                frozenset(self._stores.get(source, ())),
                dram_addr=self._dram_addr(source) + part.begin,
                dram_row_stride=part.row_stride,
                dram_pixel_stride=part.pixel_stride,
                sram_addr=addr,
                sram_row_stride=row_bytes,
                sram_pixel_stride=part.run_bytes,
                rows=rows,
                pixels=pixels,
                pixel_bytes=part.run_bytes,
            )
            slots.put(part, index)
            found = addr, index
        strides = row_bytes if part.row_stride else 0, part.run_bytes if part.pixel_stride else 0
        return View(found[0], *strides, part.rows, part.pixels, 0, 0, frozenset({found[1]}))

    def strided_output(self, part: Strided) -> View:
        """Where a strided part of the output goes; follow with ``finish_strided``."""
        if self.layer.output in self.rows:
            addr = self.rows[self.layer.output].addr + part.begin
            return View(addr, part.row_stride, part.pixel_stride, part.rows, part.pixels, 0, 0, frozenset())
        row_bytes = part.pixels * part.run_bytes
        return View(self._outputs.next_addr, row_bytes, part.run_bytes, part.rows, part.pixels, 0, 0, frozenset())

    def finish_strided(self, part: Strided, view: View, index: int) -> None:
        """Note that instruction ``index`` wrote the part, and store it if it is wanted in DRAM."""
        output = self.layer.output
        if output in self.rows:
            held = self.rows[output]
            held.wrote(*part.map_rows(held.map.row_bytes), {index})
        else:
            self._outputs.put(part, index)
        if output in self.allocation.dram_addr:
            self._store(output, part, view, frozenset({index}))
        self._tile_done()

    def _store(self, output: int, part: Strided, view: View, written_by: frozenset[int]) -> None:
        store = self.emit(
            "STORE",
            written_by,
            dram_addr=self.allocation.dram_addr[output] + part.begin,
            dram_row_stride=part.row_stride,
            dram_pixel_stride=part.pixel_stride,
            sram_addr=view.addr,
            sram_row_stride=view.row_stride,
            sram_pixel_stride=view.pixel_stride,
            rows=part.rows,
            pixels=part.pixels,
            pixel_bytes=part.run_bytes,
        )
        self._stores.setdefault(output, set()).add(store)

    def _dram_addr(self, source: int) -> int:
        data = self.graph.maps[source].data
        if data is not None:
            return self.constant(("map", source), lambda: data)[0]
        return self.allocation.dram_addr[source]

    def output_view(self, box: Box) -> View:
        """Where an output box goes; follow with ``finish_output``."""
        target, row = made_map(self.layer, self.graph.maps), self.graph.maps[self.layer.output].row_bytes
        if self.layer.output in self.rows:
            pixel = target.pixel_bytes
            addr = self.rows[self.layer.output].address(box.y) + self._within_row(box)
        else:
            pixel = channel_bytes(box.channels, target.bits)
            row, addr = box.pixels * pixel, self._outputs.next_addr
        return View(addr, row, pixel, box.rows, box.pixels, 0, 0, frozenset())

    def finish_output(self, box: Box, view: View, *written_by: int) -> None:
        """Note which instructions wrote the box, the last one last, and store it if it is wanted in DRAM."""
        output, target = self.layer.output, made_map(self.layer, self.graph.maps)
        if output in self.rows:
            self.rows[output].wrote(box.y, box.rows, written_by)
        else:
            self._outputs.put(box, written_by[-1])
        if output in self.allocation.dram_addr:
            row = self.graph.maps[output].row_bytes
            run_bytes = channel_bytes(box.channels, target.bits)
            part = Strided(
                box.y * row + self._within_row(box), box.rows, row, box.pixels, target.pixel_bytes, run_bytes
            )
            self._store(output, part, view, frozenset(written_by))
        self._tile_done()

    def _within_row(self, box: Box) -> int:
        """Bytes of an output row before a box."""
        target = self.graph.maps[self.layer.output]
        return first_pixel(self.layer, target, box.x) * target.pixel_bytes + channel_bytes(box.c, target.bits)

    def params(self, params: ChannelParams, begin: int, count: int) -> tuple[int, int]:
        """SRAM address of the records of some channels, loaded unless they are there, and the loading instruction."""
        merged = self._ahead.records(self.step)
        if merged is not None:
            return merged[0] + begin * isa().params_bytes, merged[1]
        key = begin, count
        found = self._params.find(key)
        if found is None:
            dram_addr, size = self.constant((self.step, "params", key), lambda: channel_records(params, begin, count))
            addr = self._params.next_addr
            index = self.emit("LOAD_RAW", dram_addr=dram_addr, sram_addr=addr, bytes=size)
            self._params.put(key, index)
            found = addr, index
        return found

    def table(self, data: bytes) -> tuple[int, int]:
        """SRAM address of the layer's table, loaded on first use, and the loading instruction."""
        merged = self._ahead.records(self.step)
        if merged is not None:
            return merged[0] + record_bytes(self.layer) - len(data), merged[1]
        if self.step not in self._tables:
            dram_addr, size = self.constant((self.step, "table"), lambda: data)
            self._tables[self.step] = self.emit(
                "LOAD_RAW", dram_addr=dram_addr, sram_addr=self.blocks.table, bytes=size
            )
        return self.blocks.table, self._tables[self.step]

    def load_rows(self, source: int, y: int, rows: int) -> None:
        """Load some rows of a map into its ring."""
        held = self.rows[source]
        row_bytes = held.map.row_bytes
        index = self.emit(
            "LOAD",
            frozenset(self._stores.get(source, ())),
            dram_addr=self._dram_addr(source) + y * row_bytes,
            dram_row_stride=row_bytes,
            dram_pixel_stride=held.map.pixel_bytes,
            sram_addr=held.address(y),
            sram_row_stride=row_bytes,
            sram_pixel_stride=held.map.pixel_bytes,
            rows=rows,
            pixels=held.map.w,
            pixel_bytes=held.map.pixel_bytes,
        )
        held.wrote(y, rows, {index})

    def keep_weights(self, total_bytes: int) -> None:
        """All tiles of weights from here on stay together, so many bytes in all; 0: no longer."""
        self._keeping_weights = False
        self.reserve_weights(total_bytes)
        self._keeping_weights = total_bytes > 0

    def reserve_weights(self, total_bytes: int) -> None:
        """Start at the buffer's begin if tiles that are to stay together would wrap around its end."""
        if self._keeping_weights:
            return
        if self._ring_end + total_bytes > self.hw.weight_buffer_bytes >= total_bytes:
            self._ring_end = 0

    def weights(self, name: TileName) -> tuple[int, int]:
        """Weight buffer address of a tile, decoded there unless it still is, and the decoding instruction."""
        for held, begin, _, index in self._ring:
            if held == name:
                return begin, index
        tile = self.streams[name]
        stock = self._stocks.held(name)
        addr, stream_bytes = self._constant_stream(name)
        begin = self._ring_end if self._ring_end + tile.size_bytes <= self.hw.weight_buffer_bytes else 0
        end = begin + align(tile.size_bytes)
        self._ring = [entry for entry in self._ring if entry[2] <= begin or end <= entry[1]]
        index = self.emit(
            "LOADW",
            frozenset() if stock is None else frozenset({stock[1]}),
            source="dram" if stock is None else "sram",
            stream_addr=addr if stock is None else stock[0],
            stream_bytes=stream_bytes,
            buffer_addr=begin,
            weight_count=tile.weight_count,
            weight_bits=tile.bits,
            row_weights=tile.row_weights,
        )
        self._ring.append((name, begin, end, index))
        self._ring_end = end
        self._stocks.decoded(name)
        return begin, index

    def _constant_stream(self, name: TileName) -> tuple[int, int]:
        """DRAM address and bytes of a tile's stream, which is counted on first use."""

        def counted() -> bytes:
            self.stream_bytes[name.layer] += len(stream)
            self.codecs[name.layer][codec_of(stream)] += 1
            return stream

        stream = self.streams[name].stream
        return self.constant(name, counted)

    def _stock_stream(self, name: TileName, sram_addr: int) -> int:
        """Load the stream of a layer that comes later."""
        dram_addr, size = self._constant_stream(name)
        return self.emit("LOAD_RAW", layer=name.layer, dram_addr=dram_addr, sram_addr=sram_addr, bytes=size)

    def _tile_done(self) -> None:
        self._stocks.go_on(*self._pace.tile_done(self.step))

    def program(self) -> Program:
        return Program(
            tuple(self.instructions),
            tuple(self.intent),
            bytes(self.constants),
            self.allocation.dram_bytes,
            tuple(self.stream_bytes),
            tuple(map(dict, self.codecs)),
            self.pieces,
        )
