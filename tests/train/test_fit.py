"""The loop that trains for integers: learned steps against the paper's formula, both recipes, frozen statistics, distillation."""

import importlib.util

import pytest

if importlib.util.find_spec("torch") is None or importlib.util.find_spec("torchao") is None:
    pytest.skip("the packages torch and torchao are not installed", allow_module_level=True)

import torch
from torch import Tensor, nn
from torchao.quantization.pt2e import FakeQuantize, MovingAverageMinMaxObserver, MovingAveragePerChannelMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e

from qaccel.errors import UserError
from qaccel.train import LearnedStep, QaccelQuantizer, fit, freeze, learn_steps

BATCH, CLASSES = 32, 4
CHANNEL, TENSOR = torch.per_channel_symmetric, torch.per_tensor_affine


def learned(x: Tensor, least: int, most: int, per_channel: bool) -> LearnedStep:
    """A learned step whose range is that of ``x``, started."""
    observer = MovingAveragePerChannelMinMaxObserver if per_channel else MovingAverageMinMaxObserver
    scheme = {"qscheme": CHANNEL, "ch_axis": 0} if per_channel else {"qscheme": TENSOR}
    ranged = FakeQuantize(observer, least, most, dtype=torch.int8, **scheme)
    ranged(x)
    made = LearnedStep(ranged)
    made(x)
    return made


@pytest.mark.parametrize(("least", "most", "per_channel"), [(-7, 7, True), (-8, 7, False), (-128, 127, False)])
def test_gradients_are_the_papers(least: int, most: int, per_channel: bool):
    """Equation 3 of arXiv 1902.08153, each element by hand, with a zero point as in LSQ+; and our scale of it."""
    torch.manual_seed(0)
    x = torch.randn(4, 3, 5, requires_grad=True)
    quantizer = learned(x.detach(), least, most, per_channel)
    quantizer.step.data *= 0.6  # so that some values lie outside
    weight = torch.randn(4, 3, 5)
    (quantizer(x) * weight).sum().backward()
    step, zero = (v.reshape(-1, 1, 1).double() for v in (quantizer.step.detach(), quantizer.zero_point))
    exact = x.detach().double() / step
    rounded = torch.round(exact) + zero
    inside = (rounded >= least) & (rounded <= most)
    slope = torch.where(inside, torch.round(exact) - exact, torch.where(rounded < least, least - zero, most - zero))
    share = slope * weight * x[0].numel() ** -0.5 / most
    wanted = share.sum((1, 2)) if per_channel else share.sum().reshape(1)
    assert 0 < int(inside.sum()) < x.numel()
    torch.testing.assert_close(quantizer.step.grad.double(), wanted, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(x.grad, torch.where(inside, weight, 0.0))


def test_a_step_starts_where_it_rounds_best():
    """4 bits of a bell with one far outlier: the least error is inside the range; 8 bits of evenly spread values keep all of it."""
    torch.manual_seed(1)
    bell = torch.randn(1, 4000)
    bell[0, 0] = 8
    quantizer = learned(bell, -8, 7, False)
    assert quantizer.step.item() < 0.8 * 16 / 15
    even = torch.linspace(-1, 1, 1001)[None]
    assert learned(even, -128, 127, False).step.item() == pytest.approx(2 / 255, rel=1e-3)


class Net(nn.Module):
    """A residual network; PT2E takes seconds for each with ``norms``."""

    def __init__(self, norms: bool = False) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8) if norms else nn.Identity()
        self.conv2, self.norm2 = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8, eps=1e-3) if norms else nn.Identity()
        self.classifier = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm1(self.conv1(x)))
        x = torch.relu(x + self.norm2(self.conv2(x)))
        return self.classifier(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


def batches(seed: int, count: int = 12) -> list[tuple[Tensor, Tensor]]:
    """Images whose class is a colour cast, with noise."""
    generator = torch.Generator().manual_seed(seed)
    casts = torch.randn(CLASSES, 3, 1, 1, generator=torch.Generator().manual_seed(7))
    made = []
    for _ in range(count):
        classes = torch.randint(0, CLASSES, (BATCH,), generator=generator)
        made.append((casts[classes] + torch.randn(BATCH, 3, 8, 8, generator=generator), classes))
    return made


def prepared(network: nn.Module, plan: object) -> torch.fx.GraphModule:
    program = torch.export.export(network.train(), (torch.zeros(BATCH, 3, 8, 8),)).module(check_guards=False)
    return prepare_qat_pt2e(program, QaccelQuantizer(plan))


def converts(network: torch.fx.GraphModule, inputs: Tensor) -> bool:
    """Whether the converted program gives what was simulated, but where a bias that conversion rounded moves a value by a step."""
    with torch.no_grad():
        simulated, got = network(inputs), convert_pt2e(network)(inputs)
    same = torch.isclose(simulated, got, rtol=1e-4, atol=1e-6).float().mean()
    return float(same) > 0.6 and torch.equal(simulated.argmax(1), got.argmax(1))


@pytest.fixture(scope="module")
def teacher() -> nn.Module:
    torch.manual_seed(2)
    network = Net()
    losses = fit(network, batches(3), 4, rate=0.1)
    assert losses[-1] < 0.5 * losses[0]  # it can be learned
    return network.eval()


@pytest.mark.parametrize("learned_steps", [True, False])
def test_training_brings_the_loss_down(teacher: nn.Module, learned_steps: bool):
    """W4A4: the loss falls, and the converted program gives what was trained."""
    torch.manual_seed(5)
    network = prepared(Net(), "W4A4")
    losses = fit(network, batches(3), 6, rate=0.1, teacher=teacher, learned_steps=learned_steps)
    assert losses[-1] < 0.6 * losses[0]
    assert converts(network, batches(4, 1)[0][0])


def test_ranges_that_are_shared_become_one_step(teacher: nn.Module):
    network = prepared(teacher, 8)
    quantizers = {m for m in network.modules() if isinstance(m, FakeQuantize)}
    places = [n for n, m in network.named_modules(remove_duplicate=False) if m in quantizers]
    network(batches(3, 1)[0][0])
    learn_steps(network)
    made = {m for m in network.modules() if isinstance(m, LearnedStep)}
    assert len(made) == len(quantizers) and all(isinstance(network.get_submodule(n), LearnedStep) for n in places)


@pytest.mark.slow
def test_frozen_statistics_stand_still():
    """Those of batch normalizations and of ranges; and what was frozen converts to what was simulated."""
    network = prepared(Net(norms=True), 8)
    inputs = batches(3, 1)[0][0]

    def statistics() -> list[Tensor]:
        kept = {k: v for k, v in network.named_buffers() if "running" in k or "min_val" in k or "max_val" in k}
        return [v.clone() for v in kept.values()]

    before = statistics()
    network(inputs)
    moved = statistics()
    assert any(not torch.equal(a, b) for a, b in zip(before, moved, strict=True))
    freeze(network)
    network(inputs)
    assert all(torch.equal(a, b) for a, b in zip(moved, statistics(), strict=True))
    assert converts(network, inputs)


def test_nothing_to_train_on(teacher: nn.Module):
    with pytest.raises(UserError, match="3 epochs of 0 batches"):
        fit(teacher, [], 3)
