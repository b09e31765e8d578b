"""A schedule: what a person decides of the machine's plan, by the names of layers, as JSON has it.

What is absent is planned as usual. What is given is obeyed, or refused in one line; which of it holds together, only the planner
knows (`npu/plan/schedule`). This page is the form, `read_schedule.py` reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from ..machine.hw import HwConfig

SCHEDULE_VERSION = 1
OUTSIDE, INSIDE = "outside", "inside"  # where the loop over channels is
FIRST_MAP, LAST_MAP = "first map", "last map"
NO_POST = ""  # given, and none


@dataclass(frozen=True)
class TileChoice:
    """How a layer is cut; of a layer in a cascade, how one stripe of it is, which is one tile high if it has no more rows.

    ``rows``, ``columns`` and ``channels`` of an output tile, columns and channels of wide pixels where the layer makes those;
    ``kernel_rows`` and ``in_channels`` of a part of the reduction. ``weights``: "outside" fetches each tile of weights once,
    "inside" goes through all of them for every place. ``input_copies``: at most so many blocks of SRAM for tiles of each input, two
    or more. ``values``: of a layer that only moves values, how many an instruction takes at most; that layer has nothing else.
    """

    rows: int | None = None
    columns: int | None = None
    channels: int | None = None
    kernel_rows: int | None = None
    in_channels: int | None = None
    weights: str | None = field(default=None, metadata={"one_of": (OUTSIDE, INSIDE)})
    input_copies: int | None = None
    values: int | None = None


@dataclass(frozen=True)
class LayerChoice:
    """``layer``: what it is, such as "Conv W8A8 32x32x3 to 16x16x32", which must be so. ``post``: what runs in its post stage,
    `NO_POST` for nothing, None where that is left to the compiler. ``wide``: output pixels made as one. ``output_in_sram``: whether
    its output lies there as a whole; ``output_address``: at which byte."""

    layer: str | None = None
    post: str | None = None
    wide: int | None = None
    tile: TileChoice | None = None
    output_in_sram: bool | None = None
    output_address: int | None = None


@dataclass(frozen=True)
class CascadeChoice:
    """Layers from ``first`` to ``last`` run stripe by stripe of the last one's ``stripe_rows``; the first makes ``opening_rows`` of
    its first stripe at a time. ``weights_stay``: in the weight buffer, from the first stripe to the last. ``rings``: how many rows
    of a map SRAM has room for, by the map's name."""

    first: str
    last: str
    stripe_rows: int | None = None
    opening_rows: int | None = None
    weights_stay: bool | None = None
    rings: Mapping[str, int] | None = None


@dataclass(frozen=True)
class RecordsChoice:
    """Parameter records and tables of some layers come together while the layer ``behind`` is in work, to an address."""

    layers: tuple[str, ...]
    behind: str
    address: int | None = None


@dataclass(frozen=True)
class PieceChoice:
    """Bytes of SRAM for streams that wait, from the layer or cascade that begins ``at`` a layer on."""

    at: str
    bytes: int
    address: int | None = None


@dataclass(frozen=True)
class StockChoice:
    """What of a layer's weight streams is fetched ahead. ``refilled``: what is decoded makes room for more."""

    layer: str
    pieces: tuple[PieceChoice, ...]
    refilled: bool = False


@dataclass(frozen=True)
class HoldChoice:
    """While this layer is in work, LOADW goes on with other weights behind the "first map" that it loads, or the "last map"."""

    layer: str
    behind: str = field(metadata={"one_of": (FIRST_MAP, LAST_MAP)})


@dataclass(frozen=True)
class SubgraphSchedule:
    """What is decided of one program. A list that is given says all that there is: no cascades, if it is empty. ``order``: in which
    the layers run, but for those in post stages; the network's own where it is absent. ``sram_bytes``: what of SRAM is planned for,
    all of it where that is absent."""

    layers: Mapping[str, LayerChoice] = field(default_factory=dict)
    order: tuple[str, ...] | None = None
    sram_bytes: int | None = None
    cascades: tuple[CascadeChoice, ...] | None = None
    records: tuple[RecordsChoice, ...] | None = None
    stocks: tuple[StockChoice, ...] | None = None
    holds: tuple[HoldChoice, ...] | None = None

    def __repr__(self) -> str:
        lists = ("cascades", "records", "stocks", "holds")
        given = [f"{len(getattr(self, name))} {name}" for name in lists if getattr(self, name) is not None]
        return f"<SubgraphSchedule: {', '.join((f'{len(self.layers)} layers', *given))}>"


@dataclass(frozen=True)
class Schedule:
    """Decisions by program. ``hw``: the config's name; ``hw_digest``: `digest_of` its parameters. ``origin`` names it in errors."""

    hw: str
    subgraphs: Mapping[str, SubgraphSchedule]
    hw_digest: str | None = None
    origin: str = field(default="the schedule", compare=False)

    def __repr__(self) -> str:
        return f"<Schedule for {self.hw[:60]}: {', '.join(self.subgraphs)[:60]}>"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it, what is absent left out."""
        return {"schedule": SCHEDULE_VERSION, "hw": self.hw, **_given({"hw_digest": self.hw_digest}),
                "subgraphs": {name: _plain(each) for name, each in self.subgraphs.items()}}  # fmt: skip

    def to_json(self) -> str:
        """The file: a line for each layer, cascade, and thing fetched ahead."""
        return _lines(self.to_dict(), 0) + "\n"


def digest_of(hw: HwConfig) -> str:
    """A few letters that any change of a parameter changes; the name is none."""
    values = {name: value for name, value in hw.to_dict().items() if name != "name"}
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:12]


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain = _given({each.name: _plain(getattr(value, each.name)) for each in fields(value)})
        if plain.get("post") == NO_POST:
            plain["post"] = None
        return plain
    if isinstance(value, Mapping):
        return {name: _plain(each) for name, each in value.items()}
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value


_DEEP = 4  # levels of the file that are broken into lines


def _lines(value: Any, depth: int) -> str:
    """JSON whose outer levels have a line for each entry, and whose inner ones are on one."""
    if depth >= _DEEP or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    margin = "  " * (depth + 1)
    if isinstance(value, list):
        return "[\n" + ",\n".join(margin + json.dumps(each, ensure_ascii=False) for each in value) + f"\n{margin[2:]}]"
    entries = (
        f"{margin}{json.dumps(name, ensure_ascii=False)}: {_lines(each, depth + 1)}" for name, each in value.items()
    )
    return "{\n" + ",\n".join(entries) + f"\n{margin[2:]}}}"
