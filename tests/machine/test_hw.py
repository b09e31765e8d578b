"""Configs: the three that come with qaccel, users' own, and every way in which one can be malformed."""

import copy
import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qaccel.errors import CompilerFault, QaccelError
from qaccel.machine import hw as hw_module
from qaccel.machine.hw import HwConfig, StartUpCycles, config_from_dict, config_names, load_config
from qaccel.machine.hw_spec import parameters, parse_parameters, target_dir, tomllib
from qaccel.machine.isa import encode, instruction
from qaccel.machine.simulator import simulate

NAMES = ["qaccel-1024", "qaccel-256", "qaccel-64"]
INTEGERS = [field.name for field in dataclasses.fields(HwConfig) if field.name not in ("name", "start_up_cycles")]
START_UPS = [field.name for field in dataclasses.fields(StartUpCycles)]


def values() -> dict[str, Any]:
    return load_config().to_dict()


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def default_text() -> str:
    return (target_dir() / "configs" / "qaccel-256.toml").read_text(encoding="utf-8")


def test_the_configs_that_come_with_it() -> None:
    assert config_names() == NAMES
    assert [load_config(name).name for name in NAMES] == NAMES
    assert load_config() is load_config("qaccel-256")


@pytest.mark.parametrize(
    ("name", "side", "sram_kib", "weights_kib", "dram"),
    [("qaccel-64", 8, 128, 16, 4), ("qaccel-256", 16, 512, 64, 8), ("qaccel-1024", 32, 1024, 128, 16)],
)
def test_headline_sizes(name: str, side: int, sram_kib: int, weights_kib: int, dram: int) -> None:
    hw = load_config(name)
    assert (hw.rows, hw.cols) == (side, side)
    assert (hw.sram_bytes, hw.weight_buffer_bytes) == (sram_kib << 10, weights_kib << 10)
    assert (hw.dram_bytes_per_cycle, hw.dram_latency_cycles, hw.clock_mhz) == (dram, 64, 500)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("weight_bits", [4, 8, 16])
@pytest.mark.parametrize("activation_bits", [4, 8, 16])
def test_the_array_splits_and_joins(name: str, weight_bits: int, activation_bits: int) -> None:
    hw = load_config(name)
    assert hw.array_rows(activation_bits) * activation_bits == hw.rows * 8
    assert hw.array_columns(weight_bits) * weight_bits == hw.cols * 8
    products = hw.macs_per_cycle(weight_bits, activation_bits)
    assert products * weight_bits * activation_bits == hw.rows * hw.cols * 64


def test_a_config_passes_through_unchanged() -> None:
    hw = load_config("qaccel-64")
    assert load_config(hw) is hw
    assert config_from_dict(hw.to_dict(), "dict") == hw


def test_a_users_own_file(tmp_path: Path) -> None:
    path = write(tmp_path, default_text().replace('"qaccel-256"', '"mine"').replace("rows = 16\n", "rows = 32\n"))
    for given in (path, str(path)):
        hw = load_config(given)
        assert (hw.name, hw.rows, hw.cols) == ("mine", 32, 16)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path, default_text())
    assert load_config(path).clock_mhz == 500
    path.write_text(default_text().replace("clock_mhz = 500", "clock_mhz = 800"), encoding="utf-8")
    os.utime(path, ns=(1, 1))
    assert load_config(path).clock_mhz == 800


