"""ONNX's backend node tests on llvm, ours beside plain TVM's: nothing that plain TVM passes is lost.

Every tenth case of the operators of a CNN runs here; all cases run with `-m slow -s`, which prints the counts.
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


def run(case: Case) -> tuple[BaseException | None, BaseException | None]:
    """What went wrong in our import and in plain TVM's, with the shape operands constant as exporters write them."""
    return failure(case, case.frozen, ours), failure(case, case.frozen, plain)


def is_lost(mine: BaseException | None, theirs: BaseException | None) -> bool:
    """Whether plain TVM passes a case and we do not."""
    return mine is not None and theirs is None


@pytest.mark.wide
def test_a_tenth_of_the_operators_of_a_cnn() -> None:
    chosen = [case for case in cases() if case.op in CNN][::10]
    results = {case.name: run(case) for case in chosen}
    assert [case.name for case in chosen if is_lost(*results[case.name])] == []
    passed = [sum(r[k] is None for r in results.values()) for k in (0, 1)]
    assert passed[0] >= passed[1]


@pytest.mark.wide
def test_what_onnx_spells_with_other_operators() -> None:
    """With operands left out and constants among them: of these, too, ONNX's inliner wants the types. Float16 becomes float32."""
    names = ("attention_4d", "attention_local", "causal_conv", "center_crop", "swiglu")
    spelled = [case for case in cases() if case.name.startswith(tuple(f"test_{n}" for n in names))]
    chosen = [case for case in spelled if "_expanded" not in case.name and "16" not in case.name][::4]
    wrong = [(case.name, error) for case in chosen if (error := failure(case, case.frozen, ours))]
    assert len(chosen) > 15 and wrong == []


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
        if is_lost(mine, theirs):
            lost.append(f"{case.name}: {mine}")
    print(f"\n{'operator':32} cases  ours  plain TVM")
    for op in sorted(CNN):
        if op in rows:
            print(f"{op:32} {rows[op][0]:5} {rows[op][1]:5} {rows[op][2]:10}")
    print(f"{'all operators':32} {totals['cases']:5} {totals['ours']:5} {totals['plain TVM']:10}")
    assert lost == []


@pytest.mark.wide
def test_every_refusal_is_one_line() -> None:
    """Our import raises nothing but QaccelError, whatever the model."""
    from qaccel.frontend.import_onnx import import_onnx

    for case in cases()[::7]:
        try:
            import_onnx(case.frozen)
        except QaccelError as error:
            assert "\n" not in str(error), case.name
