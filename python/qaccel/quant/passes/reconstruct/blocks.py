"""A quantized network cut into blocks: stretches of a few layers that one tensor alone enters and one alone leaves.

Where a network has residuals, a block holds whole ones; an inverted residual of three layers is one block.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tvm import relax

from ....dialect import operators
from ....dialect.operators import Attrs, Quantization
from ....dialect.quantized import QuantizedModel
from ....relax_tools import bindings, variables

MOST_LAYERS = 3  # with weights that are joined to a block; a stretch that cannot be cut may have more


@dataclass(frozen=True, eq=False)
class Block:
    """A stretch of ``main``.

    ``entries``: the variables that enter it; of the first block the network's inputs. ``name``: of the call that makes what leaves
    it, as in `QuantizedModel.held`. ``regular``: it has only calls that `simulated` has, of one integer tensor.
    """

    steps: tuple[relax.Binding, ...]
    entries: tuple[relax.Var, ...]
    name: str
    regular: bool

    @property
    def output(self) -> relax.Var:
        """The integers that leave it."""
        return self.steps[-1].var

    @property
    def result(self) -> Quantization:
        """What those mean."""
        attrs = self.attrs[-1]
        made = None if attrs is None else operators.output_of(attrs)
        assert made is not None
        return made

    @cached_property
    def attrs(self) -> tuple[Attrs | None, ...]:
        """What each step is; None for what is no call of the quantized dialect."""
        return tuple(attrs_of(step) for step in self.steps)

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the calls with weights."""
        return tuple(each.name for each in self.attrs if isinstance(each, operators.ConvAttrs))


def attrs_of(step: relax.Binding) -> Attrs | None:
    """The attributes of a call of the quantized dialect; None for any other binding."""
    return operators.read(step.value) if operators.is_quantized(step.value) else None


def is_regular(step: relax.Binding) -> bool:
    """Whether a step of a network is of a kind that `simulated` has."""
    attrs = attrs_of(step)
    if isinstance(attrs, operators.PoolAttrs):
        (top, left, bottom, right), (rows, pixels) = attrs.padding, attrs.kernel
        even = (top, left) == (bottom, right) and 2 * top <= rows and 2 * left <= pixels
        return even and attrs.dilation == (1, 1)
    if isinstance(attrs, operators.TableAttrs):
        return attrs.source.bits <= 8
    if isinstance(attrs, operators.EltwiseAttrs):
        return all(isinstance(arg, relax.Var) for arg in step.value.args)
    return isinstance(attrs, operators.ConvAttrs | operators.RequantizeAttrs)


def blocks_of(q: QuantizedModel) -> list[Block]:
    """The blocks in their order; what comes behind the last cut is in none."""
    found: list[Block] = []
    for each in _stretches(q):
        last = found[-1] if found else None
        if last is not None and _belong_together(last, each):
            found[-1] = Block(last.steps + each.steps, last.entries, each.name, True)
        else:
            found.append(each)
    return found


def _belong_together(block: Block, stretch: Block) -> bool:
    few = not block.layers or len(block.layers) + len(stretch.layers) <= MOST_LAYERS
    return few and block.regular and stretch.regular


def _stretches(q: QuantizedModel) -> Iterator[Block]:
    """The shortest stretches between tensors of integers that alone are alive, and that the float network has."""
    function = q.mod["main"]
    steps = bindings(function)
    last = {var: k for k, step in enumerate(steps) if step.var != function.body.body for var in variables(step.value)}
    alive: set[relax.Var] = set()
    entries: tuple[relax.Var, ...] = tuple(function.params)
    first = 0
    for k, step in enumerate(steps):
        alive = {var for var in {*alive, step.var} if last.get(var, -1) > k}
        attrs = attrs_of(step)
        if attrs is None or operators.output_of(attrs) is None or attrs.name not in q.held or alive != {step.var}:
            continue
        if any(last.get(param, -1) > k for param in function.params):
            continue  # an input of the network is still to come
        inside = tuple(steps[first : k + 1])
        yield Block(inside, entries, attrs.name, all(map(is_regular, inside)))
        first, entries = k + 1, (step.var,)
