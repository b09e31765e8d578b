"""Block reconstruction of networks with weights or activations of few bits, where the quantizer may take minutes.

Blocks go in order, each on what the learned blocks before it deliver, towards what the float network has behind it on the same
samples. What is learned are integer weights, biases, and the steps of activations of few bits; the machine's integers follow from
them as from any others. PyTorch is an extra: without it the network stays as it is, and a note says so.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import logging
import math
from collections.abc import Mapping, Sequence

import numpy as np
from tvm import relax

from ....dialect.operators import Quantization
from ....dialect.quantized import QuantizedModel, RealLayer
from ....emulate.executor import execute
from ....emulate.integers import run_model, run_stretch
from ....relax_tools import static_shape
from ...calibrate.calibration import FEWEST_TO_HOLD_OUT, HELD_OUT, Calibration
from ...calibrate.inputs.synthetic import those_of
from ...calibrate.narrow import FEW_BITS
from ...calibrate.runs import first_runs, runs_of
from ..constants import LayerConstants, with_constants
from .blocks import Block, blocks_of
from .grids import learnable, with_grids

log = logging.getLogger(__name__)

MISSING_TORCH = "PyTorch is not installed; pip install 'qaccel[train]' brings it"
MOST_RUNS = 128  # of the model's own batch
MOST_BYTES = 1 << 30  # of float tensors between blocks; a network with more learns from fewer samples


def has_torch() -> bool:
    """Whether PyTorch is installed."""
    return importlib.util.find_spec("torch") is not None


def reconstruct_blocks(q: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    """The model with other weights, biases and steps in the blocks in which something has at most FEW_BITS.

    Blocks that have float operators, or move values about, stay as they are. Without PyTorch all do, and a note says so.
    """
    blocks = blocks_of(q)
    inside = {step.var for block in blocks if block.regular for step in block.steps}
    steps = learnable(q.mod["main"], inside)
    real = {name: q.real[name] for name, bits in q.plan.items() if name in q.real and bits.weight_bits <= FEW_BITS}
    chosen = {block.name for block in blocks if block.regular and _few_bits(block, real, steps)}
    if not chosen:
        return q
    runs = runs_of(q.model, calibration.samples)
    few = f"it asks for {FEWEST_TO_HOLD_OUT} samples, and there are {runs}" if runs < FEWEST_TO_HOLD_OUT else ""
    reason = few if has_torch() else MISSING_TORCH
    if reason:
        return dataclasses.replace(q, notes=(f"reconstruction is left out: {reason}", *q.notes))
    from .learning import delivered, learn  # they import torch
    from .simulated import Simulated

    samples, floats = _float_tensors(q, calibration, [block for block in blocks if block.name in chosen])
    params = q.mod["main"].params
    given = {param: samples[spec.name] for param, spec in zip(params, q.model.inputs, strict=True)}
    held = np.arange(runs_of(q.model, samples)) % HELD_OUT == HELD_OUT - 1
    source: Quantization | None = None
    grids: dict[str, Quantization] = {}
    made: dict[str, LayerConstants] = {}
    last = max(number for number, block in enumerate(blocks) if block.name in chosen)
    for number, block in enumerate(blocks[: last + 1]):
        result = block.result
        if block.regular:
            assert source is not None
            own = Simulated(block, real, steps.keys() & {step.var for step in block.steps})
            ((entry, integers),) = given.items()
            judges = np.repeat(held, len(integers) // len(held))
            if block.name in floats and learn(own, integers, source, floats.pop(block.name), judges, number):
                learned = own.grids()
                grids |= {steps[var]: grid for var, grid in learned.items()}
                made |= own.constants({entry: source, **learned})
                result = learned.get(block.output, result)
            log.info("reconstruction: block %d of %d, to '%s'", number + 1, len(blocks), block.name)
            given = {block.output: delivered(own, integers, source, result)}
        else:
            given = {block.output: run_stretch(q.mod, block.steps, given, block.output)}
        source = result
    after = dataclasses.replace(q, mod=with_grids(with_constants(q.mod, made), grids))
    return _better(q, after, those_of(q.model.inputs, samples, [int(k) for k in np.flatnonzero(held)]))


def _better(before: QuantizedModel, after: QuantizedModel, held: Mapping[str, np.ndarray]) -> QuantizedModel:
    """The one whose outputs are nearer to the float network's on samples ``held`` out of learning; a note says what was gained.

    Layers behind a block were rounded for the errors that it had, and need not fit those that it has now. A gain within the
    standard error of the samples' differences is none: on other samples it is as often a loss.
    """
    wanted, runs = execute(before.model, held), runs_of(before.model, held)
    old, new = (_noise(run_model(q, held), wanted, runs) for q in (before, after))
    gained = old - new
    if gained.mean() <= gained.std() / math.sqrt(runs):
        note = f"reconstruction: it brings {runs} samples held out no nearer to the float network's outputs, and changes nothing"
        return dataclasses.replace(before, notes=(note, *before.notes))
    levels = " before, ".join(f"{10 * math.log10(max(float(each.mean()), 1e-30)):.1f} dB" for each in (old, new))
    note = f"reconstruction: noise of the outputs on samples held out {levels} now"
    return dataclasses.replace(after, notes=(note, *after.notes))


def _noise(made: Mapping[str, np.ndarray], wanted: Mapping[str, np.ndarray], runs: int) -> np.ndarray:
    """Noise of each run over the mean power of all, the mean of all outputs [runs]."""
    shares = []
    for name, value in wanted.items():
        real = value.astype(np.float64)
        noise = np.square(made[name] - real).reshape(runs, -1).sum(axis=1)
        shares.append(noise / max(np.square(real).sum() / runs, 1e-300))
    return np.mean(shares, axis=0)


def _few_bits(block: Block, real: Mapping[str, RealLayer], steps: Mapping[relax.Var, str]) -> bool:
    return any(name in real for name in block.layers) or any(step.var in steps for step in block.steps)


def _float_tensors(
    q: QuantizedModel, calibration: Calibration, blocks: Sequence[Block]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Samples by input, and for them what the float network has behind each block, float32 NHWC, by the block's name.

    What the float executor computes as a whole with other nodes is not seen, and left out.
    """
    shapes = {block.name: static_shape(block.output) for block in blocks}
    bytes_of_run = 4 * sum(map(math.prod, shapes.values()))
    most = max(FEWEST_TO_HOLD_OUT, MOST_BYTES // bytes_of_run)
    runs = min(MOST_RUNS, runs_of(q.model, calibration.samples), most)
    samples = first_runs(q.model, calibration.samples, runs)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in shapes}

    def observe(tensor: str, value: np.ndarray) -> None:
        for name, shape in shapes.items():
            if q.held[name].tensor == tensor:
                parts[name].append(q.held[name].arranged(value, shape).astype(np.float32))

    execute(q.model, samples, observe)
    whole = {name: np.concatenate(each) for name, each in parts.items() if each}
    return samples, {name: each for name, each in whole.items() if len(each) == runs * shapes[name][0]}
