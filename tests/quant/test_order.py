"""The order of calls depends on the graph alone: whatever order copies and float operators came in, the function is the same."""

import random

import pytest
from tvm import relax

from breadth.test_random_networks import WIDTHS, quantized
from qaccel.quant.order import in_reading_order, is_node
from qaccel.relax_tools import bindings, variables


def shuffled(function: relax.Function, seed: int) -> relax.Function:
    """The same graph in another order, nodes on integers in theirs."""
    rng, left = random.Random(seed), bindings(function)
    made = {binding.var for binding in left}
    result: list[relax.Binding] = []
    while left:
        ready = [b for b in left if not any(v in made for v in variables(b.value))]
        nodes = [b for b in left if is_node(b.value)]
        chosen = rng.choice([b for b in ready if not is_node(b.value) or b is nodes[0]])
        left.remove(chosen)
        made.remove(chosen.var)
        result.append(chosen)
    body = relax.SeqExpr([relax.DataflowBlock(result)], function.body.body)
    return relax.Function(function.params, body, function.ret_ty, function.is_pure, function.attrs)


@pytest.mark.parametrize("seed", [243, 246])
def test_order_is_that_of_the_graph(seed: int) -> None:
    q, *_ = quantized(seed, WIDTHS[seed % 9])
    main = q.mod["main"]

    def order(function: relax.Function) -> list[relax.Var]:
        return [binding.var for binding in bindings(function)]

    others = [shuffled(main, k) for k in range(3)]
    assert any(order(other) != order(main) for other in others)
    assert all(order(in_reading_order(other)) == order(main) for other in (main, *others))
