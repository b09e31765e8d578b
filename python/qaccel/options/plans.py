"""Bits as a user gives them: one pair for all layers, or a plan by node name."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import UserError, path_of, shown
from .limits import is_whole
from .values import WIDTHS, Bits, BitWidths


def bits_of(given: Any) -> Bits:
    """Widths as Python gives them: 8, (8, 16), a plan by node name, or a string or path as `parse_bits` takes it.

    Raises UserError for widths other than 4, 8 and 16, and for a plan that is not of its form.
    """
    if isinstance(given, BitWidths):
        return given
    if isinstance(given, Mapping):
        return checked_plan(given, "bits")
    if isinstance(given, tuple) and len(given) == 2 and all(map(is_whole, given)):
        return parse_bits(f"W{given[0]}A{given[1]}")
    if isinstance(given, os.PathLike):
        return read_plan(path_of(given, "--bits"))
    return parse_bits(given if isinstance(given, str) else str(given) if is_whole(given) else shown(given))


def parse_bits(text: str) -> Bits:
    """``8``, ``W4A8``, or the path of a plan: ``{node name: {"weight_bits": 4, "activation_bits": 8}}`` as JSON.

    Raises UserError for widths other than 4, 8 and 16, and for a plan that is missing, damaged or not of that form.
    """
    both = re.fullmatch(r"[wW](\d+)[aA](\d+)", text) or re.fullmatch(r"(\d+)", text)
    if both is not None:
        weight, activation = int(both[1]), int(both[both.re.groups])
        return _widths(weight, activation, f"--bits {text}")
    if not text.endswith(".json"):
        raise UserError(f"--bits {text!r} is not a width; use 8, W8A16 (weights, activations), auto, or a plan.json")
    return read_plan(text)


def read_plan(path: str | Path) -> dict[str, BitWidths]:
    """The plan in a JSON file; errors as ``parse_bits``."""
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"), object_pairs_hook=lambda pairs: _object(pairs, path))
    except OSError as error:
        raise UserError(f"cannot read the plan {str(path)!r}: {error.strerror}; give another plan.json") from None
    except ValueError as error:
        raise UserError(f"the plan {str(path)!r} is not valid JSON: {error}") from None
    return checked_plan(plan, str(path))


def _object(pairs: list[tuple[str, Any]], path: str | Path) -> dict[str, Any]:
    """A JSON object. Raises UserError for a name that it has twice: JSON would silently take the last."""
    made = dict(pairs)
    if len(made) < len(pairs):
        twice = next(name for k, (name, _) in enumerate(pairs) if name in dict(pairs[:k]))
        raise UserError(f"the plan {str(path)!r} has {shown(twice)} twice; keep one of its entries")
    return made


def checked_plan(plan: Any, origin: str) -> dict[str, BitWidths]:
    """Plan entries as bit widths; ``origin`` names the plan in errors."""
    keys = {"weight_bits", "activation_bits"}  # and "why", a note for people
    if not isinstance(plan, Mapping):
        raise UserError(f"{origin}: a plan is an object of node names, this is a {type(plan).__name__}")
    checked = {}
    for name, entry in plan.items():
        if isinstance(entry, BitWidths):
            checked[name] = _widths(entry.weight_bits, entry.activation_bits, f"{origin}: {name!r}")
            continue
        if not isinstance(entry, Mapping) or set(entry) - {"why"} != keys:
            raise UserError(
                f'{origin}: {name!r} must be {{"weight_bits": 8, "activation_bits": 8}}; it is {shown(entry)}'
            )
        checked[name] = _widths(entry["weight_bits"], entry["activation_bits"], f"{origin}: {name!r}")
    return checked


def _widths(weight: Any, activation: Any, origin: str) -> BitWidths:
    for what, value in (("weights", weight), ("activations", activation)):
        if not is_whole(value) or value not in WIDTHS:
            raise UserError(f"{origin}: {shown(value)} bits for {what}; the accelerator has 4, 8 and 16")
    return BitWidths(int(weight), int(activation))
