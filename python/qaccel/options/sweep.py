"""``--sweep "rows=8,16,32 sram_bytes=256K,512K"``: the values of the machine's parameters that are tried."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import product

from ..errors import UserError, did_you_mean, shown
from ..machine.hw import HwConfig, changed_config
from ..machine.hw_spec import parameters
from .limits import is_number

_VALUE = re.compile(r"(\d+)([KM]?)")
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
MOST_CONFIGS = 10_000
MOST_PERCENT = 1000

Sweep = str | Mapping[str, Sequence[int]]


def parse_sweep(sweep: Sweep) -> dict[str, tuple[int, ...]]:
    """Values by parameter, in the order given; K and M are 1,024 and 1,048,576.

    Raises UserError for a parameter that there is not, one named twice, and what is no list of whole numbers.
    """
    if isinstance(sweep, str):
        found: dict[str, tuple[int, ...]] = {}
        for word in sweep.split():
            name, equals, values = word.partition("=")
            if not equals or not values:
                raise UserError(f'--sweep {word!r} must be NAME=VALUE,VALUE, such as "rows=8,16 sram_bytes=256K,512K"')
            if name in found:
                raise UserError(f"--sweep names {name} twice; give all its values at once")
            found[name] = tuple(_value(name, value) for value in values.split(","))
    elif isinstance(sweep, Mapping):
        found = {}
        for key, given in sweep.items():
            if isinstance(given, str) or not isinstance(given, Sequence) or any(type(v) is not int for v in given):
                raise UserError(f"sweep {shown(key)} must have a list of integers; it has {shown(given)}")
            found[str(key)] = tuple(given)
    else:
        raise UserError(f'sweep must be a text such as "rows=8,16" or lists by name; it is {shown(sweep)}')
    known = [parameter.name for parameter in parameters()]
    for name, listed in found.items():
        if name not in known:
            raise UserError(f"--sweep: the machine has no parameter {name!r}{did_you_mean(name, known)}")
        if not listed or len(set(listed)) != len(listed):
            raise UserError(f"--sweep {name}={','.join(map(str, listed))}: needed are values, each once")
    if not found:
        raise UserError('--sweep names no parameter; give such as "rows=8,16 sram_bytes=256K,512K"')
    return found


def checked_percent(given: float) -> float:
    """How many per cent more cycles ``--least-sram`` may take. Raises UserError for what is no such number."""
    if not is_number(given) or not 0 <= given <= MOST_PERCENT:
        raise UserError(f"--least-sram {shown(given)} must be per cent of cycles from 0 to {MOST_PERCENT}, such as 1")
    return float(given)


def _value(name: str, text: str) -> int:
    match = _VALUE.fullmatch(text)
    if match is None:
        raise UserError(f"--sweep {name}: {text!r} is no whole number; K and M may follow one")
    return int(match[1]) * _UNITS[match[2]]


def swept_configs(base: HwConfig, sweep: Mapping[str, Sequence[int]]) -> list[HwConfig]:
    """Every combination of the values in a config like ``base``, the last parameter changing fastest. Raises UserError for a value
    out of its bounds, before any work."""
    count = 1
    for values in sweep.values():
        count *= len(values)
    if count > MOST_CONFIGS:
        raise UserError(f"--sweep has {count:,} combinations, at most {MOST_CONFIGS:,} are tried; give fewer values")
    configs = []
    for combination in product(*sweep.values()):
        changes = dict(zip(sweep, combination, strict=True))
        name = " ".join([base.name, *(f"{parameter}={value}" for parameter, value in changes.items())])
        configs.append(changed_config(base, name, changes))
    return configs
