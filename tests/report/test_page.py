"""report.html as text: one page that fetches nothing, escapes what comes from outside, and has everything in it."""

import base64
import copy
import gzip
import json
import re
import shutil
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest
from bokeh.resources import Resources

import qaccel
import small_models
from networks import data
from qaccel.machine.hw import load_config
from qaccel.report.page.library import script
from qaccel.report.page.memory import in_use
from qaccel.report.page.network import layout
from qaccel.report.page.page import report_html, tiles
from qaccel.report.page.why import why
from qaccel.report.report import STALLS

MOST_BYTES = 2_000_000
EVIL = "<script>alert(1)</script>&\"'</td>"


@pytest.fixture(scope="module", params=["interrupted", "several"])
def report(request: pytest.FixtureRequest) -> dict:
    model = getattr(small_models, request.param)()
    return json.loads(json.dumps(qaccel.compile(model, calibration_data=small_models.samples(model)).report))


def charts_of(page: str) -> dict:
    """What the page's script draws."""
    (found,) = re.findall(r'<script type="application/json" id="charts">(.*?)</script>', page, re.S)
    return json.loads(found)


def own(page: str) -> str:
    """The page without the library."""
    assert page.count(script()) == 1
    return page.replace(script(), "")


def columns(value: object, name: str) -> list[list]:
    """Every column of that name among the charts' data."""
    found = []
    if isinstance(value, dict):
        if value.get("type") == "map":
            found += [data for key, data in value.get("entries", ()) if key == name]
        for each in value.values():
            found += columns(each, name)
    elif isinstance(value, list):
        for each in value:
            found += columns(each, name)
    return found


def test_it_is_one_small_page_with_every_layer(report: dict):
    page = report_html(report)
    assert len(page.encode()) < MOST_BYTES
    assert not re.findall(r"(?:src|href)=(?!#)|url\(|@import|https?:", own(page).replace("id='", ""))
    for layer in report["layers"]:
        assert layer["name"] in page and f"{layer['cycles']:,}" in page
    for each in report["fallback"]:
        assert each["name"] in page and each["fix"].split('"')[0].split("'")[0].split("&")[0] in page
    assert report_html(report) == page  # the library numbers its models on and on


def test_charts_hold_the_reports_figures(report: dict):
    charts = charts_of(report_html(report))
    assert set(charts["roots"].values()) == {
        f"chart-{name}"
        for name in ("cycles", "roofline", "sram", "traffic", "weights", "compression", "bits", "network")
    }
    for cause in STALLS:
        assert [layer["stalls"][cause] for layer in report["layers"]] in columns(charts, cause)
    assert [layer["dram_bytes"]["weights"] for layer in report["layers"]] in columns(charts, "dram_weights")
    blocks = sorted(each["addr"] for each in report["sram"])
    assert blocks == sorted(addr for each in columns(charts, "addr") for addr in each)


def test_every_picture_has_title_units_and_legend(report: dict):
    page = report_html(report)
    figures = re.findall(r"<figure.*?</figure>", own(page), re.S)
    assert len(figures) == len(charts_of(page)["roots"])
    for figure in figures:
        assert re.search(r"<h3>[^<]+</h3><p>[^<]+</p>", figure) and '<li><span class="key"' in figure
    labels = re.findall(r'"axis_label":"([^"]*)"', json.dumps(charts_of(page), separators=(",", ":")))
    assert {
        "cycles",
        "bytes",
        "bits",
        "bits a weight",
        "cycle",
        "MACs per cycle",
        "MACs per byte that passes DRAM",
    } <= set(labels)


def test_what_comes_from_outside_is_text(report: dict):
    report = json.loads(json.dumps(report))
    report["model"] = report["hw"]["name"] = EVIL
    report["notes"] = [EVIL]
    for each in (*report["layers"], *report["fallback"]):
        each["name"] = each["op"] = EVIL
    for each in report["fallback"]:
        each["reason"] = each["fix"] = EVIL
    for each in report["sram"]:
        each["name"] = EVIL
    page = own(report_html(report))
    assert "<script>alert" not in page and "\"'</td>" not in page
    assert page.count("</script>") == 2
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_a_network_that_is_all_on_the_cpu_has_a_page_too(report: dict):
    empty = {**report, "layers": [], "sram": [], "subgraphs": 0, "cycles": 0}
    page = report_html(empty)
    assert "<h1>" in page and "charts" not in page


def test_tiles_say_what_stays_on_the_cpu_and_what_is_lost(report: dict):
    found = {name: (value, more) for value, name, more in tiles(report)}
    assert found["cycles a sample"] == (f"{report['cycles']:,}", f"at least {report['bound_cycles']:,}")
    assert found["layers on the accelerator"] == (
        str(len(report["layers"])),
        f"{len(report['fallback'])} operators on the CPU",
    )
    judged = {**report, "drop": {"points": 0.5, "error": 0.25, "samples": 32, "held_out": True}}
    assert ("0.50 \u00b1 0.25", "points lost, estimated", "on 32 samples held out") in tiles(judged)
    assert "above the bound in cycles" in found


