"""``qaccel.table``: any function of one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.isa import isa
from ...machine.numerics import FRACTION_BITS, INTERPOLATION_BITS, OCTAVE_BITS, table_knots
from ...relax_tools import static_shape
from ..attributes import IntegerAttrs, Quantization, carrier
from ..rescale import rounded


@dataclass(frozen=True)
class TableAttrs(IntegerAttrs):
    """``qaccel.table(q, table)``: look-up of every element as the ISA's TABLE.

    ``table`` has an entry in the result's carrier for each of the 2**bits integers of the source; for 16-bit sources it is
    int16, an entry for each of `numerics.table_knots` (``knots``, ``origin``), and interpolated.
    """

    operator: ClassVar[str] = "qaccel.table"
    source: Quantization
    knots: str = "even"
    origin: int = 0

    @property
    def constant_dtypes(self) -> tuple[str, ...]:
        """That of the table."""
        return ("int16" if self.source.bits == 16 else carrier(self.result.bits),)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """The entry of each integer; of 16-bit ones, rounded once between the entries on either side."""
        q, table = operands
        if self.source.bits != 16:
            return table[q.astype(np.int64) + (1 << (self.source.bits - 1))].astype(carrier(self.result.bits))
        return interpolated(q, table, self.knots, self.origin).astype(carrier(self.result.bits))

    def check(self, call: relax.Call) -> None:
        """There is an entry for every integer, or for every step of the interpolation and one more."""
        entries, bits = static_shape(call.args[1]), self.source.bits
        if self.knots not in (isa().enums["table_knots"] if bits == 16 else ("even",)):
            raise CompilerFault(f"{self.name}: a table of knots {self.knots} for sources of {bits} bits")
        wanted = table_knots(self.knots, self.origin).shape if bits == 16 else (1 << bits,)
        if entries != wanted:
            raise CompilerFault(
                f"{self.name}: a table of {list(entries)} entries; sources of {bits} bits take {wanted[0]}"
            )


def interpolated(q: np.ndarray, table: np.ndarray, knots: str, origin: int) -> np.ndarray:
    """The results of 16-bit integers ``q``, rounded once between the entries on either side, int64."""
    entries = table.astype(np.int64)
    low, part, bits = _places(q, knots, origin)
    return rounded(entries[low] * ((1 << bits) - part) + entries[low + 1] * part, bits)


def interval(q: np.ndarray, knots: str, origin: int) -> tuple[np.ndarray, np.ndarray]:
    """The entry before each of the 16-bit integers ``q``, int64, and how much the next entry weighs there, 0 to 1."""
    low, part, bits = _places(q, knots, origin)
    return low, part * 2.0**-bits


def _places(q: np.ndarray, knots: str, origin: int) -> tuple[np.ndarray, np.ndarray, int]:
    """The entry before each integer, and the weight of the next one in units of 2**-bits."""
    q = q.astype(np.int64)
    if knots == "even":
        index = q + (1 << 15)
        return index >> INTERPOLATION_BITS, index & ((1 << INTERPOLATION_BITS) - 1), INTERPOLATION_BITS
    bits, distance = FRACTION_BITS, q - origin
    m = np.where(distance < 0, ~distance, distance)
    over = np.maximum(np.frexp(m.astype(np.float64))[1] - 1 - OCTAVE_BITS, 0).astype(np.int64)
    low = (over << OCTAVE_BITS) + (m >> over) + np.where(distance < 0, len(table_knots(knots, origin)) // 2, 0)
    return low, np.where(over, m << (bits - over), 0) & ((1 << bits) - 1), bits
