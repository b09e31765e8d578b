"""Candidates for tiles: what is said that they take at least is never more than they take, and the quickest is not passed over."""

from collections.abc import Iterator

import numpy as np
import pytest

from npu.layer_cases import WIDTHS, random_layer
from qaccel.machine.cost import work_cycles
from qaccel.machine.hw import HwConfig, changed_config, config_names, load_config
from qaccel.machine.layer_cost import layer_cycles
from qaccel.npu.extents import made_map
from qaccel.npu.layers import AnyLayer, LayerGraph
from qaccel.npu.plan.tiles import conv_tiles, pixelwise_tiles, tile
from qaccel.npu.plan.tiles.tile import LayerTilings, _candidates, plan_stripe
from qaccel.npu.plan.tiles.tiling import Candidates

SEED = 20261130
CASES = 60
MOST_GROUPS = 8


def groups(index: int) -> tuple[HwConfig, LayerGraph, list[Candidates]]:
    """A random layer, any of whose maps may be in SRAM, and its most desirable candidates."""
    rng = np.random.default_rng([SEED, index])
    hw = load_config(config_names()[index % 3])
    graph = random_layer(rng, WIDTHS[index // 3 % 3], WIDTHS[index // 9 % 3], index % 2 == 0, hw)
    [layer] = graph.layers
    resident = frozenset(each for each in (*layer.inputs, layer.output) if rng.random() < 0.5)
    found = _some(layer, graph, hw, resident)
    return hw, graph, [each for _, each in zip(range(MOST_GROUPS), found, strict=False)]


def _some(layer: AnyLayer, graph: LayerGraph, hw: HwConfig, resident: frozenset[int]) -> Iterator[Candidates]:
    return _candidates(layer, graph.maps, hw, resident)


def check_least(indices: range) -> tuple[int, float]:
    """Gives how many candidates there were, and how much of what they take is known before on average."""
    count, known = 0, 0.0
    for index in indices:
        hw, _, found = groups(index)
        for each in found:
            least = each.least(False)
            assert {len(values) for values in least} == {each.count}
            for number in range(each.count):
                tiling = each.make(number)
                if tiling is None:
                    continue
                cycles = layer_cycles(tiling.work, hw)
                computing = sum(times * work_cycles(work, hw) for work, times in tiling.work.computes)
                assert least.sram_bytes[number] <= tiling.working_bytes, (index, number)
                assert least.cycles[number] <= cycles, (index, number)
                assert least.computing[number] <= computing, (index, number)
                count, known = count + 1, known + int(least.cycles[number]) / cycles
    return count, known / count


def test_the_least_is_no_more_than_what_candidates_take() -> None:
    count, known = check_least(range(CASES))
    assert count > 10_000 and known > 0.7


@pytest.mark.parametrize("module", [conv_tiles, pixelwise_tiles])
def test_a_least_that_is_too_much_is_seen(module: object, monkeypatch: pytest.MonkeyPatch) -> None:
    least = conv_tiles.least_layer_cycles
    monkeypatch.setattr(module, "least_layer_cycles", lambda work, hw: least(work, hw) * 5 // 4)
    with pytest.raises(AssertionError):
        check_least(range(CASES))


def check_quickest(indices: range) -> int:
    """What is found beside all candidates, in budgets from the largest down. Gives how many were compared."""
    compared = 0
    for index in indices:
        hw, graph, found = groups(index)
        made = [[tiling for tiling in each.made()] for each in found]
        tilings = LayerTilings(iter(found), hw)
        every = [t.tile_oc for each in made for t in each]
        for budget_bytes in (hw.sram_bytes, hw.sram_bytes // 8, hw.sram_bytes // 64, 64):
            for enough in (min(every, default=1), max(every, default=1), 1 << 20):
                fitting, best = [], None
                for each in made:
                    fitting += [tiling for tiling in each if tiling.working_bytes <= budget_bytes]
                    # Of those that are as good, the first of the last group.
                    last = {id(tiling): number for number, group in enumerate(made) for tiling in group}
                    best = min(
                        fitting, key=lambda t: (layer_cycles(t.work, hw), t.working_bytes, -last[id(t)]), default=None
                    )
                    if best is not None and best.tile_oc >= enough:
                        break
                quickest = tilings.quickest(budget_bytes, enough)
                assert (None if quickest is None else quickest.tiling) == best, (index, budget_bytes, enough)
                compared += bool(fitting)
    return compared


def test_the_quickest_is_found() -> None:
    assert check_quickest(range(CASES)) > 400


def check_stripes(indices: range) -> int:
    """What computes in the fewest cycles beside all candidates of the first group that has one. Gives how many were compared."""
    compared = 0
    for index in indices:
        usual, graph, _ = groups(index)
        [layer] = graph.layers
        # A machine on which few layers are one tile.
        small = {"accumulator_entries": 1 << 9, "line_buffer_bytes": 1 << 9}
        hw = changed_config(usual, usual.name, small)
        made = next(filter(None, (list(each.made()) for each in _candidates(layer, graph.maps, hw, frozenset()))), [])
        y = made_map(layer, graph.maps)
        best = min(made, key=lambda t: sum(n * work_cycles(work, hw) for work, n in t.work.computes), default=None)
        if made and (made[0].tile_h, made[0].tile_w) == (y.h, y.w):
            best = made[0]
        assert plan_stripe(layer, graph.maps, hw, frozenset()) == best, index
        compared += best is not None and best is not made[0]
    return compared


def test_a_stripe_computes_in_the_fewest_cycles() -> None:
    assert check_stripes(range(4 * CASES)) > 5


def test_a_first_candidate_that_is_taken_for_the_best_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tile, "_least_computing", lambda candidates, hw: next(candidates.made()))
    with pytest.raises(AssertionError):
        check_stripes(range(4 * CASES))
