"""One quantization on many machines: each row is what compiling for that machine gives."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
import small_models
from qaccel import exploration
from qaccel.cli.main import main
from qaccel.errors import UserError
from qaccel.machine.hw import changed_config, load_config
from qaccel.options.sweep import parse_sweep, swept_configs
from qaccel.report.exploration import OBJECTIVES, pareto_front

SWEEP = "rows=8,16 sram_bytes=16K,64K"


@pytest.fixture(scope="module")
def network() -> qaccel.QuantizedNetwork:
    model = small_models.chain()
    return qaccel.quantize(model, small_models.samples(model), bits="W8A8", effort="fast")


def test_rows_are_what_compiling_gives_whoever_does_it(network: qaccel.QuantizedNetwork, tmp_path: Path) -> None:
    alone = qaccel.explore(network, SWEEP, jobs=1, output=tmp_path)
    assert alone.rows == qaccel.explore(network, {"rows": [8, 16], "sram_bytes": [16384, 65536]}, jobs=2).rows
    assert [(row["rows"], row["sram_bytes"]) for row in alone.rows] == [
        (8, 16384),
        (8, 65536),
        (16, 16384),
        (16, 65536),
    ]
    for row in alone.rows:
        assert (row["multipliers"], row["cpu_macs"], row["reason"]) == (row["rows"] * 16, 0, "")
    hw = changed_config(load_config(), "other", {"rows": 8, "sram_bytes": 65536})
    expected, report = qaccel.compile(network, hw=hw).report, alone.reports[1]
    assert report is not None and report["layers"] == expected["layers"]
    assert alone.rows[1]["cycles"] == expected["cycles"]
    assert alone.rows[1]["dram_bytes"] == sum(expected["dram_bytes"].values())
    written = list(csv.DictReader((tmp_path / "explore.csv").open()))
    assert [int(line["cycles"]) for line in written] == [row["cycles"] for row in alone.rows]
    assert [k for k, line in enumerate(written) if line["on the front"] == "yes"] == list(alone.front)
    assert [row["cycles"] for row in json.loads((tmp_path / "explore.json").read_text())] == [
        row["cycles"] for row in alone.rows
    ]
    page = (tmp_path / "explore.html").read_text()
    (charts,) = re.findall(r'id="charts">(.*?)</script>', page, re.S)
    assert json.loads(charts)["roots"]
    assert "<tr>" * 3 not in page and page.count("<tr>") == 5
    drawn = sorted(range(4), key=lambda k: k in alone.front)
    assert json.dumps(["cycles", [alone.rows[k]["cycles"] for k in drawn]], separators=(",", ":")) in charts


def test_a_machine_on_which_it_does_not_compile_is_a_row(
    network: qaccel.QuantizedNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exploration.price_report

    def priced(name, quantized, io_dtype, hw):
        if hw.rows == 8:
            raise UserError("conv: no tiling fits")
        return real(name, quantized, io_dtype, hw) if hw.rows == 16 else 1 // 0

    monkeypatch.setattr("qaccel.exploration.price_report", priced)
    found = qaccel.explore(network, "rows=8,16,32", jobs=1)
    assert [row["reason"][:21] for row in found.rows] == ["conv: no tiling fits", "", "internal error in the"]
    assert found.rows[0]["cycles"] is None and found.front == (1,)


def test_the_front_against_every_pair() -> None:
    """NumPy on random points, seed 3: no row of the front is beaten, every other one is."""
    points = np.random.default_rng(3).integers(0, 6, (60, len(OBJECTIVES)))
    rows = [
        dict(zip(OBJECTIVES, map(int, point), strict=True), reason="" if k % 7 else "no")
        for k, point in enumerate(points)
    ]
    front = pareto_front(rows)
    valid = np.arange(60) % 7 != 0
    below = (points[None] <= points[:, None]).all(2) & (points[None] < points[:, None]).any(2) & valid[None]
    assert front == tuple(np.flatnonzero(valid & ~below.any(1)))
    assert 0 < len(front) < valid.sum()


def test_the_verb(tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    model = small_models.chain()
    onnx.save(model, "model.onnx")
    np.savez("calibration.npz", **small_models.samples(model))
    (tmp_path / "mine.toml").write_text('base = "qaccel-64"\ncols = 16\n')
    arguments = ["explore", "model.onnx", "--calibration-data", "calibration.npz", "--jobs", "1", "-o", "out"]
    assert main([*arguments, "--target", "qaccel -config=mine.toml", "--sweep", "decoder_lanes=4,8"]) == 0
    out, err = capfd.readouterr()
    assert "model on machines like mine" in out and "decoder" in out and err == ""
    assert len((tmp_path / "out" / "explore.csv").read_text().splitlines()) == 3
    for sweep, message in {
        "rows=12": "rows is 12, must be a power of two",
        "row=8": "the machine has no parameter 'row'; did you mean 'rows'",
        "rows=8,8": "each once",
        "rows=8 rows=16": "twice",
        "rows": "must be NAME=VALUE",
        "rows=8.5": "'8.5' is no whole number",
        "": "names no parameter",
    }.items():
        assert main([*arguments, "--sweep", sweep]) == 1
        (line,) = capfd.readouterr().err.splitlines()
        assert message in line
    assert main([*arguments, "--target", "llvm", "--sweep", "rows=8"]) == 1
    assert "names none; add qaccel" in capfd.readouterr().err


def test_units_and_nested_parameters() -> None:
    assert parse_sweep("sram_bytes=256K,1M start_up_cycles.load=0") == {
        "sram_bytes": (262144, 1 << 20),
        "start_up_cycles.load": (0,),
    }
    (config,) = swept_configs(load_config(), {"start_up_cycles.load": [3]})
    assert config.start_up_cycles.load == 3 and config.name == "qaccel-256 start_up_cycles.load=3"
    assert load_config().start_up_cycles.load != 3
    with pytest.raises(UserError, match="at most 10,000"):
        swept_configs(load_config(), {"queue_entries": range(1, 200), "clock_mhz": range(1, 200)})


def test_the_least_sram_that_keeps_the_cycles(
    network: qaccel.QuantizedNetwork, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    """With what is found the cycles stay, with one part less they do not; both by compiling."""
    base = load_config("qaccel-64")
    found = qaccel.explore(network, least_sram=1, hw=base, jobs=1)
    least, grain = found.least_sram_bytes, base.sram_bytes // exploration.PARTS
    assert least is not None and 0 < least < base.sram_bytes
    now = qaccel.compile(network, hw=base).report.cycles
    assert qaccel.compile(network, hw=changed_config(base, "least", {"sram_bytes": least})).report.cycles <= 1.01 * now
    less = {row["sram_bytes"]: row for row in found.rows}[least - grain]
    assert less["reason"] or less["cycles"] > 1.01 * now
    assert [row["sram_bytes"] for row in found.rows] == sorted(row["sram_bytes"] for row in found.rows)
    strict = qaccel.explore(network, least_sram=0, hw=base, jobs=1).least_sram_bytes
    assert strict is not None and strict >= least
    onnx.save(small_models.chain(), tmp_path / "chain.onnx")
    np.savez(tmp_path / "data.npz", **small_models.samples(small_models.chain()))
    code = main([
        "explore", str(tmp_path / "chain.onnx"), "--least-sram", "--target=qaccel -config=qaccel-64", "--calibration-data",
        str(tmp_path / "data.npz"), "--effort=fast", "--bits=W8A8", "--jobs=1",
    ])  # fmt: skip
    assert code == 0
    assert f"sram_bytes = {least} suffices; qaccel-64 has 131072" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "a --sweep, or looks for the --least-sram"),
        ({"sweep": "rows=8", "least_sram": 1}, "give one of them"),
        ({"least_sram": "many"}, "--least-sram 'many' must be per cent"),
        ({"least_sram": -1}, "--least-sram -1"),
    ],
)  # fmt: skip
def test_what_to_explore_is_said_once(network: qaccel.QuantizedNetwork, arguments: dict, says: str) -> None:
    with pytest.raises(UserError, match=says):
        qaccel.explore(network, **arguments)
