"""Random single layers, compiled and simulated, against exact integers: every width pair equally, three configs."""

import os
from itertools import product

import numpy as np
import pytest

from npu.harness import run_artefact
from npu.layer_cases import WIDTHS, random_layer, values
from npu.oracle import run_graph
from qaccel.machine.hw import config_names, load_config
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


@pytest.mark.slow
@pytest.mark.parametrize(("config", "weight_bits", "activation_bits"), CASES)
def test_many_random_layers(config: str, weight_bits: int, activation_bits: int) -> None:
    total = int(os.environ.get("QACCEL_LAYER_CASES", "50000"))
    for index in range(50, 50 + -(-total // len(CASES))):
        try:
            check_case(config, weight_bits, activation_bits, index)
        except Exception as error:
            raise AssertionError(f"case {(config, weight_bits, activation_bits, index)}") from error
