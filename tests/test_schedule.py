"""Schedules through the doors: written, read back, edited; refused in one line; and whatever a file holds, nothing but a UserError."""

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

import qaccel
from networks import data
from qaccel.cli.main import main
from qaccel.errors import UserError
from qaccel.machine.hw import changed_config, load_config
from qaccel.options import schedule_of
from qaccel.quantized_network import QuantizedNetwork
from small_models import chain, interrupted

NETWORKS = (("resnet", "qaccel-64", "W8A8"), ("mobilenet", "qaccel-256", "W4A8"), ("mobilenet", "qaccel-64", "W8A8"))
SMALL = {"sram_bytes": 12288}  # where maps have no room, so that layers run in cascades


def quantized(network: str, hw: str, bits: str) -> QuantizedNetwork:
    images = data.load("calibration", 16)["images"]
    return qaccel.quantize(data.HERE / f"{network}.onnx", {data.INPUT_NAME: images}, bits=bits, hw=hw, effort="fast")


@pytest.fixture(scope="module")
def resnet() -> tuple[QuantizedNetwork, qaccel.Module]:
    """On a machine where some layers run in cascades."""
    network = quantized("resnet", "qaccel-64", "W8A8")
    return network, qaccel.compile(network, hw=changed_config(load_config("qaccel-64"), "small", SMALL))


@pytest.mark.parametrize(("network", "hw", "bits"), NETWORKS)
def test_written_and_read_back_it_makes_the_same_bytes(network: str, hw: str, bits: str, tmp_path: Path) -> None:
    made = quantized(network, hw, bits)
    first = qaccel.compile(made, emit_schedule=tmp_path / "plan.json")
    assert first.written == (tmp_path / "plan.json",)
    plan = json.loads((tmp_path / "plan.json").read_text())
    (program,) = plan["subgraphs"].values()
    assert program["records"] and (program["stocks"] or hw != "qaccel-64") and program["holds"]
    again = qaccel.compile(made, schedule=tmp_path / "plan.json")
    assert [each.to_bytes() for each in again.artefacts] == [each.to_bytes() for each in first.artefacts]
    assert again.schedule.to_json() == (tmp_path / "plan.json").read_text()


def _another_tile(plan: dict) -> None:
    layer = next(
        each for each in plan["layers"].values() if each["tile"]["rows"] > 4 and each["layer"].startswith("Conv")
    )
    layer["tile"]["rows"] = 3


def _no_cascades(plan: dict) -> None:
    assert plan["cascades"]
    plan["cascades"] = []
    for layer in plan["layers"].values():
        layer.pop("tile")
        layer.pop("output_in_sram", None)


def _shorter_stripes(plan: dict) -> None:
    cascade = plan["cascades"][0]
    cascade["stripe_rows"] -= 1
    del cascade["rings"], cascade["opening_rows"]


def _map_to_dram(plan: dict) -> None:
    next(each for each in reversed(plan["layers"].values()) if each.get("output_in_sram"))["output_in_sram"] = False


def _no_posts(plan: dict) -> None:
    for layer in plan["layers"].values():
        layer.pop("post", None)
        if "Conv" in layer["layer"]:
            layer["post"] = None
        del layer["tile"]


@pytest.mark.parametrize("edit", [_another_tile, _no_cascades, _shorter_stripes, _map_to_dram, _no_posts])
def test_an_edited_plan_makes_the_same_integers_in_other_cycles(edit: Any, resnet: tuple) -> None:
    network, first = resnet
    plan = first.schedule.to_dict()
    (program,) = plan["subgraphs"].values()
    for ahead in ("records", "stocks", "holds"):  # they are for the plan as it was
        del program[ahead]
    edit(program)
    if edit is _no_posts:
        del program["cascades"]
    made = qaccel.compile(network, hw=first.compiled.hw, schedule=plan)
    assert made.report.cycles != first.report.cycles
    images = data.load("test", 4)["images"]
    for name, value in first.run({data.INPUT_NAME: images}).items():
        np.testing.assert_array_equal(made.run({data.INPUT_NAME: images})[name], value)


def test_the_command_line_writes_and_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.chdir(tmp_path)
    Path("model.onnx").write_bytes(interrupted().SerializeToString())
    common = ["compile", "model.onnx", "--target=qaccel", "-o"]
    assert main([*common, "a.tar", "--emit-schedule", "plan.json", "--dump-code=asm"]) == 0
    plan = json.loads(Path("plan.json").read_text())
    assert list(plan["subgraphs"]) == ["qaccel_0", "qaccel_1"]
    assert "a.tar, plan.json, a.tar.asm" in capsys.readouterr().out
    assert main([*common, "b.tar", "--schedule", "plan.json", "--dump-code=asm"]) == 0
    assert Path("a.tar.asm").read_bytes() == Path("b.tar.asm").read_bytes()
    plan["subgraphs"]["qaccel_0"]["layers"]["before"]["tile"]["rows"] = 1
    Path("plan.json").write_text(json.dumps(plan))
    assert main([*common, "c.tar", "--schedule", "plan.json", "--dump-code=asm"]) == 0
    assert Path("a.tar.asm").read_bytes() != Path("c.tar.asm").read_bytes()


