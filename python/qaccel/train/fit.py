"""A loop that trains a network for its integers. It is short so that you can copy and change it: nothing else here needs it."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchao.quantization.pt2e import export_utils
from torchao.quantization.pt2e.fake_quantize import (
    FakeQuantizeBase,
    disable_fake_quant,
    disable_observer,
    enable_fake_quant,
)

from ..errors import UserError
from ..stages import progress_bar
from .steps import learn_steps

log = logging.getLogger(__name__)

RANGE_BATCHES = 20  # which set the ranges before anything is trained
WARM_UP_PART = 0.05  # of all steps, in which the rate rises
LAST_PART = 0.3  # of all steps, in which statistics of batch normalizations and observed ranges stand still
MOMENTUM, WEIGHT_DECAY = 0.9, 1e-4
LARGEST_NORM = 5.0  # of the gradient, so that one odd batch cannot spoil a network without batch normalizations


class Batches(Protocol):
    """What goes through the data once each time it is iterated, and has a length; a DataLoader does.

    Gives (inputs [N, ...], classes int64 [N]).
    """

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]: ...


def fit(
    network: nn.Module,
    batches: Batches,
    epochs: int,
    *,
    rate: float = 0.01,
    teacher: nn.Module | None = None,
    learned_steps: bool = True,
    progress: bool = False,
) -> list[float]:
    """Train in place what `prepare_qat_pt2e` gave, or a float network for comparison; gives the mean loss of each epoch.

    ``teacher``: the float network; half of the loss is then the distance to its scores' distribution (distillation).
    ``rate``: of stochastic gradient descent with momentum, at its highest; it rises at first and falls as a cosine.
    ``learned_steps``: ranges are observed on the first batches, then their steps are trained with the weights (LSQ); else ranges
    are moving averages all along (Krishnamoorthi, arXiv 1806.08342, section 3.2). Both freeze batch normalizations at the end.
    Raises UserError for data that has no batches.
    """
    total = epochs * len(batches)
    if total == 0:
        raise UserError(f"there is nothing to train on: {epochs} epochs of {len(batches)} batches")
    if not _is_exported(network):  # which knows no modes
        network.train()
    quantizers = [each for each in network.modules() if isinstance(each, FakeQuantizeBase)]
    if quantizers:
        _observe(network, batches)
        if learned_steps:
            learn_steps(network)
    optimizer = torch.optim.SGD(_groups(network), rate, MOMENTUM, nesterov=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: _rate(done / total))
    losses: list[float] = []
    done = 0
    with progress_bar("training", total, progress) as advance:
        for epoch in range(epochs):
            summed = 0.0
            for inputs, classes in batches:
                if done == total - int(LAST_PART * total):
                    freeze(network)
                loss = _loss(network(inputs), classes, None if teacher is None else _scores(teacher, inputs))
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), LARGEST_NORM)
                optimizer.step()
                schedule.step()
                summed, done = summed + float(loss.detach()), done + 1
                advance(1)
            losses.append(summed / len(batches))
            log.info("epoch %d of %d: loss %.4f", epoch + 1, epochs, losses[-1])
    return losses


def freeze(network: nn.Module) -> None:
    """From now on batch normalizations use their running statistics, which stand still, and observed ranges stand still too."""
    network.apply(disable_observer)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    if _is_exported(network):
        for node in network.graph.nodes:
            if node.target is torch.ops.aten.batch_norm.default:
                node.update_arg(5, False)
        network.recompile()


def _is_exported(network: nn.Module) -> bool:
    return export_utils.model_is_exported(network)


def _observe(network: nn.Module, batches: Batches) -> None:
    """Ranges as moving averages over the first batches, in floating point."""
    network.apply(disable_fake_quant)
    with torch.no_grad():
        for inputs, _ in islice(batches, RANGE_BATCHES):
            network(inputs)
    network.apply(enable_fake_quant)


def _groups(network: nn.Module) -> list[dict[str, Any]]:
    """Parameters by weight decay: matrices and kernels have one; biases, normalizations and steps have none."""
    decayed = [each for each in network.parameters() if each.dim() > 1]
    others = [each for each in network.parameters() if each.dim() <= 1]
    return [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]


def _rate(part: float) -> float:
    """The rate, of the highest, when this part of all steps is done."""
    return min(1.0, part / WARM_UP_PART + 0.01) * 0.5 * (1 + math.cos(math.pi * part))


def _scores(teacher: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return teacher(inputs)


def _loss(scores: Tensor, classes: Tensor, wanted: Tensor | None) -> Tensor:
    """Cross entropy with the classes; with a teacher's scores, half of it and half the divergence from the teacher."""
    loss = functional.cross_entropy(scores, classes)
    if wanted is None:
        return loss
    apart = functional.kl_div(scores.log_softmax(-1), wanted.log_softmax(-1), log_target=True, reduction="batchmean")
    return (loss + apart) / 2
