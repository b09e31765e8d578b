"""A converted program in PyTorch and on the simulator, tensor by tensor: every operator fed the simulator's own integers."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchao.quantization.pt2e.quantize_pt2e  # noqa: F401 - defines the operators
from torch import fx

import qaccel

_OPS = torch.ops.quantized_decomposed
_QUANTIZE, _DEQUANTIZE = _OPS.quantize_per_tensor.default, _OPS.dequantize_per_tensor.default


@dataclass(frozen=True)
class Compared:
    """Integers of one tensor: how many there are, how many differ, the largest difference, and how far those that differ are from
    a tie, in steps."""

    name: str
    size: int
    off: int
    most: int
    from_tie: float

    def __str__(self) -> str:
        return f"{self.name}: {self.off} of {self.size} off, by at most {self.most}, {self.from_tie:.2g} from a tie"


def borders(program: fx.GraphModule) -> list[fx.Node]:
    """Where activations are rounded: the dequantize of each, in order."""
    found = {}
    for node in program.graph.nodes:
        if node.target == _DEQUANTIZE and node.args[0].op == "call_function":
            found.setdefault(node.args[0], node)
    return list(found.values())


def every_tensor(program: fx.GraphModule) -> fx.GraphModule:
    """The program with every rounded activation as a result."""
    made = copy.deepcopy(program)
    (result,) = (node for node in made.graph.nodes if node.op == "output")
    result.args = (tuple(borders(made)),)
    made.graph._codegen = fx.graph.CodeGen()
    made.recompile()
    return made


class _Fed(fx.Interpreter):
    """The program in float64 where every rounded activation is what the simulator gave; ``wanted``: what goes into the rounding,
    in steps, and its node."""

    def __init__(self, program: fx.GraphModule, given: dict[str, torch.Tensor]) -> None:
        super().__init__(program)
        self.given, self.wanted = given, {}

    def run_node(self, node: fx.Node):
        if node.target == _QUANTIZE:
            data = self.fetch_args_kwargs_from_env(node)[0][0]
            self.wanted[node.name] = data.double() / node.args[1]
            return node.name
        if node.target == _DEQUANTIZE and isinstance(self.env[node.args[0]], str):
            scale, zero_point = node.args[1:3]
            return (self.given[node.args[0].name] - zero_point) * scale
        if node.target == _OPS.dequantize_per_channel.default:
            data, scale, _, axis = self.fetch_args_kwargs_from_env(node)[0][:4]
            return data.double() * scale.double().reshape([-1 if k == axis else 1 for k in range(data.ndim)])
        value = super().run_node(node)
        return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


def compared(program: fx.GraphModule, samples: Sequence[torch.Tensor], folder: Path) -> list[Compared]:
    """Each rounded activation but the inputs: the simulator's integers beside what PyTorch makes of the integers before."""
    whole = every_tensor(program)
    torch.export.save(torch.export.export(whole, (samples[0],)), str(folder / "every.pt2"))
    module = qaccel.compile(folder / "every.pt2")
    return beside(program, module, samples)


def beside(program: fx.GraphModule, module: qaccel.Module, samples: Sequence[torch.Tensor]) -> list[Compared]:
    """As `compared`, for the module of `every_tensor`."""
    (name,) = (each["name"] for each in module.metadata["inputs"])
    nodes = [node.args[0] for node in borders(program)]
    own, told = {}, {}
    for sample in samples:
        values = list(module.run({name: sample.numpy()}).values())
        assert len(values) == len(nodes)
        given = {
            node.name: torch.from_numpy(np.rint(value.astype("f8") / node.args[1]) + node.args[2])
            for node, value in zip(nodes, values, strict=True)
        }
        fed = _Fed(program, given)
        with torch.no_grad():
            fed.run(sample.double())
        for node in nodes:
            own.setdefault(node, []).append(given[node.name].numpy())
            told.setdefault(node, []).append(fed.wanted[node.name].numpy())
    return [_difference(node, np.stack(own[node]), np.stack(told[node])) for node in nodes if not _is_input(node)]


def _is_input(node: fx.Node) -> bool:
    return node.args[0].op == "placeholder"


def _difference(node: fx.Node, got: np.ndarray, real: np.ndarray) -> Compared:
    zero_point, lo, hi = node.args[2:5]
    integers = np.clip(np.rint(real) + zero_point, lo, hi)
    off = np.abs(got - integers)
    ties = np.abs(np.abs(real - np.floor(real)) - 0.5)[off > 0]
    return Compared(node.args[0].name, off.size, int((off > 0).sum()), int(off.max()), float(ties.max(initial=0.0)))
