"""ONNX's backend node tests on llvm, ours beside plain TVM's: nothing that plain TVM passes is lost.

Every fifth case of the operators of a CNN runs here; all cases run with `-m slow -s`, which prints the counts.
"""

from __future__ import annotations

from collections import Counter

import pytest

from frontend.backend_cases import Case, cases, failure, ours, plain
from qaccel.errors import QaccelError

CNN = {
    "Abs", "Add", "ArgMax", "AveragePool", "BatchNormalization", "Cast", "Ceil", "Celu", "Clip", "Concat", "Constant", "Conv",
    "ConvTranspose", "Cos", "DepthToSpace", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather",
    "Gelu", "Gemm", "GlobalAveragePool", "GlobalMaxPool", "HardSigmoid", "HardSwish", "Identity", "InstanceNormalization",
    "LayerNormalization", "LeakyRelu", "Log", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu", "Pad",
    "Pow", "Reciprocal", "ReduceL2", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "Relu", "Reshape", "Resize", "Round",
    "Selu", "Shape", "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Softsign", "SpaceToDepth", "Split", "Sqrt",
    "Squeeze", "Sub", "Sum", "Swish", "Tanh", "ThresholdedRelu", "Tile", "Transpose", "Unsqueeze", "Upsample", "Where",
}  # fmt: skip
# What this compiler refuses on purpose, whatever its operator: its one line says so.
REFUSED = (
    "is not known before the model runs",  # the size of the result depends on the data
    "only static graphs compile",  # If by a computed condition, Loop
    "sequences, maps and optionals cannot be compiled",
    "the model has no inputs",
    "the model uses opset",  # older than 7
    "has the symbolic dimension '?'",  # a size of 0, which exporters write for "not known"
)


def run(case: Case) -> tuple[BaseException | None, BaseException | None]:
    """What went wrong in our import and in plain TVM's, with the shape operands constant as exporters write them."""
    return failure(case, case.frozen, ours), failure(case, case.frozen, plain)


def is_lost(case: Case, mine: BaseException | None, theirs: BaseException | None) -> bool:
    """Whether plain TVM passes a case and we do not, nor refuse it on purpose."""
    if mine is None or theirs is not None:
        return False
    empty = any(0 in getattr(value, "shape", ()) for given, _ in case.data for value in given)
    return not empty and not (isinstance(mine, QaccelError) and any(text in str(mine) for text in REFUSED))


def test_a_fifth_of_the_operators_of_a_cnn() -> None:
    chosen = [case for case in cases() if case.op in CNN][::5]
    results = {case.name: run(case) for case in chosen}
    assert [case.name for case in chosen if is_lost(case, *results[case.name])] == []
    passed = [sum(r[k] is None for r in results.values()) for k in (0, 1)]
    assert passed[0] >= passed[1]


@pytest.mark.slow
def test_all_cases() -> None:
    totals: Counter[str] = Counter()
    lost, rows = [], {}
    for case in cases():
        mine, theirs = run(case)
        row = rows.setdefault(case.op, [0, 0, 0])
        for k, good in enumerate((True, mine is None, theirs is None)):
            row[k] += good
            totals[("cases", "ours", "plain TVM")[k]] += good
        if is_lost(case, mine, theirs):
            lost.append(f"{case.name}: {mine}")
    print(f"\n{'operator':32} cases  ours  plain TVM")
    for op in sorted(CNN):
        if op in rows:
            print(f"{op:32} {rows[op][0]:5} {rows[op][1]:5} {rows[op][2]:10}")
    print(f"{'all operators':32} {totals['cases']:5} {totals['ours']:5} {totals['plain TVM']:10}")
    assert lost == []


def test_every_refusal_is_one_line() -> None:
    """Our import raises nothing but QaccelError, whatever the model."""
    from qaccel.frontend.import_onnx import import_onnx

    for case in cases()[::7]:
        try:
            import_onnx(case.frozen)
        except QaccelError as error:
            assert "\n" not in str(error), case.name
