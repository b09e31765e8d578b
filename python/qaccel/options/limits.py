"""What a module must keep to, of bits that the compiler chooses; ``max_drop`` and ``max_bytes`` of given ones, too."""

from __future__ import annotations

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from ..errors import UserError, shown

MINIMIZED = ("cycles", "bytes", "drop")
DEFAULT_MAX_DROP = 1.0  # points
AUTO = "auto"


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
        if drop is not None and (not is_number(drop) or not 0 < drop <= 100):
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

    @property
    def moot(self) -> str:
        """What to say of limits on cycles and bytes where nothing is on the accelerator; empty where there are none."""
        costs = [f"--{name.replace('_', '-')} {value}" for name, value in self.given.items() if name != "max_drop"]
        limit = "limit" if len(costs) > 1 else "limits"
        return f"{' and '.join(costs)} {limit} nothing: every layer stays on the CPU" if costs else ""


def is_auto(bits: Any) -> bool:
    """Whether the compiler is to choose the bits."""
    return isinstance(bits, str) and bits == AUTO


def check_choice(flag: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises UserError for a value that is none of the ``choices``."""
    if not isinstance(value, str) or value not in choices:
        given = value if isinstance(value, str) else shown(value)
        raise UserError(f"{flag} {given} is unknown; choose one of {', '.join(choices)}")


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, Python's or NumPy's."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether it is a number, Python's or NumPy's; texts that spell one are the command line's to read."""
    return isinstance(value, Real) and not isinstance(value, bool)
