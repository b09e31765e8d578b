"""Random single layers, compiled and simulated, against exact integers: every width pair equally, three configs."""

import os
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, random_layer, stepping_layer, values
from npu.oracle import run_graph
from qaccel.machine.cost import footprint, window_shape
from qaccel.machine.hw import config_names, load_config
from qaccel.machine.isa import decode
from qaccel.npu.codegen import compile_layers

SEED = 20261124
CASES = list(product(config_names(), WIDTHS, WIDTHS))


def check_case(config: str, weight_bits: int, activation_bits: int, index: int) -> None:
    """One random layer; every third is too large for SRAM or for half of the weight buffer."""
    rng = np.random.default_rng([SEED, index, weight_bits, activation_bits, config_names().index(config)])
    hw = load_config(config)
    graph = random_layer(rng, weight_bits, activation_bits, index % 3 == 0, hw)
    inputs = [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]
    compiled = compile_layers(graph, hw)
    outputs, _ = run_artefact(compiled.artefact, inputs)
    expected = run_graph(graph, inputs)
    for got, index_of in zip(outputs, graph.outputs, strict=True):
        np.testing.assert_array_equal(got, expected[index_of])


@pytest.mark.wide
@pytest.mark.parametrize(("config", "weight_bits", "activation_bits"), CASES)
def test_random_layers(config: str, weight_bits: int, activation_bits: int) -> None:
    for index in range(50):
        try:
            check_case(config, weight_bits, activation_bits, index)
        except Exception as error:
            raise AssertionError(f"case {(config, weight_bits, activation_bits, index)}") from error


def test_a_tile_that_lies_in_the_padding_alone() -> None:
    """A depthwise layer of an input of one row: its typical tile has no row of the input under it."""
    check_case("qaccel-256", 4, 16, 161)


def check_stepping(index: int) -> tuple[bool, bool]:
    """One layer whose windows may step over its input, on a machine that must take most kernels some rows at a time. Gives whether an
    instruction has only some rows of the kernel, and whether one reads nothing."""
    rng = np.random.default_rng([SEED, index, 1])
    sram_bytes, line_bytes = int(rng.choice([2048, 4096, 131072])), int(rng.choice([24, 48, 4096]))
    hw = replace(
        load_config("qaccel-64"),
        name="tiny",
        weight_buffer_bytes=1024,
        sram_bytes=sram_bytes,
        line_buffer_bytes=line_bytes,
    )
    graph = stepping_layer(rng, WIDTHS[index % 3], WIDTHS[index // 3 % 3], hw)
    [x] = [values(rng, (m.h, m.w, m.c), m.bits) for m in (graph.maps[i] for i in graph.inputs)]
    artefact = compile_layers(graph, hw).artefact
    expected = run_graph(graph, [x])[1]
    for mode in ("functional", "cycle"):
        np.testing.assert_array_equal(run_artefact(artefact, [x], mode)[0][0], expected)
    windows = [ins for ins in decode(artefact.program) if ins.op in ("CONV", "DEPTHWISE")]
    in_parts = any(ins["kernel_h"] < graph.layers[0].window.kernel_h for ins in windows)
    return in_parts, any(footprint(window_shape(ins)) == (0, 0) for ins in windows)


def check_steppings(indices: range) -> None:
    found = []
    for index in indices:
        try:
            found.append(check_stepping(index))
        except Exception as error:
            raise AssertionError(f"case {index}") from error
    in_parts, nothing, both = sum(a for a, _ in found), sum(b for _, b in found), sum(a and b for a, b in found)
    assert in_parts >= len(found) / 20 and nothing >= len(found) / 10 and both, (in_parts, nothing, both)


def test_windows_that_step_over_the_input() -> None:
    check_steppings(range(90))


@pytest.mark.slow
def test_many_windows_that_step_over_the_input() -> None:
    check_steppings(range(90, 90 + int(os.environ.get("QACCEL_LAYER_CASES", "50000")) // 10))


@pytest.mark.slow
@pytest.mark.parametrize(("config", "weight_bits", "activation_bits"), CASES)
def test_many_random_layers(config: str, weight_bits: int, activation_bits: int) -> None:
    total = int(os.environ.get("QACCEL_LAYER_CASES", "50000"))
    for index in range(50, 50 + -(-total // len(CASES))):
        try:
            check_case(config, weight_bits, activation_bits, index)
        except Exception as error:
            raise AssertionError(f"case {(config, weight_bits, activation_bits, index)}") from error
