"""LOADW of entropy coded streams, from DRAM and prefetched into SRAM: values, time, stalls, and what damage is called."""

import re
from dataclasses import replace

import numpy as np
import pytest

from machine import weight_kinds
from qaccel.errors import QaccelError
from qaccel.machine.hw import HwConfig
from qaccel.machine.interpreter import streams
from qaccel.machine.isa import encode, instruction
from qaccel.machine.simulator import simulate
from qaccel.machine.streams import WeightTile, codec_of, encode_stream
from target.machine import HW, dense, pack, records, unpack, whole_range

ROWS, COLUMNS, MODES = 48, 32, ("functional", "cycle")
STREAM, PRODUCT = 0x2000, 0x10000  # in DRAM
PREFETCHED, X, PARAMS, OUT = 0x8000, 0, 0x4000, 0x10000  # in SRAM
LAYERS = ("stem", "head")
# (codec, kind of weights, bits): one stream of each codec, and of each width.
CODED = [
    ("raw", "uniform", 8), ("parametric", "gaussian", 8), ("parametric", "laplace", 4), ("entropy", "one sided", 8),
    ("palette", "palette", 16), ("zero_run", "dead channels", 16), ("zero_run", "dead channels", 8),
]  # fmt: skip


def tile_of(codec: str, kind: str, bits: int) -> tuple[WeightTile, bytes]:
    tile = WeightTile(weight_kinds.KINDS[kind](np.random.default_rng(0), ROWS, COLUMNS, bits), COLUMNS, bits)
    stream = encode_stream(tile, HW)
    assert codec_of(stream) == codec
    return tile, stream


def image_of(stream: bytes, at: int) -> np.ndarray:
    """DRAM that is zero but for the stream at an address."""
    dram = np.zeros(0x20000, np.uint8)
    dram[at : at + len(stream)] = np.frombuffer(stream, np.uint8)
    return dram


def loads(tile: WeightTile, stream: bytes, source: str, at: int, wait: int = 0, signal: int = 0) -> list:
    """Into the weight buffer: from DRAM, or from SRAM after a prefetch."""
    fields = {
        "stream_bytes": len(stream), "weight_count": tile.weights.size, "weight_bits": tile.bits,
        "row_weights": tile.row_weights, "layer": 1, "signal0": signal,
    }  # fmt: skip
    if source == "dram":
        return [instruction("LOADW", stream_addr=at, wait0=wait, **fields)]
    prefetch = instruction("LOAD_RAW", dram_addr=at, sram_addr=PREFETCHED, bytes=len(stream), signal0=2)
    return [prefetch, instruction("LOADW", source="sram", stream_addr=PREFETCHED, wait0=2, **fields)]


def run(program: list, dram: np.ndarray, mode: str, hw: HwConfig = HW) -> dict:
    return simulate(
        hw, encode(program), dram, mode=mode, initialised=[(0, dram.size)], program_addr=1 << 20, layers=LAYERS, trace=True
    )  # fmt: skip


def product(tile: WeightTile, stream: bytes, source: str) -> tuple[list, np.ndarray]:
    """A program that multiplies the unit matrix by the weights and stores the product; and its DRAM."""
    dram = image_of(stream, STREAM)
    unit, parameters = (
        pack(np.eye(ROWS, dtype=np.int64), 8),
        records([0] * COLUMNS, [1 << 30] * COLUMNS, [30] * COLUMNS),
    )
    dram[: len(unit) + len(parameters)] = np.frombuffer(unit + parameters, np.uint8)
    after = 2 if source == "dram" else 0  # LOADW comes last, so that COMPUTE waits for it
    ones = {k: 1 for k in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "in_h", "out_h")}
    program = [
        instruction("LOAD_RAW", dram_addr=0, sram_addr=X, bytes=len(unit)),
        instruction("LOAD_RAW", dram_addr=len(unit), sram_addr=PARAMS, bytes=len(parameters), signal0=3, signal1=after),
        *loads(tile, stream, source, STREAM, wait=after, signal=1),
        instruction(
            "CONV", layer=1, wait0=1, wait1=3, signal0=4, **ones, in_w=ROWS, out_w=ROWS, in_channels=ROWS,
            out_channels=COLUMNS, weight_bits=tile.bits, param_addr=PARAMS, finish=1, **dense("in", X, ROWS, ROWS, 8),
            **dense("out", OUT, ROWS, COLUMNS, 16), **whole_range(16),
        ),
        instruction(
            "STORE", layer=1, wait0=4, sram_addr=OUT, dram_addr=PRODUCT, rows=1, pixels=1, pixel_bytes=2 * ROWS * COLUMNS
        ),
    ]  # fmt: skip
    return program, dram


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["dram", "sram"])
@pytest.mark.parametrize(("codec", "kind", "bits"), CODED)
def test_weights_arrive(codec: str, kind: str, bits: int, source: str, mode: str) -> None:
    tile, stream = tile_of(codec, kind, bits)
    program, dram = product(tile, stream, source)
    run(program, dram, mode)
    found = unpack(dram[PRODUCT : PRODUCT + 2 * ROWS * COLUMNS].tobytes(), (ROWS, COLUMNS), 16)
    np.testing.assert_array_equal(found, tile.weights)


