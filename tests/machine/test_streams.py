"""The codecs: lossless for every kind of tile, never larger than raw, the same in the plain decoder; and how small."""

from dataclasses import replace
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from machine import weight_kinds
from qaccel.errors import CompilerFault, QaccelError
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.interpreter import streams
from qaccel.machine.streams import (
    WeightTile,
    codec_of,
    decode_stream,
    encode_stream,
    encode_streams,
    entropy_bits,
    estimate_streams,
)
from target.machine import unpack

HW = load_config("qaccel-256")
# (decoder_lanes, decoder_table_bytes): the configs', none or one symbol, odd ones, more lanes than a stream can name.
DECODERS = [(16, 640), (8, 320), (32, 640), (1, 640), (1, 15), (12, 99), (3, 5), (200, 1 << 16), (16, 1), (16, 10)]
# (rows, row_weights, weights missing in the last row)
SHAPES = [
    (1, 1, 0), (1, 2, 0), (7, 1, 0), (300, 1, 0), (1, 300, 0), (9, 32, 0), (9, 5, 3), (27, 16, 0), (40, 24, 23),
    (64, 7, 0), (3, 130, 1), (64, 48, 0),
]  # fmt: skip
PLAIN_MOST = 320  # larger tiles take the plain decoder too long


def decoder(lanes: int, table_bytes: int) -> HwConfig:
    return replace(HW, decoder_lanes=lanes, decoder_table_bytes=table_bytes)


