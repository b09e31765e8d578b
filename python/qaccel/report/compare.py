"""Two reports side by side: which figures differ, which layers changed, and why."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..errors import UserError, path_of
from .record.record import Misfit
from .record.schema import DRAM_KINDS, STALLS, OtherVersion, report_of
from .record.schema import Report as WholeReport
from .tables import Column, make_console, print_table
from .text import bits_of, shape_of

Report = Mapping[str, Any]

_MANY = 0.02  # share of a size from which a change of it is a reason
_CAUSES_NAMED = 3


@dataclass(frozen=True)
class Figure:
    """A figure of the whole network in both reports."""

    name: str
    a: float
    b: float


@dataclass(frozen=True)
class LayerChange:
    """A layer that is not the same in both. ``a`` and ``b``: its cycles; None where the accelerator does not run it there."""

    name: str
    op: str
    a: int | None
    b: int | None
    why: str

    @property
    def cycles(self) -> int:
        """More in the second report."""
        return (self.b or 0) - (self.a or 0)


@dataclass(frozen=True)
class Comparison:
    """``machine``: parameters that differ, (name, a, b). ``layers``: those that changed, the largest change in cycles first;
    ``same``: how many did not."""

    a: str
    b: str
    machine: tuple[tuple[str, object, object], ...]
    figures: tuple[Figure, ...]
    layers: tuple[LayerChange, ...]
    same: int


def read_report(path: str | Path) -> WholeReport:
    """A report.json, or that of a folder. Raises UserError for what is none, or one of another version."""
    given = path_of(path, "the report")
    place = given / "report.json" if given.is_dir() else given
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"report '{place}': {error.strerror}; tvmc compile --report DIR writes one") from error
    except ValueError as error:
        raise UserError(
            f"report '{place}' is not JSON; give the folder or the report.json of tvmc compile --report"
        ) from error
    try:
        return report_of(found)
    except OtherVersion as error:
        raise UserError(f"report '{place}' {error}; compile that model again with --report") from error
    except Misfit as error:
        raise UserError(
            f"report '{place}' {error}: it is of another version or no report; compile again with --report"
        ) from error


def compare(a: Report, b: Report) -> Comparison:
    """``b`` against ``a``. Layers belong together by name; several of one name in their order."""
    before, after = _by_name(a), _by_name(b)
    changes, same = [], 0
    for key in dict.fromkeys((*before, *after)):
        old, new = before.get(key), after.get(key)
        why = _why(old, new, a, b)
        if not why:
            same += 1
            continue
        cycles = [None if each is None else int(each["cycles"]) for each in (old, new)]
        changes.append(LayerChange(key[0], (new or old or {})["op"], cycles[0], cycles[1], why))
    changes.sort(key=lambda each: -abs(each.cycles))
    hw_a, hw_b = (dict(_flat(each["hw"])) for each in (a, b))
    machine = tuple((key, hw_a.get(key), hw_b.get(key)) for key in {**hw_a, **hw_b} if hw_a.get(key) != hw_b.get(key))
    return Comparison(_title(a), _title(b), machine, _figures(a, b), tuple(changes), same)


def print_comparison(found: Comparison, most: int | None) -> None:
    """Tables on standard output; of the layers at most so many."""
    console = make_console()
    console.print(f"A: {found.a}\nB: {found.b}")
    for name, old, new in found.machine:
        console.print(f"machine: {name} {old} -> {new}")
    differing = [each for each in found.figures if each.a != each.b]
    if differing:
        print_table(
            "the network",
            [
                Column("figure", tuple(each.name for each in differing), text=True),
                *_columns([(each.a, each.b) for each in differing]),
            ],
        )
    shown = found.layers[:most]
    if shown:
        print_table(
            "layers that changed",
            [
                Column("layer", tuple(each.name for each in shown), text=True),
                Column("op", tuple(each.op for each in shown), 3, text=True),
                *_columns([(each.a, each.b) for each in shown], " cycles"),
                Column("why", tuple(each.why for each in shown), text=True),
            ],
        )
    if len(found.layers) > len(shown):
        console.print(f"and {len(found.layers) - len(shown)} more that changed; -v shows them")
    console.print(f"{found.same} layers are the same in both")


def comparison_json(found: Comparison) -> str:
    """All of it as JSON."""
    return json.dumps(asdict(found), indent=2)


def _columns(pairs: Sequence[tuple[float | None, float | None]], unit: str = "") -> list[Column]:
    """Both values, and the change in per cent."""
    return [
        Column(f"A{unit}", tuple(map(_shown, (a for a, _ in pairs)))),
        Column(f"B{unit}", tuple(map(_shown, (b for _, b in pairs)))),
        Column("change", tuple(f"{100 * (b / a - 1):+.1f}%" if a and b is not None else "-" for a, b in pairs), 1),
    ]


def _shown(value: float | None) -> str:
    return "-" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _title(report: Report) -> str:
    return f"{report['model']} on {report['hw']['name']}"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{key}.")
        else:
            yield before + key, value


def _figures(a: Report, b: Report) -> tuple[Figure, ...]:
    def both(name: str, *keys: str, scale: float = 1) -> Figure:
        values = []
        for each in (a, b):
            value: Any = each
            for key in keys:
                value = value[key]
            values.append(value if scale == 1 else value * scale)
        return Figure(name, *values)

    found = [
        both("cycles", "cycles"),
        both("latency in ms", "latency_ms"),
        both("bound in cycles", "bound_cycles"),
        both("multipliers busy in %", "utilization", scale=100),
        both("MACs", "macs"),
        *(both(f"DRAM {kind.replace('_', ' ')} B", "dram_bytes", kind) for kind in DRAM_KINDS),
        both("peak SRAM B", "memory", "peak_sram_bytes"),
        both("SRAM live at one time B", "memory", "live_sram_bytes"),
        both("DRAM footprint B", "memory", "dram_footprint_bytes"),
        both("integer weights B", "weights", "quantized_bytes"),
        both("weight streams B", "weights", "stream_bytes"),
        Figure("layers on the accelerator", len(a["layers"]), len(b["layers"])),
        Figure("operators on the CPU", len(a["fallback"]), len(b["fallback"])),
    ]
    if a.get("drop") and b.get("drop"):
        found.append(both("points lost, estimated", "drop", "points"))
    return tuple(found)


def _by_name(report: Report) -> dict[tuple[str, int], Mapping[str, Any]]:
    found: dict[tuple[str, int], Mapping[str, Any]] = {}
    seen: dict[str, int] = {}
    for layer in report["layers"]:
        found[layer["name"], seen.setdefault(layer["name"], 0)] = layer
        seen[layer["name"]] += 1
    return found


def _why(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None, a: Report, b: Report) -> str:
    """What is different of a layer, the causes of its cycles last; the empty string for nothing."""
    if old is None or new is None:
        return _elsewhere(new or old or {}, a if old is None else b, "first" if old is None else "second")
    reasons = []
    if old["op"] != new["op"]:
        reasons.append(f"{old['op']} became {new['op']}")
    if old["post"] != new["post"]:
        posts = [each["post"]["name"] if each["post"] else "nothing" for each in (old, new)]
        reasons.append(f"had {posts[0]} in its post stage, has {posts[1]}")
    if bits_of(old) != bits_of(new):
        reasons.append(f"{bits_of(old)} became {bits_of(new)}")
    shapes = [" ".join(map(shape_of, (*each["input_shapes"], each["output_shape"]))) for each in (old, new)]
    if shapes[0] != shapes[1]:
        reasons.append(f"shapes {shapes[0]} became {shapes[1]}")
    if old["cascade"] != new["cascade"]:
        cascades = [f"in the cascade from {each['cascade']}" if each["cascade"] else "whole" for each in (old, new)]
        reasons.append(f"ran {cascades[0]}, runs {cascades[1]}")
    reasons += _sizes(old, new)
    if old["cycles"] != new["cycles"]:
        changes = {cause: new["stalls"][cause] - old["stalls"][cause] for cause in STALLS}
        ranked = sorted((cause for cause in STALLS if changes[cause]), key=lambda cause: -abs(changes[cause]))
        named = ", ".join(f"{cause.replace('_', ' ')} {changes[cause]:+,}" for cause in ranked[:_CAUSES_NAMED])
        reasons.append(f"cycles: {named}")
    return "; ".join(reasons)


def _sizes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Bytes that changed by more than a little."""
    sizes = {"stream": (old["stream_bytes"], new["stream_bytes"])}
    sizes |= {
        f"DRAM {k.replace('_', ' ')}": (old["dram_bytes"][k], new["dram_bytes"][k])
        for k in DRAM_KINDS
        if k != "program"
    }
    return [f"{name} {x:,} -> {y:,} B" for name, (x, y) in sizes.items() if abs(y - x) > _MANY * max(x, y)]


def _elsewhere(layer: Mapping[str, Any], other: Report, which: str) -> str:
    """Where a layer is that the accelerator does not run, or not by itself, in the other report."""
    for each in other["layers"]:
        if each["post"] and each["post"]["name"] == layer["name"]:
            return f"in the post stage of {each['name']} in the {which}"
    on_cpu = next((each for each in other["fallback"] if each["name"] == layer["name"]), None)
    return f"on the CPU in the {which}: {on_cpu['reason']}" if on_cpu else f"not in the {which}"
