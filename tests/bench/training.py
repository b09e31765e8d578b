"""Training runs of the benches: images that are turned and shifted at random, a float network, and the same for its integers."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tasks import SEED, Task
from torch import Tensor, nn
from torchao.quantization.pt2e.fake_quantize import FakeQuantize
from torchao.quantization.pt2e.observer import MovingAverageMinMaxObserver
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
from torchao.quantization.pt2e.quantizer import QuantizationSpec
from torchao.quantization.pt2e.quantizer.quantizer import Q_ANNOTATION_KEY

from networks import torch_networks
from qaccel.train import QaccelQuantizer, fit

BATCH = 128
SHIFT = 3  # pixels, at most


class Images:
    """A task's training images in random order, once for each time it is iterated: (float32 [BATCH, 3, 32, 32], classes).

    Each is shifted by up to SHIFT pixels, borders mirrored, and turned left to right at random if the task allows it. The same for the
    same task each time that one is made.
    """

    def __init__(self, task: Task) -> None:
        self.flips, self.rng = task.flips, np.random.default_rng(SEED)
        self.images, self.classes = task.train()

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        order = self.rng.permutation(len(self.images))[: len(self) * BATCH].reshape(-1, BATCH)
        for chosen in order:
            moved = torch.from_numpy(self._moved(self.images[chosen]))
            yield moved.contiguous(memory_format=torch.channels_last), torch.from_numpy(self.classes[chosen])

    def _moved(self, images: np.ndarray) -> np.ndarray:
        n, channels, size, _ = images.shape
        if self.flips:
            images = np.where(self.rng.random((n, 1, 1, 1)) < 0.5, images[..., ::-1], images)
        wide = np.pad(images, ((0, 0), (0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT)), mode="reflect")
        down, right = self.rng.integers(0, 2 * SHIFT + 1, (2, n, 1)) + np.arange(size)
        which = np.arange(n)[:, None, None, None], np.arange(channels)[None, :, None, None]
        return wide[(*which, down[:, None, :, None], right[:, None, None, :])]


@dataclass(frozen=True)
class Taken:
    """Minutes of a training run, on the clock and of all cores' work."""

    wall: float
    cpu: float

    def __add__(self, other: Taken) -> Taken:
        return Taken(self.wall + other.wall, self.cpu + other.cpu)

    def __str__(self) -> str:
        return f"{self.wall:.1f} min ({self.cpu:.1f} CPU min)"


class LayerWise(QaccelQuantizer):
    """What the machine does not have and the paper compares with: weights with one scale and a zero point per tensor."""

    def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
        """As the compiler would, but for the weights."""
        super().annotate(model)
        for node in model.graph.nodes:
            if Q_ANNOTATION_KEY in node.meta:
                given = node.meta[Q_ANNOTATION_KEY].input_qspec_map
                for source, spec in given.items():
                    if getattr(spec, "qscheme", None) == torch.per_channel_symmetric:
                        kind = FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, averaging_constant=1.0)
                        given[source] = QuantizationSpec(
                            spec.dtype, kind, spec.quant_min - 1, spec.quant_max, torch.per_tensor_affine
                        )
        return model


def float_trained(network: nn.Module, task: Task, epochs: int, rate: float, path: Path) -> nn.Module:
    """A copy of a float network, trained on by the labels; or what lies at ``path`` already, where its weights and minutes go."""
    network = copy.deepcopy(network).to(memory_format=torch.channels_last)
    if path.is_file():
        network.load_state_dict(torch.load(path))
    else:
        torch.manual_seed(SEED)
        _timed(path, lambda: fit(network, Images(task), epochs, rate=rate))
        torch.save(network.state_dict(), path)
    return network.eval()


def trained(network: nn.Module, quantizer: QaccelQuantizer, task: Task, epochs: int, rate: float, path: Path) -> None:
    """Train a float network for the integers of a quantizer, by the labels and by what it says itself, and write the program as .pt2."""
    if path.is_file():
        return
    torch.manual_seed(SEED)
    teacher = copy.deepcopy(network).to(memory_format=torch.channels_last).eval()
    network = copy.deepcopy(teacher).train()
    example = (torch.zeros(BATCH, *task.test.shape[1:]).contiguous(memory_format=torch.channels_last),)
    prepared = prepare_qat_pt2e(torch.export.export(network, example).module(check_guards=False), quantizer)
    _timed(path, lambda: fit(prepared, Images(task), epochs, rate=rate, teacher=teacher))
    torch.export.save(torch.export.export(convert_pt2e(prepared), (example[0][:1].contiguous(),)), str(path))


def _timed(path: Path, run: Callable[[], Any]) -> None:
    """Run, and note the minutes beside ``path``."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    taken = Taken((time.perf_counter() - wall) / 60, (time.process_time() - cpu) / 60)
    path.with_suffix(".json").write_text(json.dumps(asdict(taken)))


def taken(path: Path) -> Taken:
    """The minutes of what was trained and kept at ``path``."""
    return Taken(**json.loads(path.with_suffix(".json").read_text()))


def float_top1(network: nn.Module, task: Task) -> float:
    """Percent of the test images that a float network gets right."""
    with torch.no_grad():
        hits = [network(torch.from_numpy(part)).argmax(1) for part in np.array_split(task.test, 40)]
    return 100 * float((torch.cat(hits).numpy() == task.labels).mean())


def mobilenet(task: Task, epochs: int, rate: float, path: Path) -> nn.Module:
    """The MobileNet of tests/networks trained from nothing, batch normalizations folded; also written as ONNX to ``path``."""
    torch.manual_seed(SEED)
    network = float_trained(torch_networks.MobileNet(10), task, epochs, rate, path.with_suffix(".pt"))
    network = torch_networks.folded(network.to(memory_format=torch.contiguous_format))
    example = torch.zeros(1, *task.test.shape[1:])
    torch.onnx.export(network, (example,), path, dynamo=True, external_data=False, input_names=["image"])
    return network
