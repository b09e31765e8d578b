"""Step sizes that are trained with the weights: Esser et al., "Learned step size quantization", arXiv 1902.08153."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torchao.quantization.pt2e.fake_quantize import FakeQuantize, FakeQuantizeBase

from .weights import PerChannelWeightFakeQuantize, convert_weights

# Of the range that was seen, the part that rounds the first tensor with the least squared error is where training starts.
STARTS = tuple(k / 20 for k in range(5, 21))
SMALLEST_STEP = float(torch.finfo(torch.float32).eps)


class LearnedStep(FakeQuantizeBase):
    """Rounds as the FakeQuantize that it replaces, by a step that is a parameter; the zero point stays what it was.

    The gradient of the step is LSQ's: q(x / s) - x / s inside the range, the end of the range outside. It is scaled by
    1 / (Q · sqrt(n)) with n values per sample (per channel for weights) and Q the largest integer. LSQ has 1 / sqrt(n · Q), for
    steps that start at 2 · mean(|x|) / sqrt(Q); ours start near max(|x|) / Q, and those of 8 bits would leap about.
    ``step``: float32 [channels], or [1] per tensor.
    """

    zero_point: Tensor
    started: Tensor

    def __init__(self, ranged: FakeQuantize) -> None:
        super().__init__()
        self.quant_min, self.quant_max = ranged.quant_min, ranged.quant_max
        self.dtype, self.qscheme, self.ch_axis, self.is_dynamic = ranged.dtype, ranged.qscheme, ranged.ch_axis, False
        self.is_per_channel: bool = ranged.is_per_channel
        step, zero_point = ranged.calculate_qparams()
        self.step = nn.Parameter(step.detach().float().reshape(-1).clone())
        self.register_buffer("zero_point", zero_point.detach().float().reshape(-1).clone())
        self.register_buffer("started", torch.tensor(False))

    def forward(self, x: Tensor) -> Tensor:
        """Values on the grid of step and zero point, the shape of ``x``."""
        if not self.started:
            self._start(x.detach())
        self.step.data.clamp_(min=SMALLEST_STEP)
        return self._rounded(x, self.step)

    def _rounded(self, x: Tensor, step: Tensor) -> Tensor:
        limits = self.quant_min, self.quant_max
        scaled = x[0].numel() ** -0.5 / self.quant_max
        if self.is_per_channel:
            return torch._fake_quantize_learnable_per_channel_affine(
                x, step, self.zero_point, self.ch_axis, *limits, scaled
            )
        return torch._fake_quantize_learnable_per_tensor_affine(x, step, self.zero_point, *limits, scaled)

    def _start(self, x: Tensor) -> None:
        kept = [k for k in range(x.dim()) if not self.is_per_channel or k != self.ch_axis]
        with torch.no_grad():
            errors = [(self._rounded(x, self.step * part) - x).square().sum(kept).reshape(-1) for part in STARTS]
            self.step.mul_(torch.tensor(STARTS)[torch.stack(errors).argmin(0)])
        self.started.fill_(True)

    def calculate_qparams(self, **_: Any) -> tuple[Tensor, Tensor]:
        """(scales, zero points), as convert_pt2e asks for them."""
        return self.step.detach().clamp(min=SMALLEST_STEP), self.zero_point.to(torch.int64)


class LearnedWeightStep(LearnedStep):
    """The same for the weights of a layer, whose conversion also rounds the layer's bias."""

    def convert(self, model: GraphModule, node: Node) -> None:
        """Puts quantize and dequantize in the place of the node; PT2E calls it."""
        convert_weights(self, model, node)


def learn_steps(prepared: nn.Module) -> None:
    """Put a LearnedStep in the place of each FakeQuantize whose range was observed.

    A FakeQuantize that stands at several places, because their tensors share a scale, becomes one LearnedStep.
    """
    made: dict[FakeQuantize, LearnedStep] = {}
    for name, module in list(prepared.named_modules(remove_duplicate=False)):
        if isinstance(module, FakeQuantize) and module.observer_enabled[0] == 1:
            kind = LearnedWeightStep if isinstance(module, PerChannelWeightFakeQuantize) else LearnedStep
            prepared.set_submodule(name, made.setdefault(module, kind(module)))
