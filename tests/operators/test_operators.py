"""Every operator that the accelerator has, compiled from ONNX with given ranges and run on the machine, against exact integers."""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import pytest

from operators.cases import Case, Make
from operators.layers import LAYERS
from operators.machine import quantized_model, run_on_machine
from qaccel.hw import config_names
from qaccel.quant.quantize import LayerBits

SEED = 20261124
PAIRS = list(product((4, 8, 16), (4, 8, 16)))
OPERATORS: dict[str, Make] = {**LAYERS}
IN_CI = int(os.environ.get("QACCEL_OPERATOR_CASES_IN_CI", "6"))


def make_case(operator: str, index: int) -> Case:
    """Random case ``index`` of an operator; nine of them in a row have the nine pairs of widths."""
    weight_bits, activation_bits = PAIRS[index % len(PAIRS)]
    rng = np.random.default_rng([SEED, index, *operator.encode()])
    case = Case(rng, weight_bits, activation_bits)
    case.narrow = activation_bits == 4 and case.chance(0.5)
    return OPERATORS[operator](case)


def check(operator: str, index: int) -> None:
    case = make_case(operator, index)
    configs = config_names()
    try:
        q = quantized_model(case.model(), case.spans, LayerBits(case.weight_bits, case.activation_bits))
        made = run_on_machine(q, case.tensors, configs[index % len(configs)])
        for name, result in case.expected.items():
            assert made[name].q == result.q
            np.testing.assert_array_equal(made[name].values, result.values)
    except Exception as error:
        raise AssertionError(f"{operator}, case {index}: {[n.op_type for n in case.nodes]}") from error


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator: str) -> None:
    # A stride that is prime to the nine pairs and the configs, so that few cases see many of both.
    for k in range(IN_CI):
        check(operator, k * 10)
