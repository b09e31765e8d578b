"""What enters each accelerator subgraph for one sample: golden inputs of ``--emit-program``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tvm

from ..emulate.integers import run_quantized
from ..machine.artefact import Artefact
from ..machine.streams import pack_pixels
from .program import run_program, unpacked


def golden_inputs(
    mod: tvm.IRModule, artefacts: Sequence[Artefact], inputs: Sequence[dict[str, Any]], sample: Mapping[str, np.ndarray]
) -> dict[str, tuple[bytes, ...]]:
    """DRAM contents of each subgraph's input slots by symbol, for the first sample of the batch ``sample``.

    ``mod`` is partitioned; ``inputs`` are its inputs as the module's metadata has them. What is before a subgraph runs as it
    would in the module: other subgraphs on the simulator, the CPU's part in NumPy or compiled by TVM.
    """
    by_symbol = {artefact.symbol: artefact for artefact in artefacts}
    seen: dict[str, tuple[bytes, ...]] = {}

    def run(symbol: str, operands: list[np.ndarray]) -> list[np.ndarray]:
        artefact = by_symbol[symbol]
        results = []
        for n in range(len(operands[0])):
            given = [pack_pixels(v[n], slot.bits) for v, slot in zip(operands, artefact.inputs, strict=True)]
            seen.setdefault(symbol, tuple(given))
            made = run_program(artefact, given).outputs
            results.append(
                [unpacked(data, slot.shape, slot.bits) for data, slot in zip(made, artefact.outputs, strict=True)]
            )
        return [np.stack(each) for each in zip(*results, strict=True)]

    params = mod["main"].params
    arrays = {param.name: _as_input(sample[e["name"]], e) for param, e in zip(params, inputs, strict=True)}
    run_quantized(mod, arrays, subgraph=run)
    return seen


def _as_input(value: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """A float sample as the input that the module takes: with ``--io-dtype`` the integers that it would be quantized to."""
    dtype = np.dtype(entry["dtype"])
    if dtype.kind not in "iu" or value.dtype.kind in "iu":
        return value
    limits = np.iinfo(dtype)
    return np.clip(np.rint(value / np.float32(entry["scale"])) + entry["zero_point"], limits.min, limits.max).astype(
        dtype
    )
