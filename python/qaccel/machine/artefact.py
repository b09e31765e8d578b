"""One accelerator subgraph as data: program, constants, memory map. What links, runs and replays it reads only this."""

from __future__ import annotations

import json
import struct
import zlib
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UserError
from .hw import HwConfig, config_from_dict
from .numerics import Counts

MAGIC = b"QACC"
CONTAINER_VERSION = 1
_HEADER = struct.Struct("<4sIII")  # magic, container version, bytes of JSON, CRC-32 of all that follows


def channel_bytes(channels: Counts, bits: int) -> Counts:
    """Bytes of that many channels of one pixel (4-bit pairs share a byte)."""
    return -(-channels * bits // 8)


@dataclass(frozen=True)
class TensorSlot:
    """A subgraph input or output in DRAM: one sample, NHWC without N; 4-bit values packed low nibble first per pixel."""

    name: str
    dram_addr: int
    shape: tuple[int, int, int]
    bits: int

    @property
    def pixel_bytes(self) -> int:
        return channel_bytes(self.shape[2], self.bits)

    @property
    def dram_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * self.pixel_bytes


@dataclass(frozen=True)
class MapSlot:
    """What a layer makes, and where it lies whole once the layer is done: one sample, packed as a `TensorSlot`.

    ``layer``: its number in the program; ``memory``: "sram" or "dram". ``order``: which channel lies at each place; empty where
    they lie as they are numbered. A map in SRAM is there until its last reader is done.
    ``pieces``: of a map in SRAM that is never there as a whole (``addr`` 0), (instruction, address, bytes) of some rows after the
    other: where they lie once that instruction is done.
    """

    layer: int
    name: str
    memory: str
    addr: int
    shape: tuple[int, int, int]
    bits: int
    order: tuple[int, ...]
    pieces: tuple[tuple[int, int, int], ...] = ()

    @property
    def total_bytes(self) -> int:
        return self.shape[0] * self.shape[1] * channel_bytes(self.shape[2], self.bits)


@dataclass(frozen=True)
class Artefact:
    """``program`` and ``constants`` lie in DRAM at their addresses; the rest of ``dram_bytes`` is inputs, outputs, scratch.

    ``maps``: what each layer makes, for whoever looks inside; no program needs it.
    """

    symbol: str
    isa_version: int
    hw: HwConfig
    layers: tuple[str, ...]
    program_addr: int
    program: bytes
    constants_addr: int
    constants: bytes
    dram_bytes: int
    inputs: tuple[TensorSlot, ...]
    outputs: tuple[TensorSlot, ...]
    maps: tuple[MapSlot, ...] = ()

    def __repr__(self) -> str:
        return f"<Artefact '{self.symbol[:60]}' for {self.hw.name[:60]}: {len(self.layers)} layers, {self.dram_bytes:,} B of DRAM>"

    def to_bytes(self) -> bytes:
        meta = {
            "symbol": self.symbol,
            "isa_version": self.isa_version,
            "hw": self.hw.to_dict(),
            "layers": list(self.layers),
            "program": {"addr": self.program_addr, "bytes": len(self.program)},
            "constants": {"addr": self.constants_addr, "bytes": len(self.constants)},
            "dram_bytes": self.dram_bytes,
            "inputs": [asdict(slot) for slot in self.inputs],
            "outputs": [asdict(slot) for slot in self.outputs],
            "maps": [asdict(slot) for slot in self.maps],
        }
        text = json.dumps(meta, sort_keys=True, separators=(",", ":")).encode()
        body = text + self.program + self.constants
        return _HEADER.pack(MAGIC, CONTAINER_VERSION, len(text), zlib.crc32(body)) + body

    @staticmethod
    def from_bytes(data: bytes, isa_version: int) -> Artefact:
        """Raises UserError if the data are damaged or of another version."""
        if len(data) < _HEADER.size or data[:4] != MAGIC:
            raise UserError("accelerator subgraph: not a qaccel artefact; compile the model again")
        _, version, text_bytes, crc = _HEADER.unpack_from(data)
        body = data[_HEADER.size :]
        if version != CONTAINER_VERSION:
            raise UserError(
                f"accelerator subgraph: container version {version}, this qaccel reads {CONTAINER_VERSION}; compile again"
            )
        if text_bytes > len(body) or zlib.crc32(body) != crc:
            raise UserError("accelerator subgraph: checksum mismatch, the file is damaged; compile the model again")
        meta: dict[str, Any] = json.loads(body[:text_bytes])
        if meta["isa_version"] != isa_version:
            raise UserError(
                f"accelerator subgraph {meta['symbol']}: built for ISA version {meta['isa_version']}, "
                f"this qaccel runs {isa_version}; compile again"
            )
        program_end = text_bytes + meta["program"]["bytes"]
        return Artefact(
            symbol=meta["symbol"],
            isa_version=meta["isa_version"],
            hw=config_from_dict(meta["hw"], f"accelerator subgraph {meta['symbol']}"),
            layers=tuple(meta["layers"]),
            program_addr=meta["program"]["addr"],
            program=body[text_bytes:program_end],
            constants_addr=meta["constants"]["addr"],
            constants=body[program_end : program_end + meta["constants"]["bytes"]],
            dram_bytes=meta["dram_bytes"],
            inputs=tuple(TensorSlot(**{**slot, "shape": tuple(slot["shape"])}) for slot in meta["inputs"]),
            outputs=tuple(TensorSlot(**{**slot, "shape": tuple(slot["shape"])}) for slot in meta["outputs"]),
            maps=tuple(
                MapSlot(
                    **{
                        **slot,
                        "shape": tuple(slot["shape"]),
                        "order": tuple(slot["order"]),
                        "pieces": tuple((index, addr, size) for index, addr, size in slot.get("pieces", ())),
                    }
                )
                for slot in meta.get("maps", ())  # modules of before have none
            ),
        )
