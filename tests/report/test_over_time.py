"""What the report says over time: blocks of SRAM, runs of layers, traffic; held against what the simulator counts by itself."""

import csv
import io
from dataclasses import replace

import numpy as np
import pytest

import qaccel
import small_models
from networks import data
from qaccel.errors import CompilerFault
from qaccel.machine.isa import isa
from qaccel.report.layers_csv import layers_csv
from qaccel.report.subgraphs import dram_bytes_per_cycle, layer_runs, tenancies


@pytest.fixture(scope="module", params=["interrupted", "several", "mobilenet"])
def module(request: pytest.FixtureRequest) -> qaccel.Module:
    if request.param == "mobilenet":
        return qaccel.compile(data.HERE / "mobilenet.onnx", bits="W4A8", target="qaccel -config=qaccel-64")
    model = getattr(small_models, request.param)()
    return qaccel.compile(model, calibration_data=small_models.samples(model))


def test_no_two_blocks_are_at_one_place_at_one_time(module: qaccel.Module):
    hw = module.compiled.hw
    for subgraph in module.compiled.subgraphs:
        found = tenancies(subgraph)
        assert found
        for k, a in enumerate(found):
            assert 0 <= a.begin < a.end <= subgraph.profile["cycles"]
            assert a.block.addr >= 0 and a.block.addr + a.block.size_bytes <= hw.sram_bytes
            for b in found[:k]:
                in_bytes = (
                    a.block.addr < b.block.addr + b.block.size_bytes
                    and b.block.addr < a.block.addr + a.block.size_bytes
                )
                assert not (in_bytes and a.begin < b.end and b.begin < a.end), (a, b)
        # The machine's peak is the last byte that was written.
        ends = [each.block.addr + each.block.size_bytes for each in found]
        assert max(each.block.addr for each in found) < subgraph.profile["peak_sram_bytes"] <= max(ends)


def test_a_block_that_the_plan_does_not_have_is_a_fault(module: qaccel.Module):
    subgraph = module.compiled.subgraphs[0]
    touched = tenancies(subgraph)[-1].block
    seeded = replace(subgraph.compiled, sram=tuple(each for each in subgraph.compiled.sram if each != touched))
    with pytest.raises(CompilerFault, match="is in no block of the plan"):
        tenancies(replace(subgraph, compiled=seeded))


def test_runs_of_layers_are_the_simulators_cycles(module: qaccel.Module):
    for subgraph in module.compiled.subgraphs:
        counted = {int(each["layer"]): each["cycles"] for each in subgraph.profile["layers"] if each["cycles"]}
        runs = layer_runs(subgraph)
        summed: dict[int, int] = {}
        for layer, begin, end in runs:
            summed[layer] = summed.get(layer, 0) + end - begin
        assert summed == counted
        assert [begin for _, begin, _ in runs] == [0, *(end for _, _, end in runs[:-1])]


def test_counters_of_dram_sum_to_its_traffic(module: qaccel.Module):
    for subgraph in module.compiled.subgraphs:
        points = dram_bytes_per_cycle(subgraph)
        cycles = [cycle for cycle, _, _ in points]
        assert cycles == sorted(set(cycles)) and points[-1][1:] == (0.0, 0.0)
        spans = np.diff(cycles)
        read, written = (float(spans @ np.array([each[k] for each in points[:-1]])) for k in (1, 2))
        traffic = subgraph.profile["dram_bytes"]
        assert read == pytest.approx(traffic["weights"] + traffic["activations_read"], rel=1e-4)
        assert written == pytest.approx(traffic["activations_written"], rel=1e-4)


def test_layers_have_their_dram_bytes_and_sources(module: qaccel.Module):
    report = module.report
    for kind, total in report["dram_bytes"].items():
        assert sum(layer["dram_bytes"][kind] for layer in report["layers"]) == total
    for number, layer in enumerate(report["layers"]):
        assert layer["sram_bytes"] <= module.compiled.hw.sram_bytes
        for source in layer["sources"]:
            assert source < number and report["layers"][source]["subgraph"] == layer["subgraph"]
            assert report["layers"][source]["output_shape"] in layer["input_shapes"]
    assert {each["name"] for each in report["sram"] if each["kind"] == "parameters"} <= {
        each["name"] for each in report["layers"]
    }


def test_blocks_bear_names_of_the_network():
    model = small_models.interrupted()
    report = qaccel.compile(model, calibration_data=small_models.samples(model)).report
    assert {(each["kind"], each["name"]) for each in report["sram"]} == {
        (kind, name)
        for layer in ("before", "after")
        for kind, name in (("input", f"input of {layer}"), ("output", layer), ("parameters", layer))
    }


def test_a_small_machine_cascades_and_says_so():
    report = qaccel.compile(data.HERE / "mobilenet.onnx", bits=8, target="qaccel -config=qaccel-64").report
    cascaded = [layer for layer in report["layers"] if layer["cascade"]]
    names = [layer["name"] for layer in report["layers"]]
    for layer in cascaded:
        assert names.index(layer["cascade"]) <= names.index(layer["name"])
    assert bool(cascaded) == any(each["kind"] == "rows" for each in report["sram"])


def test_timeline_has_layers_and_counters(module: qaccel.Module):
    events, clock = module.compiled.timeline()["traceEvents"], module.compiled.hw.clock_mhz
    threads = {(e["pid"], e["tid"]): e["args"]["name"] for e in events if e["name"] == "thread_name"}
    layers = [e for e in events if e["ph"] == "X" and threads[e["pid"], e["tid"]] == "LAYERS"]
    assert sum(e["args"]["cycles"] for e in layers) == module.report["cycles"]
    assert [e["ts"] * clock for e in layers] == pytest.approx([e["args"]["cycle"] for e in layers])
    counters = {e["name"] for e in events if e["ph"] == "C"}
    assert counters == {"SRAM bytes", "DRAM bytes per cycle"}
    for event in events:
        if event["ph"] == "C":
            assert set(event) == {"ph", "name", "ts", "args", "pid"} and min(event["args"].values()) >= 0
    in_use = [sum(e["args"].values()) for e in events if e["name"] == "SRAM bytes"]
    assert 0 < max(in_use) <= module.compiled.hw.sram_bytes and in_use[-1] == 0
    assert len(threads) == len(module.compiled.subgraphs) * (len(isa().engines) + 1)


def test_csv_has_every_operator_and_its_shares():
    model = small_models.interrupted()
    report = qaccel.compile(model, calibration_data=small_models.samples(model)).report
    before, after, softmax = csv.DictReader(io.StringIO(layers_csv(report)))
    assert (before["name"], before["where"], before["input_shapes"], before["output_shape"]) == (
        "before",
        "accelerator",
        "8x8x3",
        "8x8x6",
    )
    assert (softmax["name"], softmax["where"], softmax["cycles"]) == ("softmax", "CPU", "")
    assert softmax["reason"] and softmax["fix"]
    macs = 64 * 6 * 27, 64 * 4 * 6
    assert [int(row["macs"]) for row in (before, after)] == list(macs)
    for row, count in zip((before, after), macs, strict=True):
        assert row["macs_percent"] == f"{100 * count / sum(macs):.2f}"
        assert row["utilization_percent"] == f"{100 * count / 256 / int(row['cycles']):.2f}"
    assert sum(float(row["cycles_percent"]) for row in (before, after)) == pytest.approx(100, abs=0.02)
