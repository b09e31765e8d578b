"""Tables in the terminal lose columns and never digits."""

import io
import re

import pytest

from qaccel.report import tables, text
from qaccel.report.report import STALLS

LAYERS = [
    {
        "name": f"/model/backbone/stage.{k}/block[{k}]/conv:1/Conv", "op": "ConvTranspose" if k % 2 else "Conv",
        "post": {"name": "act", "op": "HardSwish"} if k == 3 else None, "weight_bits": 8, "activation_bits": 16, "codecs": {"entropy": 12, "parametric": 3}, "macs": 10**k + 7,
        "stream_bytes": 10 ** (k // 2) + 3, "cycles": 10 ** (k - 1) * 3, "stalls": {c: 10 ** (k - 1) + i for i, c in enumerate(STALLS)},
        "bound_cycles": 10 ** (k - 1) * 2 + 9, "cures": [{"parameter": "cols", "before": 16, "after": 32, "cycles": 10 ** (k - 1)}] if k % 3 else [],
    }
    for k in range(1, 10)
]  # fmt: skip


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def printed(monkeypatch: pytest.MonkeyPatch, width: int | None) -> str:
    """The table of LAYERS on a terminal of so many columns, or in a file."""
    stream = io.StringIO() if width is None else Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("COLUMNS", str(width or 80))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    tables.print_table("layers", text.layer_columns(LAYERS))
    return re.sub(r"\x1b\[[0-9;]*m", "", stream.getvalue())


def numbers(column: str) -> list[str]:
    (found,) = [each for each in text.layer_columns(LAYERS) if each.name == column]
    return list(found.cells)


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 240, None])
def test_every_number_of_a_column_that_is_shown_is_whole(monkeypatch: pytest.MonkeyPatch, width: int | None) -> None:
    out = printed(monkeypatch, width)
    lost = re.search(r"too narrow for: (.*?); a wider", " ".join(out.split()))
    missing = lost[1].split(", ") if lost else []
    columns = text.layer_columns(LAYERS)
    assert ("cycles" not in missing) and (width is not None or not missing)
    words = set(out.split())
    for column in columns:
        if not column.text and column.name not in missing:
            assert set(column.cells) <= words, column.name
    if width is not None:
        assert max(map(len, out.splitlines())) <= width
        kept = [column for column in columns if column.name not in missing]
        assert len(kept) == len(columns) or tables.needed(kept) <= width
    assert "\u2026" not in out


def test_more_room_never_shows_less(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = text.layer_columns(LAYERS)
    shown = [{column.name for column in tables.fitting(columns, width)} for width in range(30, 240)]
    assert all(narrow <= wide for narrow, wide in zip(shown, shown[1:], strict=False))
    assert len(shown[-1]) == len(columns) and len(shown[0]) < 5


def test_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    name = "block[bold]:smile:[/x]"
    tables.print_table("layers", [tables.Column("layer", (name,), text=True)])
    assert name in capsys.readouterr().out


def test_what_the_stalls_are_is_lost_from_the_smallest(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = text.layer_columns(LAYERS)
    order = sorted((each for each in columns if each.name.replace(" ", "_") in STALLS), key=lambda each: each.dropped)
    assert [each.name.replace(" ", "_") for each in order] == list(
        STALLS
    )  # each cause takes one cycle more than the last
