"""Widths of weights and activations as a user gives them, plans by node name, and what a search for them must keep to."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError, path_of, shown
from .machine.isa import isa

WIDTHS = isa().widths
MINIMIZED = ("cycles", "bytes", "drop")
DEFAULT_MAX_DROP = 1.0  # points
AUTO = "auto"


@dataclass(frozen=True)
class BitWidths:
    """Weight and activation bits of one layer, each 4, 8 or 16."""

    weight_bits: int
    activation_bits: int

    def __post_init__(self) -> None:
        for name, value in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            if value not in WIDTHS:
                raise UserError(f"{name} is {value!r}; the machine has 4, 8 and 16")

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.activation_bits}"


Bits = BitWidths | Mapping[str, BitWidths]
DEFAULT_BITS = BitWidths(8, 8)
BITS_WITHOUT_DATA = BitWidths(8, 16)


@dataclass(frozen=True)
class Limits:
    """What bits that the compiler chooses must keep to, all of it: points of drop, cycles and bytes of a module; None for no limit.

    ``minimize`` None: cycles, or drop where only cycles or bytes are limited. Raises UserError for what is no such value.
    """

    minimize: str | None = None
    max_drop: float | None = None
    max_cycles: int | None = None
    max_bytes: int | None = None

    def __post_init__(self) -> None:
        if self.minimize is not None and self.minimize not in MINIMIZED:
            raise UserError(f"--minimize {shown(self.minimize)} is unknown; choose one of {', '.join(MINIMIZED)}")
        drop = self.max_drop
        if drop is not None and (not isinstance(drop, int | float) or isinstance(drop, bool) or not 0 < drop <= 100):
            raise UserError(f"--max-drop {shown(drop)} must be points above 0 and up to 100, such as 1.0")
        for flag, value in (("--max-cycles", self.max_cycles), ("--max-bytes", self.max_bytes)):
            if value is not None and (not is_whole(value) or value < 1):
                raise UserError(f"{flag} {shown(value)} must be a whole number above 0")

    @property
    def minimized(self) -> str:
        """What is to be least."""
        only_costs = self.max_drop is None and (self.max_cycles is not None or self.max_bytes is not None)
        return self.minimize or ("drop" if only_costs else "cycles")

    @property
    def max_points(self) -> float:
        """The most points that may be lost; infinite where the drop is minimized without a limit."""
        if self.max_drop is not None:
            return float(self.max_drop)
        return math.inf if self.minimized == "drop" else DEFAULT_MAX_DROP

    @property
    def max_drop_holds(self) -> bool:
        """Whether the drop is limited."""
        return math.isfinite(self.max_points)

    @property
    def given(self) -> dict[str, float]:
        """The limits that hold, by name."""
        every = {"max_drop": self.max_points, "max_cycles": self.max_cycles, "max_bytes": self.max_bytes}
        return {name: value for name, value in every.items() if value is not None and math.isfinite(value)}


def is_whole(value: Any) -> bool:
    """Whether a value is an integer of Python or NumPy."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_auto(bits: Any) -> bool:
    """Whether the compiler is to choose the bits."""
    return isinstance(bits, str) and bits == AUTO


def limits_of(minimize: Any, max_drop: Any, max_cycles: Any, max_bytes: Any) -> Limits:
    """Limits as Python gives them, or the strings that the flags take. Raises UserError for what is no such value."""
    if isinstance(max_drop, str):
        with contextlib.suppress(ValueError):
            max_drop = float(max_drop)
    numbers = [int(each) if isinstance(each, str) and each.isdecimal() else each for each in (max_cycles, max_bytes)]
    return Limits(minimize, max_drop, *numbers)


def bits_of(given: Any) -> Bits:
    """Widths as Python gives them: 8, (8, 16), a plan by node name, or a string or path as `parse_bits` takes it.

    Raises UserError for widths other than 4, 8 and 16, and for a plan that is not of its form.
    """
    if isinstance(given, BitWidths):
        return given
    if isinstance(given, Mapping):
        return checked_plan(given, "bits")
    if isinstance(given, tuple) and len(given) == 2:
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
        plan = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the plan {str(path)!r}: {error.strerror}; give another plan.json") from None
    except ValueError as error:
        raise UserError(f"the plan {str(path)!r} is not valid JSON: {error}") from None
    return checked_plan(plan, str(path))


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
