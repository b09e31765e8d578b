"""What calls of the quantized dialect compute, in PyTorch, on real values and with gradients: a block that can learn.

Tensors are float32 NCHW, channels last in memory, and hold ``scale * (q - zero_point)`` of the machine's integers q, but for
float32's own error where a value is next to a tie. Needs torch.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from tvm import relax

from ....dialect import operators
from ....dialect.operators import ConvAttrs, EltwiseAttrs, PoolAttrs, Quantization, TableAttrs
from ....dialect.quantized import RealLayer
from ....machine.numerics import activation_limits
from ..constants import LayerConstants, fits_machine
from .blocks import Block

FARTHEST = (
    0.25  # steps that a weight begins from its integer: what rounding in closed form chose is where learning begins
)
_INT32_MAX = np.iinfo(np.int32).max
_COMBINE = {"add": torch.add, "sub": torch.sub, "mul": torch.mul, "min": torch.minimum, "max": torch.maximum}


def to_real(integers: np.ndarray, q: Quantization) -> Tensor:
    """Real values NCHW of integers NHWC."""
    return torch.from_numpy(integers).to(torch.float32).sub_(q.zero_point).mul_(q.scale).permute(0, 3, 1, 2)


def to_integers(real: Tensor, q: Quantization) -> np.ndarray:
    """Integers NHWC, in their carrier, of real values NCHW on the grid of ``q``."""
    made = (real.permute(0, 2, 3, 1) / q.scale).round_().add_(q.zero_point)
    return np.ascontiguousarray(made.numpy().astype(operators.carrier(q.bits)))


class _Grid(torch.autograd.Function):
    """The nearest multiples of a step within clamps, with the gradient of LSQ (arXiv 1902.08153) for the step.

    PyTorch's own fake quantization has the same gradient and takes three times as long on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, step: Tensor, lo: int, hi: int) -> Tensor:
        steps = x / step
        cut = steps.clamp(lo, hi)
        ctx.inside = cut == steps
        rounded = cut.round_()
        if ctx.needs_input_grad[1]:
            ctx.save_for_backward(torch.where(ctx.inside, rounded - steps, rounded))
        return rounded * step

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_step = (grad * ctx.saved_tensors[0]).sum().reshape(1) if ctx.needs_input_grad[1] else None
        return grad * ctx.inside, of_step, None, None


class Rounding(nn.Module):
    """Rounds to a call's grid and clamps.

    ``learned``: the step is; the parameter ``ratio`` is that to what it was. Clamp and zero point stay the integers that they are.
    """

    def __init__(self, attrs: operators.ClampedAttrs, learned: bool) -> None:
        super().__init__()
        self.q, self.learned = attrs.result, learned
        self.lo, self.hi = attrs.clamp.lo - self.q.zero_point, attrs.clamp.hi - self.q.zero_point
        self.ratio = nn.Parameter(torch.ones(1), requires_grad=learned)

    def forward(self, x: Tensor) -> Tensor:
        """Values on the grid."""
        return _Grid.apply(x, self.ratio * self.q.scale, self.lo, self.hi)

    def quantization(self) -> Quantization:
        """The grid as it is now."""
        scale = self.q.scale * float(self.ratio.detach())
        return Quantization(self.q.bits, float(np.float32(scale)), self.q.zero_point)


