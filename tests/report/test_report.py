import csv
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from frontend.onnx_models import model, node
from qaccel.machine.hw import load_config
from qaccel.machine.isa import decode, isa
from qaccel.npu.partition.partition import Rejection
from qaccel.report.folder import write_report
from qaccel.report.layers_csv import layers_csv
from qaccel.report.page.page import report_html
from qaccel.report.report import STALLS, Boundary, bound_cycles, bound_dram_bytes
from qaccel.report.text import codecs_of, summary_rows

TOP_LEVEL = {
    "model", "hw", "subgraphs", "cycles", "macs", "utilization", "bound_cycles", "bound_dram_bytes", "gap_percent", "latency_ms", "dram_bytes", "memory",
    "weights", "layers", "fallback", "calibration", "ranges", "version",
}  # fmt: skip
OF_A_LAYER = {
    "name", "op", "weight_bits", "activation_bits", "macs", "cycles", "stalls", "weight_count", "quantized_bytes",
    "stream_bytes", "codecs", "entropy_bits", "input_shapes", "output_shape", "utilization", "dram_bytes", "sram_bytes",
    "subgraph", "sources", "cascade", "post", "bound_cycles", "bound_dram_bytes", "gap_percent", "cures",
}  # fmt: skip


@pytest.fixture(scope="module", params=["chain", "interrupted", "several"])
def module(request: pytest.FixtureRequest) -> qaccel.Module:
    model = getattr(small_models, request.param)()
    return qaccel.compile(model, calibration_data=small_models.samples(model))


@pytest.fixture(scope="module")
def network(network_path: Path, calibration_data) -> qaccel.Module:
    return qaccel.compile(network_path, calibration_data=calibration_data)


def decoded_bytes(module: qaccel.Module) -> list[int]:
    """By layer, what its weights take in the weight buffer, every tile once; of pixels made as one that is more than its own weights."""
    found = []
    for each in module.compiled.subgraphs:
        tiles: list[dict[tuple, int]] = [{} for _ in each.compiled.layers]
        for ins in decode(each.compiled.artefact.program):
            if ins.op == "LOADW":
                stream = ins["source"], ins["stream_addr"]
                tiles[ins["layer"]][stream] = math.ceil(ins["weight_count"] * ins["weight_bits"] / 8)
        found += [sum(of_layer.values()) for of_layer in tiles]
    return found


def check_sums(module: qaccel.Module) -> None:
    report = module.report
    assert set(report) >= TOP_LEVEL
    hw = module.compiled.hw
    for layer, decoded in zip(report["layers"], decoded_bytes(module), strict=True):
        assert set(layer) == OF_A_LAYER
        assert set(layer["stalls"]) == set(STALLS)
        assert sum(layer["stalls"].values()) == layer["cycles"]
        assert min(layer["stalls"].values()) >= 0
        assert layer["entropy_bits"] <= layer["weight_count"] * layer["weight_bits"]
        assert layer["quantized_bytes"] == math.ceil(layer["weight_count"] * layer["weight_bits"] / 8)
        if layer["weight_count"]:
            # A stream is raw and a header at most; one of an odd number of 4-bit weights ends with half a byte.
            streams = sum(layer["codecs"].values())
            assert 0 < layer["stream_bytes"] <= decoded + streams * (isa().stream["header_bytes"] + 1)
    assert sum(layer["cycles"] for layer in report["layers"]) == report["cycles"] > 0
    assert sum(layer["macs"] for layer in report["layers"]) == report["macs"]
    for key in ("quantized_bytes", "stream_bytes", "entropy_bits"):
        assert report["weights"][key] == pytest.approx(sum(layer[key] for layer in report["layers"]))
    assert report["bound_cycles"] <= report["cycles"]
    assert 0 < report["utilization"] <= 1
    assert report["latency_ms"] == pytest.approx(report["cycles"] / hw.clock_mhz / 1000)
    assert report["memory"]["peak_sram_bytes"] <= hw.sram_bytes
    traffic = sum(report["dram_bytes"].values())
    assert traffic / hw.dram_bytes_per_cycle <= report["cycles"]
    assert report["dram_bytes"]["weights"] >= report["weights"]["stream_bytes"]
    assert report["dram_bytes"]["program"] == sum(len(s.compiled.artefact.program) for s in module.compiled.subgraphs)
    assert json.loads(json.dumps(report)) == report


def test_sums(module: qaccel.Module):
    check_sums(module)


@pytest.mark.wide
def test_sums_of_trained_networks(network_path: Path, calibration_data):
    check_sums(qaccel.compile(network_path, calibration_data=calibration_data))


