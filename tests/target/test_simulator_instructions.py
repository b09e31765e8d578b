"""Every instruction against plain NumPy, in both modes."""

import bisect
from fractions import Fraction

import numpy as np
import pytest

from qaccel.machine.interpreter.streams import raw_stream
from qaccel.machine.isa import encode, instruction
from qaccel.machine.numerics import activation_limits
from qaccel.machine.simulator import simulate
from reference.programs import chained
from target.machine import (
    HW,
    WIDTHS,
    dense,
    execute,
    pack,
    pixel_bytes,
    records,
    requantized,
    taps,
    unpack,
    whole_range,
)

PAIRS = [(w, a) for w in WIDTHS for a in WIDTHS]
OUT, PARAMS = 0x8000, 0x4000
WINDOW = {
    "in_h": 5, "in_w": 6, "kernel_h": 3, "kernel_w": 2, "stride_h": 2, "stride_w": 1, "dilation_h": 1, "dilation_w": 3,
    "pad_top": 1, "pad_left": 2, "out_h": 3, "out_w": 7,
}  # fmt: skip


def random_values(rng: np.random.Generator, shape: tuple[int, ...], bits: int) -> np.ndarray:
    """Over the whole range, extremes often."""
    lo, hi = activation_limits(bits)
    values = rng.integers(lo, hi + 1, shape)
    return np.where(rng.random(shape) < 0.2, rng.choice([lo, hi], shape), values)


def zero_point(bits: int) -> int:
    return 0 if bits == 16 else activation_limits(bits)[0] + 3


def random_scales(rng: np.random.Generator, channels: int, magnitude_bits: int, out_bits: int):
    multiplier = rng.integers(1 << 30, 1 << 31, channels)
    multiplier[0] = 1 << 30  # ties
    shift = np.full(channels, 30 + magnitude_bits - out_bits)
    return rng.integers(-100, 100, channels), multiplier, shift


@pytest.mark.parametrize(("weight_bits", "activation_bits"), PAIRS)
@pytest.mark.parametrize("out_bits", WIDTHS)
def test_conv(weight_bits: int, activation_bits: int, out_bits: int) -> None:
    rng = np.random.default_rng([weight_bits, activation_bits, out_bits])
    ic, oc = 5, 19
    x = random_values(rng, (5, 6, ic), activation_bits)
    w = random_values(rng, (3, 2, ic, oc), weight_bits)
    rows = w.reshape(-1, oc)
    if weight_bits == 4:
        rows = np.pad(rows, ((0, 0), (0, 1)))  # every row begins on a byte
    bias, multiplier, shift = random_scales(rng, oc, weight_bits + activation_bits + 1, out_bits)
    z, zo = zero_point(activation_bits), zero_point(out_bits)
    acc = np.tile(bias.astype(np.int64), (3, 7, 1))
    for ky in range(3):
        for kx in range(2):
            value, inside = taps(x, WINDOW, ky, kx)
            acc = acc + np.where(inside, value - z, 0) @ w[ky, kx]
    ins = instruction(
        "CONV", **WINDOW, **dense("in", 0, 6, ic, activation_bits), **dense("out", OUT, 7, oc, out_bits), in_channels=ic,
        out_channels=oc, weight_addr=64, param_addr=PARAMS, weight_bits=weight_bits, in_bits=activation_bits,
        in_zero_point=z, out_zero_point=zo, finish=1, **whole_range(out_bits),
    )  # fmt: skip
    sram = {0: pack(x, activation_bits), PARAMS: records(bias, multiplier, shift)}
    data = execute([ins], sram, (OUT, 21 * pixel_bytes(oc, out_bits)), {64: (rows, weight_bits)})
    expected = requantized(acc, multiplier, shift, zo, *activation_limits(out_bits))
    np.testing.assert_array_equal(unpack(data, (3, 7, oc), out_bits), expected)


