"""Random chains with post stages, wide pixels and cascades put anywhere, whether they pay or not: exact integers in both modes.

Strides, odd channel counts, tiles that lie in the padding, kernels taken some rows at a time, every width, and second operands that
come from DRAM or lie in SRAM.
"""

import os
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from npu.cascade_cases import random_chain
from npu.harness import equally_quick, run_artefact
from npu.layer_cases import WIDTHS, values
from npu.lower.test_wide_pixels import forced
from npu.oracle import run_graph
from npu.test_cascades import any_choice, emitted
from qaccel.errors import UserError
from qaccel.machine.hw import HwConfig
from qaccel.machine.isa import decode
from qaccel.npu.check.program import check_program
from qaccel.npu.emit.encode import build_artefact
from qaccel.npu.layers import ConvLayer, DepthwiseLayer, LayerGraph
from qaccel.npu.plan import allocate as planned
from qaccel.npu.plan.allocate import Allocation
from qaccel.npu.plan.post import with_posts

SEED = 20261201
FEW, MANY = 40, 20000
BUFFERS = (1024, 2048, 8192, 65536)  # bytes: small ones hold a few rows of a kernel


def case(index: int) -> tuple[LayerGraph, HwConfig, list[np.ndarray]]:
    """A chain, a machine, and inputs; of the constants that are added, some come as inputs of the subgraph."""
    rng = np.random.default_rng([SEED, index])
    graph, hw = random_chain(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3])
    given = tuple(i for i, m in enumerate(graph.maps) if m.data is not None and rng.random() < 0.5)
    maps = tuple(replace(m, data=None) if i in given else m for i, m in enumerate(graph.maps))
    graph = replace(graph, maps=maps, inputs=(*graph.inputs, *given))
    hw = replace(hw, weight_buffer_bytes=int(rng.choice(BUFFERS)))
    return graph, hw, [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]


def allocated(index: int, graph: LayerGraph, hw: HwConfig) -> tuple[LayerGraph, Allocation]:
    """A plan that no cost was asked for."""
    rng = np.random.default_rng([SEED, index, 1])
    if rng.random() < 0.8:
        graph = with_posts(graph, hw, equally_quick)
    if rng.random() < 0.7:
        graph = forced(rng)(graph, hw)
    with pytest.MonkeyPatch.context() as patch:
        if rng.random() < 0.7:
            patch.setattr(planned, "choose", any_choice(rng, hw))
        return graph, planned.allocate(graph, hw)


def check_case(index: int) -> Counter[str]:
    """Gives what the program has, each kind once."""
    graph, hw, inputs = case(index)
    expected = run_graph(graph, inputs)
    try:
        graph, allocation = allocated(index, graph, hw)
    except UserError:
        return Counter({"too large": 1})
    program = emitted(graph, allocation, hw)
    artefact = build_artefact(graph, allocation, program, hw)
    check_program(artefact, program.intent)
    for mode in ("functional", "cycle"):
        for got, output in zip(run_artefact(artefact, inputs, mode)[0], graph.outputs, strict=True):
            np.testing.assert_array_equal(got, expected[output])
    return features(graph, allocation, artefact.program)


def features(graph: LayerGraph, allocation: Allocation, program: bytes) -> Counter[str]:
    posted = [
        (step, layer)
        for step, layer in enumerate(graph.layers)
        if isinstance(layer, ConvLayer | DepthwiseLayer) and layer.post is not None
    ]
    cascaded = {step for c in allocation.cascades if c.last > c.first for step in range(c.first, c.last + 1)}
    strides = {step for step, layer in posted if max(layer.window.stride_h, layer.window.stride_w) > 1}
    found = {
        "post": bool(posted),
        "wide": any(getattr(layer, "wide", 1) > 1 for layer in graph.layers),
        "wide post": any(getattr(layer, "wide", 1) > 1 for _, layer in posted),
        "cascade": bool(cascaded),
        "post in a cascade": any(step in cascaded for step, _ in posted),
        "strided post": bool(strides),
        "operand from DRAM": any(allocation.tilings[step].in_slot_bytes[1:] > (0,) for step, _ in posted),
        "kernel in parts": any(
            allocation.tilings[step].tile_kh < layer.window.kernel_h
            for step, layer in enumerate(graph.layers)
            if isinstance(layer, ConvLayer | DepthwiseLayer)
        ),
        "odd channels": any(graph.maps[layer.output].c % 2 for _, layer in posted),
        "forwards": any(ins.values.get("forward", 0) for ins in decode(program)),
    }
    return Counter(name for name, there in found.items() if there)


def check_cases(indices: range) -> Counter[str]:
    found: Counter[str] = Counter()
    for index in indices:
        try:
            found += check_case(index)
        except Exception as error:
            raise AssertionError(f"case {index}") from error
    return found


def test_few() -> None:
    found = check_cases(range(FEW))
    assert found.pop("too large", 0) <= FEW / 4
    found.pop("kernel in parts", 0)  # three of a hundred
    assert min(found.values()) >= 2 and len(found) == 9, found


@pytest.mark.slow
def test_many() -> None:
    check_cases(range(FEW, FEW + int(os.environ.get("QACCEL_COMBINATIONS", MANY))))
