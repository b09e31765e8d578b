"""What a tiling says, and the estimate that candidates are compared by."""

from __future__ import annotations

from dataclasses import dataclass

from ...machine.hw import HwConfig
from ...machine.isa import isa
from ..extents import align


@dataclass(frozen=True)
class Tiling:
    """Output tile, reduction chunk and loop order of a layer, with the SRAM blocks that it needs beside resident maps.

    ``in_slot_bytes[i]`` is 0 where input i is resident. Each kind of block has ``*_slots`` copies (two: double buffering).
    ``tile_values``: of a layer that only moves values, how many one instruction takes at most.
    ``weights_outer``: output channels outside, space inside (weights are fetched once), else the other way round.
    """

    tile_h: int
    tile_w: int
    tile_oc: int
    tile_ic: int
    tile_kh: int
    weights_outer: bool
    in_slot_bytes: tuple[int, ...]
    in_slots: int
    out_slot_bytes: int
    out_slots: int
    param_slot_bytes: int
    param_slots: int
    table_bytes: int
    cycles: int
    tile_values: int = 0

    @property
    def working_bytes(self) -> int:
        return (
            sum(align(b) * self.in_slots for b in self.in_slot_bytes)
            + align(self.out_slot_bytes) * self.out_slots
            + align(self.param_slot_bytes) * self.param_slots
            + align(self.table_bytes)
        )


@dataclass(frozen=True)
class Counts:
    """What a candidate does: instructions and bytes per engine, for the estimate. ``weight_bytes`` are of streams."""

    compute_cycles: int
    computes: int
    loads: int
    load_bytes: int
    weight_loads: int
    weight_bytes: int
    decode_cycles: int
    stores: int
    store_bytes: int
    first_bytes: int
    last_bytes: int

    def estimate(self, hw: HwConfig) -> int:
        """Perfect overlap of the engines, plus the first tile's fetch and the last one's store, which nothing hides."""
        start, bus = hw.start_up_cycles, hw.dram_bytes_per_cycle
        load = self.loads * (start.load + hw.dram_latency_cycles) + self.load_bytes // bus
        fetch = self.weight_loads * hw.dram_latency_cycles + self.weight_bytes // bus
        loadw = self.weight_loads * start.loadw + max(fetch, self.decode_cycles)
        store = self.stores * (start.store + hw.dram_latency_cycles) + self.store_bytes // bus
        # Instructions are fetched through the same channel, which is what makes many small tiles dear.
        instructions = self.computes + self.loads + self.weight_loads + self.stores
        program_bytes = instructions * isa().instruction_bytes
        dram = (self.load_bytes + self.weight_bytes + self.store_bytes + program_bytes) // bus
        return max(self.compute_cycles, load, loadw, store, dram) + (self.first_bytes + self.last_bytes) // bus
