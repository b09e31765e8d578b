"""The table of node kinds against the rules of quantization and against what Relax has."""

from collections import Counter

from tvm import ir, relax

from qaccel.dialect import kinds, operators
from qaccel.quant.quantize import QUANT_RULES


def test_a_kind_has_a_rule_where_the_dialect_has_an_operator_for_it() -> None:
    assert set(QUANT_RULES) == {kind for kind in kinds.KINDS if kind.operator is not None}


def test_every_operator_on_integers_has_a_kind() -> None:
    made = {kind.operator for kind in kinds.KINDS}
    assert made - {None} == {cls for cls in operators.OPERATORS if issubclass(cls, operators.IntegerAttrs)}


def test_no_row_hides_another() -> None:
    """Of kinds with one make, all but the last ask for more."""
    always = vars(kinds.Kind)["when"]
    counts = Counter(make for kind in kinds.KINDS if kind.when is always for make in kind.makes)
    assert [make for make, count in counts.items() if count > 1] == []
    for number, kind in enumerate(kinds.KINDS):
        later = {make for other in kinds.KINDS[number + 1 :] for make in other.makes}
        assert kind.when is not always or not later & set(kind.makes)
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)


def test_relax_has_every_operator() -> None:
    named = {name for kind in kinds.KINDS for make in kind.makes for name in make}
    assert named <= set(ir.Op.list_op_names())


def test_rows_of_operators() -> None:
    x = relax.Var("x", relax.TensorType((1, 4, 8, 6), "float32"))
    assert kinds.kind_of(("relax.matmul", "relax.add"), x) is kinds.GEMM
    assert kinds.kind_of(("relax.take", "relax.reshape"), x) is kinds.MOVE
    assert kinds.kind_of(("relax.add", "relax.add"), x) is kinds.OTHER
    for method, kind in (("linear", kinds.RESIZE), ("nearest_neighbor", kinds.NEAREST)):
        call = relax.op.image.resize2d(x, (16, 12), layout="NCHW", method=method)
        assert kinds.kind_of((call.op.name,), call) is kind
    assert {"relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul"} == kinds.WEIGHTED
