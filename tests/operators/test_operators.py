"""Every operator that the accelerator has, compiled from ONNX with given ranges and run on the machine, against exact integers."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from operators.cases import Case, Make
from operators.elementwise import ELEMENTWISE, TABLES
from operators.exact import Result, Tensor
from operators.layers import LAYERS
from operators.machine import quantized_model, run_on_machine
from operators.moves import MOVES
from qaccel.dialect.ops import conv2d, eltwise
from qaccel.machine.hw import config_names
from qaccel.npu.partition.supported import ROWS
from qaccel.options import BitWidths
from qaccel.quant.rules import layers as rules
from qaccel.quant.rules import moves as rules_move
from qaccel.quant.rules import moving

SEED = 20261124
PAIRS = list(product((4, 8, 16), (4, 8, 16)))
OPERATORS: dict[str, Make] = {**LAYERS, **ELEMENTWISE, **TABLES, **MOVES}
IN_CI = 9  # cases of each operator
FAST = 3  # of them, those that `make test-fast` runs too
ONCE = int(os.environ.get("QACCEL_OPERATOR_CASES", "300"))


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
        q = quantized_model(case.model(), case.spans, BitWidths(case.weight_bits, case.activation_bits))
        made = run_on_machine(q, case.tensors, configs[index % len(configs)])
        for name, result in case.expected.items():
            if case.function is not None and case.activation_bits == 16:
                check_interpolated(case, made[name], q.notes)
                continue
            assert made[name].q == result.q
            if case.function is not None:
                check_table(made[name], result)
            else:
                np.testing.assert_array_equal(made[name].values, result.values)
    except Exception as error:
        raise AssertionError(f"{operator}, case {index}: {[n.op_type for n in case.nodes]}") from error


def check_table(made: Tensor, wanted: Result) -> None:
    """Correctly rounded; float64 cannot tell which way where the function is this near to a tie."""
    tie = np.abs(np.abs(wanted.real - np.floor(wanted.real)) - 0.5) < wanted.size * 2.0**-22
    assert np.abs(made.values - wanted.values)[tie].max(initial=0) <= 1
    np.testing.assert_array_equal(made.values[~tie], wanted.values[~tie])


def check_interpolated(case: Case, made: Tensor, notes: tuple[str, ...]) -> None:
    """Within the error that the compiler states, wherever input and output are within their ranges."""
    said = [float(m.group(1)) for m in (re.search(r"off by at most ([0-9.]+) steps", n) for n in notes) if m]
    (stated,) = said or [0.5]  # a square is a product, rounded once
    assert stated <= 65535 / 1024
    assert case.function is not None
    x = case.tensors["x"]
    given, span = x.centred * x.q.scale, case.spans["x"]
    with np.errstate(all="ignore"):
        real = case.function(given)
    low, high = case.spans[case.outputs[-1]]
    inside = (given >= span[0]) & (given <= span[1]) & (real >= low) & (real <= high)
    error = np.abs(made.values - real / made.q.scale)
    assert error[inside].max(initial=0) <= stated + 0.06  # as it is printed


@pytest.mark.parametrize("operator", OPERATORS)
def test_operator(operator: str) -> None:
    """Ten is prime to nine: with the cases below, every pair of widths once, on all configs."""
    for k in range(FAST):
        check(operator, k * 10)


@pytest.mark.wide
@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_at_all_widths(operator: str) -> None:
    for k in range(FAST, IN_CI):
        check(operator, k * 10)


@pytest.mark.slow
@pytest.mark.parametrize("operator", OPERATORS)
def test_operator_more(operator: str) -> None:
    for index in range(1000, 1000 + ONCE):
        check(operator, index)


def test_every_operator_of_the_page_has_cases() -> None:
    """What SUPPORTED_OPS.md lists is in some case, or becomes something that is."""
    made = set()
    for operator in OPERATORS:
        for index in range(12):
            made.update(node.op_type for node in make_case(operator, index).model().graph.node)
    elsewhere = {
        "Identity", "Dropout", "Cast", "Constant",  # gone before quantization
        "Swish", "Gelu", "Mish",  # spelled out here: newer opsets have them
        "Upsample",  # an old name of Resize
        "ReduceSum",  # a ReduceMean and a Mul
        "LSTM", "GRU", "RNN",  # products, tables, Add and Mul, step by step
    }  # fmt: skip
    listed = {name.split(" (")[0] for row in ROWS for name in row.onnx}
    assert listed - elsewhere <= made


def _raised(ratio: float) -> float:
    return float(np.float32(ratio * (1 + 2.0**-7)))


FAULTS = {
    "a ratio of scales that is off": (
        conv2d, "output_scale_ratio", lambda true: lambda *scales: _raised(true(*scales)), ("Conv", "Gemm"),
    ),
    "a product's ratio of scales that is off": (
        eltwise, "output_scale_ratio", lambda true: lambda *scales: _raised(true(*scales)), ("Mul",),
    ),
    "a phase with its kernel turned": (
        rules_move, "taken", lambda true: lambda *given: true(*given)[:, ::-1, ::-1], ("ConvTranspose",),
    ),
    "a table one step too high": (
        rules, "make_table",
        lambda true: lambda *given: replace(true(*given), values=np.minimum(true(*given).values + 1, 127)), ("Sigmoid", "Neg"),
    ),
    "moved values from one place further": (
        moving, "pieces_of", lambda true: lambda source, pixel, channel: true(source, np.roll(pixel, 1, -2), channel),
        ("Concat", "Slice", "Expand, Tile"),
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_seen(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, name, wrong, operators = FAULTS[fault]
    monkeypatch.setattr(module, name, wrong(getattr(module, name)))
    for operator in operators:
        with pytest.raises(AssertionError):
            for k in range(IN_CI):
                check(operator, k * 10)