def _short_ring(plan: dict) -> None:
    _set(*PROGRAM, "layers", "conv1", "output_in_sram", False)(plan)
    _set(*PROGRAM, "cascades", [{"first": "conv1", "last": "pool1", "stripe_rows": 4, "rings": {"conv1": 1}}])(plan)


def _two_addresses(plan: dict) -> None:
    for name in ("conv1", "pool1"):
        _set(*PROGRAM, "layers", name, {"output_in_sram": True, "output_address": 64})(plan)


def _set(*path_and_value: Any) -> Any:
    *path, value = path_and_value

    def edit(plan: dict) -> None:
        at: Any = plan
        for key in path[:-1]:
            at = at[key]
        at[path[-1]] = value

    return edit


PROGRAM = ("subgraphs", "qaccel_0")
CONV2 = (*PROGRAM, "layers", "conv2")
REFUSED = {
    "another machine": (_set("hw", "qaccel-64"), ("'qaccel-64'", "'qaccel-256'", "--emit-schedule")),
    "other parameters": (_set("hw_digest", "0"), ("other parameters", "leave hw_digest out")),
    "another version": (_set("schedule", 2), ('"schedule": 2', "version 1")),
    "another program": (_set("subgraphs", "qaccel_7", {}), ("'qaccel_7'", "qaccel_0", "another network")),
    "unknown layer": (_set(*PROGRAM, "layers", "conv3", {}), ("'conv3'", "did you mean 'conv2'")),
    "other bits": (_set(*CONV2, "layer", "Conv W4A8 8x8x8 to 8x8x16"), ("conv2 is 'Conv W8A8", "other bits")),
    "unknown entry": (_set(*CONV2, "tiles", {}), ("no entry 'tiles'", "did you mean 'tile'")),
    "null": (_set(*CONV2, "tile", None), ("tile is null", "leave it out")),
    "too many rows": (_set(*CONV2, "tile", {"rows": 9}), ("conv2: tile rows 9", "from 1 to 8")),
    "odd channels": (_set(*CONV2, "tile", {"channels": 5}), ("tile channels 5", "even number")),
    "a word that is none": (_set(*CONV2, "tile", {"weights": "inner"}), ("'inner'", "'outside' or 'inside'")),
    "a pool's weights": (_set(*PROGRAM, "layers", "pool1", {"tile": {"weights": "inside"}}), ("no 'weights'",)),
    "a post that cannot be": (_set(*CONV2, "post", "pool1"), ("'pool1' cannot run", "leave post out")),
    "wide": (_set(*CONV2, "wide", 1000), ("wide 1000", "say wide: 1")),
    "an address": (_set(*CONV2, {"output_in_sram": True, "output_address": 7}), ("multiple of 16",)),
    "addresses in each other's way": (_two_addresses, ("at one time and place", "change an output_address")),
    "an output of the network": (_set(*PROGRAM, "layers", "classifier", {"output_in_sram": True}), ("goes to DRAM",)),
    "a cascade that is empty": (_set(*PROGRAM, "cascades", [{"first": "pool1", "last": "conv1"}]), ("ends before",)),
    "cascades that overlap": (
        _set(*PROGRAM, "cascades", [{"first": "conv1", "last": "pool1"}, {"first": "pool1", "last": "conv2"}]), ("have pool1",)
    ),
    "stripes": (
        _set(*PROGRAM, "cascades", [{"first": "conv1", "last": "pool1", "stripe_rows": 9}]), ("stripe_rows 9", "8 rows")
    ),
    "a ring": (
        _set(*PROGRAM, "cascades", [{"first": "conv1", "last": "pool1", "rings": {"pool2": 1}}]), ("no map 'pool2'",)
    ),
    "a ring of a whole map": (
        _set(*PROGRAM, "cascades", [{"first": "conv1", "last": "pool1", "rings": {"conv1": 9}}]), ("output_in_sram: false",)
    ),
    "a short ring": (_short_ring, ("needs", "rows")),
    "records too early": (
        _set(*PROGRAM, "records", [{"layers": ["conv1"], "behind": "conv2"}]), ("must be before it",)
    ),
    "records of a pool": (_set(*PROGRAM, "records", [{"layers": ["pool1"], "behind": "conv1"}]), ("it has none",)),
    "a stock of a pool": (
        _set(*PROGRAM, "stocks", [{"layer": "pool1", "pieces": [{"at": "conv1", "bytes": 16}]}]), ("cannot wait in SRAM",)
    ),
    "a stock too large": (
        _set(*PROGRAM, "stocks", [{"layer": "conv2", "pieces": [{"at": "conv1", "bytes": 1 << 30}]}]), ("one piece",)
    ),
    "a hold for nothing": (_set(*PROGRAM, "holds", [{"layer": "pool1", "behind": "first map"}]), ("take it out of holds",)),
    "not an object": (_set("subgraphs", []), ("must be an object by name",)),
    "half a row": (_set(*CONV2, "tile", {"rows": 1.5}), ("whole number", "1.5")),
}  # fmt: skip