@pytest.mark.parametrize("name", ["qaccel-512", "", "missing.toml", "configs/qaccel-256", "qaccel-256.toml"])
def test_a_config_that_does_not_exist(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    message = f"no config {name!r}: use one of qaccel-1024, qaccel-256, qaccel-64 or the path of a .toml file"
    with pytest.raises(QaccelError, match=re.escape(message)):
        load_config(name)


def test_a_folder_and_a_file_of_another_kind_are_no_configs(tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for name in ("folder.toml", "config.json"):
        with pytest.raises(QaccelError, match="no config"):
            load_config(tmp_path / name)


@pytest.mark.parametrize("contents", [b"rows = ", b"rows = 1\nrows = 2", b"\xff\xfe\x00", b"[start_up_cycles"])
def test_a_file_that_is_not_toml(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(contents)
    with pytest.raises(QaccelError, match="not a valid TOML file") as caught:
        load_config(path)
    assert str(caught.value).startswith(f"{path}: ")


def refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(QaccelError, match="^" + re.escape(f"mine.toml: {message}")) as caught:
        config_from_dict(changed, "mine.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [*(p.name for p in parameters() if p.default is None and "." not in p.name), "name"])
def test_a_missing_entry(name: str) -> None:
    changed = values()
    del changed[name]
    refused(changed, f"{name} is missing")


@pytest.mark.parametrize("name", START_UPS)
def test_a_missing_start_up(name: str) -> None:
    changed = values()
    del changed["start_up_cycles"][name]
    refused(changed, f"start_up_cycles.{name} is missing")


def test_missing_start_ups() -> None:
    changed = values()
    del changed["start_up_cycles"]
    refused(changed, "start_up_cycles is missing")
    refused({**values(), "start_up_cycles": 16}, "start_up_cycles is missing or not a table")
    refused({"start_up_cycles": {}}, "accumulator_bits is missing")


def test_an_unknown_entry() -> None:
    refused({**values(), "row": 16}, "row is not a config entry; known are accumulator_bits, ")
    start_ups = {**values()["start_up_cycles"], "dma": 1}
    refused(
        {**values(), "start_up_cycles": start_ups},
        "start_up_cycles.dma is not a config entry; known are accumulator_bits, ",
    )


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("value", [-1, (1 << 31) + 1, 16.0, "16", True, None, [16]])
def test_an_entry_that_is_no_integer_in_its_range(name: str, value: Any) -> None:
    refused({**values(), name: value}, f"{name} is {value!r}, must be an integer from ")


@pytest.mark.parametrize("name", START_UPS)
@pytest.mark.parametrize("value", [-1, (1 << 31) + 1, 1.5, False])
def test_a_start_up_that_is_no_integer_in_its_range(name: str, value: Any) -> None:
    start_ups = {**values()["start_up_cycles"], name: value}
    refused(
        {**values(), "start_up_cycles": start_ups}, f"start_up_cycles.{name} is {value!r}, must be an integer from 0"
    )


@pytest.mark.parametrize("name", sorted(set(INTEGERS) - {"dram_latency_cycles"}))
def test_nothing_but_waiting_may_be_zero(name: str) -> None:
    refused({**values(), name: 0}, f"{name} is 0, must be an integer from ")


def test_waiting_may_be_zero() -> None:
    nothing = dict.fromkeys(START_UPS, 0)
    hw = config_from_dict({**values(), "dram_latency_cycles": 0, "start_up_cycles": nothing}, "mine.toml")
    assert (hw.dram_latency_cycles, hw.start_up_cycles) == (0, StartUpCycles(0, 0, 0, 0))


@pytest.mark.parametrize(
    ("name", "inside", "outside"),
    [
        ("sram_bytes", [1024, 1 << 24], [1023, (1 << 24) + 1]),
        ("weight_buffer_bytes", [256, 1 << 24], [255, (1 << 24) + 1]),
        ("accumulator_bits", [48, 63], [47, 64]),
        ("clock_mhz", [1, 1 << 31], [0]),
    ],
)
def test_limits(name: str, inside: list[int], outside: list[int]) -> None:
    for value in inside:
        assert getattr(config_from_dict({**values(), name: value}, "mine.toml"), name) == value
    for value in outside:
        refused({**values(), name: value}, f"{name} is {value}, must be an integer from {inside[0]} to {inside[1]}")


@pytest.mark.parametrize("name", ["rows", "cols"])
@pytest.mark.parametrize("value", [3, 12, 17])
def test_the_array_must_be_a_power_of_two(name: str, value: int) -> None:
    refused({**values(), name: value}, f"{name} is {value}, must be a power of two from 2 on")


@pytest.mark.parametrize("value", ["", 1, None])
def test_a_name_must_be_a_string(value: Any) -> None:
    refused({**values(), "name": value}, f"name is {value!r}, must be a string")


# Configs that say what they change


def test_a_base_and_what_differs(tmp_path: Path) -> None:
    path = write(tmp_path, 'base = "qaccel-64"\nrows = 16\n[start_up_cycles]\nload = 3\n')
    base, hw = load_config("qaccel-64"), load_config(path)
    starts = dataclasses.replace(base.start_up_cycles, load=3)
    assert hw == dataclasses.replace(base, name="mine", rows=16, start_up_cycles=starts)
    (tmp_path / "sub").mkdir()
    other = tmp_path / "sub" / "other.toml"
    other.write_text('base = "../mine.toml"\nname = "third"\ncols = 4\n', encoding="utf-8")
    assert load_config(other) == dataclasses.replace(hw, name="third", cols=4)
    path.write_text('base = "qaccel-64"\nrows = 32\n', encoding="utf-8")
    assert (load_config(other).rows, load_config(other).start_up_cycles) == (32, base.start_up_cycles)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('base = "qaccel-65"', "base 'qaccel-65' is no config: use one of qaccel-1024, "),
        ('base = "missing.toml"', "base 'missing.toml' is no config"),
        ("base = 7", "base is 7, must be the name of a config or the path of a .toml file"),
        ('base = "mine.toml"', "base 'mine.toml' leads back to itself: mine.toml"),
        ('base = "b.toml"', "base 'mine.toml' leads back to itself: mine.toml -> b.toml"),
        ('base = "qaccel-64"\nrow = 8', "row is not a config entry"),
        ('base = "qaccel-64"\nrows = 12', "rows is 12, must be a power of two"),
        ('base = "qaccel-64"\nstart_up_cycles = 3', "start_up_cycles is missing or not a table"),
    ],
)
def test_a_base_that_cannot_be(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "b.toml").write_text('base = "mine.toml"\n', encoding="utf-8")
    with pytest.raises(QaccelError, match=re.escape(message)) as caught:
        load_config(write(tmp_path, text))
    assert "\n" not in str(caught.value) and ".toml: " in str(caught.value)


# hw.toml, which describes the parameters


def described() -> dict[str, Any]:
    return copy.deepcopy(_DESCRIBED)


_DESCRIBED = tomllib.loads((target_dir() / "hw.toml").read_text(encoding="utf-8"))


def test_a_parameter_with_a_default_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = [dataclasses.replace(p, default=8 if p.name == "dram_burst_beats" else None) for p in parameters()]
    monkeypatch.setattr(hw_module, "_parameters", lambda: {p.name: p for p in usual})
    changed = values()
    del changed["dram_burst_beats"]
    assert config_from_dict(changed, "mine.toml") == load_config()
    assert config_from_dict({**changed, "dram_burst_beats": 4}, "mine.toml").dram_burst_beats == 4
    del changed["queue_entries"]
    refused(changed, "queue_entries is missing")


def test_a_parameter_that_only_one_side_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hw_module, "parameters", lambda: parameters()[1:])
    with pytest.raises(CompilerFault, match="hw.toml and HwConfig disagree on clock_mhz"):
        hw_module._parameters.__wrapped__()


DAMAGES = {
    "unknown key": (lambda p: p["rows"].update(unti="B"), "rows: unit and text must be there, ['unti'] not"),
    "no text": (lambda p: p["rows"].pop("text"), "rows: unit and text must be there, nothing not"),
    "limits": (lambda p: p["rows"].update(least=5, most=4), "rows: limits 5 to 4"),
    "too large": (lambda p: p["rows"].update(most=1 << 32), "rows: limits 2 to 4294967296"),
    "default": (lambda p: p["rows"].update(default=6), "rows: its default is 6, must be a power of two"),
    "twice": (lambda p: p.update(clock_mhz=p["rows"]), "clock_mhz occurs twice"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_description_is_refused(damage: Any, message: str) -> None:
    spec = described()
    assert parse_parameters(spec) == parameters()
    damage(spec["section"][1]["parameters"])
    with pytest.raises(QaccelError, match=re.escape(f"hw.toml: {message}")):
        parse_parameters(spec)


def test_the_simulator_refuses_what_the_configs_may_not_have() -> None:
    """The C++ reader is generated from the same description: the same limits, each by name."""
    program = encode([instruction("LOAD_RAW", bytes=1)])

    def run(changed: dict[str, Any]) -> None:
        hw = HwConfig(**{**changed, "start_up_cycles": StartUpCycles(**changed["start_up_cycles"])})
        simulate(hw, program, np.zeros(64, np.uint8), initialised=[(0, 64)])

    run(values())
    for parameter in parameters():
        table, _, name = parameter.name.rpartition(".")
        for value in (parameter.least - 1, parameter.most + 1, *([3] if parameter.power_of_two else [])):
            changed = values()
            (changed[table] if table else changed)[name] = value
            with pytest.raises(QaccelError, match=f"^{name} is {value}, must be "):
                run(changed)
