"""Layers whose weights come while those before them compute are not cut to begin early; what has to wait for its weights is."""

import pytest

from npu.plan.test_holds import HW, chain, cycles, large_input
from qaccel.machine.cost import ConvWork
from qaccel.npu.layers import LayerGraph, Window
from qaccel.npu.plan import allocate as planned


def calm() -> LayerGraph:
    """Small weights behind large maps."""
    return chain((40, 40, 16), [(64, Window()), (64, Window()), (32, Window()), (64, Window())])


def instructions(graph: LayerGraph) -> list[int]:
    """By layer, how many CONV it takes."""
    tilings = planned.allocate(graph, HW).tilings
    return [sum(n for each, n in t.work.computes if isinstance(each, ConvWork)) for t in tilings]


def test_weights_that_come_in_time_need_no_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    together = instructions(calm())
    monkeypatch.setattr(planned, "_weights_ahead", lambda *_: frozenset())
    apart = instructions(calm())
    assert together[1:3] == [1, 1] and min(apart[1:3]) > 1


def test_a_layer_that_waits_for_its_weights_is_cut() -> None:
    """The last one, with most of the weights, begins with a part of them."""
    assert instructions(large_input())[-1] > 1


def test_no_choice_of_them_is_slower(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [cycles(graph, HW) for graph in (calm(), large_input())]
    monkeypatch.setattr(planned, "_weights_ahead", lambda *_: frozenset())
    assert all(quick < cycles(graph, HW) for quick, graph in zip(found, (calm(), large_input()), strict=True))
