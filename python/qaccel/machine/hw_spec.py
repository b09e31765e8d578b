"""``target/hw.toml``, read and checked: the parameters of a machine with their units, limits and meanings."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

LARGEST = 1 << 31  # of any parameter: products of a few of them then fit 64 bits


@dataclass(frozen=True)
class Parameter:
    """An integer from ``least`` to ``most``. A ``name`` with a dot is an entry of a config's table."""

    name: str
    section: str
    unit: str
    least: int
    most: int
    power_of_two: bool
    default: int | None
    text: str

    def fault(self, value: object) -> str | None:
        """What a value must be, if it is not that."""
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= self.most:
            return f"must be an integer from {self.least} to {self.most}"
        if self.power_of_two and value & (value - 1):
            return f"must be a power of two from {self.least} on, so that multipliers can join"
        return None


def target_dir() -> Path:
    """Folder with isa.toml, hw.toml and configs: beside the package when installed, else the checkout's ``target/``."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "target", package.parents[1] / "target"):
        if (folder / "isa.toml").is_file():
            return folder
    raise UserError(f"isa.toml is neither in {package / 'target'} nor in the checkout: install qaccel again")


def parse_parameters(spec: Mapping[str, Any]) -> tuple[Parameter, ...]:
    """Check and freeze the contents of a hw.toml, in its order. Raises UserError naming what is wrong."""
    found: dict[str, Parameter] = {}
    for section in spec.get("section", ()):
        for name, entry in section.get("parameters", {}).items():
            unknown = set(entry) - {"unit", "least", "most", "power_of_two", "default", "text"}
            if unknown or not {"unit", "text"} <= set(entry):
                raise UserError(f"hw.toml: {name}: unit and text must be there, {sorted(unknown) or 'nothing'} not")
            if name in found:
                raise UserError(f"hw.toml: {name} occurs twice")
            parameter = Parameter(
                name, section["title"], entry["unit"], entry.get("least", 1), entry.get("most", LARGEST),
                entry.get("power_of_two", False), entry.get("default"), entry["text"],
            )  # fmt: skip
            if not 0 <= parameter.least <= parameter.most <= LARGEST:
                raise UserError(
                    f"hw.toml: {name}: limits {parameter.least} to {parameter.most}, at most 0 to {LARGEST}"
                )
            if parameter.default is not None and (fault := parameter.fault(parameter.default)):
                raise UserError(f"hw.toml: {name}: its default is {parameter.default}, {fault}")
            found[name] = parameter
    return tuple(found.values())


@lru_cache(maxsize=1)
def parameters() -> tuple[Parameter, ...]:
    """The parameters that this installation's machines have. Raises UserError if its hw.toml is damaged."""
    path = target_dir() / "hw.toml"
    try:
        return parse_parameters(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None
