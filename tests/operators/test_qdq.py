"""The QDQ file of every operator in ONNX Runtime, its optimisations disabled, against the integers that the machine must give.

`test_operators` shows that the machine gives them. ONNX Runtime computes in float32, so that a value which lies almost
between two integers may fall to either.
"""

from __future__ import annotations

import os
from collections import Counter

import numpy as np
import onnx
import pytest

from operators.cases import session
from operators.exact import Result
from operators.machine import quantized_model
from operators.test_operators import IN_CI, ONCE, OPERATORS, make_case
from qaccel.options import BitWidths
from qaccel.qdq.write import qdq_model

PER_MILLION = 20
FLOAT32_STEPS = 2.0**-20  # of the magnitudes that a value is made of: what float32 sums may be off


SQUEEZE = "squeeze and excite"  # several roundings one after the other
CHAINED_STEPS = 4  # what one step of a 16-bit gate can make of a 16-bit product


def compared(name: str, wanted: Result, real: np.ndarray, chained: bool) -> int:
    """How many integers of an output differ, each by one and near a tie; by few if one before may have differed (``chained``)."""
    made = np.rint(real.astype(np.float64) / wanted.q.scale).astype(np.int64) + wanted.q.zero
    assert made.shape == wanted.values.shape
    off = made - wanted.values
    differs = off != 0
    assert np.abs(off).max(initial=0) <= (CHAINED_STEPS if chained else 1), (name, off)
    if chained:
        return int(differs.sum())
    from_tie = np.abs(np.abs(wanted.real - np.floor(wanted.real)) - 0.5)
    assert (from_tie <= wanted.size * FLOAT32_STEPS)[differs].all(), (name, from_tie[differs], wanted.size[differs])
    return int(differs.sum())


def check(operator: str, index: int) -> tuple[int, int]:
    """(values that differ, values) of one case; none where 16 bits, which float32 sums hold only nearly, may differ more often."""
    case = make_case(operator, index)
    try:
        q = quantized_model(case.model(), case.spans, BitWidths(case.weight_bits, case.activation_bits))
        made = qdq_model(q)
        onnx.checker.check_model(made, full_check=True)
        if case.refused:
            return 0, 0
        inputs = {name: (t.centred * t.q.scale).astype(np.float32) for name, t in case.tensors.items()}
        results = session(made).run(case.outputs, inputs)
        wide = 16 in (case.activation_bits, case.weight_bits if case.weighted else 8)
        if case.function is not None and case.activation_bits == 16:
            return 0, 0  # the machine interpolates, which ONNX cannot say
        chained = wide and operator == SQUEEZE
        off = sum(compared(n, w, r, chained) for (n, w), r in zip(case.expected.items(), results, strict=True))
        return (0, 0) if wide else (off, sum(w.values.size for w in case.expected.values()))
    except Exception as error:
        raise AssertionError(f"{operator}, case {index}: {[n.op_type for n in case.nodes]}") from error


def check_all(indices: list[int]) -> None:
    off, total = Counter(), Counter()
    for operator in OPERATORS:
        for index in indices:
            differs, values = check(operator, index)
            off[operator] += differs
            total[operator] += values
    print({k: f"{v} of {total[k]}" for k, v in off.items() if v}, f"{off.total()} of {total.total()} values off by one")
    assert total.total() > 50 * len(indices) * len(OPERATORS)
    assert off.total() <= max(1, total.total() * PER_MILLION // 1_000_000)


@pytest.mark.wide
def test_every_operator_in_onnxruntime() -> None:
    check_all([k * 10 for k in range(IN_CI)])


@pytest.mark.slow
def test_every_operator_in_onnxruntime_more() -> None:
    check_all(list(range(1000, 1000 + int(os.environ.get("QACCEL_OPERATOR_CASES", str(ONCE))))))
