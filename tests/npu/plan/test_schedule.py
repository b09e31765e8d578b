"""Schedules: a plan written out and planned with again is the same plan; edited by hand it makes the same integers, or is refused."""

import contextlib
import os
from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest

from npu.cascade_cases import random_chain
from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, values
from npu.oracle import run_graph
from qaccel.errors import UserError
from qaccel.machine.hw import HwConfig
from qaccel.npu import codegen
from qaccel.npu.codegen import CompiledSubgraph, compile_layers
from qaccel.npu.layers import LayerGraph
from qaccel.options import Schedule
from qaccel.options.read_schedule import schedule_of
from qaccel.options.schedule import (
    FIRST_MAP,
    LAST_MAP,
    NO_POST,
    CascadeChoice,
    HoldChoice,
    LayerChoice,
    SubgraphSchedule,
)

SEED = 20261130
CHAINS, EDITED = 40, 60
MANY = 4000


def chain(index: int) -> tuple[LayerGraph, HwConfig, list[np.ndarray]]:
    rng = np.random.default_rng([SEED, index])
    graph, hw = random_chain(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3])
    return graph, hw, [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]


def with_plan(graph: LayerGraph, hw: HwConfig, plan: SubgraphSchedule) -> CompiledSubgraph:
    """Compiled with it, the plan having been a file."""
    written = Schedule(hw.name, {graph.symbol: plan})
    read = schedule_of(written.to_dict())
    assert read == written
    return compile_layers(graph, hw, schedule=read)


def check_integers(compiled: CompiledSubgraph, graph: LayerGraph, inputs: list[np.ndarray]) -> None:
    expected = run_graph(graph, inputs)
    for mode in ("functional", "cycle"):
        outputs, _ = run_artefact(compiled.artefact, inputs, mode)
        for got, index in zip(outputs, graph.outputs, strict=True):
            np.testing.assert_array_equal(got, expected[index])


def base(index: int, graph: LayerGraph, hw: HwConfig) -> CompiledSubgraph:
    """The chain as it is planned: of two out of three in cascades anywhere, where they fit."""
    if index % 3:
        rng = np.random.default_rng([SEED, index, 2])
        names = [layer.name for layer in compile_layers(graph, hw, proven=False).layers]
        cuts = sorted({0, len(names), *rng.integers(0, len(names), int(rng.integers(0, 3))).tolist()})
        spans = [(begin, end - 1) for begin, end in zip(cuts, cuts[1:], strict=False)]
        try:
            given = tuple(CascadeChoice(names[begin], names[end]) for begin, end in spans)
            return with_plan(graph, hw, SubgraphSchedule(cascades=given))
        except UserError as error:
            assert any(why in str(error) for why in ("no chain", "does not fit", "no tile of it fits")), error
    if index % 3 == 0:
        for name in [layer.name for layer in graph.layers]:  # the first that can make two pixels as one
            with contextlib.suppress(UserError):
                return with_plan(graph, hw, SubgraphSchedule({name: LayerChoice(wide=2)}))
    return compile_layers(graph, hw)


def test_a_plan_read_back_makes_the_same_bytes() -> None:
    seen = Counter[str]()
    for index in range(CHAINS):
        graph, hw, _ = chain(index)
        first = base(index, graph, hw)
        again = with_plan(graph, hw, first.schedule)
        assert again.artefact.to_bytes() == first.artefact.to_bytes(), index
        assert again.schedule == first.schedule, index
        for kind in ("cascades", "records", "holds"):
            seen[kind] += bool(getattr(first.schedule, kind))
        seen["posts"] += any(each.post for each in first.schedule.layers.values())
        seen["wide"] += any((each.wide or 1) > 1 for each in first.schedule.layers.values())
        seen["opened"] += any((each.opening_rows or 9) < 2 for each in first.schedule.cascades or ())
    assert all(seen[kind] > 1 for kind in ("cascades", "records", "holds", "posts", "wide", "opened")), seen


