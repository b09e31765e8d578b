"""How a block learns: its weights, biases and steps by the squared error of its output against the float network's.

The block reads what the blocks before it deliver on integers, as they were learned. BRECQ (arXiv 2102.05426) is where blocks come
from; weights are learned through their rounding and begin with those that were rounded in closed form. Needs torch.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ....dialect.operators import Quantization
from .simulated import Simulated, to_integers, to_real

ITERATIONS = 200
PLACES = 4096  # pixels of the block's input in one iteration, and
MOST_SAMPLES = 32  # at most, and at least one
CHECK = 20  # iterations after which those judge
JUDGED_PLACES = 8 * PLACES  # pixels of the block's input that judge, and
FEWEST_JUDGES = 8  # samples at least, if there are as many
WEIGHT_RATE = 0.01  # of Adam, at its highest: steps of a weight in an iteration
SCALE_RATE = 0.0005  # share of the scale of a channel's weights
SHIFT_RATE = 0.01  # steps of the output
STEP_RATE = 0.01  # share of the step of an activation
WARM_UP_PART = 0.1  # of all iterations, in which the rates rise; they fall as a cosine
PASS = 16  # samples that are computed together when nothing is learned


def learn(
    block: Simulated, given: np.ndarray, source: Quantization, wanted: np.ndarray, held: np.ndarray, seed: int
) -> bool:
    """Learns in place, as far as samples that are not learned from gain, too; whether they gained at all.

    ``given``: the integers NHWC that enter the block, on the grid ``source``; ``wanted``: float32 NHWC, what the float network has
    in the place of what leaves it. ``held``: of each sample whether it is one that judges. ``seed``: of the draw of the others.
    """
    _, height, width, _ = given.shape
    known, judges = np.flatnonzero(~held), np.flatnonzero(held)
    judges = judges[: max(FEWEST_JUDGES, JUDGED_PLACES // (height * width))]
    together = max(1, min(MOST_SAMPLES, len(known), PLACES // (height * width)))

    def loss(chosen: np.ndarray) -> Tensor:
        target = torch.from_numpy(wanted[chosen]).permute(0, 3, 1, 2)
        return functional.mse_loss(block(to_real(given[chosen], source)), target)

    def judged() -> float:
        with torch.no_grad():
            parts = np.array_split(judges, -(-len(judges) // PASS))
            return sum(float(loss(part)) * len(part) for part in parts)

    optimizer = torch.optim.Adam(_parameters(block))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / ITERATIONS))
    rng = np.random.default_rng(seed)
    least, best, gained = judged(), _state(block), False
    for done in range(1, ITERATIONS + 1):
        now = loss(np.sort(rng.choice(known, together, replace=False)))
        optimizer.zero_grad()
        now.backward()
        optimizer.step()
        schedule.step()
        if done % CHECK == 0 and (error := judged()) < least:
            least, best, gained = error, _state(block), True
    block.load_state_dict(best)
    return gained


def _parameters(block: Simulated) -> list[dict[str, Any]]:
    """What is learned, by its rate."""
    by_rate = [
        (WEIGHT_RATE, [each.latent for each in block.layers]),
        (SCALE_RATE, [each.gain for each in block.layers]),
        (SHIFT_RATE, [each.shift for each in block.layers]),
        (STEP_RATE, [each.ratio for each in block.roundings]),
    ]
    chosen = [(rate, [each for each in found if each.requires_grad]) for rate, found in by_rate]
    return [{"params": found, "lr": rate} for rate, found in chosen if found]


def _state(block: Simulated) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in block.named_parameters()}


def _rate(part: float) -> float:
    """The rate, of the highest, when this part of all iterations is done."""
    return min(1.0, part / WARM_UP_PART + 0.05) * 0.5 * (1 + math.cos(math.pi * part))


@torch.no_grad()
def delivered(block: Simulated, given: np.ndarray, source: Quantization, result: Quantization) -> np.ndarray:
    """The integers NHWC that leave a block, on the grid ``result``."""
    parts = (to_real(given[first : first + PASS], source) for first in range(0, len(given), PASS))
    return np.concatenate([to_integers(block(part), result) for part in parts])
