"""Bounds of layers hold, and what is said to cure a layer does so, about as much as it is said to."""

from dataclasses import replace

import pytest

import qaccel
from networks import data
from qaccel.machine.hw import changed_config, load_config
from qaccel.npu.plan.pack import live_bytes
from qaccel.npu.plan.price import cures
from qaccel.npu.plan.price.cures import Cure as PlannedCure
from qaccel.quantized_network import QuantizedNetwork
from qaccel.report.record.schema import Report, Stalls
from qaccel.report.report import cures_in

NETWORKS = (("resnet", "qaccel-64"), ("mobilenet", "qaccel-256"))
LARGE = 0.01  # of all cycles: what less of is predicted or measured is not compared


def quantized(network: str, hw: str, bits: object = "W8A8") -> QuantizedNetwork:
    images = {data.INPUT_NAME: data.load("calibration", 16)["images"]}
    return qaccel.quantize(data.HERE / f"{network}.onnx", images, bits=bits, hw=hw, effort="fast")


@pytest.fixture(scope="module", params=NETWORKS, ids=[network for network, _ in NETWORKS])
def compiled(request: pytest.FixtureRequest) -> tuple[str, str, QuantizedNetwork, qaccel.Module]:
    network, hw = request.param
    made = quantized(network, hw)
    return network, hw, made, qaccel.compile(made)


def saved(report: Report, parameter: str) -> dict[str, int]:
    """By layer, the cycles that a change is said to save."""
    return {layer.name: cure.cycles for layer in report.layers for cure in layer.cures if cure.parameter == parameter}


