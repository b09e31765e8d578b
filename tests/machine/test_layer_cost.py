"""Estimates of whole layers: cases worked out by hand on qaccel-256."""

from dataclasses import replace

from qaccel.machine.cost import ConvWork, CopyWork, EltwiseWork, PostWork
from qaccel.machine.hw import load_config
from qaccel.machine.layer_cost import LayerWork, block_cycles, engine_cycles, sram_stream_cycles, weight_waits
from qaccel.machine.timeline import Turn, changed_cycles, network_cycles, turn_cycles

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


BEGIN = 64 + 64 // 8  # the first instruction is there


def turn(work: LayerWork, weight_bytes: int = 1000, **more: object) -> Turn:
    return Turn(work=work, weight_bytes=weight_bytes, weight_tiles=max(1, work.weight_loads), **more)


def test_a_forwarded_tile_counts_once() -> None:
    size = {"out_h": 4, "out_w": 4, "out_channels": 8}
    conv = ConvWork(
        kernel_h=1, kernel_w=1, in_channels=8, weight_bits=8, in_bits=8, out_bits=8, finish=1, forward=1, **size
    )
    add = EltwiseWork(h=4, w=4, channels=8, in_bits=8, out_bits=8, b_bits=8, b_scalar=0)
    computes = ((replace(conv, finish=0, forward=0), 6), (conv, 3), (PostWork(first=conv, then=add), 3))
    assert replace(work(0), computes=computes).tiles == 3
    assert replace(work(0), computes=((replace(conv, forward=0), 3),)).tiles == 3


def test_turns_wait_for_their_weights() -> None:
    """What has room in the buffer is there in time; what has none is fetched when the turn before it is done."""
    layer = turn(work(10, streams=1, stream_bytes=800))
    stream = 180 + 11 * 8  # in turn with 11 instructions
    assert turn_cycles([layer, layer], HW) == [BEGIN + stream + 1240, 1240]
    assert network_cycles([layer, layer], HW) == BEGIN + stream + 2 * 1240
    small = replace(HW, weight_buffer_bytes=1500)
    assert turn_cycles([layer, layer], small) == [BEGIN + stream + 1240, stream + 1240]
    two = turn(work(10, streams=2, stream_bytes=1600))  # the second of them needs the first one's place: 620 cycles
    assert turn_cycles([two], replace(HW, weight_buffer_bytes=500))[0] == BEGIN + 2 * (180 + 12 * 8 // 2 + 620)


def test_streams_from_a_stock_come_at_the_pace_of_sram() -> None:
    """40 streams of 8,000 bytes: from DRAM 1,080 cycles each, from SRAM 516; those that come again as room is made, as DRAM has them."""
    layer = turn(work(1, streams=40, stream_bytes=320_000), 40_000)
    plain, all_there = (network_cycles([replace(layer, stocked=n)], HW) for n in (0, 40))
    each = 80 + 1000 + 41 * 8 / 40  # in turn with 41 instructions
    assert plain - all_there == round(40 * (each - 516))
    half = network_cycles([replace(layer, stocked=20)], HW)
    assert half == (plain + all_there) // 2
    refilled = network_cycles([replace(layer, stocked=20, refilled=True)], HW)
    assert refilled == BEGIN + 516 + 20 * 1080 + 516 + round(124 / 40)  # LOAD is always as far as it has room


def test_what_is_fetched_for_later_turns_delays_the_next_weights() -> None:
    layer, waits = turn(work(1)), turn(work(1, streams=1, stream_bytes=8000))
    before = network_cycles([layer, waits], HW)
    assert network_cycles([replace(layer, ahead_bytes=4000), waits], HW) == before + 500


def test_records_for_later_turns_take_the_channel_in_turn_with_weights() -> None:
    """1,000 beats of records and as many of a stream, both from the begin on; those behind 40 instructions of COMPUTE come too late
    to delay it: the queue has no room for them until it has come."""
    waits = turn(work(1, streams=1, stream_bytes=8000))
    alone = turn_cycles([turn(work(1)), waits], HW)
    assert turn_cycles([turn(work(1), block_bytes=8000), waits], HW) == [alone[0], alone[1] + 1000]
    assert turn_cycles([turn(work(1), block_bytes=800), waits], HW) == [alone[0], alone[1] + 100]
    late = [turn_cycles([turn(work(40), block_bytes=size), waits], HW) for size in (0, 8000)]
    assert late[0] == late[1]


def test_maps_from_dram_come_in_turn() -> None:
    """Ten tiles: the first load is waited for, the others take longest; the last store comes behind all."""
    tiles = replace(
        work(10),
        loads=10,
        load_beats=5000,
        stores=10,
        store_beats=1000,
        first_bytes=4000,
        last_bytes=800,
        first_loads=1,
    )
    alone = network_cycles([turn(replace(tiles, stores=0, store_beats=0))], HW)
    instructions = 20 * 64 // 8  # fetched in turn with the first load
    assert alone == BEGIN + 10 * (80 + 500) + instructions + 124
    both = network_cycles([turn(tiles)], HW)
    shared = 4500 * 900 / (900 + 10 * 80)  # what the stores but the last take from the loads but the first
    assert abs(both - (alone + 10 * 8 + min(shared, 900) + 180 + 100 * 4500 / 5300)) <= 2


def test_loadw_holds_back() -> None:
    """Weights of the second turn come behind the first turn's first map or its last, or take the channel from both."""
    fed = replace(work(2), loads=2, load_beats=2000, first_bytes=8000, first_loads=1)
    later = turn(work(2, streams=1, stream_bytes=8000))
    free, first, last = ([turn(fed, 0, held=held), later] for held in (None, "first", "last"))
    times = [turn_cycles(each, HW)[0] for each in (free, first, last)]
    assert times[0] > times[1] > times[2]


def test_a_turn_that_is_another_one() -> None:
    """What it takes in its place is what it takes where all turns are followed with it."""
    turns = [Turn(work=work(10 * i, 3, 800 * i), weight_bytes=9000 * i, weight_tiles=3) for i in range(1, 7)]
    others = [
        (number, replace(turns[number], work=work(copies, 4, 5000)))
        for number in range(1, len(turns))
        for copies in (1, 90)
    ]
    expected = [turn_cycles([*turns[:n], turn, *turns[n + 1 :]], HW)[n] for n, turn in others]
    assert changed_cycles(turns, others, HW) == expected
    before = turn_cycles(turns, HW)
    assert all(cycles != before[number] for (number, _), cycles in zip(others, expected, strict=True))


def test_streams_take_from_the_first_loads_what_comes_in_their_time() -> None:
    """Of 200 cycles of loads 80 pass before the first stream of the next turn asks for the channel, 50 with it, and 70 before the
    second one does: however large those after it are, the loads wait for 50."""

    def first_turn(stream_bytes: int, next_bytes: int) -> int:
        loading = replace(work(1), loads=1, load_beats=200, first_bytes=1600, first_loads=1)
        turns = [loading, work(1, 2, stream_bytes), work(1, 1, next_bytes)]
        return turn_cycles([Turn(work=each, weight_bytes=1000, weight_tiles=1) for each in turns], HW)[0]

    assert first_turn(800, 80_000) - first_turn(0, 80_000) == 50
    assert first_turn(800, 800) == first_turn(800, 80_000)