def test_why_names_the_main_cause():
    hw = load_config("qaccel-256")
    layer = {
        "op": "Conv", "macs": 25_600, "cycles": 1000, "weight_bits": 8, "activation_bits": 8, "utilization": 0.1, "weight_count": 500,
        "stream_bytes": 400, "dram_bytes": {"weights": 900, "activations_read": 70, "activations_written": 60, "program": 32},
        "bound_cycles": 800, "gap_percent": {"cycles": 25.0, "dram_bytes": None}, "cures": [
            {"parameter": "weight_bits", "before": 8, "after": 4, "cycles": 400}, {"parameter": "cols", "before": 16, "after": 32, "cycles": 300},
        ],
    }  # fmt: skip
    said = {}
    for cause in STALLS:
        said[cause] = why({**layer, "stalls": {each: 750 if each == cause else 50 for each in STALLS}}, hw)
        assert said[cause].startswith("75% ")
    assert "at most 256 a cycle" in said["compute"] and "10% of the multipliers" in said["compute"]
    assert " No plan takes less than 800; it is 25% above." in said["store"]
    assert said["store"].endswith(
        " Cycles that could be saved, estimated: 400 by weights 8 -> 4 bits, or 300 by cols 16 -> 32."
    )
    assert "900 B" in said["weight_load"] and "more than once" in said["weight_load"]
    assert (
        "70 B" in said["activation_load"] and "60 B" in said["store"] and f"{hw.decoder_lanes} lanes" in said["decode"]
    )
    assert why({**layer, "cycles": 0, "stalls": dict.fromkeys(STALLS, 0)}, hw) == "It takes no cycles."


def test_layout_puts_each_layer_below_what_it_reads_and_alone():
    diamond = [[], [0], [0], [1, 2], [0, 3]]
    places = layout(diamond, [0] * 5)
    assert len(set(places)) == len(places)
    assert all(places[source][0] < places[n][0] for n, each in enumerate(diamond) for source in each)
    assert places[0] == (0, 0) and places[1][0] == places[2][0] == 1
    assert layout([], []) == []
    later = layout([*diamond, [], [5]], [0] * 5 + [1] * 2)
    assert later[:5] == places and min(later[5:])[0] > max(places)[0] + 1 and later[6][0] == later[5][0] + 1


def test_in_use_sums_what_overlaps():
    blocks = [
        {"begin": 0, "end": 10, "bytes": 5},
        {"begin": 4, "end": 6, "bytes": 7},
        {"begin": 10, "end": 12, "bytes": 1},
    ]
    assert in_use(blocks) == [(0, 5), (4, 12), (6, 5), (10, 1), (12, 0)]


def test_nothing_loads_the_library_but_the_page():
    code = "import sys, qaccel.api, qaccel.cli.main; sys.exit('bokeh' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def enlarged(report: dict, layers: int) -> dict:
    """The report of a network that has the layers over and over, one behind the other, each with its name."""
    made, own = copy.deepcopy(report), report["layers"]
    times = -(-layers // len(own))
    made["layers"] = [
        {
            **copy.deepcopy(layer),
            "name": f"/model/backbone/stages.{k}/blocks/{layer['name']}/Conv",
            "sources": [source + k * len(own) for source in layer["sources"]] or ([k * len(own) - 1] if k else []),
        }
        for k in range(times)
        for layer in own
    ][:layers]
    made["sram"] = [
        {
            **block,
            "name": f"/model/backbone/stages.{k}/blocks/{block['name']}/Conv",
            "begin": block["begin"] + k * report["cycles"],
            "end": block["end"] + k * report["cycles"],
        }
        for k in range(times)
        for block in report["sram"]
    ]
    made["cycles"] *= times
    return made


def test_a_page_of_many_layers_is_small() -> None:
    images = {data.INPUT_NAME: data.load("calibration", 16)["images"]}
    module = qaccel.compile(data.HERE / "mobilenet.onnx", calibration_data=images, bits=8, effort="fast")
    report = enlarged(json.loads(json.dumps(module.report)), 1500)
    page = report_html(report)
    assert len(page.encode()) < MOST_BYTES
    assert page.count('<div class="bar">') == 1500 and report["layers"][-1]["name"] in page
    assert [layer["cycles"] for layer in report["layers"]] in columns(charts_of(page), "cycles")


def test_the_library_is_in_the_page_as_it_comes(tmp_path: Path) -> None:
    """Unpacked here, and by the page's own function where there is Node."""
    (packed,) = re.findall(r'^<script type="application/gzip" id="library">(.*)</script>$', script())
    (source,) = Resources(mode="inline", components=["bokeh"], log_level="error").js_raw[:1]
    assert gzip.decompress(base64.b64decode(packed)).decode() == source
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node here")
    own = (files("qaccel.report.page") / "page.js").read_text(encoding="utf-8")
    function = own[own.index("const unpacked") : own.index("(async")]
    (tmp_path / "packed").write_text(packed)
    program = (
        f'{function} unpacked(require("fs").readFileSync("packed", "utf8")).then((text) => process.stdout.write(text));'
    )
    (tmp_path / "unpack.js").write_text(program)
    made = subprocess.run([node, "unpack.js"], cwd=tmp_path, capture_output=True, check=True)
    assert made.stdout.decode() == source