def test_fallback_names_node_and_reason():
    model = small_models.interrupted()
    report = qaccel.compile(model, calibration_data=small_models.samples(model)).report
    (entry,) = report["fallback"]
    assert (entry["name"], entry["op"], entry["macs"]) == ("softmax", "Softmax", 0)
    assert entry["reason"]
    assert entry["fix"]
    assert report["subgraphs"] == 2


def test_compile_seconds_name_the_stages(module: qaccel.Module):
    assert list(module.compile_seconds) == [
        "import", "calibrate", "quantize", "partition", "codegen", "profile", "link",
    ]  # fmt: skip
    assert min(module.compile_seconds.values()) > 0


def test_timeline_covers_the_cycles(module: qaccel.Module):
    timeline = json.loads(json.dumps(module.compiled.timeline()))
    layers = len(isa().engines)  # the thread behind those of the engines
    events = [event for event in timeline["traceEvents"] if event["ph"] == "X" and event["tid"] != layers]
    instructions = sum(s.profile["instructions"] for s in module.compiled.subgraphs)
    assert len(events) == instructions
    last = max(event["ts"] + event["dur"] for event in events)
    assert last == pytest.approx(module.report["cycles"] / module.compiled.hw.clock_mhz)
    assert min(event["ts"] for event in events) >= 0
    engines = list(isa().engines)
    assert all(engines[event["tid"]] == isa().formats[event["name"].split()[0]].engine for event in events)
    # An engine does one thing at a time.
    by_engine: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for event in events:
        begin = event["args"]["cycle"]
        by_engine.setdefault((event["pid"], event["tid"]), []).append((begin, begin + event["args"]["cycles"]))
    for spans in by_engine.values():
        spans.sort()
        assert all(earlier[1] <= later[0] for earlier, later in zip(spans, spans[1:], strict=False))


def test_files(module: qaccel.Module, tmp_path: Path):
    folder = write_report(
        tmp_path / "deep" / "report", module.report, module.compiled.timeline(), module.compile_seconds
    )
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "layers.csv", "timeline.json", "report.html", "compile_seconds.json",
    }  # fmt: skip
    seconds = json.loads((folder / "compile_seconds.json").read_text())
    assert seconds == {stage: pytest.approx(value, abs=5.1e-4) for stage, value in module.compile_seconds.items()}
    assert json.loads((folder / "report.json").read_text()) == module.report
    every = list(csv.DictReader(io.StringIO((folder / "layers.csv").read_text())))
    rows = [row for row in every if row["where"] == "accelerator"]
    assert [row["name"] for row in every[len(rows) :]] == [each["name"] for each in module.report["fallback"]]
    assert [row["name"] for row in rows] == [layer["name"] for layer in module.report["layers"]]
    assert sum(int(row["cycles"]) for row in rows) == module.report["cycles"]
    assert sum(int(row[cause]) for row in rows for cause in STALLS) == module.report["cycles"]


def test_csv_without_layers(module: qaccel.Module):
    (head,) = layers_csv({**module.report, "layers": [], "fallback": []}).splitlines()
    assert set(STALLS) < set(head.split(","))


def test_bound_counts_fallback_at_its_own_bits():
    hw = load_config("qaccel-256")
    boundary = Boundary(1, 0, 0)
    layers = [{"macs": 256_000, "weight_bits": 8, "activation_bits": 8, "entropy_bits": 0.0}]
    assert bound_cycles(hw, layers, [], boundary, 0) == 1000
    wide = Rejection("a", "Conv", 64_000, "", "", 16, 16)
    assert bound_cycles(hw, layers, [wide], boundary, 0) == 2000
    narrow = Rejection("a", "Conv", 1_024_000, "", "", 4, 4)
    assert bound_cycles(hw, layers, [narrow], boundary, 0) == 2000
    in_float = Rejection("a", "ConvTranspose", 256_000, "", "")
    assert bound_cycles(hw, layers, [in_float], boundary, 0) == 2000


