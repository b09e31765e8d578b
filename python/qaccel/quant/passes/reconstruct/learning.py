"""How a block learns: its weights, biases and steps by the squared error of its output against the float network's.

The block reads what the blocks before it deliver on integers, as they were learned. BRECQ (arXiv 2102.05426) is where blocks come
from; weights are learned through their rounding and begin with those that were rounded in closed form. Needs torch.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch.nn import functional

from ....dialect.operators import Quantization
from .simulated import Simulated, to_integers, to_real

ITERATIONS = 200
PLACES = 4096  # pixels of the block's input in one iteration, and
MOST_SAMPLES = 32  # at most, and at least one
WEIGHT_RATE = 0.02  # of Adam, at its highest: steps of a weight in an iteration
SHIFT_RATE = 0.02  # steps of the output
STEP_RATE = 0.005  # share of the step
WARM_UP_PART = 0.1  # of all iterations, in which the rates rise; they fall as a cosine
PASS = 16  # samples that are computed together when nothing is learned


def learn(block: Simulated, given: np.ndarray, source: Quantization, wanted: np.ndarray, seed: int) -> None:
    """Learns in place.

    ``given``: the integers NHWC that enter the block, on the grid ``source``; ``wanted``: float32 NHWC, what the float network has
    in the place of what leaves it. ``seed``: of the draw of samples.
    """
    samples, height, width, _ = given.shape
    together = max(1, min(MOST_SAMPLES, samples, PLACES // (height * width)))
    rates = [(WEIGHT_RATE, [each.latent for each in block.layers if each.latent.requires_grad])]
    rates += [
        (SHIFT_RATE, [each.shift for each in block.layers]),
        (STEP_RATE, [each.ratio for each in block.roundings]),
    ]
    optimizer = torch.optim.Adam([{"params": parameters, "lr": rate} for rate, parameters in rates if parameters])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / ITERATIONS))
    rng = np.random.default_rng(seed)
    for _ in range(ITERATIONS):
        chosen = np.sort(rng.choice(samples, together, replace=False))
        target = torch.from_numpy(wanted[chosen]).permute(0, 3, 1, 2)
        loss = functional.mse_loss(block(to_real(given[chosen], source)), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()


def _rate(part: float) -> float:
    """The rate, of the highest, when this part of all iterations is done."""
    return min(1.0, part / WARM_UP_PART + 0.05) * 0.5 * (1 + math.cos(math.pi * part))


@torch.no_grad()
def delivered(block: Simulated, given: np.ndarray, source: Quantization, result: Quantization) -> np.ndarray:
    """The integers NHWC that leave a block, on the grid ``result``."""
    parts = (to_real(given[first : first + PASS], source) for first in range(0, len(given), PASS))
    return np.concatenate([to_integers(block(part), result) for part in parts])
