"""Orders of layers: the least of all orders by brute force, the same integers in any, and a plan that is no slower."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from npu.harness import run_artefact
from npu.layer_cases import values
from npu.oracle import run_graph
from qaccel.errors import UserError
from qaccel.machine.artefact import Artefact
from qaccel.machine.hw import HwConfig, changed_config, load_config
from qaccel.machine.numerics import activation_limits
from qaccel.npu import codegen
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import AnyLayer, CopyLayer, EltwiseLayer, FeatureMap, LayerGraph, PoolLayer, Window
from qaccel.npu.lower import layer_order
from qaccel.npu.lower.layer_order import in_given_order, other_order
from qaccel.options.schedule import Schedule
from qaccel.run.program import profile

HW = load_config("qaccel-256")
LIMITS = activation_limits(8)


def small_machine(sram_bytes: int) -> HwConfig:
    return changed_config(HW, "small", {"sram_bytes": sram_bytes})


def copy(name: str, source: int, output: int) -> CopyLayer:
    return CopyLayer(name, "Copy", (source,), output, *LIMITS, 1, 0)


def add(name: str, a: int, b: int, output: int) -> EltwiseLayer:
    return EltwiseLayer(name, "Add", (a, b), output, *LIMITS, "add", False, 1, 1, 0)


def branches(count: int, side: int = 24) -> LayerGraph:
    """An input, large maps of it, a small one of each of them, and their sum: all large maps first, as files may have it."""
    small, pool = side // 8, Window(8, 8, 8, 8)
    maps = [FeatureMap("x", side, side, 16, 8, 0)]
    maps += [FeatureMap(f"large{k}", side, side, 16, 8, 0) for k in range(count)]
    maps += [FeatureMap(f"small{k}", small, small, 16, 8, 0) for k in range(count)]
    maps += [FeatureMap(f"sum{k}", small, small, 16, 8, 0) for k in range(count - 1)]
    layers: list[AnyLayer] = [copy(f"copy{k}", 0, 1 + k) for k in range(count)]
    layers += [
        PoolLayer(f"pool{k}", "MaxPool", (1 + k,), 1 + count + k, *LIMITS, pool, "max", False, {1: (1, 0)})
        for k in range(count)
    ]
    sums = [1 + count, *range(1 + 2 * count, 3 * count)]
    layers += [add(f"add{k}", sums[k], 2 + count + k, sums[k + 1]) for k in range(count - 1)]
    return LayerGraph("main", tuple(maps), tuple(layers), (0,), (sums[-1],))


@st.composite
def webs(draw) -> tuple[LayerGraph, int]:
    """Sums of any two maps before them, of any sizes, the last of which is read by nobody; and room for some of them."""
    count = draw(st.integers(2, 6))
    sizes = [draw(st.integers(1, 20)) for _ in range(count + 1)]
    maps = tuple(FeatureMap(f"m{k}", 1, 1, 16 * size, 8, 0) for k, size in enumerate(sizes))
    layers = [add(f"add{k}", *(draw(st.integers(0, k)) for _ in range(2)), k + 1) for k in range(count)]
    return LayerGraph("main", maps, tuple(layers), (0,), (count,)), draw(st.integers(0, 60)) * 16


def beyond(layers: tuple[AnyLayer, ...], graph: LayerGraph, room_bytes: int) -> int | None:
    """Bytes beyond the room, step by step; None for an order in which something is read before it is made."""
    total, made = 0, {0}
    for step, layer in enumerate(layers):
        if not made.issuperset(layer.inputs):
            return None
        made.add(layer.output)
        later = {index for each in layers[step:] for index in each.inputs}
        read = {index for each in graph.layers for index in each.inputs}
        alive = [index for index in made - {0} if index in later or (index == layer.output and index in read)]
        total += max(0, sum(graph.maps[index].total_bytes for index in alive) - room_bytes)
    return total


@settings(max_examples=120, deadline=None, derandomize=True)
@given(webs())
def test_no_order_goes_less_beyond_the_room(web: tuple[LayerGraph, int]) -> None:
    graph, room = web
    every = [beyond(order, graph, room) for order in permutations(graph.layers)]
    least = min(each for each in every if each is not None)
    order, found = layer_order._Web(graph).least(room, 1 << 20)
    assert found == least == beyond(tuple(graph.layers[step] for step in order), graph, room)
    assert layer_order._Web(graph).beyond(range(len(graph.layers)), room) == beyond(graph.layers, graph, room)


def cycles_of(artefact: Artefact) -> int:
    return int(profile(artefact, trace=False)["cycles"])


def in_both(graph: LayerGraph, hw: HwConfig) -> tuple[int, int]:
    """Cycles in the file's own order, and as it is planned; both make the exact integers."""
    rng = np.random.default_rng(5)
    x = graph.maps[0]
    data = values(rng, (x.h, x.w, x.c), 8)
    expected = run_graph(graph, [data])[graph.outputs[0]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codegen, "other_order", lambda *_: None)
        own = compile_layers(graph, hw).artefact
    planned = compile_layers(graph, hw).artefact
    for artefact in (own, planned):
        np.testing.assert_array_equal(run_artefact(artefact, [data])[0][0], expected)
    return cycles_of(own), cycles_of(planned)


def test_branches_take_turns_where_sram_is_small() -> None:
    own, planned = in_both(branches(5), small_machine(32768))
    assert planned < 0.9 * own


def test_where_all_has_room_the_order_stays() -> None:
    graph = branches(5)
    assert other_order(graph, HW) is None
    assert [layer.name for layer in codegen.planned(graph, HW)[0].layers] == [layer.name for layer in graph.layers]


def test_an_order_that_is_slower_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, hw = branches(5), small_machine(32768)
    better = other_order(graph, hw)
    assert better is not None
    monkeypatch.setattr(codegen, "other_order", lambda *_: graph)
    assert codegen.planned(better, hw)[0].layers == better.layers


@pytest.mark.parametrize("sram_bytes", [12288, 24576, 49152])
@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_integers_are_those_of_any_order(sram_bytes: int, count: int) -> None:
    own, planned = in_both(branches(count), small_machine(sram_bytes))
    assert planned <= 1.01 * own


def test_written_and_read_back_it_is_the_same_order() -> None:
    graph, hw = branches(5), small_machine(32768)
    first = compile_layers(graph, hw)
    again = compile_layers(graph, hw, schedule=Schedule(hw.name, {"main": first.schedule}))
    assert again.artefact == first.artefact
    assert list(first.schedule.order or ()) != [layer.name for layer in graph.layers]


@pytest.mark.parametrize("left_out", range(len(branches(3).layers)))
def test_a_layer_that_is_left_out_runs_when_it_can(left_out: int) -> None:
    graph = branches(3)
    names = [layer.name for layer in graph.layers]
    del names[left_out]
    layers = in_given_order(graph, names, "plan.json: main").layers
    assert isinstance(beyond(layers, graph, 0), int)  # nothing is read before it is made
    assert sorted(layer.name for layer in layers) == sorted(layer.name for layer in graph.layers)


NAMES = [layer.name for layer in branches(2).layers]
REFUSED = {
    "unknown": ([*NAMES[:-1], "ad0"], "order names the layer 'ad0', which there is not; did you mean"),
    "twice": ([*NAMES, "copy0"], "order names copy0 twice"),
    "too early": (NAMES[::-1], "order has add0 before pool0, whose output it reads"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_order_is_refused(name: str) -> None:
    order, says = REFUSED[name]
    with pytest.raises(UserError) as error:
        in_given_order(branches(2), order, "plan.json: main")
    assert says in str(error.value) and "\n" not in str(error.value)
