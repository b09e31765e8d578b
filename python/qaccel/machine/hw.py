"""The machine's sizes, read from ``target/configs/*.toml`` or a user's own file; ``target/hw.toml`` says what each means."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import CompilerFault, UserError, did_you_mean, shown
from .hw_spec import Parameter, parameters, target_dir, tomllib

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
    """One accelerator: the parameters of hw.toml, typed; hw.toml and the ISA manual have their units, limits and meanings."""

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


def config_names() -> list[str]:
    """Names of the configs that come with qaccel."""
    return sorted(path.stem for path in (target_dir() / "configs").glob("*.toml"))


@lru_cache(maxsize=1)
def _parameters() -> dict[str, Parameter]:
    """The parameters by name. Raises CompilerFault if ``HwConfig`` has others than hw.toml."""
    listed = {parameter.name: parameter for parameter in parameters()}
    fields = {field.name for field in dataclasses.fields(HwConfig)} - {"name", "start_up_cycles"}
    fields |= {f"start_up_cycles.{field.name}" for field in dataclasses.fields(StartUpCycles)}
    if fields != set(listed):
        raise CompilerFault(f"hw.toml and HwConfig disagree on {', '.join(sorted(fields ^ set(listed)))}")
    return listed


# What the numerics ask of 16-bit layers: no config has less, so no plan may need more.
WIDE_ACCUMULATOR_BITS = _parameters()["accumulator_bits"].least


def config_from_dict(values: Mapping[str, Any], origin: str) -> HwConfig:
    """Check and freeze a config's values; a parameter with a default may be missing. ``origin`` names the file in errors."""
    if not isinstance(values.get("start_up_cycles"), dict):
        raise UserError(f"{origin}: start_up_cycles is missing or not a table")
    given = {key: value for key, value in values.items() if key != "start_up_cycles"}
    given |= {f"start_up_cycles.{key}": value for key, value in values["start_up_cycles"].items()}
    known = {parameter.name: parameter.default for parameter in _parameters().values()}
    for name in sorted(set(given) - {"name", *known}):
        raise UserError(f"{origin}: {name} is not a config entry; known are {', '.join(sorted(['name', *known]))}")
    given = {name: default for name, default in known.items() if default is not None} | given
    for name in sorted({"name", *known} - set(given)):
        raise UserError(f"{origin}: {name} is missing; compare with the configs that come with qaccel")
    if not isinstance(given["name"], str) or not given["name"]:
        raise UserError(f"{origin}: name is {given['name']!r}, must be a string")
    for name, parameter in _parameters().items():
        if fault := parameter.fault(given[name]):
            raise UserError(f"{origin}: {name} is {given[name]!r}, {fault}")
    start_up = StartUpCycles(**{name.partition(".")[2]: given.pop(name) for name in known if "." in name})
    return HwConfig(**given, start_up_cycles=start_up)


def changed_config(hw: HwConfig, name: str, changes: Mapping[str, int]) -> HwConfig:
    """``hw`` under another name with some parameters changed, by their names in hw.toml (``start_up_cycles.load``).

    Raises UserError for a parameter that there is not, or a value out of its bounds.
    """
    values = hw.to_dict() | {"name": name}
    for parameter, value in changes.items():
        table, dot, entry = parameter.rpartition(".")
        if dot and isinstance(values.get(table), dict):
            values[table][entry] = value
        else:
            values[parameter] = value
    return config_from_dict(values, name)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a valid TOML file: {error}") from None


def _chain(path: Path) -> list[tuple[Path, dict[str, Any]]]:
    """A config's file and contents, then those of its ``base``, of that one's, and so on."""
    chain = [(path, _read(path))]
    while "base" in chain[-1][1]:
        origin, values = chain[-1]
        given = values.pop("base")
        if not isinstance(given, str) or not given:
            raise UserError(f"{origin}: base is {given!r}, must be the name of a config or the path of a .toml file")
        base = _config_path(given, origin.parent)
        if base is None:
            raise UserError(
                f"{origin}: base {given!r} is no config: use one of {', '.join(config_names())} or the path of a .toml file, "
                f"seen from this one's folder{did_you_mean(given, config_names())}"
            )
        if any(base.samefile(other) for other, _ in chain):
            raise UserError(f"{origin}: base {given!r} leads back to itself: {' -> '.join(p.name for p, _ in chain)}")
        chain.append((base, _read(base)))
    return chain


def _config_path(given: str, folder: Path) -> Path | None:
    """The file of a config by its name or its path, which may start at ``folder``; None if there is none."""
    path = target_dir() / "configs" / f"{given}.toml"
    if path.is_file():
        return path
    path = folder / given
    return path if path.suffix == ".toml" and path.is_file() else None


@lru_cache(maxsize=32)
def _config(path: Path, text: str) -> HwConfig:
    """``text``: the chain of values of ``_chain`` as JSON: what a config says may change under its path."""
    merged: dict[str, Any] = {}
    chain = json.loads(text)
    for values in reversed(chain):
        table = values.get("start_up_cycles")
        if isinstance(table, dict) and isinstance(merged.get("start_up_cycles"), dict):
            values = values | {"start_up_cycles": merged["start_up_cycles"] | table}
        merged |= values
    if len(chain) > 1:
        merged["name"] = chain[0].get("name", path.stem)  # never its base's
    return config_from_dict(merged, str(path))


def load_config(name_or_path: str | Path | HwConfig = DEFAULT_CONFIG) -> HwConfig:
    """A config by name (``qaccel-256``) or by the path of a ``.toml`` file.

    A file that says ``base = "qaccel-256"``, or names another file as seen from its own folder, has the entries of that one but for
    those that it gives itself; its ``name`` is its own, by default the file's. Raises UserError if there is no such config or an
    entry is missing, unknown or out of bounds.
    """
    if isinstance(name_or_path, HwConfig):
        return name_or_path
    given = str(name_or_path) if isinstance(name_or_path, str | os.PathLike) else shown(name_or_path)
    path = _config_path(given, Path())
    if path is None:
        raise UserError(
            f"no config {given!r}: use one of {', '.join(config_names())} or the path of a .toml file"
            f"{did_you_mean(given, config_names())}"
        )
    return _config(path, json.dumps([values for _, values in _chain(path)], default=str))
