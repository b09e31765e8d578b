"""A program folder on interpreter and simulator: the first place where one of them does not do what the golden data say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...errors import UserError
from ...machine.interpreter.memory import Access
from ...machine.simulator import simulate
from .accesses import dram_image, interpreted
from .folder import Package, read_packages


@dataclass(frozen=True)
class Replayed:
    """One program that both machines execute as its golden data say, and what was compared."""

    symbol: str
    instructions: int
    accesses: int
    compared_bytes: int
    cycles: int


def replay(folder: str | Path) -> tuple[Replayed, ...]:
    """Every program of a folder. Raises UserError of one line that names the first difference: instruction, layer, address,
    what the golden data have and what was found; and for a folder that is damaged."""
    return tuple(_replay(package) for package in read_packages(folder))


def _replay(package: Package) -> Replayed:
    found = _on_interpreter(package) or _on_simulator(package)
    if found is None and package.changed:
        found = f"{package.changed[0]} was changed after it was written, in bytes that no instruction reads"
    if found is not None:
        raise UserError(f"program folder '{package.path}': {found}")
    accesses = [access for each in package.golden for access in each]
    return Replayed(
        package.artefact.symbol, len(package.program), len(accesses), sum(each.data.size for each in accesses),
        _simulated(package, "cycle")[1],
    )  # fmt: skip


def _on_interpreter(package: Package) -> str | None:
    """The first difference in the order of the program, or None."""
    made = interpreted(package.artefact, package.inputs, len(package.program))
    for index, (golden, seen) in enumerate(zip(package.golden, made.by_instruction, strict=True)):
        if made.fault is not None and not seen:
            if index == made.fault.index:
                break
            continue  # the run ended before it
        difference = _difference(golden, seen)
        if difference is not None:
            return f"interpreter: {package.where(index)}: {difference}"
    if made.fault is not None:
        where = "" if made.fault.index is None else f"{package.where(made.fault.index)}: "
        return f"interpreter: {where}{made.fault.message}"
    return _output_difference(package, made.dram, "interpreter")


def _difference(golden: Sequence[Access], seen: Sequence[Access]) -> str | None:
    for expected, got in zip(golden, seen, strict=False):
        kind = "writes" if got.writes else "reads"
        if (expected.memory, expected.writes, expected.block) != (got.memory, got.writes, got.block):
            other = "write" if expected.writes else "read"
            return f"{kind} {_shown(got)}; the golden data have a {other} of {_shown(expected)}"
        wrong = np.argwhere(expected.data != got.data)
        if wrong.size:
            first = tuple(wrong[0])
            return _byte(kind, got.memory, int(got.block.addresses()[first]), expected.data[first], got.data[first])
    if len(golden) != len(seen):
        return f"it accesses memory {len(seen)} times, the golden data say {len(golden)}"
    return None


def _shown(access: Access) -> str:
    block = access.block
    return f"{block.rows} x {block.pixels} x {block.size} bytes of {access.memory} from {block.start:#010x} on"


def _byte(kind: str, memory: str, address: int, expected: int, got: int) -> str:
    return f"{kind} {memory} byte {address:#010x}: expected {int(expected):#04x}, got {int(got):#04x}"


def _output_difference(package: Package, dram: np.ndarray, machine: str) -> str | None:
    for index, (slot, data) in enumerate(zip(package.artefact.outputs, package.outputs, strict=True)):
        expected = np.frombuffer(data, np.uint8)
        got = dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes]
        wrong = np.flatnonzero(expected != got)
        if wrong.size:
            at = int(wrong[0])
            what = _byte("holds", "DRAM", slot.dram_addr + at, expected[at], got[at])
            return f"{machine}: output '{slot.name}' (golden/output_{index}.bin) {what}"
    return None


def _on_simulator(package: Package) -> str | None:
    """The first difference in the order of the program, or None. The weight buffer is not seen, only what is computed with it."""
    written = [
        (index, access) for index, each in enumerate(package.golden) for access in each
        if access.writes and access.memory in ("SRAM", "DRAM")
    ]  # fmt: skip
    runs = [(index, access, *_runs(access)) for index, access in written]
    places = [
        (index, begin, end - begin)
        for index, access, _, bounds in runs
        if access.memory == "SRAM"
        for begin, end in bounds
    ]
    try:
        dram, _, snapshots = _simulated(package, "functional", places)
    except UserError as error:
        return f"simulator: {error}"
    last = np.full(dram.size, -1, np.int64)  # which instruction wrote a byte of DRAM last
    for index, access in written:
        if access.memory == "DRAM":
            last[access.block.addresses()] = index
    kept = iter(snapshots)
    for index, access, addresses, bounds in runs:
        if access.memory == "SRAM":
            got = np.frombuffer(b"".join(next(kept) for _ in bounds), np.uint8)
        else:
            got = dram[addresses]
        expected = np.empty(addresses.size, np.uint8)
        expected[np.argsort(np.argsort(access.block.addresses().reshape(-1)))] = access.data.reshape(-1)
        stays = last[addresses] == index if access.memory == "DRAM" else np.ones(addresses.size, bool)
        wrong = np.flatnonzero((expected != got) & stays)
        if wrong.size:
            at = wrong[0]
            what = _byte("writes", access.memory, int(addresses[at]), expected[at], got[at])
            return f"simulator: {package.where(index)}: {what}"
    return _output_difference(package, dram, "simulator")


def _runs(access: Access) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """An access's addresses in ascending order, and their (begin, end) where they lie side by side."""
    addresses = np.sort(access.block.addresses().reshape(-1))
    cuts = np.flatnonzero(np.diff(addresses) != 1) + 1
    begins, ends = addresses[np.r_[0, cuts]], addresses[np.r_[cuts - 1, -1]] + 1
    return addresses, list(zip(begins.tolist(), ends.tolist(), strict=True))


def _simulated(
    package: Package, mode: str, snapshots: Sequence[tuple[int, int, int]] = ()
) -> tuple[np.ndarray, int, list[bytes]]:
    """DRAM after a run, its cycles in cycle mode, and the snapshots of SRAM. Raises UserError with the machine's error."""
    artefact = package.artefact
    dram, defined, read_only = dram_image(artefact, package.inputs)
    counters = simulate(
        artefact.hw, artefact.program, dram, mode=mode, initialised=defined, read_only=read_only,
        program_addr=artefact.program_addr, layers=artefact.layers, snapshots=snapshots,
    )  # fmt: skip
    return dram, counters.get("cycles", 0), counters.get("snapshots", [])
