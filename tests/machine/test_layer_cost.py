"""Estimates of whole layers: cases worked out by hand on qaccel-256."""

from dataclasses import replace

from qaccel.machine.cost import CopyWork
from qaccel.machine.hw import load_config
from qaccel.machine.layer_cost import LayerWork, block_cycles, engine_cycles, sram_stream_cycles, weight_waits

HW = load_config("qaccel-256")
COPY = CopyWork(h=10, w=10, channels=32, in_bits=8, out_bits=8)  # 24 + 100 cycles


def work(copies: int, streams: int = 0, stream_bytes: int = 0, decode_cycles: int = 0) -> LayerWork:
    """COMPUTE for 124 cycles a copy, and streams of so many bytes in all."""
    return LayerWork(
        computes=((COPY, copies),), loads=0, load_beats=0, weight_loads=streams, weight_bytes=stream_bytes,
        decode_cycles=decode_cycles, stores=0, store_beats=0, first_bytes=0, last_bytes=0,
    )  # fmt: skip


def test_engines() -> None:
    busy = engine_cycles(work(10, streams=2, stream_bytes=800, decode_cycles=50), HW)
    assert (busy.compute, busy.load, busy.store) == (1240, 0, 0)
    assert busy.loadw == 2 * (16 + 64) + 100
    assert busy.dram == (800 + 12 * 64) // 8
    assert engine_cycles(work(1, 2, 800, 300), HW).loadw == 2 * 16 + 300
    assert sram_stream_cycles(work(1, 2, 800, 20), HW) == 2 * 16 + 50
    assert sram_stream_cycles(work(1, 2, 800, 300), HW) == 2 * 16 + 300
    assert block_cycles(801, HW) == 16 + 64 + 101


def test_weights_that_fit_the_buffer_are_there_in_time() -> None:
    """The first layer waits for its only stream; LOADW is idle from when it has fetched the second one's."""
    layer = work(10, streams=1, stream_bytes=800)  # LOADW 180, COMPUTE 1240
    waits = weight_waits([layer, layer], [1000, 1000], HW)
    assert waits.compute == (180, 0)
    assert waits.loadw == (180 + 1240 - 360, 1240)


def test_compute_waits_for_more_weights_than_the_buffer_holds() -> None:
    """The second layer's streams have room when the first one is done: it waits for their first, and for what they take longer."""
    hw = replace(HW, weight_buffer_bytes=1500)
    first, second = work(10, streams=1, stream_bytes=800), work(2, streams=2, stream_bytes=8000)
    waits = weight_waits([first, second], [1000, 1000], hw)
    last = 2 * 80 + 1000 + 248 // 2  # from when it has room: both streams, and half of the computing
    assert waits.compute == (180, last - 248)
    assert waits.loadw == (1240, last - 1160)
    assert weight_waits([first, work(2)], [1000, 0], hw).compute == (180, 0), "a layer without weights waits for none"