def raw_bytes(tile: WeightTile) -> int:
    return streams.HEADER_BYTES + -(-tile.weights.size * tile.bits // 8)


def check(tile: WeightTile, stream: bytes, hw: HwConfig, plain: bool) -> str:
    """Lossless, small enough, the same in both decoders; gives the codec."""
    weights, count = tile.weights.reshape(-1), tile.weights.size
    decoded = decode_stream(stream, count, tile.row_weights, tile.bits, hw)
    np.testing.assert_array_equal(unpack(decoded.packed, (count,), tile.bits), weights)
    assert len(decoded.packed) == -(-count * tile.bits // 8)
    assert len(stream) <= raw_bytes(tile)
    if plain:
        limits = hw.decoder_lanes, hw.decoder_table_bytes
        reference = streams.decode(stream, count, tile.row_weights, tile.bits, *limits)
        np.testing.assert_array_equal(reference.weights, weights)
        assert (decoded.codec, decoded.decode_cycles) == (reference.codec, reference.cycles)
    return decoded.codec


def random_tiles(seed: int) -> list[WeightTile]:
    """Every kind of weights at every width: in every shape, and a larger one of random size."""
    rng = np.random.default_rng(seed)
    tiles = []
    for make in weight_kinds.KINDS.values():
        for bits in (4, 8, 16):
            sizes = [*SHAPES, (int(rng.integers(20, 90)), int(rng.integers(8, 60)), int(rng.integers(0, 8)))]
            for rows, row_weights, missing in sizes:
                weights = make(rng, rows, row_weights, bits).reshape(-1)
                tiles.append(WeightTile(weights[: weights.size - missing], row_weights, bits))
    return tiles


@pytest.mark.parametrize(("lanes", "table_bytes"), DECODERS)
def test_round_trips(lanes: int, table_bytes: int) -> None:
    """A million weights over all decoders; a quarter of the small tiles also through the plain decoder."""
    hw, tiles = decoder(lanes, table_bytes), random_tiles(DECODERS.index((lanes, table_bytes)))
    codecs = set()
    for index, (tile, stream) in enumerate(zip(tiles, encode_streams(tiles, hw), strict=True)):
        codecs.add(check(tile, stream, hw, tile.weights.size <= PLAIN_MOST and index % 4 == lanes % 4))
    assert sum(tile.weights.size for tile in tiles) * len(DECODERS) >= 1_000_000
    assert codecs == (
        {"raw"} if table_bytes < 5 else set(streams.CODECS) - ({"zero_run"} if table_bytes < 10 else set())
    )


@st.composite
def odd_tiles(draw: st.DrawFn) -> tuple[WeightTile, HwConfig]:
    bits = draw(st.sampled_from((4, 8, 16)))
    half = 1 << (bits - 1)
    alphabet = draw(st.lists(st.integers(-half, half - 1), min_size=1, max_size=20))
    weights = draw(st.lists(st.sampled_from(alphabet) | st.just(0), min_size=1, max_size=150))
    repeats = draw(st.integers(1, 4))
    row_weights = draw(st.integers(1, 160) | st.just(65535))
    hw = decoder(draw(st.integers(1, 140)), draw(st.integers(1, 700)))
    return WeightTile(np.array(weights * repeats), row_weights, bits), hw


@settings(max_examples=250, deadline=None, derandomize=True)
@given(odd_tiles())
def test_any_tile_survives(case: tuple[WeightTile, HwConfig]) -> None:
    tile, hw = case
    check(tile, encode_stream(tile, hw), hw, plain=True)


@settings(max_examples=250, deadline=None, derandomize=True)
@given(odd_tiles(), st.data())
@pytest.mark.wide
def test_decoders_agree_on_damage(case: tuple[WeightTile, HwConfig], data: st.DataObject) -> None:
    """Bits of the payload flipped, bytes cut or added, the instruction's fields changed; the checksum made right again."""
    tile, hw = case
    stream = encode_stream(tile, hw)
    codec = data.draw(st.sampled_from([codec_of(stream)] * 3 + list(streams.CODECS)))
    payload = bytearray(stream[streams.HEADER_BYTES :])
    near = st.integers(0, min(len(payload), 24) * 8 - 1) | st.integers(0, len(payload) * 8 - 1)
    for bit in data.draw(st.lists(near, max_size=3)):
        payload[bit // 8] ^= 1 << bit % 8
    payload = payload[: len(payload) - data.draw(st.sampled_from([0, 0, 0, 1, 3]))] + bytes(
        data.draw(st.sampled_from([0, 0, 0, 1, 2]))
    )
    damaged = streams.sealed(streams.CODECS.index(codec), tile.bits, bytes(payload))
    count = max(1, tile.weights.size + data.draw(st.sampled_from([0, 0, 0, -1, 1, 7])))
    row_weights = max(1, tile.row_weights + data.draw(st.sampled_from([0, 0, 0, -1, 1])))
    if data.draw(st.booleans()):  # another machine's stream
        hw = decoder(data.draw(st.integers(1, 140)), data.draw(st.integers(1, 700)))
    limits = hw.decoder_lanes, hw.decoder_table_bytes
    try:
        wanted = streams.decode(damaged, count, row_weights, tile.bits, *limits)
    except streams.StreamFault:
        with pytest.raises(QaccelError):
            decode_stream(damaged, count, row_weights, tile.bits, hw)
        return
    decoded = decode_stream(damaged, count, row_weights, tile.bits, hw)
    assert decoded.packed == streams.packed(wanted.weights, tile.bits)
    assert (decoded.codec, decoded.decode_cycles) == (wanted.codec, wanted.cycles)


@pytest.mark.parametrize("bits", [4, 8, 16])
def test_incompressible_weights_cost_the_header_alone(bits: int) -> None:
    rng = np.random.default_rng(bits)
    tiles = []
    for count in [*range(1, 100), 127, 128, 129, 1000, 4096, 20_000]:
        weights = weight_kinds.KINDS["uniform"](rng, 1, count, bits).reshape(-1)
        tiles.append(WeightTile(weights, min(count, int(rng.integers(1, 70))), bits))
    for tile, stream in zip(tiles, encode_streams(tiles, HW), strict=True):
        check(tile, stream, HW, plain=tile.weights.size < 100)
        if tile.weights.size > 100:
            assert codec_of(stream) == "raw"


@pytest.mark.parametrize(
    ("codec", "kind", "rows", "bits"),
    [
        ("raw", "uniform", 64, 8),
        ("parametric", "gaussian", 27, 8),
        ("parametric", "laplace", 27, 4),
        ("parametric", "gaussian", 27, 16),
        ("entropy", "one sided", 512, 8),
        ("palette", "palette", 256, 8),
        ("palette", "palette", 256, 16),
        ("zero_run", "dead channels", 256, 8),
        ("zero_run", "dead channels", 256, 16),
    ],
)
def test_each_codec_is_chosen_where_it_should_be(codec: str, kind: str, rows: int, bits: int) -> None:
    weights = weight_kinds.KINDS[kind](np.random.default_rng(0), rows, 32, bits)
    assert codec_of(encode_stream(WeightTile(weights, 32, bits), HW)) == codec


@pytest.mark.parametrize(("weight", "rows"), [(0, 1 << 15), (1, 1 << 15), (-32768, 1 << 13), (32767, 1 << 13)])
def test_one_symbol_takes_no_bits(weight: int, rows: int) -> None:
    """What is left: header, lanes and table, and for each lane 16 bits of weights that its state holds."""
    bits = 16 if abs(weight) > 1 else 8
    tile = WeightTile(np.full((rows, 16), weight), 16, bits)
    stream = encode_stream(tile, HW)
    check(tile, stream, HW, plain=False)
    assert len(stream) <= streams.HEADER_BYTES + 8 + 2 * HW.decoder_lanes


@pytest.mark.parametrize("bits", [4, 8, 16])
@pytest.mark.parametrize("rows", [16, 2048])
def test_zeros_alone_are_one_run(rows: int, bits: int) -> None:
    """No weight is decoded one by one, as it is where only one is not zero."""
    tile = WeightTile(np.zeros((rows, 16), np.int32), 16, bits)
    stream = encode_stream(tile, HW)
    check(tile, stream, HW, plain=False)
    made = decode_stream(stream, rows * 16, 16, bits, HW)
    assert (made.codec, len(stream) <= 16, made.decode_cycles <= 8) == ("zero_run", True, True)
    tile.weights[-1, -1] = 1
    check(tile, other := encode_stream(tile, HW), HW, plain=False)
    assert decode_stream(other, rows * 16, 16, bits, HW).decode_cycles > 8


@pytest.mark.parametrize(("lanes", "table_bytes", "count"), [(1, 15, 170_000), (1, 640, 4_000_000), (1, 10, 70_000)])
def test_runs_longer_than_a_table_can_say(lanes: int, table_bytes: int, count: int) -> None:
    hw = decoder(lanes, table_bytes)
    weights = np.zeros(count, np.int32)
    weights[5] = 3
    tile = WeightTile(weights, 16, 4)
    check(tile, encode_stream(tile, hw), hw, plain=False)


def test_threads_change_nothing() -> None:
    """Many tiles on eight threads are the streams that one after the other gives."""
    tiles = random_tiles(99)[::3]
    with mock.patch("os.cpu_count", return_value=8):
        together = encode_streams(tiles, HW)
    with mock.patch("os.cpu_count", return_value=1):
        alone = [encode_stream(tile, HW) for tile in tiles]
    assert together == alone


@pytest.mark.parametrize("name", weight_kinds.BARS)
def test_within_two_percent_of_entropy(name: str) -> None:
    """64 Ki weights, as tiles of half of the weight buffer, all that each stream has counted."""
    weights, bits = weight_kinds.BARS[name](np.random.default_rng(7))
    assert weights.size == 1 << 16
    rows = HW.weight_buffer_bytes // 2 * 8 // bits // 64
    tiles = [WeightTile(part, 64, bits) for part in np.split(weights.reshape(-1, 64), weights.size // 64 // rows)]
    encoded = encode_streams(tiles, HW)
    for tile, stream in zip(tiles, encoded, strict=True):
        check(tile, stream, HW, plain=False)
    assert 8 * sum(map(len, encoded)) <= 1.02 * entropy_bits(weights)


@pytest.mark.parametrize("codec", ["entropy", "palette", "zero_run"])
def test_a_stream_for_a_larger_decoder_is_refused(codec: str) -> None:
    kind = {"entropy": "one sided", "palette": "palette", "zero_run": "dead channels"}[codec]
    tile = WeightTile(weight_kinds.KINDS[kind](np.random.default_rng(0), 256, 32, 8), 32, 8)
    stream = encode_stream(tile, HW)
    fields = tile.weights.size, 32, 8
    symbols = streams.decode(stream, *fields, HW.decoder_lanes, HW.decoder_table_bytes).table_symbols
    decode_stream(stream, *fields, decoder(16, 5 * symbols))
    with pytest.raises(QaccelError, match=f"tables of {5 * symbols} bytes, the decoder holds {5 * symbols - 1}"):
        decode_stream(stream, *fields, decoder(16, 5 * symbols - 1))
    with pytest.raises(QaccelError, match="is for 16 lanes, the decoder has 15"):
        decode_stream(stream, *fields, decoder(15, 640))


@pytest.mark.parametrize(("bits", "weight"), [(4, 8), (4, -9), (8, 128), (8, -129), (16, 32768), (16, -32769)])
def test_a_weight_outside_of_its_width_is_refused(bits: int, weight: int) -> None:
    weights = np.zeros(100, np.int64)
    weights[70] = weight
    with pytest.raises(CompilerFault, match=f"weight 70 of a tile is {weight}, outside of {bits} bits"):
        encode_stream(WeightTile(weights, 10, bits), HW)


@pytest.mark.parametrize("lanes", [8, 12, 16, 20, 31])
@pytest.mark.parametrize("columns", [8, 24, 64])
def test_estimated_cycles_are_the_decoders(lanes: int, columns: int) -> None:
    """Of tiles that were not measured, narrower ones too; a decoder's lanes need be no power of two, a stream's are."""
    hw = replace(HW, decoder_lanes=lanes)
    weights = np.rint(np.random.default_rng(7).laplace(0, 6, (288, 64))).clip(-127, 127).astype(np.int32)
    (line,) = estimate_streams([(weights, 8)], hw)
    tile = WeightTile(weights[:200, :columns], columns, 8)
    (stream,) = encode_streams([tile], hw)
    counted = decode_stream(stream, tile.weights.size, columns, 8, hw).decode_cycles
    assert abs(line.decode_cycles(200, columns) / counted - 1) < 0.05


@pytest.mark.parametrize(("dtype", "reach"), [(np.int8, 128), (np.int16, 32768), (np.float64, 128)])
def test_entropy_of_weights_that_reach_from_end_to_end(dtype: type, reach: int) -> None:
    weights = np.random.default_rng(4).integers(-reach, reach, (8, 500))
    weights[0, :2] = -reach, reach - 1
    counts = np.unique(weights, return_counts=True)[1]
    assert entropy_bits(weights.astype(dtype)) == pytest.approx(-(counts * np.log2(counts / weights.size)).sum())