def test_bounds_of_layers(compiled: tuple) -> None:
    """Layers that compute no faster than their bound; what is fetched for one by another is no gap."""
    report, hw = compiled[3].report, compiled[3].compiled.hw
    for layer in report.layers:
        least = -(-layer.macs // hw.macs_per_cycle(layer.weight_bits or 8, layer.activation_bits))
        assert layer.bound_cycles >= least
        assert layer.stalls.compute >= layer.bound_cycles or layer.gap_percent.cycles is None
        assert layer.bound_dram_bytes >= min(layer.entropy_bits / 8, layer.stream_bytes) - 1
        for gap, value, bound in (
            (layer.gap_percent.cycles, layer.cycles, layer.bound_cycles),
            (layer.gap_percent.dram_bytes, sum(layer.dram_bytes.values()), layer.bound_dram_bytes),
        ):
            assert gap is None if value < bound or not bound else gap == pytest.approx(100 * (value / bound - 1))
    moved = sum(layer.bound_dram_bytes for layer in report.layers)
    assert moved == pytest.approx(report.bound_dram_bytes, abs=len(report.layers) + 64)
    assert sum(layer.gap_percent.cycles is not None for layer in report.layers) > len(report.layers) * 0.8
    assert 0 < report.memory.live_sram_bytes <= report.memory.peak_sram_bytes <= hw.sram_bytes
    (subgraph,) = compiled[3].compiled.subgraphs
    blocks = subgraph.compiled.sram
    most = max(sum(b.size_bytes for b in blocks if b.first <= at <= b.last) for at in range(len(report.layers)))
    assert live_bytes(blocks) == most == report.memory.live_sram_bytes


PARAMETERS = ["rows", "cols", "sram_read_bytes_per_cycle", "dram_bytes_per_cycle"]


def savings(network: QuantizedNetwork, hw: str, report: Report, parameter: str) -> tuple[int, int, int]:
    """Of twice the parameter: what is said to be saved, what compiling for it saves of the same layers, and of all."""
    said, base = saved(report, parameter), load_config(hw)
    other = changed_config(base, "other", {parameter: 2 * getattr(base, parameter)})
    then = {layer.name: layer.cycles for layer in qaccel.compile(network, hw=other).report.layers}
    now = {layer.name: layer.cycles for layer in report.layers}
    both = [name for name in said if name in then]
    measured = sum(now[name] - then[name] for name in both)
    return sum(said[name] for name in both), measured, sum(now.values()) - sum(then.values())


def alike(predicted: int, measured: int, everywhere: int, cycles: int) -> bool:
    """Whether savings are within a factor of two, or too small beside all cycles to be compared; and none that are large unsaid."""
    if max(predicted, measured) < LARGE * cycles:
        return everywhere < 10 * LARGE * cycles
    return predicted / 2 <= measured <= predicted * 2


@pytest.mark.parametrize("parameter", PARAMETERS)
def test_a_changed_machine_saves_what_was_said(compiled: tuple, parameter: str) -> None:
    """Over the layers of which it is said, against compiling for that machine: the sign, and the size within a factor of two."""
    _, hw, network, module = compiled
    found = savings(network, hw, module.report, parameter)
    assert alike(*found, module.report.cycles), found


@pytest.mark.parametrize("factor", [0, 5])
def test_what_is_said_wrongly_is_seen(monkeypatch: pytest.MonkeyPatch, factor: int) -> None:
    """The faults: the planner's shares of what a cure saves are lost, or five times what they are."""
    real = cures.cures_of

    def wrong(*given: object) -> dict[int, tuple[PlannedCure, ...]]:
        return {k: tuple(replace(c, share=factor * c.share) for c in each) for k, each in real(*given).items()}

    monkeypatch.setattr("qaccel.npu.codegen.cures_of", wrong)
    network = quantized("mobilenet", "qaccel-256")
    report = qaccel.compile(network).report
    found = {
        parameter: savings(network, "qaccel-256", report, parameter) for parameter in ("cols", "dram_bytes_per_cycle")
    }
    assert not all(alike(*each, report.cycles) for each in found.values()), found


def test_narrower_weights_save_what_was_said(compiled: tuple) -> None:
    """The layers of which it is said with weights of 4 bits, the others as they are."""
    network, hw, _, module = compiled
    said = saved(module.report, "weight_bits")
    plan = {layer.name: {"weight_bits": 8, "activation_bits": 8} for layer in module.report.layers if layer.weight_bits}
    for name in said:
        plan[name]["weight_bits"] = 4
    then = {layer.name: layer.cycles for layer in qaccel.compile(quantized(network, hw, plan)).report.layers}
    now = {layer.name: layer.cycles for layer in module.report.layers}
    predicted, measured = sum(said.values()), sum(now[name] - then[name] for name in said)
    assert predicted > 10 * LARGE * module.report.cycles
    assert predicted / 2 <= measured <= predicted * 2, (predicted, measured)


def test_more_sram_saves_what_was_said() -> None:
    """On a machine whose SRAM has no room for the maps: with as much as is named, those layers load and store no maps."""
    network = quantized("mobilenet", "qaccel-64", "W8A16")
    small = changed_config(load_config("qaccel-64"), "small", {"sram_bytes": 8192, "dram_bytes_per_cycle": 1})
    report = qaccel.compile(network, hw=small).report
    said = {layer.name: cure for layer in report.layers for cure in layer.cures if cure.parameter == "sram_bytes"}
    assert said
    most = max(cure.after for cure in said.values())
    then = qaccel.compile(network, hw=replace(small, sram_bytes=-(-most // 1024) * 1024)).report
    before, after = ({layer.name: layer.cycles for layer in each.layers} for each in (report, then))
    predicted = sum(cure.cycles for name, cure in said.items() if name in after)
    measured = sum(before[name] - after[name] for name in said if name in after)
    assert predicted / 2 <= measured <= predicted * 2, (predicted, measured)


def test_no_cure_saves_more_than_the_stalls_it_is_for() -> None:
    stalls = Stalls(compute=700, activation_load=10, weight_load=200, decode=50, store=40, wait=0)
    found = [
        PlannedCure("dram_bytes_per_cycle", 8, 16, 0.9), PlannedCure("cols", 16, 32, 0.5), PlannedCure("decoder_lanes", 4, 8, 0.001),
    ]  # fmt: skip
    made = cures_in(found, 1000, stalls)
    assert [(cure.parameter, cure.cycles) for cure in made] == [("cols", 500), ("dram_bytes_per_cycle", 250)]
