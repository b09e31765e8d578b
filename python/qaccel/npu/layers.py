"""Layers: what lowering makes of a subgraph of Relax, and what is planned and becomes instructions.

Shapes are of one sample (a batch is an outer loop of the runtime), layout NHWC without N.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..dialect.pieces import Piece
from ..machine.artefact import channel_bytes as channel_bytes
from ..machine.streams import StreamEstimate


@dataclass(frozen=True)
class FeatureMap:
    """An activation tensor; ``data`` is the packed image of a constant one, else None.

    ``order``: which channel of the network's tensor lies at each place; empty where they lie as they are numbered.
    """

    name: str
    h: int
    w: int
    c: int
    bits: int
    zero_point: int
    data: bytes | None = None
    order: tuple[int, ...] = ()

    @property
    def pixel_bytes(self) -> int:
        return channel_bytes(self.c, self.bits)

    @property
    def row_bytes(self) -> int:
        return self.w * self.pixel_bytes

    @property
    def total_bytes(self) -> int:
        return self.h * self.row_bytes


@dataclass(frozen=True)
class Window:
    """Kernel, stride, dilation and padding in rows and pixels."""

    kernel_h: int = 1
    kernel_w: int = 1
    stride_h: int = 1
    stride_w: int = 1
    dilation_h: int = 1
    dilation_w: int = 1
    pad_top: int = 0
    pad_left: int = 0
    pad_bottom: int = 0
    pad_right: int = 0


@dataclass(frozen=True)
class Layer:
    """``inputs`` and ``output`` index the subgraph's feature maps; clamps are in output integers."""

    name: str
    op: str
    inputs: tuple[int, ...]
    output: int
    clamp_lo: int
    clamp_hi: int


@dataclass(frozen=True)
class ConvPart:
    """A dense convolution between channel ranges: a whole layer, or some of its groups as one block-diagonal matrix.

    ``weight`` int32 [kernel_h, kernel_w, in_channels, out_channels].
    """

    in_begin: int
    out_begin: int
    weight: np.ndarray

    @property
    def in_channels(self) -> int:
        return int(self.weight.shape[2])

    @property
    def out_channels(self) -> int:
        return int(self.weight.shape[3])


@dataclass(frozen=True)
class ChannelParams:
    """Per output channel: bias int32, multiplier uint32 (31 bits), shift uint8, each [channels]."""

    bias: np.ndarray
    multiplier: np.ndarray
    shift: np.ndarray


@dataclass(frozen=True)
class ConvLayer(Layer):
    """Dense or grouped convolution, matrix products too; ``weights`` OHWI as the model has them, ``macs`` of one sample.

    ``streams``: what the weights take in DRAM; None before it is measured, and then as if they were raw. ``post``: a layer
    that takes the outputs in the post stage; its other inputs follow in ``inputs``, ``output`` is its own, and the clamps are of
    the map between the two, its first input, which lies nowhere. ``wide``: how many neighbouring output pixels of a row are made as
    one, which has the channels of all of them, pixel by pixel; ``window``, ``parts`` and ``params`` are those of such pixels.
    """

    window: Window
    weight_bits: int
    parts: tuple[ConvPart, ...]
    params: ChannelParams
    weights: np.ndarray
    macs: int
    streams: StreamEstimate | None = None
    post: EltwiseLayer | TableLayer | None = None
    wide: int = 1

    @property
    def matrix(self) -> np.ndarray:
        """Weights as rows of channels, [reduction, out_channels]: of the largest part, which tiles are planned for."""
        part = max(self.parts, key=lambda p: p.weight.size)
        return part.weight.reshape(-1, part.out_channels)


@dataclass(frozen=True)
class DepthwiseLayer(Layer):
    """``weights`` int32 [kernel_h, kernel_w, channels]. ``streams`` and ``post`` as in ConvLayer."""

    window: Window
    weight_bits: int
    params: ChannelParams
    weights: np.ndarray
    macs: int
    streams: StreamEstimate | None = None
    post: EltwiseLayer | TableLayer | None = None

    @property
    def matrix(self) -> np.ndarray:
        """Weights as rows of channels, [taps, channels]."""
        return self.weights.reshape(-1, self.weights.shape[-1])


@dataclass(frozen=True)
class PoolLayer(Layer):
    """``scales`` gives (multiplier, shift) by the number of taps that the average divides by; a maximum has the key 1."""

    window: Window
    kind: str
    count_include_pad: bool
    scales: dict[int, tuple[int, int]]


@dataclass(frozen=True)
class EltwiseLayer(Layer):
    """The second operand may be one pixel (a vector) or one value (``b_scalar``), repeated over the first.

    ``lesser``: channels of a max that take the min instead; an instruction has channels of one kind.
    """

    kind: str
    b_scalar: bool
    multiplier: int
    b_multiplier: int
    shift: int
    lesser: frozenset[int] = frozenset()

    def runs(self, begin: int, channels: int) -> list[tuple[int, int, str]]:
        """``(first, channels, kind)`` of each instruction for a tile's channels."""
        if not self.lesser:
            return [(begin, channels, self.kind)]
        found: list[tuple[int, int, str]] = []
        for channel in range(begin, begin + channels):
            kind = "min" if channel in self.lesser else self.kind
            if found and found[-1][2] == kind:
                found[-1] = (found[-1][0], found[-1][1] + 1, kind)
            else:
                found.append((channel, 1, kind))
        return found


@dataclass(frozen=True)
class CopyLayer(Layer):
    """Requantizing copy."""

    multiplier: int
    shift: int


@dataclass(frozen=True)
class TableLayer(Layer):
    """Look-up; ``table``, ``knots`` and ``origin`` as the ISA's TABLE reads them."""

    table: bytes
    knots: str
    origin: int


@dataclass(frozen=True)
class MoveLayer(Layer):
    """``pieces`` of the inputs put elsewhere; ``scales`` is (multiplier, shift) of each input."""

    pieces: tuple[Piece, ...]
    scales: tuple[tuple[int, int], ...]


def post_of(layer: AnyLayer) -> EltwiseLayer | TableLayer | None:
    """What takes a layer's outputs in the post stage."""
    return layer.post if isinstance(layer, ConvLayer | DepthwiseLayer) else None


def first_output(layer: AnyLayer, maps: tuple[FeatureMap, ...]) -> FeatureMap:
    """What a layer makes before its post stage: its output where it has none."""
    post = post_of(layer)
    return maps[layer.output if post is None else post.inputs[0]]


def table_of(layer: AnyLayer) -> bytes:
    """The table that a layer looks up in, in its post stage or itself; empty if there is none."""
    looked_up = post_of(layer) or layer
    return looked_up.table if isinstance(looked_up, TableLayer) else b""


AnyLayer = ConvLayer | DepthwiseLayer | PoolLayer | EltwiseLayer | CopyLayer | TableLayer | MoveLayer


@dataclass(frozen=True)
class LayerGraph:
    """Feature maps, and layers in an order in which producers come first. ``symbol`` names the subgraph in the module.

    ``inputs`` and ``outputs`` index ``maps``.
    """

    symbol: str
    maps: tuple[FeatureMap, ...]
    layers: tuple[AnyLayer, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
