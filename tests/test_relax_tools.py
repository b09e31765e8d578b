"""Small tools on Relax modules, against modules written in TVMScript."""

import pytest
import tvm
from tvm import relax, te
from tvm.script import ir as I
from tvm.script import relax as R

from qaccel import relax_tools as tools
from qaccel.errors import UserError


@I.ir_module
class Network:
    @R.function
    def main(x: R.Tensor((2, 3), "float32"), z: R.Tensor((2, 3), "float32")):
        with R.dataflow():
            a = R.add(x, x)
            b = R.split(z, 3, 1)
            c = b[1]
            d = R.concat((c, a), 1)
            e = d
            out = (e, a)
            R.output(out)
        return out


MAIN = Network["main"]
X, Z = MAIN.params
A, B, C, D, E, OUT = (binding.var for binding in tools.bindings(MAIN))
VALUES = {binding.var: binding.value for binding in tools.bindings(MAIN)}


def same(found: list[relax.Expr], wanted: list[relax.Var]) -> bool:
    return len(found) == len(wanted) and all(a.same_as(b) for a, b in zip(found, wanted, strict=True))


def test_bindings_are_in_order_and_functions_are_those_of_relax():
    assert [var.name for var in (A, B, C, D, E, OUT)] == ["a", "b", "c", "d", "e", "out"]
    a = te.placeholder((2,), name="a")
    integers = te.create_prim_func([a, te.compute((2,), lambda k: a[k] + 1, name="b")])
    assert same(tools.functions(tvm.IRModule({"main": MAIN, "one": integers})), [MAIN])


def test_results_are_seen_through_tuples_and_renamings():
    assert same(tools.results(MAIN), [E, A])

    @R.function
    def single(x: R.Tensor((2,), "float32")):
        with R.dataflow():
            a = R.abs(x)
            b = a
            R.output(b)
        return b

    (made,) = tools.results(single)
    assert made.name == "a"


def test_variables_are_counted_as_often_as_they_are_read():
    assert same(tools.variables(VALUES[A]), [X, X])
    assert same(tools.variables(VALUES[C]), [B])
    assert same(tools.variables(VALUES[D]), [C, A])
    assert tools.variables(relax.const(1.0)) == []
    assert dict(tools.use_counts(MAIN)) == {X: 2, Z: 1, B: 1, C: 1, A: 2, D: 1, E: 1, OUT: 1}


def test_renewed_replaces_what_it_is_told_and_keeps_names():
    other = relax.Var("other", relax.TensorType((2, 3), "float32"))
    call = relax.Call(VALUES[D].op, VALUES[D].args, VALUES[D].attrs, span=tools.node_span("joint"))
    made = tools.renewed(call, {A: other})
    assert same(tools.variables(made), [C, other])
    assert tools.node_name(made) == "joint" and int(made.attrs.axis) == 1
    assert same(tools.variables(tools.renewed(VALUES[C], {B: other})), [other])
    assert tools.renewed(X, {A: other}).same_as(X)


def test_a_call_without_a_span_has_no_node():
    assert tools.node_name(relax.op.abs(X)) == ""


def test_shapes_are_integers_or_refused():
    n = tvm.tirx.Var("n", "int64")
    open_shape = relax.Var("open", relax.TensorType((n, 2), "float32"))
    assert tools.known_shape(X) == tools.static_shape(X) == (2, 3)
    assert tools.known_shape(open_shape) is None and tools.known_shape(B) is None
    assert tools.known_shape(relax.Var("ranked", relax.TensorType(dtype="float32", ndim=2))) is None
    assert tools.known_shape(relax.const(1.0)) == ()
    with pytest.raises(UserError, match="symbolic"):
        tools.static_shape(open_shape)