class _Nearest(torch.autograd.Function):
    """The nearest whole number, with the gradient of the number itself (arXiv 1308.3432)."""

    @staticmethod
    def forward(_: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(_: Any, grad: Tensor) -> Tensor:
        return grad


class Layer(nn.Module):
    """A layer with weights.

    ``latent`` [OC, I, rows, pixels]: what is rounded to the integers, in steps of a channel's scale. It begins where the ``real``
    weights are, as far as that rounds to the integers that the layer has; without them it stays. ``shift`` [OC]: added to the bias,
    in steps of the output; ``gain`` [OC, 1, 1, 1]: of the scales.
    """

    def __init__(self, attrs: ConvAttrs, constants: LayerConstants, real: RealLayer | None, learned_step: bool) -> None:
        super().__init__()
        self.attrs, self.before = attrs, constants
        self.rounding = Rounding(attrs, learned_step)
        self.limit = activation_limits(attrs.weight_bits)[1]
        weight, scale = constants.weight.astype(np.float32), constants.scale
        self.scale = torch.tensor(scale).reshape(-1, 1, 1, 1)
        start = weight
        if real is not None:
            off = real.weight / scale[:, None, None, None] - weight
            start = weight + np.clip(off, -FARTHEST, FARTHEST).astype(np.float32)
        self.latent = nn.Parameter(_channels_first(start), requires_grad=real is not None)
        # A channel without weights is its constant, on a scale of its own.
        self.alive = _channels_first(weight).flatten(1).any(dim=1).reshape(-1, 1, 1, 1)
        self.bias = torch.from_numpy(constants.bias * (attrs.source.scale * scale.astype(np.float64))).float()
        self.shift = nn.Parameter(torch.zeros_like(self.bias))
        self.gain = nn.Parameter(torch.ones_like(self.scale), requires_grad=real is not None)

    def integers(self) -> Tensor:
        """The weights as integers [OC, I, rows, pixels]."""
        return _Nearest.apply(self.latent).clamp(-self.limit, self.limit) * self.alive

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output, rounded."""
        attrs = self.attrs
        top, left, bottom, right = attrs.padding
        padding = (top, left)
        if padding != (bottom, right):
            x, padding = functional.pad(x, (left, right, top, bottom)), (0, 0)
        weight = (self.integers() * (self.scale * self.gain)).contiguous(memory_format=torch.channels_last)
        bias = self.bias + self.shift * attrs.result.scale
        made = functional.conv2d(x, weight, bias, attrs.strides, padding, attrs.dilation, attrs.groups)
        return self.rounding(made)

    def constants(self, source: Quantization) -> LayerConstants:
        """What was learned, for an input on the grid ``source``. A channel that the machine could not hold so keeps its weights."""
        weight = self.integers().detach().permute(0, 2, 3, 1).numpy()
        scale = (self.scale * self.gain).detach().reshape(-1).numpy()
        bias = self.bias + self.shift.detach() * self.attrs.result.scale
        after = LayerConstants(weight, _in_units(bias, source, scale), scale)
        kept = np.clip(_in_units(self.bias, source, self.before.scale), -_INT32_MAX, _INT32_MAX)
        own = LayerConstants(self.before.weight, kept.astype(self.before.bias.dtype), self.before.scale)
        return own.where(~fits_machine(self.attrs, after), after)


def _in_units(bias: Tensor, source: Quantization, scale: np.ndarray) -> np.ndarray:
    """A real bias in units of source scale times weight scale, whole numbers."""
    return np.rint(bias.double().numpy() / (np.float32(source.scale) * scale).astype(np.float64))


def _channels_first(weight: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(weight.transpose(0, 3, 1, 2), np.float32))


class _Rescaled(nn.Module):
    """A call without weights whose result is rescaled."""

    def __init__(self, attrs: operators.ClampedAttrs, learned_step: bool) -> None:
        super().__init__()
        self.attrs, self.rounding = attrs, Rounding(attrs, learned_step)

    def forward(self, *operands: Tensor) -> Tensor:
        """The call's result, rounded."""
        if isinstance(self.attrs, EltwiseAttrs):
            return self.rounding(_combined(self.attrs, *operands))
        return self.rounding(_pooled(self.attrs, *operands) if isinstance(self.attrs, PoolAttrs) else operands[0])


def _combined(attrs: EltwiseAttrs, a: Tensor, b: Tensor) -> Tensor:
    made = _COMBINE[attrs.kind](a, b)
    if not attrs.lesser:
        return made
    chosen = torch.zeros(a.shape[1], dtype=torch.bool)
    chosen[list(attrs.lesser)] = True
    return torch.where(chosen.reshape(1, -1, 1, 1), torch.minimum(a, b), made)


def _pooled(attrs: PoolAttrs, x: Tensor) -> Tensor:
    window = attrs.kernel, attrs.strides, attrs.padding[:2]
    if attrs.kind == "max":
        return functional.max_pool2d(x, *window)
    return functional.avg_pool2d(x, *window, count_include_pad=attrs.count_include_pad)


class _Table(nn.Module):
    """A function of one value, from its table. Its gradient is the slope between the entries on either side."""

    def __init__(self, attrs: TableAttrs, table: np.ndarray) -> None:
        super().__init__()
        self.attrs = attrs
        entries = (table.astype(np.float64) - attrs.result.zero_point) * attrs.result.scale
        self.entries = torch.from_numpy(entries).float()
        self.slopes = torch.from_numpy(np.gradient(entries) / attrs.source.scale).float()

    def forward(self, x: Tensor) -> Tensor:
        """The entries."""
        source = self.attrs.source
        place = (x.detach() / source.scale).round_().long() + (source.zero_point - activation_limits(source.bits)[0])
        slope = self.slopes[place]
        return self.entries[place] + slope * (x - x.detach())


class Simulated(nn.Module):
    """A block. ``real``: by name, the layers whose weights are learned; ``learned_steps``: the results whose steps are."""

    def __init__(self, block: Block, real: Mapping[str, RealLayer], learned_steps: Collection[relax.Var]) -> None:
        super().__init__()
        self.block = block
        made: list[nn.Module] = []
        for step, attrs in zip(block.steps, block.attrs, strict=True):
            arrays = [operators.constant(arg) for arg in step.value.args if not isinstance(arg, relax.Var)]
            learned = step.var in learned_steps
            if isinstance(attrs, ConvAttrs):
                made.append(Layer(attrs, LayerConstants(*arrays), real.get(attrs.name), learned))
            elif isinstance(attrs, TableAttrs):
                made.append(_Table(attrs, *arrays))
            else:
                assert isinstance(attrs, operators.ClampedAttrs)
                made.append(_Rescaled(attrs, learned))
        self.made = nn.ModuleList(made)

    def forward(self, x: Tensor) -> Tensor:
        """What leaves the block for what enters it."""
        values = dict.fromkeys(self.block.entries, x)
        for step, module in zip(self.block.steps, self.made, strict=True):
            values[step.var] = module(*(values[arg] for arg in step.value.args if isinstance(arg, relax.Var)))
        return values[self.block.output]

    @property
    def layers(self) -> list[Layer]:
        """The layers with weights."""
        return [each for each in self.made if isinstance(each, Layer)]

    @property
    def roundings(self) -> list[Rounding]:
        """The roundings whose steps are learned."""
        found = [each.rounding for each in self.made if isinstance(each, Layer | _Rescaled)]
        return [each for each in found if each.learned]

    def grids(self) -> dict[relax.Var, Quantization]:
        """What the results mean now whose steps are learned."""
        pairs = zip(self.block.steps, self.made, strict=True)
        return {
            step.var: each.rounding.quantization()
            for step, each in pairs
            if isinstance(each, Layer | _Rescaled) and each.rounding.learned
        }

    def constants(self, grids: Mapping[relax.Var, Quantization]) -> dict[str, LayerConstants]:
        """What the layers learned, by name; ``grids``: what their inputs mean where that changed."""
        pairs = zip(self.block.steps, self.made, strict=True)
        return {
            each.attrs.name: each.constants(grids.get(step.value.args[0], each.attrs.source))
            for step, each in pairs
            if isinstance(each, Layer)
        }
