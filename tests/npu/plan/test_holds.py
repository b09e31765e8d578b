"""LOADW holds back while maps come from DRAM: quicker, whatever the queues let it do; and more of a resource makes nothing slower."""

from dataclasses import replace

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import output_size, random_params, values
from npu.oracle import run_graph
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import decode
from qaccel.npu.codegen import compile_layers
from qaccel.npu.emit.ahead import held_back
from qaccel.npu.layers import ConvLayer, ConvPart, FeatureMap, LayerGraph, Window
from qaccel.npu.plan import allocate as planned
from qaccel.npu.plan.holds import Hold

SEED = 20261130
HW = load_config("qaccel-256")
RESOURCES = (
    "sram_bytes", "weight_buffer_bytes", "dram_bytes_per_cycle", "decoder_lanes", "sram_read_bytes_per_cycle", "sram_write_bytes_per_cycle",
    "queue_entries",
)  # fmt: skip


def chain(size: tuple[int, int, int], steps: list[tuple[int, Window]]) -> LayerGraph:
    """Convolutions one after the other, each (output channels, window), from a map [h, w, c]."""
    rng = np.random.default_rng(SEED)
    maps, layers = [FeatureMap("x", *size, 8, 3)], []
    for number, (channels, window) in enumerate(steps):
        x = maps[-1]
        maps.append(FeatureMap(f"map{number}", *output_size(window, x.h, x.w), channels, 8, -4))
        shape = channels, window.kernel_h, window.kernel_w, x.c
        weights = np.clip(np.rint(rng.normal(0, 40, shape)), -127, 127).astype(np.int32)
        params = random_params(rng, channels, 7 + np.log2(weights[0].size) / 2)
        part = ConvPart(0, 0, weights.transpose(1, 2, 3, 0))
        common = f"layer{number}", "Conv", (number,), number + 1, -128, 127
        layers.append(ConvLayer(*common, window, 8, (part,), params, weights, 0))
    return LayerGraph("chain", tuple(maps), tuple(layers), (0,), (len(maps) - 1,))


def large_input() -> LayerGraph:
    """An image whose bytes take longer than the first layer, and later layers with weights that fit the buffer meanwhile."""
    half = Window(3, 3, 2, 2, pad_top=1, pad_left=1)
    return chain((96, 96, 3), [(8, half), (16, half), (48, half), (64, Window()), (64, Window()), (128, half)])


def cycles(graph: LayerGraph, hw: HwConfig) -> int:
    rng = np.random.default_rng(SEED)
    inputs = [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]
    outputs, counters = run_artefact(compile_layers(graph, hw).artefact, inputs, "cycle")
    np.testing.assert_array_equal(outputs[0], run_graph(graph, inputs)[graph.outputs[0]])
    return int(counters["cycles"])


def without_holds(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(planned, "find_holds", lambda *_: ())


def test_the_first_layer_does_not_share_the_channel(monkeypatch: pytest.MonkeyPatch) -> None:
    held = cycles(large_input(), HW)
    without_holds(monkeypatch)
    assert held < 0.95 * cycles(large_input(), HW)


def test_later_weights_wait_for_the_last_map() -> None:
    graph = large_input()
    compiled = compile_layers(graph, HW)
    rng = np.random.default_rng(SEED)
    _, counters = run_artefact(compiled.artefact, [values(rng, (96, 96, 3), 8)], "cycle", trace=True)
    instructions, trace = decode(compiled.artefact.program), counters["trace"]
    arrived = max(end for ins, end in zip(instructions, trace["end"], strict=True) if ins.op == "LOAD")
    later = [
        begin for ins, begin in zip(instructions, trace["start"], strict=True) if ins.op == "LOADW" and ins["layer"] > 0
    ]
    assert min(later) >= arrived


def test_who_waits_for_whom() -> None:
    """Behind the first map all weights but those of the first tile wait, behind the last one those of later layers."""
    graph = large_input()
    allocation = planned.allocate(graph, HW)
    artefact = compile_layers(graph, HW).artefact
    instructions = decode(artefact.program)
    assert len(allocation.cascades) == 0
    loads = [i for i, ins in enumerate(instructions) if ins.op == "LOAD"]
    (last,) = held_back(instructions, replace(allocation, holds=(Hold(0, True),)))
    (first,) = held_back(instructions, replace(allocation, holds=(Hold(0, False),)))
    assert (last[1], first[1]) == (loads[-1], loads[0])
    assert instructions[last[0]].op == instructions[first[0]].op == "LOADW"
    assert instructions[last[0]]["layer"] == 1 and first[0] > loads[0]
    assert held_back(instructions, replace(allocation, holds=())) == []


@pytest.mark.parametrize("name", RESOURCES)
def test_more_of_a_resource_is_never_slower(name: str) -> None:
    """Twice as much, and a quarter more: by no more than 1%."""
    graph = large_input()
    before = cycles(graph, HW)
    for factor in (2, 1.25):
        more = replace(HW, name="more", **{name: int(getattr(HW, name) * factor)})
        assert cycles(graph, more) <= 1.01 * before, factor


def test_without_holds_longer_queues_are_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    """The check above can fail: LOADW runs ahead as far as its queue lets it."""
    without_holds(monkeypatch)
    graph = large_input()
    assert cycles(graph, replace(HW, name="more", queue_entries=64)) > 1.01 * cycles(
        graph, replace(HW, name="less", queue_entries=4)
    )