@pytest.fixture(scope="module")
def small() -> tuple[QuantizedNetwork, dict]:
    samples = np.random.default_rng(1).random((4, 3, 16, 16), np.float32)
    network = qaccel.quantize(chain(), {"x": samples}, bits=8, effort="fast")
    plan = qaccel.compile(network).schedule.to_dict()
    for layer in plan["subgraphs"]["qaccel_0"]["layers"].values():
        layer.pop("tile", None)
    for kind in ("records", "stocks", "holds"):
        del plan["subgraphs"]["qaccel_0"][kind]
    return network, plan


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_in_one_line(name: str, small: tuple) -> None:
    network, plan = small
    edit, says = REFUSED[name]
    plan = copy.deepcopy(plan)
    edit(plan)
    with pytest.raises(UserError) as error:
        qaccel.compile(network, schedule=plan)
    assert all(part in str(error.value) for part in says), str(error.value)
    assert "\n" not in str(error.value)


def test_what_is_given_must_fit() -> None:
    """A tile, and maps that are to stay, against SRAM that has no room for them."""
    network = quantized("resnet", "qaccel-64", "W8A8")
    hw = changed_config(load_config("qaccel-64"), "small", SMALL)
    layers = qaccel.compile(network, hw=hw).schedule.subgraphs["qaccel_0"].layers
    everything = {name: {"output_in_sram": True} for name, each in layers.items() if each.output_in_sram is not None}
    with pytest.raises(UserError, match=r"(does not fit|no tile of it fits) 12288 B of SRAM beside|and SRAM has 12288"):
        qaccel.compile(
            network, hw=hw, schedule={"schedule": 1, "hw": "small", "subgraphs": {"qaccel_0": {"layers": everything}}}
        )
    first = next(iter(layers))
    whole = {first: {"tile": {"rows": 32, "columns": 32, "channels": 16}, "wide": 1}}
    with pytest.raises(UserError, match=r"a tile with rows 32, columns 32, channels 16 does not fit 12288 B of SRAM"):
        qaccel.compile(
            network, hw=hw, schedule={"schedule": 1, "hw": "small", "subgraphs": {"qaccel_0": {"layers": whole}}}
        )


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"target": "llvm", "schedule": {"schedule": 1, "hw": "qaccel-256", "subgraphs": {}}}, "--schedule is the accelerator's"),
        ({"target": "llvm", "emit_schedule": "plan.json"}, "--emit-schedule needs the accelerator"),
        ({"schedule": "missing.json"}, "No such file"),
        ({"schedule": 7}, "--schedule must be a path"),
        ({"emit_schedule": "no/where.json"}, "create it first"),
    ],
)  # fmt: skip
def test_doors_refuse_before_the_work(arguments: dict, says: str, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=says):
        qaccel.compile(chain(), **arguments)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _places(value: Any, path: tuple = ()) -> list[tuple]:
    found = [path]
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        found += _places(each, (*path, key))
    return found


@seed(20261130)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(content=st.data())
def test_whatever_stands_in_a_file_only_a_users_error_comes_of_it(content: Any, small: tuple, tmp_path: Path) -> None:
    """A plan with some value anywhere replaced, or bytes of its text: it compiles, or UserError says why not."""
    network, plan = small
    place = content.draw(st.sampled_from(_places(plan)[1:]))
    value = content.draw(JSON | st.sampled_from([{}, [], "", 0, 1, 2, 16, True, 1 << 40, "conv1", "conv2", "pool1"]))
    plan = copy.deepcopy(plan)
    _set(*place, value)(plan)
    text = json.dumps(plan).encode("utf-8", "surrogatepass")
    if content.draw(st.booleans()):
        at = content.draw(st.integers(0, len(text) - 1))
        text = text[:at] + content.draw(st.binary(max_size=3)) + text[at + content.draw(st.integers(0, 3)) :]
    (tmp_path / "plan.json").write_bytes(text)
    try:
        schedule = schedule_of(tmp_path / "plan.json")
        qaccel.compile(network, schedule=schedule)
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "text", [b"", b"[" * 100_000, b"\xff\xfe", b'{"schedule": 1, "schedule": 1}', b"1" * 10_000, b"null"]
)
def test_files_that_are_no_schedule(text: bytes, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(text)
    with pytest.raises(UserError, match="plan.json"):
        schedule_of(tmp_path / "plan.json")