def test_conv_of_many_channels_at_extremes_is_exact() -> None:
    """16-bit sums leave 32 bits; the machine's accumulators do not."""
    ic, oc = 700, 3
    x = np.full((1, 1, ic), -(1 << 15))
    w = np.full((ic, oc), -(1 << 15))
    w[:, 1] = (1 << 15) - 1
    w[:, 2] = np.arange(ic) - 350
    acc = x[0] @ w
    multiplier, shift = [1 << 30] * oc, [30 + 26] * oc
    ins = instruction(
        "CONV", in_h=1, in_w=1, kernel_h=1, kernel_w=1, stride_h=1, stride_w=1, dilation_h=1, dilation_w=1, out_h=1, out_w=1,
        in_channels=ic, out_channels=oc, out_addr=OUT, param_addr=PARAMS, weight_bits=16, in_bits=16, finish=1,
        **whole_range(16),
    )  # fmt: skip
    sram = {0: pack(x, 16), PARAMS: records([0] * oc, multiplier, shift)}
    data = execute([ins], sram, (OUT, 2 * oc), {0: (w, 16)})
    lo, hi = activation_limits(16)
    np.testing.assert_array_equal(unpack(data, (1, oc), 16), requantized(acc, multiplier, shift, 0, lo, hi))


def test_conv_accumulates_over_instructions() -> None:
    rng = np.random.default_rng(3)
    x, w = random_values(rng, (2, 3, 8), 8), random_values(rng, (8, 4), 8)
    bias, multiplier, shift = random_scales(rng, 4, 12, 8)
    window = {k: 1 for k in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w")}
    parts = [
        instruction(
            "CONV", **window, in_h=2, in_w=3, out_h=2, out_w=3, in_addr=4 * part, in_row_stride=24, in_pixel_stride=8,
            in_channels=4, out_channels=4, weight_addr=16 * part, param_addr=PARAMS, **dense("out", OUT, 3, 4, 8),
            accumulate=part, finish=part, **whole_range(8),
        )
        for part in (0, 1)
    ]  # fmt: skip
    between = instruction(
        "COPY", in_addr=0, out_addr=0x9000, h=1, w=1, channels=4, multiplier=1, in_pixel_stride=4, **whole_range(8)
    )
    sram = {0: pack(x, 8), PARAMS: records(bias, multiplier, shift)}
    data = execute([parts[0], between, parts[1]], sram, (OUT, 24), {0: (w, 8)})
    expected = requantized(x.astype(np.int64) @ w + bias, multiplier, shift, 0, -128, 127)
    np.testing.assert_array_equal(unpack(data, (2, 3, 4), 8), expected)


@pytest.mark.parametrize(("weight_bits", "activation_bits"), PAIRS)
def test_depthwise(weight_bits: int, activation_bits: int) -> None:
    rng = np.random.default_rng([weight_bits, activation_bits])
    channels, out_bits = 21, 8
    x = random_values(rng, (5, 6, channels), activation_bits)
    w = random_values(rng, (3, 2, channels), weight_bits)
    rows = w.reshape(6, channels)
    if weight_bits == 4:
        rows = np.pad(rows, ((0, 0), (0, 1)))
    bias, multiplier, shift = random_scales(rng, channels, weight_bits + activation_bits, out_bits)
    z = zero_point(activation_bits)
    acc = np.tile(bias.astype(np.int64), (3, 7, 1))
    for ky in range(3):
        for kx in range(2):
            value, inside = taps(x, WINDOW, ky, kx)
            acc = acc + np.where(inside, value - z, 0) * w[ky, kx]
    ins = instruction(
        "DEPTHWISE", **WINDOW, **dense("in", 0, 6, channels, activation_bits), **dense("out", OUT, 7, channels, out_bits),
        channels=channels, param_addr=PARAMS, weight_bits=weight_bits, in_bits=activation_bits, in_zero_point=z,
        finish=1, **whole_range(out_bits),
    )  # fmt: skip
    sram = {0: pack(x, activation_bits), PARAMS: records(bias, multiplier, shift)}
    data = execute([ins], sram, (OUT, 21 * channels), {0: (rows, weight_bits)})
    np.testing.assert_array_equal(unpack(data, (3, 7, channels), 8), requantized(acc, multiplier, shift, 0, -128, 127))


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("kind", ["max", "sum"])
def test_pool(bits: int, kind: str) -> None:
    rng = np.random.default_rng(bits)
    channels, z = 17, zero_point(bits)
    window = {**WINDOW, "dilation_w": 1, "pad_left": 1, "pad_top": 1, "out_h": 3, "out_w": 6}
    x = random_values(rng, (5, 6, channels), bits)
    stack = [taps(x, window, ky, kx) for ky in range(3) for kx in range(2)]
    if kind == "sum":
        acc = sum(np.where(inside, value - z, 0) for value, inside in stack)
    else:
        acc = np.max([np.where(inside, value - z, -(1 << 40)) for value, inside in stack], axis=0)
    multiplier, shift = 0x55555555, 33
    ins = instruction(
        "POOL", **window, **dense("in", 0, 6, channels, bits), **dense("out", OUT, 6, channels, bits), channels=channels,
        kind=kind, multiplier=multiplier, shift=shift, in_bits=bits, in_zero_point=z, out_zero_point=z, finish=1,
        **whole_range(bits),
    )  # fmt: skip
    data = execute([ins], {0: pack(x, bits)}, (OUT, 18 * pixel_bytes(channels, bits)))
    expected = requantized(acc, [multiplier] * channels, [shift] * channels, z, *activation_limits(bits))
    np.testing.assert_array_equal(unpack(data, (3, 6, channels), bits), expected)


ELTWISE = {
    "add": lambda a, b, ma, mb: a * ma + b * mb,
    "sub": lambda a, b, ma, mb: a * ma - b * mb,
    "mul": lambda a, b, ma, mb: a * b * ma,
    "min": lambda a, b, ma, mb: np.minimum(a * ma, b * mb),
    "max": lambda a, b, ma, mb: np.maximum(a * ma, b * mb),
}


@pytest.mark.parametrize("kind", list(ELTWISE))
@pytest.mark.parametrize("operand", ["dense", "scalar", "pixel", "row"])
@pytest.mark.parametrize(("a_bits", "b_bits"), PAIRS)
def test_eltwise(kind: str, operand: str, a_bits: int, b_bits: int) -> None:
    rng = np.random.default_rng([a_bits, b_bits])
    h, w, c, out_bits = 2, 3, 33, a_bits
    shape = {"dense": (h, w, c), "scalar": (h, w, 1), "pixel": (1, 1, c), "row": (1, w, c)}[operand]
    a, b = random_values(rng, (h, w, c), a_bits), random_values(rng, shape, b_bits)
    za, zb = zero_point(a_bits), zero_point(b_bits)
    ma, mb = 0x60000000, 0 if kind == "mul" else 0x30000001
    shift = 30 + (a_bits + b_bits if kind == "mul" else max(a_bits, b_bits)) - out_bits
    b_pixel = pixel_bytes(shape[2], b_bits)
    ins = instruction(
        "ELTWISE", **dense("in", 0, w, c, a_bits), **dense("out", OUT, w, c, out_bits), b_addr=0x2000,
        b_pixel_stride=0 if shape[1] == 1 else b_pixel, b_row_stride=0 if shape[0] == 1 else w * b_pixel,
        h=h, w=w, channels=c, kind=kind, b_scalar=int(operand == "scalar"), in_bits=a_bits, b_bits=b_bits,
        in_zero_point=za, b_zero_point=zb, multiplier=ma, b_multiplier=mb, shift=shift, **whole_range(out_bits),
    )  # fmt: skip
    data = execute([ins], {0: pack(a, a_bits), 0x2000: pack(b, b_bits)}, (OUT, h * w * pixel_bytes(c, out_bits)))
    t = np.broadcast_to(ELTWISE[kind](a - za, b - zb, ma, mb), (h, w, c))
    expected = requantized(t, [1] * c, [shift] * c, 0, *activation_limits(out_bits))
    np.testing.assert_array_equal(unpack(data, (h, w, c), out_bits), expected)


def test_eltwise_overwrites_either_operand() -> None:
    a, b = np.arange(-8, 8).reshape(1, 2, 8), np.arange(16).reshape(1, 2, 8)
    for place in (0, 0x2000):
        ins = instruction(
            "ELTWISE", **dense("in", 0, 2, 8, 8), **dense("b", 0x2000, 2, 8, 8), **dense("out", place, 2, 8, 8), h=1, w=2,
            channels=8, kind="sub", multiplier=1, b_multiplier=2, **whole_range(8),
        )  # fmt: skip
        data = execute([ins], {0: pack(a, 8), 0x2000: pack(b, 8)}, (place, 16))
        np.testing.assert_array_equal(unpack(data, (1, 2, 8), 8), a - 2 * b)


@pytest.mark.parametrize("out_bits", [4, 8, 16])
@pytest.mark.parametrize("origin", [0, -300, 32767, -32768])
def test_table_of_octaves(origin: int, out_bits: int) -> None:
    """Every 16-bit input, against plain Python integers: the knots are found by search, not by their formula."""
    rng = np.random.default_rng([7, origin + 32768, out_bits])
    distances = [*range(32), *((32 + k) << over for over in range(11) for k in range(32)), 1 << 16]
    assert len(distances) == 385
    table = random_values(rng, (770,), out_bits)
    x = np.arange(-(1 << 15), 1 << 15).reshape(16, 64, 64)
    expected = []
    for q in x.reshape(-1).tolist():
        m, side = (q - origin, 0) if q >= origin else (origin - 1 - q, 385)
        j = bisect.bisect_right(distances, m) - 1
        below, above = int(table[side + j]), int(table[side + j + 1])
        expected.append(round(below + Fraction((above - below) * (m - distances[j]), distances[j + 1] - distances[j])))
    ins = instruction(
        "TABLE", **dense("in", 0, 64, 64, 16), **dense("out", 0x20000, 64, 64, out_bits), h=16, w=64, channels=64,
        table_addr=0x50000, in_bits=16, out_bits=out_bits, knots="octaves", origin=origin,
    )  # fmt: skip
    sram = {0: pack(x, 16), 0x50000: pack(table, 16)}
    data = execute([ins], sram, (0x20000, 1024 * pixel_bytes(64, out_bits)))
    np.testing.assert_array_equal(unpack(data, x.shape, out_bits).reshape(-1), expected)


@pytest.mark.parametrize(("in_bits", "out_bits"), PAIRS)
def test_table(in_bits: int, out_bits: int) -> None:
    rng = np.random.default_rng([in_bits, out_bits])
    count = 513 if in_bits == 16 else 1 << in_bits
    entry_bits = 16 if 16 in (in_bits, out_bits) else 8
    table = random_values(rng, (count,), out_bits)
    x = random_values(rng, (2, 2, 31), in_bits)
    i = x + (1 << (in_bits - 1))
    if in_bits == 16:
        j, f = i >> 7, i & 127
        t = table[j] * (128 - f) + table[j + 1] * f
        expected = requantized(t, [1] * 31, [7] * 31, 0, *activation_limits(out_bits))
    else:
        expected = table[i]
    ins = instruction(
        "TABLE", **dense("in", 0, 2, 31, in_bits), **dense("out", OUT, 2, 31, out_bits), h=2, w=2, channels=31,
        table_addr=0x3000, in_bits=in_bits, out_bits=out_bits,
    )  # fmt: skip
    sram = {0: pack(x, in_bits), 0x3000: pack(table, entry_bits)}
    data = execute([ins], sram, (OUT, 4 * pixel_bytes(31, out_bits)))
    np.testing.assert_array_equal(unpack(data, (2, 2, 31), out_bits), expected)


@pytest.mark.parametrize(("in_bits", "out_bits"), PAIRS)
def test_copy_rounds_halves_to_even(in_bits: int, out_bits: int) -> None:
    lo, hi = activation_limits(in_bits)
    x = np.arange(lo, hi + 1)[-5000:].reshape(1, 1, -1)
    z = zero_point(in_bits)
    for multiplier, shift in ((1, 1), (3, 2), (1 << 30, 31), (1, 0), (0x7FFFFFFF, 33), (5, 127), (1, 63), (1, 62)):
        ins = instruction(
            "COPY", in_addr=0, out_addr=OUT, h=1, w=1, channels=x.size, multiplier=multiplier, shift=shift,
            in_bits=in_bits, in_zero_point=z, out_zero_point=0, **whole_range(out_bits),
        )  # fmt: skip
        data = execute([ins], {0: pack(x, in_bits)}, (OUT, pixel_bytes(x.size, out_bits)))
        n = x.size
        expected = requantized(x - z, [multiplier] * n, [shift] * n, 0, *activation_limits(out_bits))
        np.testing.assert_array_equal(unpack(data, x.shape, out_bits), expected)


def test_copy_clamps() -> None:
    x = np.arange(-128, 128).reshape(1, 1, -1)
    ins = instruction(
        "COPY", in_addr=0, out_addr=OUT, h=1, w=1, channels=256, multiplier=1, out_zero_point=5, clamp_lo=-3, clamp_hi=9
    )
    data = execute([ins], {0: pack(x, 8)}, (OUT, 256))
    np.testing.assert_array_equal(unpack(data, x.shape, 8), np.clip(x + 5, -3, 9))


@pytest.mark.parametrize(("pad_bits", "pad_value"), [(4, -3), (8, -100), (16, -300)])
def test_load_pads_and_store_leaves_gaps(pad_bits: int, pad_value: int) -> None:
    """2 x 3 pixels of 4 bytes, 6 and 20 apart in DRAM, padded by 1, 0, 2, 1 and stored 5 and 40 apart."""
    source = np.arange(40, dtype=np.uint8)
    pixel = pack(np.full(32 // pad_bits, pad_value), pad_bits)
    expected = np.zeros(200, np.uint8)
    for r in range(3):
        for p in range(6):
            y, x = r - 1, p - 2
            inside = 0 <= y < 2 and 0 <= x < 3
            value = source[20 * y + 6 * x :][:4] if inside else np.frombuffer(pixel, np.uint8)
            expected[40 * r + 5 * p :][:4] = value
    instructions = chained(
        [
            instruction(
                "LOAD", dram_addr=200, dram_row_stride=20, dram_pixel_stride=6, sram_addr=7, sram_row_stride=50, sram_pixel_stride=8,
                rows=2, pixels=3, pixel_bytes=4, pad_top=1, pad_left=2, pad_right=1, pad_bits=pad_bits, pad_value=pad_value,
            ),
            instruction(
                "STORE", dram_row_stride=40, dram_pixel_stride=5, sram_addr=7, sram_row_stride=50, sram_pixel_stride=8, rows=3,
                pixels=6, pixel_bytes=4,
            ),
        ]
    )  # fmt: skip
    dram = np.concatenate([np.zeros(200, np.uint8), source])
    simulate(HW, encode(instructions), dram, initialised=[(200, 240)], read_only=[(200, 240)])
    np.testing.assert_array_equal(dram[:200], expected)


@pytest.mark.parametrize("bits", WIDTHS)
def test_loadw_from_sram_serves_as_from_dram(bits: int) -> None:
    values = random_values(np.random.default_rng(bits), (7, 3), bits)
    rows = np.pad(values, ((0, 0), (0, 1))) if bits == 4 else values
    stream = raw_stream(rows, bits)
    fields = {
        k: 1 for k in ("kernel_h", "kernel_w", "stride_h", "stride_w", "dilation_h", "dilation_w", "in_h", "in_w")
    }
    x = np.arange(7) - 3
    compute = [
        instruction(
            "LOADW", source="sram", stream_addr=0x5000, stream_bytes=len(stream), weight_count=rows.size,
            weight_bits=bits, row_weights=rows.shape[1],
        ),
        instruction(
            "CONV", **fields, out_h=1, out_w=1, in_channels=7, out_channels=3, weight_bits=bits, out_addr=OUT,
            param_addr=PARAMS, finish=1, **whole_range(16),
        ),
    ]  # fmt: skip
    sram = {0: pack(x, 8), 0x5000: stream, PARAMS: records([0] * 3, [1] * 3, [bits] * 3)}
    expected = requantized((x @ values).reshape(1, 3), [1] * 3, [bits] * 3, 0, -(1 << 15), (1 << 15) - 1)
    np.testing.assert_array_equal(unpack(execute(compute, sram, (OUT, 6)), (1, 3), 16), expected)
