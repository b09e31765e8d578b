"""Whole networks: the compiled program against exact NumPy on the quantized Relax, in both modes of the simulator."""

from functools import cache
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from networks import data
from npu.harness import run_artefact
from qaccel.dialect import operators
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine import cost
from qaccel.machine.hw import config_names, load_config
from qaccel.machine.isa import decode
from qaccel.model import Model
from qaccel.npu.access import with_forwarding
from qaccel.npu.codegen import CompiledSubgraph, compile_subgraph
from qaccel.npu.partition.partition import partition, subgraph_functions
from qaccel.options import BitWidths
from qaccel.quant.calibrate.ranges import Ranges, calibrate
from qaccel.quant.quantize import quantize
from tiers import wide_after

WIDTHS = list(product((4, 8, 16), (4, 8, 16)))


@cache
def calibrated(path: Path) -> tuple[Model, Ranges]:
    model = import_onnx(path)
    return model, calibrate(model, {model.inputs[0].name: data.load("calibration", 16)["images"]})


def quantized(path: Path, bits: BitWidths) -> QuantizedModel:
    return quantize(*calibrated(path), bits)


def compiled(q: QuantizedModel, config: str) -> CompiledSubgraph:
    hw = load_config(config)
    parts = partition(q.mod, hw, q.unquantized)
    assert len(parts.subgraphs) == 1
    assert not parts.rejections
    return compile_subgraph(subgraph_functions(parts.mod)[parts.subgraphs[0]], parts.subgraphs[0], hw)


def integers(q: QuantizedModel, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every operation's integer output by name, from the NumPy executor."""
    seen: dict[str, np.ndarray] = {}
    run_model(q, {q.model.inputs[0].name: images}, observe=seen.__setitem__)
    return seen


@pytest.mark.parametrize(("weight_bits", "activation_bits"), wide_after(1, WIDTHS))
def test_network_is_exact_at_all_widths(network_path: Path, weight_bits: int, activation_bits: int) -> None:
    q = quantized(network_path, BitWidths(weight_bits, activation_bits))
    config = config_names()[WIDTHS.index((weight_bits, activation_bits)) % len(config_names())]
    network = compiled(q, config)
    seen = integers(q, data.load("test", 1)["images"])
    (source,) = [v for n, v in seen.items() if n == q.model.inputs[0].name or n.startswith(q.model.inputs[0].name)]
    functional, _ = run_artefact(network.artefact, [source[0].astype(np.int64)])
    timed, counters = run_artefact(network.artefact, [source[0].astype(np.int64)], "cycle")
    np.testing.assert_array_equal(functional[0], seen[network.layers[-1].name][0])
    np.testing.assert_array_equal(timed[0], functional[0])
    assert sum(layer["cycles"] for layer in counters["layers"]) == counters["cycles"]
    assert all(sum(layer["stalls"].values()) == layer["cycles"] for layer in counters["layers"])


def test_operators_of_the_partition_are_all_on_the_accelerator(network_path: Path) -> None:
    q = quantized(network_path, BitWidths(8, 8))
    network = compiled(q, "qaccel-256")
    calls = [b.value for block in q.mod["main"].body.blocks for b in block.bindings if operators.is_quantized(b.value)]
    wanted = [operators.read(c).name for c in calls if c.op.name not in ("qaccel.quantize", "qaccel.dequantize")]
    posts = [layer.post[0] for layer in network.layers if layer.post is not None]
    assert sorted([*(layer.name for layer in network.layers), *posts]) == sorted(wanted)


@pytest.mark.parametrize("config", wide_after(1, config_names()))
def test_no_instruction_is_quicker_than_its_units(network_path: Path, config: str) -> None:
    network = compiled(quantized(network_path, BitWidths(8, 8)), config)
    artefact = network.artefact
    zeros = [np.zeros(slot.shape, np.int64) for slot in artefact.inputs]
    _, counters = run_artefact(artefact, zeros, "cycle", trace=True)
    beats = 0
    trace = counters["trace"]
    for (ins, before), start, end in zip(
        with_forwarding(decode(artefact.program)), trace["start"], trace["end"], strict=True
    ):
        if ins.engine == "COMPUTE":
            assert end - start == cost.duration(ins, artefact.hw, before)
        else:
            assert end - start >= cost.dma_cycles(ins, artefact.hw)
            beats += cost.dram_beats(ins, artefact.hw)
    beats += -(-len(artefact.program) // artefact.hw.dram_bytes_per_cycle)
    assert counters["cycles"] >= beats
