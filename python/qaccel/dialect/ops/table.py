"""``qaccel.table``: any function of one value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from tvm import relax

from ...errors import CompilerFault
from ...machine.isa import isa
from ..attributes import IntegerAttrs, Quantization, carrier, static_shape
from ..rescale import rounded


@dataclass(frozen=True)
class TableAttrs(IntegerAttrs):
    """``qaccel.table(q, table)``: look-up of every element as the ISA's TABLE.

    ``table`` has an entry in the result's carrier for each of the 2**bits integers of the source; for 16-bit sources it is
    int16 [2**16 / 2**interpolation_bits + 1], and interpolated.
    """

    operator: ClassVar[str] = "qaccel.table"
    source: Quantization

    @property
    def constant_dtypes(self) -> tuple[str, ...]:
        """That of the table."""
        return ("int16" if self.source.bits == 16 else carrier(self.result.bits),)

    def meaning(self, *operands: np.ndarray) -> np.ndarray:
        """The entry of each integer; of 16-bit ones, rounded once between the entries on either side."""
        q, table = operands
        index = q.astype(np.int64) + (1 << (self.source.bits - 1))
        if self.source.bits != 16:
            return table[index].astype(carrier(self.result.bits))
        bits, entries = isa().interpolation_bits, table.astype(np.int64)
        low, part = index >> bits, index & ((1 << bits) - 1)
        between = entries[low] * ((1 << bits) - part) + entries[low + 1] * part
        return rounded(between, bits).astype(carrier(self.result.bits))

    def check(self, call: relax.Call) -> None:
        """There is an entry for every integer, or for every step of the interpolation and one more."""
        entries, bits = static_shape(call.args[1]), self.source.bits
        wanted = ((1 << (16 - isa().interpolation_bits)) + 1,) if bits == 16 else (1 << bits,)
        if entries != wanted:
            raise CompilerFault(
                f"{self.name}: a table of {list(entries)} entries; sources of {bits} bits take {wanted[0]}"
            )
