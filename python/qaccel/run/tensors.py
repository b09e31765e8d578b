"""What is inside a module while it runs: every map of the accelerator's layers, and what the CPU's functions make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import UserError
from ..machine.artefact import Artefact, MapSlot
from ..machine.isa import decode
from ..machine.streams import pack_pixels
from .execute import Runner
from .program import run_program, unpacked


@dataclass(frozen=True, eq=False)
class Tensor:
    """One tensor. ``values``: integers [samples, h, w, c] of a layer of the accelerator, or the array of a CPU's function.

    ``where``: the subgraph, or "cpu". ``name``: of the ``layer`` or function; with its turn, "#2" and so on, where it is called
    again.
    """

    name: str
    where: str
    values: np.ndarray
    layer: str

    def __repr__(self) -> str:
        return f"<Tensor '{self.name[:60]}' of {self.where}: {self.values.dtype} {list(self.values.shape)}>"


def tensors_of(runner: Runner, inputs: Mapping[str, np.ndarray]) -> tuple[Tensor, ...]:
    """All tensors of one run, in the order in which they are made; ``inputs`` hold one batch.

    Raises UserError for more than one batch, and for a module on another machine.
    """
    if runner.remote is not None:
        raise UserError("tensors inside a module are seen on this machine only; run without --rpc-tracker")
    artefacts = {each.symbol: each for each in runner.artefacts()}
    found: list[Tensor] = []
    turns: dict[str, int] = {}

    def note(name: str, where: str, values: np.ndarray) -> None:
        turns[name] = turns.get(name, 0) + 1
        turn = f"#{turns[name]}" if turns[name] > 1 else ""
        found.append(Tensor(name + turn, where, values, name))

    def observe(_function: Any, name: str, before: bool, _result: Any, *arguments: Any) -> int:
        arrays = [each.numpy() for each in arguments if hasattr(each, "numpy")]
        if before or not arrays:
            return 0
        if name in artefacts:
            for layer, values in _inside(artefacts[name], arrays):
                note(layer, name, values)
        elif not name.startswith("vm."):
            note(name, "cpu", arrays[-1].copy())
        return 0

    runner.vm.set_instrument(observe)
    try:
        runner.run(inputs)
    finally:
        runner.vm.set_instrument(lambda *_: 0)
    return tuple(found)


def _inside(artefact: Artefact, arrays: list[np.ndarray]) -> list[tuple[str, np.ndarray]]:
    """A subgraph's layers and what they make, run again on what it was called with: inputs [samples, h, w, c], then outputs."""
    given = arrays[: len(artefact.inputs)]
    inside = [slot for slot in artefact.maps if slot.memory == "sram"]
    last = _last_instructions(artefact)
    where = {slot.layer: slot.pieces or ((last[slot.layer], slot.addr, slot.total_bytes),) for slot in inside}
    places = [place for slot in inside for place in where[slot.layer]]
    samples: list[list[np.ndarray]] = []
    for n in range(len(given[0])):
        packed = [pack_pixels(value[n], slot.bits) for value, slot in zip(given, artefact.inputs, strict=True)]
        ran = run_program(artefact, packed, snapshots=places)
        kept = iter(ran.snapshots)
        samples.append([
            _values(
                b"".join(next(kept) for _ in where[slot.layer])
                if slot.layer in where
                else ran.dram[slot.addr : slot.addr + slot.total_bytes],
                slot,
            )
            for slot in artefact.maps
        ])  # fmt: skip
    return [(slot.name, np.stack(values)) for slot, *values in zip(artefact.maps, *samples, strict=True)]


def _last_instructions(artefact: Artefact) -> dict[int, int]:
    """By layer, its last instruction of the engine that computes: its map is whole then."""
    return {
        instruction["layer"]: index
        for index, instruction in enumerate(decode(artefact.program))
        if instruction.engine == "COMPUTE"
    }


def _values(data: bytes | np.ndarray, slot: MapSlot) -> np.ndarray:
    """Packed bytes as integers [h, w, c] with the channels as they are numbered."""
    values = unpacked(data, slot.shape, slot.bits)
    return values[..., np.argsort(slot.order)] if slot.order else values