def test_bound_counts_weights_records_input_and_output():
    """Of entropy and stream the smaller, layer by layer; a rejected layer's entropy; everything once, by hand."""
    hw = load_config("qaccel-256")
    layers = [
        {"macs": 1, "weight_bits": 8, "activation_bits": 8, "entropy_bits": 8 * 4000.0, "stream_bytes": 4100},
        {"macs": 1, "weight_bits": 8, "activation_bits": 8, "entropy_bits": 8 * 900.0, "stream_bytes": 700},
    ]
    assert bound_dram_bytes(layers, [], Boundary(1, 3000, 1000), 300) == 9000
    assert bound_dram_bytes(layers, [], Boundary(2, 3000, 1000), 300) == 7000
    rejected = Rejection("a", "Conv", 0, "", "", entropy_bits=80.0)
    assert bound_dram_bytes(layers, [rejected], Boundary(2, 3000, 1000), 300) == 7010
    assert bound_cycles(hw, layers, [], Boundary(1, 0, 0), 9001) == -(-9001 // hw.dram_bytes_per_cycle)


def test_bounds_and_gaps_of_a_module(module: qaccel.Module):
    """Constants are counted again from what the program's instructions fetch."""
    report, fetched = module.report, 0
    for artefact in module.artefacts:
        seen = {}
        for ins in decode(artefact.program):
            if ins.op == "LOAD_RAW" or (ins.op == "LOADW" and ins["source"] == "dram"):
                names = ("stream_addr", "stream_bytes") if ins.op == "LOADW" else ("dram_addr", "bytes")
                seen[ins[names[0]]] = ins[names[1]]
        fetched += sum(seen.values())
    streams = sum(layer["stream_bytes"] for layer in report["layers"])
    weights = sum(min(layer["entropy_bits"] / 8, layer["stream_bytes"]) for layer in report["layers"])
    rest = report["bound_dram_bytes"] - weights - (fetched - streams)  # the network's input and output
    if not report["fallback"]:
        slots = [slot for artefact in module.artefacts for slot in (*artefact.inputs, *artefact.outputs)]
        assert rest == pytest.approx(sum(slot.dram_bytes for slot in slots), abs=1)
    dram_bytes, gaps = sum(report["dram_bytes"].values()), report["gap_percent"]
    assert dram_bytes >= report["bound_dram_bytes"] or report["fallback"]
    if not report["fallback"]:
        assert gaps["dram_bytes"] == pytest.approx(100 * (dram_bytes / report["bound_dram_bytes"] - 1), abs=0.1)
        assert gaps["cycles"] == 100 * (report["cycles"] / report["bound_cycles"] - 1)
    said = dict(summary_rows(report))
    assert said["bound"].endswith("% more") == (gaps["cycles"] is not None)
    assert said["DRAM bound"].startswith(f"{report['bound_dram_bytes']:,} B")


def test_cycles_do_not_depend_on_values():
    model = small_models.chain()
    data = small_models.samples(model)
    first = qaccel.compile(model, calibration_data=data)
    second = qaccel.compile(model, calibration_data={"x": np.abs(data["x"])})
    assert [layer["cycles"] for layer in first.report["layers"]] == [
        layer["cycles"] for layer in second.report["layers"]
    ]


def test_layers_that_wait_for_the_decoder_are_named(module: qaccel.Module):
    report = json.loads(json.dumps(module.report))
    slow, quick = report["layers"][:2]
    slow["stalls"] = {cause: 0 for cause in STALLS} | {"decode": slow["cycles"]}
    quick["stalls"] = {cause: 0 for cause in STALLS} | {"compute": quick["cycles"]}
    assert ("decode-bound layers", slow["name"]) in summary_rows({**report, "layers": [slow, quick]})
    assert "decode-bound layers" not in dict(summary_rows({**report, "layers": [quick]}))


def test_codecs_are_in_every_form_of_the_report(module: qaccel.Module):
    report = json.loads(json.dumps(module.report))
    report["layers"][0]["codecs"] = {"raw": 1, "entropy": 2}
    assert codecs_of(report["layers"][0]) == "entropy 2, raw 1"
    assert "entropy 2, raw 1" in report_html(report)
    assert "entropy 2, raw 1" in layers_csv(report)


def test_a_batch_takes_the_runs_of_each_program():
    """Two samples before a Softmax on the CPU, their values as one row behind it: the programs run twice and once."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.standard_normal((4, 3, 1, 1)), "v": rng.standard_normal((128, 8)), "s": np.array([1, 128])}
    nodes = [
        node("Conv", ["x", "w"], ["c"], name="before"), node("Softmax", ["c"], ["p"], name="softmax", axis=1),
        node("Reshape", ["p", "s"], ["r"], name="row"), node("MatMul", ["r", "v"], ["y"], name="behind"),
    ]  # fmt: skip
    weights = {name: value.astype(np.int64 if name == "s" else np.float32) for name, value in weights.items()}
    module = qaccel.compile(model(nodes, weights, (2, 3, 4, 4)), bits=8)
    first, second = (each.profile["cycles"] for each in module.compiled.subgraphs)
    report = module.report
    assert (report["batch"], report["cycles"]) == (2, first + second)
    assert report["cycles_per_batch"] == 2 * first + second
