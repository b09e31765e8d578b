"""The table of node kinds against the rules of quantization and against what Relax has."""

from collections import Counter

from tvm import ir

from qaccel.dialect import kinds, operators
from qaccel.quant.quantize import QUANT_RULES


def test_a_kind_has_a_rule_where_the_dialect_has_an_operator_for_it() -> None:
    assert set(QUANT_RULES) == {kind for kind in kinds.KINDS if kind.operator is not None}


def test_every_operator_on_integers_has_a_kind() -> None:
    made = {kind.operator for kind in kinds.KINDS}
    assert made - {None} == {cls for cls in operators.OPERATORS if issubclass(cls, operators.IntegerAttrs)}


def test_no_node_is_of_two_kinds() -> None:
    counts = Counter(make for kind in kinds.KINDS for make in kind.makes)
    assert [make for make, count in counts.items() if count > 1] == []
    assert len({kind.name for kind in kinds.KINDS}) == len(kinds.KINDS)


def test_relax_has_every_operator() -> None:
    named = {name for kind in kinds.KINDS for make in kind.makes for name in make}
    assert named <= set(ir.Op.list_op_names())


def test_rows_of_operators() -> None:
    assert kinds.kind_of(("relax.matmul", "relax.add")) is kinds.GEMM
    assert kinds.kind_of(("relax.take", "relax.reshape")) is kinds.MOVE
    assert kinds.kind_of(("relax.add", "relax.add")) is kinds.OTHER
    assert kinds.WEIGHTED == {"relax.nn.conv2d", "relax.nn.conv2d_transpose", "relax.matmul"}
