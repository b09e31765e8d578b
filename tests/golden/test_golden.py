"""Cost and making of whole networks, against the table that is kept here; `pytest --update-golden` writes it anew."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest

from golden import estimates, table


def estimated(network: str) -> list[str]:
    return [line for bits in estimates.BITS for line in estimates.measure(network, bits)]


# By file: what makes its lines.
TABLES: dict[str, Callable[[], list[str]]] = {
    **{f"{name}_{bits}": partial(table.measure, name, bits) for name in table.NETWORKS for bits in table.BITS},
    **{f"{name}_no_data": partial(table.measure_without_data, name) for name in table.NETWORKS},
    **{f"{name}_cpu": partial(table.measure_cpu, name) for name in table.NETWORKS},
    "grouped_W8A8": partial(table.measure, "grouped", "W8A8", ("qaccel-64", "qaccel-256")),
    "expanding_W4A8": partial(table.measure, "expanding", "W4A8", ("qaccel-64", "qaccel-256")),
    **{f"{name}_estimates": partial(estimated, name) for name in table.NETWORKS},
    "rounded_W8A8": partial(table.measure, "rounded", "W8A8", ()),
}


@pytest.mark.parametrize("name", TABLES)
def test_nothing_has_changed(update_golden: bool, name: str) -> None:
    lines, old = TABLES[name](), table.golden(name)
    if update_golden:
        old = table.merged(old, lines)
        table.path_of(name).write_text(old, encoding="utf-8")
    difference = table.compare(old, lines)
    assert not difference, f"{name} has changed (pytest --update-golden writes it anew):\n{difference}"


@pytest.mark.parametrize("name", table.NETWORKS)
def test_estimates_are_near(name: str) -> None:
    """Of what is pinned; the test above holds it against what is measured."""
    facts = table.facts(table.golden(f"{name}_estimates").splitlines())
    assert len(facts) == len(estimates.BARS) * len(estimates.CONFIGS) * len(estimates.BITS)
    assert {key: value for key, value in facts.items() if abs(float(value)) > estimates.BARS[key[4]]} == {}


def test_a_message_names_every_fact_up_to_a_length() -> None:
    lines = [table.line("resnet", "qaccel-64", "W8A8", "layer_cycles", f"layer {k}", k) for k in range(40)]
    assert table.compare("\n".join(lines), lines) == ""
    changed = [line + "0" for line in lines[:-1]]
    message = table.compare("\n".join(lines[1:]), changed).splitlines()
    assert message[0] == "resnet qaccel-64 W8A8 layer_cycles layer_1: 1 -> 10"
    assert len(message) == table.SHOWN + 1 and message[-1] == "... and 20 lines more"
    assert table.compare(lines[0], []) == "resnet qaccel-64 W8A8 layer_cycles layer_0: 0 -> nothing"


def test_only_what_float_sums_move_has_a_tolerance() -> None:
    old, near, far = (table.line("resnet", "-", "no-data", "range_hi", "Conv", v) for v in (9.46095, 9.46096, 9.462))
    assert table.compare(old, [near]) == "" and table.merged(old, [near]) == old + "\n"
    assert table.compare(old, [far]) == "resnet no-data range_hi Conv: 9.46095 -> 9.462"
    assert table.compare(old.replace("resnet", "grouped"), [near.replace("resnet", "grouped")])
