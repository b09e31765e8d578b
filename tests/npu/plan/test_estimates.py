"""What the planner says that a tile's instruction takes, against the instruction that the emitter makes of the tile.

Both are what the simulator counts: tests/npu/test_networks.py and tests/target/test_simulator_timing.py.
"""

from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from npu.harness import equally_quick
from npu.layer_cases import WIDTHS, random_layer, random_pair
from qaccel.dialect.pieces import Piece
from qaccel.machine import cost
from qaccel.machine.hw import HwConfig, config_names, load_config
from qaccel.machine.isa import Instruction
from qaccel.npu.access import with_forwarding
from qaccel.npu.emit.instructions import emit_program
from qaccel.npu.emit.weights import compress, weight_tiles
from qaccel.npu.layers import EltwiseLayer, FeatureMap, LayerGraph, MoveLayer
from qaccel.npu.plan.allocate import allocate
from qaccel.npu.plan.post import with_posts
from qaccel.npu.plan.tiles import pixelwise_tiles
from qaccel.npu.plan.tiles.tile_work import pointwise_tile
from qaccel.npu.plan.tiles.tiling import Tiling
from tiers import wide_after

SEED = 20261129


def planned(graph: LayerGraph, hw: HwConfig) -> tuple[Tiling, list[tuple[Instruction, Instruction | None]]]:
    """The only layer's tiling, and its COMPUTE instructions, each with the one that forwards to it."""
    allocation = allocate(graph, hw)
    program = emit_program(graph, allocation, compress(weight_tiles(graph, allocation), hw), hw)
    pairs = with_forwarding(program.instructions)
    return allocation.tilings[0], [(ins, before) for ins, before in pairs if ins.engine == "COMPUTE"]


def check(graph: LayerGraph, hw: HwConfig) -> Counter[str]:
    """Each instruction that the plan is scored by is in the program; gives the kinds that were compared."""
    tiling, computes = planned(graph, hw)
    emitted = {cost.work_of(*pair): pair for pair in computes}
    compared: Counter[str] = Counter()
    for work, _ in tiling.work.computes:
        assert work in emitted
        ins, before = emitted[work]
        assert cost.work_cycles(work, hw) == cost.duration(ins, hw, before)
        compared[ins.op if before is None else f"{ins.op} behind {before.op}"] += 1
    return compared


def random_move(rng: np.random.Generator, hw: HwConfig) -> LayerGraph:
    """Two maps beside each other, the second with rows and pixels exchanged; sometimes larger than SRAM."""
    bits, out_bits = int(rng.choice([8, 16])), int(rng.choice([8, 16]))
    channels = [int(c) for c in rng.integers(1, 40, 2)]
    h, w = (int(s) for s in rng.integers(1, 20, 2))
    if rng.random() < 0.3:
        h = w = int(np.sqrt(hw.sram_bytes / sum(channels) * rng.uniform(0.3, 1.5))) + 1
    maps = (
        FeatureMap("a", h, w, channels[0], bits, 0),
        FeatureMap("b", w, h, channels[1], bits, 0),
        FeatureMap("y", h, w, sum(channels), out_bits, 0),
    )
    pieces = (
        Piece(0, h, w, channels[0], 0, 0, w, 0, 1, 0, 0, 0, w, 0, 1, 0),
        Piece(1, h, w, channels[1], 0, 0, 1, 0, h, 0, 0, channels[0], w, 0, 1, 0),
    )
    layer = MoveLayer("move", "Concat", (0, 1), 2, -128, 127, pieces, ((1 << 30, 30), (1 << 30, 30)))
    return LayerGraph("main", maps, (layer,), (0, 1), (2,))


@pytest.mark.parametrize("config", wide_after(1, reversed(config_names())))
def test_planned_work_is_what_is_emitted(config: str) -> None:
    """40 random layers of each pair of widths, and 40 moves; every third layer is too large for SRAM or the weight buffer."""
    hw = load_config(config)
    compared: Counter[str] = Counter()
    for weight_bits in WIDTHS:
        for activation_bits in WIDTHS:
            for index in range(40):
                rng = np.random.default_rng([SEED, index, weight_bits, activation_bits])
                try:
                    compared += check(random_layer(rng, weight_bits, activation_bits, index % 3 == 0, hw), hw)
                except Exception as error:
                    raise AssertionError(f"case {(weight_bits, activation_bits, index)}") from error
    for index in range(40):
        compared += check(random_move(np.random.default_rng([SEED, index]), hw), hw)
    assert {op for op, count in compared.items() if count >= 10} == {
        "CONV", "DEPTHWISE", "POOL", "ELTWISE", "TABLE", "COPY",
    }  # fmt: skip


def test_planned_work_of_post_stages_is_what_is_emitted() -> None:
    """Random pairs of layers, those that run as one."""
    hw = load_config("qaccel-64")
    compared: Counter[str] = Counter()
    for weight_bits, activation_bits, index in product(WIDTHS, WIDTHS, range(15)):
        rng = np.random.default_rng([SEED, index, weight_bits, activation_bits])
        graph = with_posts(random_pair(rng, weight_bits, activation_bits, index % 5 == 0, hw), hw, equally_quick)
        if len(graph.layers) == 1:
            compared += check(graph, hw)
    pairs = {f"{op} behind {before}" for op in ("ELTWISE", "TABLE") for before in ("CONV", "DEPTHWISE")}
    assert all(compared[pair] >= 10 for pair in pairs)


@pytest.mark.parametrize("wrong", [{"b_scalar": 0}, {"b_bits": 4}, {"channels": 7}])
def test_a_planner_with_an_operand_of_its_own_is_seen(monkeypatch: pytest.MonkeyPatch, wrong: dict[str, int]) -> None:
    """An addition of one value, planned as something else."""
    maps = (FeatureMap("x", 8, 8, 64, 8, 0), FeatureMap("b", 1, 1, 1, 8, 0), FeatureMap("y", 8, 8, 64, 8, 0))
    layer = EltwiseLayer("add", "Add", (0, 1), 2, -128, 127, "add", True, 1 << 30, 1 << 30, 30)
    graph, hw = LayerGraph("main", maps, (layer,), (0, 1), (2,)), load_config("qaccel-256")
    assert check(graph, hw) == {"ELTWISE": 1}
    (planned_work,) = pointwise_tile(layer, maps, 8, 8, 64)
    # The requantizer; its 64 * 65 bytes are read at 64 a cycle.
    assert cost.work_cycles(planned_work, hw) == 24 + 64 * 64 // 32
    monkeypatch.setattr(
        pixelwise_tiles, "pointwise_tile", lambda *args: [replace(each, **wrong) for each in pointwise_tile(*args)]
    )
    with pytest.raises(AssertionError):
        check(graph, hw)
