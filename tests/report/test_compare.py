"""tvmc diff: what was changed by hand in a report is found, and nothing else."""

import copy
import json
from pathlib import Path

import pytest

import qaccel
import small_models
from qaccel.cli.main import main
from qaccel.errors import UserError
from qaccel.report.compare import compare, print_comparison, read_report


@pytest.fixture(scope="module")
def reports() -> tuple[dict, dict]:
    """The same network at W8A8 and W4A8."""
    model = small_models.interrupted()
    made = (qaccel.compile(model, calibration_data=small_models.samples(model), bits=bits) for bits in ("W8A8", "W4A8"))
    eight, four = (json.loads(json.dumps(each.report)) for each in made)
    return eight, four


def test_a_report_is_the_same_as_itself(reports: tuple[dict, dict], capsys: pytest.CaptureFixture):
    found = compare(reports[0], reports[0])
    assert (found.machine, found.layers, found.same) == ((), (), 2)
    assert all(each.a == each.b for each in found.figures)
    print_comparison(found, None)
    assert capsys.readouterr().out.splitlines()[-1] == "2 layers are the same in both"


def test_bits_are_a_reason_and_so_are_bytes(reports: tuple[dict, dict]):
    eight, four = reports
    found = compare(eight, four)
    assert {each.name for each in found.layers} == {"before", "after"} and found.same == 0
    for change in found.layers:
        old, new = (next(each for each in report["layers"] if each["name"] == change.name) for report in reports)
        assert (change.a, change.b, change.cycles) == (old["cycles"], new["cycles"], new["cycles"] - old["cycles"])
        assert "W8A8 became W4A8" in change.why
        assert f"stream {old['stream_bytes']} -> {new['stream_bytes']} B" in change.why
    figures = {each.name: (each.a, each.b) for each in found.figures}
    assert figures["cycles"] == (eight["cycles"], four["cycles"])
    assert figures["weight streams B"] == (eight["weights"]["stream_bytes"], four["weights"]["stream_bytes"])


def test_seeded_changes_are_found_with_their_reasons(reports: tuple[dict, dict]):
    a = reports[0]

    def seeded(**values: object) -> str:
        b = copy.deepcopy(a)
        b["layers"][0].update(copy.deepcopy(values))
        (change,) = compare(a, b).layers
        assert change.name == "before"
        return change.why

    layer = a["layers"][0]
    slower = {**layer["stalls"], "compute": layer["stalls"]["compute"] + 1000, "store": layer["stalls"]["store"] + 2000}
    assert seeded(cycles=layer["cycles"] + 3000, stalls=slower) == "cycles: store +2,000, compute +1,000"
    assert seeded(cascade="before") == "ran whole, runs in the cascade from before"
    assert seeded(op="Add") == "Conv became Add"
    assert "became 9x9x3 8x8x6" in seeded(input_shapes=[[9, 9, 3]])
    assert "DRAM activations read" in seeded(dram_bytes={**layer["dram_bytes"], "activations_read": 99_999})


def test_layers_that_left_say_where_they_are(reports: tuple[dict, dict]):
    a = reports[0]
    b = copy.deepcopy(a)
    gone = b["layers"].pop(0)
    b["fallback"].append({"name": gone["name"], "op": "Conv", "macs": 1, "reason": "too wide", "fix": ""})
    (change,) = compare(a, b).layers
    assert (change.a, change.b, change.why) == (gone["cycles"], None, "on the CPU in the second: too wide")
    (change,) = compare(b, a).layers
    assert (change.a, change.b, change.why) == (None, gone["cycles"], "on the CPU in the first: too wide")
    b["fallback"].pop()
    assert compare(a, b).layers[0].why == "not in the second"


def test_layers_of_one_name_are_told_apart(reports: tuple[dict, dict]):
    a = copy.deepcopy(reports[0])
    for layer in a["layers"]:
        layer["name"] = "twice"
    b = copy.deepcopy(a)
    b["layers"][1]["weight_bits"] = 16
    found = compare(a, b)
    assert found.same == 1 and [each.a for each in found.layers] == [a["layers"][1]["cycles"]]


def test_machines_are_compared_parameter_by_parameter(reports: tuple[dict, dict]):
    b = copy.deepcopy(reports[0])
    b["hw"]["rows"], b["hw"]["start_up_cycles"]["load"] = 99, 7
    rows, load = reports[0]["hw"]["rows"], reports[0]["hw"]["start_up_cycles"]["load"]
    assert compare(reports[0], b).machine == (("rows", rows, 99), ("start_up_cycles.load", load, 7))


def test_the_verb(reports: tuple[dict, dict], tmp_path: Path, capsys: pytest.CaptureFixture):
    for name, report in zip("ab", reports, strict=True):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(report))
    out = tmp_path / "diff.json"
    assert main(["diff", str(tmp_path / "a"), str(tmp_path / "b" / "report.json"), "-o", str(out)]) == 0
    said = capsys.readouterr().out
    assert "W8A8 became W4A8" in said and f"written: {out}" in said
    written = json.loads(out.read_text())
    assert {each["name"] for each in written["layers"]} == {"before", "after"}


@pytest.mark.parametrize(
    "text, said",
    [
        (None, "tvmc compile --report DIR writes one"),
        ("PK\x03", "is not JSON"),
        ("[]", "has a list at its top, where an object belongs"),
        ('{"model": "x"}', "has no 'hw'"),
    ],
)
def test_what_is_no_report_is_one_line(tmp_path: Path, text: str | None, said: str, capsys: pytest.CaptureFixture):
    path = tmp_path / "report.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_report(path)
    assert main(["diff", str(path), str(path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize("version, said", [(None, "says no version"), (1, "is of version 1"), (99, "is of version 99")])
def test_a_report_of_another_version_is_not_called_damaged(
    reports: tuple[dict, dict], tmp_path: Path, version: int | None, said: str
) -> None:
    """As it was before layers had `post`, too."""
    old = copy.deepcopy(reports[0])
    del old["version"]
    if version is not None:
        old["version"] = version
    for layer in old["layers"]:
        del layer["post"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(old))
    which = "another" if version == 99 else "an older"
    with pytest.raises(
        UserError, match=f"{said}, and this qaccel reads 2: {which} qaccel wrote it; compile that model again"
    ):
        read_report(path)


def test_a_report_of_before_is_told_apart(reports: tuple[dict, dict], tmp_path: Path):
    old = copy.deepcopy(reports[0])
    for layer in old["layers"]:
        del layer["cascade"]
    path = tmp_path / "report.json"
    path.write_text(json.dumps(old))
    with pytest.raises(UserError, match="has no 'layers.0..cascade': it is of another version"):
        read_report(path)
