"""Convolutions of any size in any number of groups: tiles of pixels and vectors of output channels in registers."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from ..host import Host
from ..integer.loops import read, register, write
from ..integer.vectors import load, of
from .functions import Expr, fma, function, variable

VECTORS = 2  # of output channels in a tile
SIZES = 18  # scalars of the function


def lanes_of(host: Host, dtype: str) -> int:
    """Values of a vector."""
    return host.lanes * 4 // np.dtype(dtype).itemsize


def block_channels(host: Host, dtype: str) -> int:
    """Output channels of a tile."""
    return VECTORS * lanes_of(host, dtype)


def tile_pixels(host: Host) -> int:
    """Pixels of a tile: the sums, the weights of a step and one pixel's value fill the registers."""
    return (host.registers - VECTORS - 1) // VECTORS


def packed(weight: np.ndarray, groups: int, channels: int, dtype: str) -> np.ndarray:
    """Weights [oc, ic / groups, kh, kw] as [groups, blocks, kh, kw, ic / groups, ``channels``], flat; missing ones are zeros."""
    oc, ic, kh, kw = weight.shape
    per_group = oc // groups
    blocks = -(-per_group // channels)
    filled = np.zeros((groups, blocks * channels, ic, kh, kw), dtype)
    filled[:, :per_group] = weight.reshape(groups, per_group, ic, kh, kw)
    turned = filled.reshape(groups, blocks, channels, ic, kh, kw).transpose(0, 1, 4, 5, 3, 2)
    return np.ascontiguousarray(turned).reshape(-1)


def dense(host: Host, dtype: str) -> tirx.PrimFunc:
    """``out[b, y, x, c] = sum of x[b, y * sh + ky * dh, x * sw + kx * dw, group + k] * weight``, NHWC, without padding.

    Buffers: data, weight as `packed`, out. Scalars: pixels of the output in all samples, its height and width, those of the
    data, channels of the data, channels of a group in data and in out, groups, rows and columns of the kernel, channels that a
    step of it reads in order, strides, dilations, tiles of a task, tasks.
    """
    lanes, pixels = lanes_of(host, dtype), tile_pixels(host)
    width, vector = VECTORS * lanes, of(dtype, lanes)

    def body(data: Any, weight: Any, out: Any, *sizes: Any) -> None:
        count, oh, ow, ih, iw, ic, icg, ocg, groups, kh, kw, run, sh, sw, dh, dw, tiles, tasks = sizes

        def addresses(first: Expr, group: Expr, channel: Expr) -> tuple[list[Any], list[Any]]:
            """Where each pixel of a tile lies in data and in out; the last one is repeated where there are no more."""
            bases, places, row = [], [], variable()
            for p in range(pixels):
                base, place = variable(), variable()
                T.buffer_store(place, tirx.min(first + p, count - 1), [0])
                T.buffer_store(row, tirx.truncdiv(place[0], ow), [0])
                y = tirx.truncdiv(row[0], oh) * ih + tirx.truncmod(row[0], oh) * sh
                x = (place[0] - row[0] * ow) * sw
                T.buffer_store(base, (y * iw + x) * ic + group * icg, [0])
                T.buffer_store(place, place[0] * (ocg * groups) + group * ocg + channel, [0])
                bases.append(base)
                places.append(place)
            return bases, places

        def products(bases: list[Any], begin: Expr, sums: list[list[Any]]) -> None:
            with T.serial(0, kh) as ky, T.serial(0, kw) as kx:
                offset = T.Bind((ky * dh * iw + kx * dw) * ic)
                place = T.Bind(begin + (ky * kw + kx) * (run * width))
                with T.serial(0, run) as k:
                    factors = [T.Bind(load(weight, place + k * width + v * lanes, lanes)) for v in range(VECTORS)]
                    for base, line in zip(bases, sums, strict=True):
                        value = T.Bind(tirx.Broadcast(data[base[0] + offset + k], lanes))
                        for factor, total in zip(factors, line, strict=True):
                            write(total, 0, fma(vector, value, factor, read(total, lanes)), lanes)

        def stored(places: list[Any], channel: Expr, sums: list[list[Any]]) -> None:
            for v in range(VECTORS):
                rest = T.Bind(ocg - channel - v * lanes)
                with T.If(rest >= lanes):
                    with T.Then():
                        for place, line in zip(places, sums, strict=True):
                            write(out, place[0] + v * lanes, read(line[v], lanes), lanes)
                    with T.Else():
                        for place, line in zip(places, sums, strict=True):
                            with T.serial(0, tirx.max(rest, 0)) as k:
                                T.buffer_store(out, line[v][k], [place[0] + v * lanes + k])

        blocks = T.Bind(tirx.truncdiv(ocg + (width - 1), width))
        with T.serial(0, tasks * groups * blocks) as turn:
            task, part = T.Bind(tirx.truncdiv(turn, groups * blocks)), T.Bind(tirx.truncmod(turn, groups * blocks))
            group, channel = T.Bind(tirx.truncdiv(part, blocks)), T.Bind(tirx.truncmod(part, blocks) * width)
            begin = T.Bind(part * (kh * kw * run * width))
            with T.serial(0, tiles) as tile:
                first = T.Bind((task * tiles + tile) * pixels)
                with T.If(first < count), T.Then():
                    bases, places = addresses(first, group, channel)
                    sums = [[register(lanes, dtype) for _ in range(VECTORS)] for _ in range(pixels)]
                    for total in (each for line in sums for each in line):
                        write(total, 0, tirx.Broadcast(tirx.const(0.0, dtype), lanes), lanes)
                    products(bases, begin, sums)
                    stored(places, channel, sums)

    return function([dtype] * 3, ["int32"] * SIZES, body)
