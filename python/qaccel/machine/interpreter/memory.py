"""Byte memories of the interpreter, and how values lie in bytes (ISA manual, "memory")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

LARGEST_BLOCK = 1 << 26


class MachineError(Exception):
    """What the manual calls an error; ``index`` of the instruction, None where no single one is to blame."""

    def __init__(self, index: int | None, message: str) -> None:
        super().__init__(f"instruction {index}: {message}" if index is not None else message)
        self.index = index
        self.message = message


class Fault(Exception):
    """The same, before the instruction's index is known."""


@dataclass(frozen=True)
class Block:
    """Bytes of an access: ``rows`` x ``pixels`` runs of ``size`` bytes, from the address ``start`` on."""

    start: int
    rows: int
    row_stride: int
    pixels: int
    pixel_stride: int
    size: int

    def addresses(self) -> np.ndarray:
        """int64 [rows, pixels, size]. No program under test needs more bytes at once than LARGEST_BLOCK."""
        if self.rows * self.pixels * self.size > LARGEST_BLOCK:
            raise Fault(f"touches {self.rows * self.pixels * self.size} bytes at once")
        row, pixel = np.arange(self.rows)[:, None, None], np.arange(self.pixels)[None, :, None]
        return self.start + row * self.row_stride + pixel * self.pixel_stride + np.arange(self.size)


def run_of(start: int, size: int) -> Block:
    """Contiguous bytes."""
    return Block(start, 1, 0, 1, 0, size)


@dataclass(frozen=True, eq=False)
class Access:
    """What an instruction read or wrote: bytes uint8 [rows, pixels, size] of a block of the memory of that name."""

    memory: str
    writes: bool
    block: Block
    data: np.ndarray


class Memory:
    """``data`` uint8 [size]; reads of bytes that nothing has written and writes of read-only bytes are faults.

    ``log``: where accesses are noted in their order.
    """

    def __init__(
        self,
        name: str,
        data: np.ndarray,
        log: list[Access],
        initialised: Sequence[tuple[int, int]] = (),
        read_only: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.data = data
        self.written = np.zeros(data.size, bool)
        self.held: list[np.ndarray] = []  # addresses that the instruction in progress reads and may not overwrite
        self.read_only = np.zeros(data.size, bool)
        for begin, end in initialised:
            self.written[begin:end] = True
        for begin, end in read_only:
            self.read_only[begin:end] = True

    def read(self, block: Block, hold: bool = True) -> np.ndarray:
        """uint8 [rows, pixels, size]. ``hold``: the same instruction may not write these bytes."""
        at = block.addresses()
        self._check_range(at)
        if not self.written[at].all():
            raise Fault(f"reads {self.name} byte {at[~self.written[at]].min()}, which nothing has written")
        if hold:
            self.held.append(at.reshape(-1))
        self.log.append(Access(self.name, False, block, self.data[at]))
        return self.data[at]

    def write(self, block: Block, values: np.ndarray) -> None:
        """Write uint8 [rows, pixels, size]. Where the manual leaves open which of two values stays, it is a fault."""
        at = block.addresses()
        self._check_range(at)
        marked = np.zeros(self.data.size, bool)
        marked[at] = True
        if np.count_nonzero(marked) < at.size:
            raise Fault(f"writes some bytes of {self.name} twice")
        if any(marked[read].any() for read in self.held):
            raise Fault(f"overwrites bytes of {self.name} that it reads")
        if self.read_only[at].any():
            raise Fault(f"writes {self.name} byte {at[self.read_only[at]].min()}, which is read-only")
        self.data[at] = values
        self.written[at] = True
        self.log.append(Access(self.name, True, block, self.data[at]))

    def _check_range(self, at: np.ndarray) -> None:
        if at.size and at.max() >= self.data.size:
            raise Fault(f"accesses {self.name} byte {at.max()}, there are {self.data.size}")


def bytes_for(channels: int, bits: int) -> int:
    """Bytes of a pixel."""
    return (channels * bits + 7) // 8


def from_bytes(raw: np.ndarray, bits: int, channels: int) -> np.ndarray:
    """uint8 [..., bytes] to int64 [..., channels], two's complement, low nibble first, little-endian."""
    raw = raw.astype(np.int64)
    if bits == 4:
        values = np.stack([raw % 16, raw // 16], axis=-1).reshape(*raw.shape[:-1], -1)[..., :channels]
    elif bits == 8:
        values = raw
    else:
        values = raw[..., 0::2] + 256 * raw[..., 1::2]
    half = 1 << (bits - 1)
    return np.where(values >= half, values - 2 * half, values)


def to_bytes(values: np.ndarray, bits: int) -> np.ndarray:
    """int64 [..., channels] to uint8 [..., bytes]; an odd last nibble is zero."""
    values = values & ((1 << bits) - 1)
    if bits == 4:
        if values.shape[-1] % 2:
            values = np.concatenate([values, np.zeros_like(values[..., :1])], axis=-1)
        values = values[..., 0::2] + 16 * values[..., 1::2]
    elif bits == 16:
        values = np.stack([values % 256, values // 256], axis=-1).reshape(*values.shape[:-1], -1)
    return values.astype(np.uint8)