def test_a_decision_that_is_left_out_of_what_is_written_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The fault: rings forget that they were widened. The comparison above must see it."""

    def narrow(graph: LayerGraph, allocation: object, hw: HwConfig) -> SubgraphSchedule:
        plan = written(graph, allocation, hw)
        return replace(plan, cascades=tuple(replace(each, rings={}) for each in plan.cascades or ()))

    written = codegen.as_schedule
    differing = 0
    for index in range(CHAINS):
        graph, hw, _ = chain(index)
        first = base(index, graph, hw)
        monkeypatch.setattr(codegen, "as_schedule", narrow)
        spoiled = base(index, graph, hw).schedule
        monkeypatch.setattr(codegen, "as_schedule", written)
        try:
            differing += with_plan(graph, hw, spoiled).artefact.to_bytes() != first.artefact.to_bytes()
        except UserError:
            differing += 1
    assert differing > 5


def edited(rng: np.random.Generator, plan: SubgraphSchedule, names: list[str]) -> SubgraphSchedule:
    """One to three changes of the kinds that people make."""
    layers = dict(plan.layers)
    for _ in range(int(rng.integers(1, 4))):
        name = str(rng.choice(list(layers)))
        layer, kind = layers[name], int(rng.integers(0, 12))
        if kind < 5 and layer.tile is not None and layer.tile.rows is not None:
            has = [each.name for each in fields(layer.tile) if getattr(layer.tile, each.name) is not None]
            field = str(rng.choice(has))
            most = 2 * getattr(layer.tile, field) if rng.random() < 0.1 and field != "weights" else None
            value: object = str(rng.choice(["outside", "inside"]))
            if field != "weights":
                value = int(rng.integers(1, (most or max(getattr(layer.tile, field), 2)) + 1))
                value = value if rng.random() < 0.1 or field not in ("channels", "in_channels") else max(value & ~1, 2)
            layers[name] = replace(layer, tile=replace(layer.tile, **{field: value}))
        elif kind == 5:
            layers[name] = replace(layer, output_in_sram=bool(rng.random() < 0.5))
        elif kind == 6:
            layers[name] = replace(layer, output_in_sram=True, output_address=16 * int(rng.integers(0, 100)))
        elif kind == 7:
            layers[name] = replace(layer, wide=int(rng.integers(1, 5)))
        elif kind == 8:
            layers[name] = replace(layer, post=NO_POST)
        elif kind == 9:
            begin, end = sorted(rng.integers(0, len(names), 2).tolist())
            plan = replace(plan, cascades=(_cascade(rng, names[begin], names[end]),))
        elif kind == 10 and plan.cascades:
            plan = replace(plan, cascades=tuple(_changed(rng, each) for each in plan.cascades))
        elif kind == 11:
            hold = HoldChoice(name, str(rng.choice([FIRST_MAP, LAST_MAP])))
            plan = replace(plan, holds=(hold,))
    for kind_of in ("records", "stocks", "holds", "cascades"):
        if rng.random() < (0.2 if kind_of == "cascades" else 0.8):
            plan = replace(plan, **{kind_of: None if rng.random() < 0.7 else ()})
    if rng.random() < 0.3:
        layers = {name: layer for name, layer in layers.items() if rng.random() < 0.5}
    return replace(plan, layers=layers)


def _cascade(rng: np.random.Generator, first: str, last: str) -> CascadeChoice:
    return CascadeChoice(first, last, int(rng.integers(1, 9)) if rng.random() < 0.7 else None)


def _changed(rng: np.random.Generator, cascade: CascadeChoice) -> CascadeChoice:
    rings = {name: rows + int(rng.integers(-1, 4)) for name, rows in (cascade.rings or {}).items()}
    changes: list[dict[str, object]] = [
        {"stripe_rows": int(rng.integers(1, 9)), "rings": None},
        {"opening_rows": int(rng.integers(1, 5))},
        {"weights_stay": bool(rng.random() < 0.5), "opening_rows": None},
        {"rings": rings},
    ]
    return replace(cascade, **changes[int(rng.integers(0, len(changes)))])


def check_edited(indices: range) -> tuple[Counter[str], list[str]]:
    counts, refusals = Counter[str](), list[str]()
    for index in indices:
        graph, hw, inputs = chain(index)
        rng = np.random.default_rng([SEED, index, 1])
        first = base(index, graph, hw)
        plan = edited(rng, first.schedule, [layer.name for layer in first.layers])
        try:
            made = with_plan(graph, hw, plan)
        except UserError as error:
            counts["refused"] += 1
            refusals.append(str(error))
            continue
        except Exception as error:
            raise AssertionError(f"case {index}: {plan}") from error
        check_integers(made, graph, inputs)
        obeyed(plan, made.schedule)
        counts["other bytes" if made.artefact.program != first.artefact.program else "same"] += 1
    return counts, refusals


def obeyed(asked: SubgraphSchedule, made: SubgraphSchedule) -> None:
    """Everything that was given is so."""
    names = list(made.layers)
    spans = [(names.index(each.first), names.index(each.last)) for each in made.cascades or ()]
    striped = {name for first, last in spans for name in names[first : last + 1]}
    for name, choice in asked.layers.items():
        found = made.layers[name]
        assert choice.wide in (None, found.wide or 1), name
        assert choice.post in (None, found.post or NO_POST), name
        assert choice.output_in_sram in (None, found.output_in_sram), name
        if choice.tile is not None and found.tile is not None:
            for field in ("rows", "columns", "channels", "kernel_rows", "in_channels", "weights", "values"):
                wanted, got = getattr(choice.tile, field), getattr(found.tile, field)
                lower = field == "rows" and name in striped and got < wanted  # than the tile: the stripe is one
                assert wanted in (None, got) or lower, (name, field, wanted, got)
    for field in ("records", "stocks", "holds"):
        wanted, got = getattr(asked, field), getattr(made, field)
        assert wanted is None or {str(each) for each in wanted} == {str(each) for each in got}, field
    if asked.cascades is not None:
        assert [(c.first, c.last) for c in asked.cascades] == [(c.first, c.last) for c in made.cascades or ()]
        for wanted, got in zip(asked.cascades, made.cascades or (), strict=True):
            weighted = any(
                " W" in (made.layers[name].layer or "")
                for name in names[names.index(got.first) : names.index(got.last) + 1]
            )
            for field in ("stripe_rows", "opening_rows", *(("weights_stay",) if weighted else ())):
                assert getattr(wanted, field) in (None, getattr(got, field)), field
            for name, rows in (wanted.rings or {}).items():
                assert (got.rings or {})[name] == rows


def test_edited_plans_make_the_same_integers_or_are_refused() -> None:
    counts, refusals = check_edited(range(EDITED))
    assert counts["other bytes"] > EDITED / 4 and counts["refused"] > EDITED / 10, counts
    assert all("\n" not in line and line.startswith("the schedule: chain") for line in refusals)


@pytest.mark.slow
def test_many_edited_plans() -> None:
    check_edited(range(EDITED, EDITED + int(os.environ.get("QACCEL_SCHEDULE_CASES", str(MANY)))))
