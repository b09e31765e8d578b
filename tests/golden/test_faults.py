"""Each seeded fault makes the golden table fail, with a message that says what moved from where to where."""

from __future__ import annotations

import pytest

from golden import table
from golden.faults import FAULTS, Fault


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_the_table_shows_it(monkeypatch: pytest.MonkeyPatch, update_golden: bool, fault: Fault) -> None:
    if update_golden:
        pytest.skip("the golden files are being rewritten")
    fault.apply(monkeypatch)
    lines = fault.measure()
    known = table.about(table.golden(fault.golden), lines)
    old, new = (table.facts(text)[fault.fact] for text in (known.splitlines(), lines))
    words = " ".join(part for part in fault.fact if part != "-")
    assert f"{words}: {old} -> {new}" in table.compare(known, lines).splitlines()
