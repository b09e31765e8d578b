"""Vector instructions that the integer kernels are written in, by the features of a TVM target, as TIR expressions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import tvm
from tvm import tirx
from tvm.target import codegen

Expr = Any  # a TIR expression

_PACK16 = {64: "llvm.x86.avx512.packssdw.512", 32: "llvm.x86.avx2.packssdw", 16: "llvm.x86.sse2.packssdw.128"}
_PACK8 = {64: "llvm.x86.avx512.packsswb.512", 32: "llvm.x86.avx2.packsswb", 16: "llvm.x86.sse2.packsswb.128"}
_MADD = {64: "llvm.x86.avx512.pmaddw.d.512", 32: "llvm.x86.avx2.pmadd.wd", 16: "llvm.x86.sse2.pmadd.wd"}
_GATHER = "llvm.x86.avx2.gather.d.d.256"
GATHERED = 8  # words that it reads
_LANE = 16  # bytes of a lane that x86's unpack and pack instructions stay within


@dataclass(frozen=True)
class Vectors:
    """Vectors of ``vector_bytes`` in ``registers`` registers.

    ``bytes4`` multiplies unsigned by signed bytes and adds groups of four to 32-bit lanes (VNNI); ``signed4`` does so with
    both signed (NEON's dot product); ``words2`` adds pairs of products of 16-bit words (VNNI). None where the CPU lacks it.
    ``bytes_table``: whether it looks up bytes in 128 (VBMI). ``gather`` reads eight 32-bit words at once (AVX2).
    """

    x86: bool
    vector_bytes: int
    registers: int
    bytes4: str | None = None
    signed4: str | None = None
    words2: str | None = None
    fma: bool = False
    bytes_table: bool = False
    gather: str | None = None

    @staticmethod
    def anywhere() -> Vectors:
        """Plain vectors of 128 bits, which LLVM turns into what the CPU has."""
        return Vectors(False, 16, 16)

    @property
    def lanes(self) -> int:
        """32-bit lanes of a vector."""
        return self.vector_bytes // 4

    @property
    def in_lanes(self) -> bool:
        """Whether packing interleaves lanes of 128 bits, so that channels lie in the order of ``grouped_order``."""
        return self.x86 and self.vector_bytes > _LANE


def vectors_of(target: tvm.target.Target) -> Vectors:
    """The vector instructions of a TVM target, which must be of the kind llvm."""

    def has(*features: str) -> bool:
        return bool(codegen.target_has_features(list(features), target))

    if has("avx512f", "avx512bw", "avx512dq", "avx512vl"):
        dot = has("avx512vnni")
        return Vectors(
            True, 64, 32, "llvm.x86.avx512.vpdpbusd.512" if dot else None, None,
            "llvm.x86.avx512.vpdpwssd.512" if dot else None, True, has("avx512vbmi"), _GATHER,
        )  # fmt: skip
    if has("avx2"):
        dot = has("avxvnni")
        return Vectors(
            True, 32, 16, "llvm.x86.avx512.vpdpbusd.256" if dot else None, None,
            "llvm.x86.avx512.vpdpwssd.256" if dot else None, has("fma"), gather=_GATHER,
        )  # fmt: skip
    if has("sse2"):
        return Vectors(True, 16, 16, fma=has("fma"))
    if has("neon"):
        return Vectors(False, 16, 32, signed4="llvm.aarch64.neon.sdot" if has("dotprod") else None, fma=True)
    return Vectors.anywhere()


def narrowed(isa: Vectors, vector_bytes: int) -> Vectors:
    """The same instructions on shorter vectors."""
    if vector_bytes == isa.vector_bytes:
        return isa
    bits = vector_bytes * 8
    dots = [name and f"{name.rpartition('.')[0]}.{bits}" if isa.x86 else name for name in (isa.bytes4, isa.words2)]
    return replace(isa, vector_bytes=vector_bytes, bytes4=dots[0], words2=dots[1])


def const(value: int | float, dtype: str) -> Expr:
    """A constant; of a vector dtype, in every lane."""
    base, _, lanes = dtype.partition("x")
    scalar = tirx.const(value, base)
    return tirx.Broadcast(scalar, int(lanes)) if lanes else scalar


def ramp(base: Expr, lanes: int) -> Expr:
    """Indices of ``lanes`` neighbours from ``base`` on."""
    return tirx.Ramp(base, 1, lanes) if lanes > 1 else base


def of(dtype: str, lanes: int) -> str:
    """The vector dtype."""
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def load(buffer: Any, index: Expr, lanes: int) -> Expr:
    """``lanes`` neighbours of a flat buffer."""
    return buffer.vload([index], of(str(buffer.dtype), lanes))


def intrinsic(dtype: str, name: str, *args: Expr) -> Expr:
    """A pure LLVM intrinsic."""
    return tirx.call_llvm_pure_intrin(dtype, name, *args)


def shuffle(parts: Sequence[Expr], indices: Sequence[int]) -> Expr:
    """The lanes at ``indices`` of the parts one after the other."""
    return tirx.Shuffle(list(parts), [tirx.const(int(index), "int32") for index in indices])


def lanes_of(value: Expr) -> int:
    """Lanes of an expression."""
    return int(str(value.ty.dtype).partition("x")[2] or 1)


def grouped_order(isa: Vectors, size: int) -> list[int]:
    """Channels in the order in which ``size`` (1, 2 or 4) vectors hold them so that ``packed`` puts them side by side."""
    lanes = isa.lanes
    if size == 1 or not isa.in_lanes:
        return list(range(size * lanes))
    return [lane * 4 * size + vector * 4 + k for vector in range(size) for lane in range(lanes // 4) for k in range(4)]


def packed(isa: Vectors, values: Sequence[Expr], bits: int) -> Expr:
    """1, 2 or 4 int32 vectors in ``grouped_order``, saturated to one vector of int8 or int16 in channel order."""
    lanes = lanes_of(values[0])
    if not isa.x86 or len(values) == 1:
        whole = values[0] if len(values) == 1 else shuffle(values, range(len(values) * lanes))
        count = len(values) * lanes
        lo, hi = const(-(1 << (bits - 1)), of("int32", count)), const((1 << (bits - 1)) - 1, of("int32", count))
        return tirx.max(tirx.min(whole, hi), lo).astype(of(f"int{bits}", count))
    size = isa.vector_bytes
    words = [
        intrinsic(of("int16", 2 * lanes), _PACK16[size], first, second)
        for first, second in zip(values[::2], values[1::2], strict=True)
    ]
    if bits == 16 and len(words) == 2:
        return shuffle(
            words, [at + k for lane in range(0, 2 * lanes, 8) for at in (lane, 2 * lanes + lane) for k in range(8)]
        )
    if bits == 16:
        return words[0]
    if len(words) == 2:
        return intrinsic(of("int8", 4 * lanes), _PACK8[size], *words)
    lo, hi = const(-128, of("int16", 2 * lanes)), const(127, of("int16", 2 * lanes))
    return tirx.max(tirx.min(words[0], hi), lo).astype(of("int8", 2 * lanes))


def interleaved(rows: Sequence[Expr]) -> list[Expr]:
    """2 or 4 vectors -> as many: groups of one element of each, channels in ``grouped_order``.

    As x86's unpack instructions do it, within lanes of 128 bits.
    """
    if len(rows) == 1:
        return list(rows)
    if len(rows) == 2:
        return list(_unpacked(rows[0], rows[1], 1))
    low01, high01 = _unpacked(rows[0], rows[1], 1)
    low23, high23 = _unpacked(rows[2], rows[3], 1)
    return [*_unpacked(low01, low23, 2), *_unpacked(high01, high23, 2)]


def _unpacked(first: Expr, second: Expr, unit: int) -> tuple[Expr, Expr]:
    """Units of both in turn, from the lower and from the upper halves of each 128-bit lane."""
    count = lanes_of(first)
    lane = _LANE // (2 if str(first.ty.dtype).startswith("int16") else 1)
    halves = []
    for half in (0, 1):
        indices: list[int] = []
        for begin in range(0, count, lane):
            for k in range(lane // (2 * unit)):
                at = begin + half * (lane // 2) + k * unit
                indices += [*range(at, at + unit), *range(count + at, count + at + unit)]
        halves.append(shuffle([first, second], indices))
    return halves[0], halves[1]


def pairs_added(isa: Vectors, total: Expr, first: Expr, second: Expr) -> Expr:
    """``total`` (int32) + sums of pairs of products of int16 vectors."""
    dtype = of("int32", lanes_of(total))
    if isa.words2 is not None:
        return intrinsic(dtype, isa.words2, total, first, second)
    return total + intrinsic(dtype, _MADD[isa.vector_bytes], first, second)


def gathered(isa: Vectors, buffer: Any, index: Expr) -> Expr:
    """The int32 elements of a flat buffer at the lanes of ``index``; one by one where no instruction does it."""
    lanes = lanes_of(index)
    if isa.gather is None or lanes != GATHERED:
        return buffer[index]
    dtype = of("int32", lanes)
    return intrinsic(dtype, isa.gather, const(0, dtype), buffer.data, index, const(-1, dtype), tirx.const(4, "int8"))
