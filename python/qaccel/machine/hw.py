"""The machine's sizes, read from ``target/configs/*.toml`` or a user's own file."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

DEFAULT_CONFIG = "qaccel-256"


@dataclass(frozen=True)
class StartUpCycles:
    """Cycles that each engine takes before an instruction does anything."""

    load: int
    loadw: int
    compute: int
    store: int


@dataclass(frozen=True)
class HwConfig:
    """One accelerator. Sizes in bytes, widths in units per cycle; the ISA manual says what each limits."""

    name: str
    clock_mhz: int
    rows: int
    cols: int
    weight_buffer_bytes: int
    weight_read_bytes_per_cycle: int
    line_buffer_bytes: int
    accumulator_entries: int
    accumulator_bits: int
    sram_bytes: int
    sram_read_bytes_per_cycle: int
    sram_write_bytes_per_cycle: int
    stream_read_bytes_per_cycle: int
    requantize_outputs_per_cycle: int
    table_lookups_per_cycle: int
    decoder_lanes: int
    decoder_table_bytes: int
    dram_bytes_per_cycle: int
    dram_latency_cycles: int
    dram_burst_beats: int
    queue_entries: int
    instruction_buffer_entries: int
    start_up_cycles: StartUpCycles

    def __repr__(self) -> str:
        return f"<HwConfig '{self.name[:60]}': {self.rows} x {self.cols}, {self.sram_bytes:,} B of SRAM, {self.clock_mhz} MHz>"

    def array_rows(self, activation_bits: int) -> int:
        """Reduction elements (or depthwise pixels) per cycle for activations of that width."""
        return self.rows * 8 // activation_bits

    def array_columns(self, weight_bits: int) -> int:
        """Output channels per cycle for weights of that width."""
        return self.cols * 8 // weight_bits

    def macs_per_cycle(self, weight_bits: int, activation_bits: int) -> int:
        return self.array_rows(activation_bits) * self.array_columns(weight_bits)

    def to_dict(self) -> dict[str, Any]:
        """Plain nested dictionary, as artefacts and the simulator carry it."""
        return dataclasses.asdict(self)


def target_dir() -> Path:
    """Folder with isa.toml and configs: beside the package when installed, else the checkout's ``target/``."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "target", package.parents[1] / "target"):
        if (folder / "isa.toml").is_file():
            return folder
    raise UserError(f"isa.toml is neither in {package / 'target'} nor in the checkout: install qaccel again")


def config_names() -> list[str]:
    """Names of the configs that come with qaccel."""
    return sorted(path.stem for path in (target_dir() / "configs").glob("*.toml"))


# What the instruction set can address, and what the numerics need; everything else must just be positive.
WIDE_ACCUMULATOR_BITS = 48  # what the numerics ask of 16-bit layers: no config has less, so no plan may need more
_LIMITS = {
    "sram_bytes": (1024, 1 << 24),
    "weight_buffer_bytes": (256, 1 << 24),
    "line_buffer_bytes": (1, 1 << 26),
    "accumulator_entries": (1, 1 << 26),
    "accumulator_bits": (WIDE_ACCUMULATOR_BITS, 63),
}


def config_from_dict(values: dict[str, Any], origin: str) -> HwConfig:
    """Check and freeze a config's values. ``origin`` names the file in errors."""
    values = dict(values)
    for cls, table, prefix in (
        (HwConfig, values, ""),
        (StartUpCycles, values.get("start_up_cycles"), "start_up_cycles."),
    ):
        if not isinstance(table, dict):
            raise UserError(f"{origin}: start_up_cycles is missing or not a table")
        names = {field.name for field in dataclasses.fields(cls)}
        for name in sorted(names - set(table)):
            raise UserError(f"{origin}: {prefix}{name} is missing; compare with the configs that come with qaccel")
        for name in sorted(set(table) - names):
            raise UserError(f"{origin}: {prefix}{name} is not a config entry; known are {', '.join(sorted(names))}")
        for name, value in table.items():
            if name in ("name", "start_up_cycles"):
                continue
            low, high = _LIMITS.get(name, (0 if prefix or name == "dram_latency_cycles" else 1, 1 << 31))
            if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
                raise UserError(f"{origin}: {prefix}{name} is {value!r}, must be an integer from {low} to {high}")
    if not isinstance(values["name"], str) or not values["name"]:
        raise UserError(f"{origin}: name is {values['name']!r}, must be a string")
    for name in ("rows", "cols"):
        if values[name] & (values[name] - 1) or values[name] < 2:
            raise UserError(
                f"{origin}: {name} is {values[name]}, must be a power of two from 2 on, so that multipliers can join"
            )
    return HwConfig(**{**values, "start_up_cycles": StartUpCycles(**values["start_up_cycles"])})


@lru_cache(maxsize=32)
def _load_file(path: Path, mtime_ns: int) -> HwConfig:
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None
    return config_from_dict(values, str(path))


def load_config(name_or_path: str | Path | HwConfig = DEFAULT_CONFIG) -> HwConfig:
    """A config by name (``qaccel-256``) or by the path of a ``.toml`` file.

    Raises UserError if there is no such config or an entry is missing, unknown or out of bounds.
    """
    if isinstance(name_or_path, HwConfig):
        return name_or_path
    path = target_dir() / "configs" / f"{name_or_path}.toml"
    if not path.is_file():
        path = Path(name_or_path)
        if path.suffix != ".toml" or not path.is_file():
            raise UserError(
                f"no config {str(name_or_path)!r}: use one of {', '.join(config_names())} or the path of a .toml file"
            )
    return _load_file(path, path.stat().st_mtime_ns)
