"""Candidates for tiles: what is said that they take at least is never more than they take, and the quickest is not passed over."""

from collections.abc import Iterator

import numpy as np
import pytest

from npu.layer_cases import WIDTHS, random_layer
from qaccel.machine.hw import HwConfig, config_names, load_config
from qaccel.machine.layer_cost import layer_cycles
from qaccel.npu.layers import AnyLayer, LayerGraph
from qaccel.npu.plan.tiles import conv_tiles, pixelwise_tiles
from qaccel.npu.plan.tiles.tile import LayerTilings, _candidates
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
            least_bytes, least_cycles = each.least(False)
            assert len(least_bytes) == len(least_cycles) == each.count
            for number in range(each.count):
                tiling = each.make(number)
                if tiling is None:
                    continue
                cycles = layer_cycles(tiling.work, hw)
                assert least_bytes[number] <= tiling.working_bytes, (index, number)
                assert least_cycles[number] <= cycles, (index, number)
                count, known = count + 1, known + int(least_cycles[number]) / cycles
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
    """Each group's quickest beside all others of it, in budgets from the largest down. Gives how many were compared."""
    compared = 0
    for index in indices:
        hw, _, found = groups(index)
        made = [[tiling for tiling in each.made()] for each in found]
        tilings = LayerTilings(iter(found), hw)
        for budget_bytes in (hw.sram_bytes, hw.sram_bytes // 8, hw.sram_bytes // 64, 64):
            for quickest, each in zip(tilings.groups(budget_bytes), made, strict=True):
                fitting = [tiling for tiling in each if tiling.working_bytes <= budget_bytes]
                best = min(fitting, key=lambda t: (layer_cycles(t.work, hw), t.working_bytes), default=None)
                assert (None if quickest is None else quickest.tiling) == best, (index, budget_bytes)
                compared += bool(fitting)
    return compared


def test_the_quickest_is_found() -> None:
    assert check_quickest(range(CASES)) > 200