@pytest.mark.parametrize("read_bytes", [1, 2, 16])
@pytest.mark.parametrize(("codec", "kind", "bits"), CODED)
def test_time_from_sram(codec: str, kind: str, bits: int, read_bytes: int) -> None:
    """Start-up, then the larger of reading and decoding, whose cycles the plain decoder counts; COMPUTE stalls for it."""
    tile, stream = tile_of(codec, kind, bits)
    hw = replace(HW, stream_read_bytes_per_cycle=read_bytes)
    limits = hw.decoder_lanes, hw.decoder_table_bytes
    decoding = streams.decode(stream, tile.weights.size, COLUMNS, bits, *limits).cycles
    reading = -(-len(stream) // read_bytes)
    program, dram = product(tile, stream, "sram")
    result = run(program, dram, "cycle", hw)
    loadw = [ins.op for ins in program].index("LOADW")
    taken = result["trace"]["end"][loadw] - result["trace"]["start"][loadw]
    assert taken == hw.start_up_cycles.loadw + max(decoding, reading)
    stalls = result["layers"][1]["stalls"]
    assert (stalls["decode"], stalls["weight_load"]) == ((taken, 0) if decoding > reading else (0, taken))


def test_both_sides_decide_from_sram() -> None:
    """What the test before compares really differs."""
    longer = set()
    for codec, kind, bits in CODED:
        tile, stream = tile_of(codec, kind, bits)
        decoded = streams.decode(stream, tile.weights.size, COLUMNS, bits, HW.decoder_lanes, HW.decoder_table_bytes)
        longer |= {decoded.cycles > len(stream) / read_bytes for read_bytes in (1, 2, 16)}
    assert longer == {False, True}


@pytest.mark.parametrize("lanes", [4, 16])
def test_time_from_dram(lanes: int) -> None:
    """Few lanes: decoding decides. As many as usual, and the fetch with its latency does."""
    tile, _ = tile_of("parametric", "gaussian", 8)
    hw = replace(HW, decoder_lanes=lanes)
    stream = encode_stream(tile, hw)
    decoding = streams.decode(stream, tile.weights.size, COLUMNS, 8, lanes, hw.decoder_table_bytes).cycles
    fetching = -(-len(stream) // hw.dram_bytes_per_cycle) + hw.dram_latency_cycles
    result = run(loads(tile, stream, "dram", STREAM), image_of(stream, STREAM), "cycle", hw)
    assert (decoding > fetching) == (lanes == 4)
    assert result["trace"]["end"][0] - result["trace"]["start"][0] == hw.start_up_cycles.loadw + max(decoding, fetching)
    program, dram = product(tile, stream, "dram")
    (stalls,) = [layer["stalls"] for layer in run(program, dram, "cycle", hw)["layers"] if layer["layer"] == 1]
    longer, other = ("decode", "weight_load") if lanes == 4 else ("weight_load", "decode")
    assert stalls[longer] > 0 and stalls[other] == 0


def payload_of(stream: bytes) -> bytes:
    return stream[streams.HEADER_BYTES :]


def resealed(codec: str, payload: bytes, bits: int = 8) -> bytes:
    return streams.sealed(streams.CODECS.index(codec), bits, payload)


def with_bits(payload: bytes, begin: int, count: int, value: int) -> bytes:
    number = int.from_bytes(payload, "little")
    number = number & ~(((1 << count) - 1) << begin) | value << begin
    return number.to_bytes(len(payload), "little")


GAUSSIAN = payload_of(tile_of("parametric", "gaussian", 8)[1])
SKEWED = payload_of(tile_of("entropy", "one sided", 8)[1])


def described(*fields: tuple[int, int]) -> bytes:
    """(value, bits) one after the other, lowest bit first; behind them 15 bits that are one for each weight decoded."""
    number = at = 0
    for value, bits in (*fields, (0, 16), ((1 << 15 * (ROWS * COLUMNS - 2)) - 1, 15 * (ROWS * COLUMNS - 2))):
        number |= value << at
        at += bits
    return number.to_bytes(-(-at // 8), "little")


# One lane, tables of one symbol: value 100 and more, by 15 extra bits; runs of as many zeros, and the weight 0.
WIDE = described((0, 3), (0, 6), (100, 8), (0, 6), (15, 4))
LONG_RUN = described((0, 3), (0, 6), (0, 6), (15, 4), (0, 6), (0, 8), (0, 6), (0, 4))
DAMAGE = {
    "flipped": (bytes([1]) + resealed("parametric", GAUSSIAN)[1:-1] + b"x", "stream is damaged: checksum"),
    "cut": (resealed("parametric", GAUSSIAN[:-9]), "stream ends before its last weight"),
    "cut in the table": (resealed("entropy", SKEWED[:9]), "stream ends before its last weight"),
    "nothing": (resealed("palette", b""), "stream ends before its last weight"),
    "too long": (resealed("parametric", GAUSSIAN + bytes(3)), "3 bytes after its last weight"),
    "too many lanes": (resealed("parametric", with_bits(GAUSSIAN, 0, 3, 7)), "for 128 lanes, the decoder has 16"),
    "rest symbol": (resealed("entropy", with_bits(SKEWED, 3, 20, 2 | 63 << 14)), "the rest symbol of a table is 63 of 3"),
    "frequencies": (resealed("parametric", with_bits(GAUSSIAN, 12, 11, 2047)), "add up to .* without its rest symbol"),
    "long run": (resealed("zero_run", LONG_RUN), "a run of 32767 zeros where 1534 weights are left"),
    "wide weight": (resealed("entropy", WIDE), "stream has a weight outside of 8 bits"),
}  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("source", ["dram", "sram"])
@pytest.mark.parametrize("name", DAMAGE)
def test_damage_names_layer_and_chunk(name: str, source: str, mode: str) -> None:
    stream, message = DAMAGE[name]
    tile = WeightTile(np.zeros((ROWS, COLUMNS), np.int64), COLUMNS, 8)
    program = loads(tile, stream, source, STREAM)
    with pytest.raises(QaccelError) as caught:
        run(program, image_of(stream, STREAM), mode)
    text = str(caught.value)
    where = f"dram address {STREAM}" if source == "dram" else f"sram address {PREFETCHED}"
    assert text.startswith(f"machine error: instruction {len(program) - 1} (LOADW), layer 1 'head': {where}: "), text
    assert re.search(message, text) and "\n" not in text, text


@pytest.mark.parametrize("codec", streams.CODECS[1:])
def test_a_claim_of_many_weights_is_refused_before_decoding(codec: str) -> None:
    """More than the weight buffer holds, from a stream of a few bytes."""
    stream = resealed(codec, bytes(40))
    fields = {"stream_bytes": len(stream), "weight_count": (1 << 24) - 1, "row_weights": 65535}
    with pytest.raises(QaccelError, match="of the weight buffer, which has 65536"):
        run([instruction("LOADW", **fields)], image_of(stream, 0), "functional")
    with pytest.raises(QaccelError, match="of DRAM, which has 131072"):
        run([instruction("LOADW", **{**fields, "stream_bytes": 0xFFFFFFFF})], image_of(stream, 0), "functional")
