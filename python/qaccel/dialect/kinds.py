"""The kinds of nodes that float Relax has, and all that the compiler knows of each: one row per kind.

A node is what one operator of the model became: one Relax operator, or a few in a row. Quantization finds its kind here and
by that its rule. A kind without a dialect operator stays in float, or is only another name for the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tvm.relax import Call, Expr

from . import operators
from .operators import Attrs

# Relax operators of two tensors -> the kind of ``qaccel.eltwise`` that each becomes.
ELTWISE_KINDS = {
    "relax.add": "add", "relax.subtract": "sub", "relax.multiply": "mul", "relax.minimum": "min", "relax.maximum": "max",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Kind:
    """One kind of node.

    - ``operator``: what of the dialect it becomes.
    - ``relax``: its Relax operators, each of which is such a node by itself; ``pairs``: two in a row that are one.
    - ``when``: what the first call must be like besides; of two kinds of one operator, the first in `KINDS` that fits.
    - ``op``: the ONNX operator that its Relax operators are, where that is one.
    - ``weights``: it has constant weights, and a constant added right behind it is its bias.
    - ``clamps``: it takes in the Relu and Clip nodes that alone read it.
    - ``keeps``: its result has the scale of its only input, unless it took in a clamp.
    - ``by_element``: each value of the result comes from the values at the same place of its operands.
    - ``exact``: of one tensor, the machine computes it exactly at every width, so that a table would be no gain.
    - ``renames``: its result is the same integers in the same order of memory, or in one that a reader can walk.
    - ``reason``: why it stays in float if it has no operator, as the user reads it.
    """

    name: str
    operator: type[Attrs] | None
    relax: tuple[str, ...] = ()
    op: str = ""
    pairs: tuple[tuple[str, str], ...] = ()
    when: Callable[[Call], bool] = lambda call: True
    weights: bool = False
    clamps: bool = False
    keeps: bool = False
    by_element: bool = False
    exact: bool = False
    renames: bool = False
    reason: str = "this operator has no integer form yet"

    @property
    def makes(self) -> tuple[tuple[str, ...], ...]:
        """The rows of Relax operators that are such a node."""
        with_bias = tuple((name, "relax.add") for name in self.relax) if self.weights else ()
        return (*((name,) for name in self.relax), *with_bias, *self.pairs)


def _is_linear(call: Call) -> bool:
    """Whether a resize computes values between those that it reads; otherwise it only repeats them."""
    return str(call.attrs.method) == "linear"


CONV = Kind("conv", operators.ConvAttrs, ("relax.nn.conv2d",), "Conv", weights=True, clamps=True)
CONV_TRANSPOSE = Kind(
    "conv_transpose", operators.ConvAttrs, ("relax.nn.conv2d_transpose",), "ConvTranspose", weights=True, clamps=True
)
GEMM = Kind("gemm", operators.ConvAttrs, ("relax.matmul",), "Gemm", weights=True, clamps=True)
ELTWISE = Kind("eltwise", operators.EltwiseAttrs, tuple(ELTWISE_KINDS), clamps=True, by_element=True)
PRELU = Kind("prelu", operators.EltwiseAttrs, ("relax.nn.prelu",), "PRelu", by_element=True)
CLAMP = Kind(
    "clamp",
    operators.RequantizeAttrs,
    ("relax.nn.relu", "relax.clip"),
    "Clip",
    clamps=True,
    by_element=True,
    exact=True,
)
MAX_POOL = Kind("max_pool", operators.PoolAttrs, ("relax.nn.max_pool2d",), "MaxPool", clamps=True, keeps=True)
AVG_POOL = Kind("avg_pool", operators.PoolAttrs, ("relax.nn.avg_pool2d",), "AveragePool", clamps=True)
MEAN = Kind("mean", operators.PoolAttrs, ("relax.mean",), "ReduceMean", clamps=True)
MAX = Kind("max", operators.PoolAttrs, ("relax.max",), "ReduceMax", clamps=True, keeps=True)
RESHAPE = Kind(
    "reshape", None, ("relax.reshape", "relax.expand_dims", "relax.squeeze", "relax.flatten"), "Reshape", renames=True
)
TRANSPOSE = Kind("transpose", None, ("relax.permute_dims",), "Transpose", renames=True)
MOVE = Kind(
    "move", operators.MoveAttrs,
    ("relax.strided_slice", "relax.nn.pad", "relax.concat", "relax.take", "relax.tile", "relax.repeat", "relax.flip",
     "relax.broadcast_to"),
    pairs=(("relax.take", "relax.reshape"),), keeps=True,
)  # fmt: skip
RESIZE = Kind("resize", operators.ConvAttrs, ("relax.image.resize2d",), "Resize", when=_is_linear)
NEAREST = Kind("nearest", operators.MoveAttrs, RESIZE.relax, "Resize", keeps=True)
# Passes over the nodes find these: any function of one value, what is part of a normalization, what makes a mask, and what
# stays in float because a steep function reads it.
TABLE = Kind("table", operators.TableAttrs, by_element=True)
NORMALIZATION = Kind(
    "normalization", None, reason="it is part of a normalization over features, which stays in floating point"
)
# A tensor of a model that came quantized, rounded as it says: the end of the node that made it, where that alone is read.
ROUNDED = Kind("rounded", operators.RequantizeAttrs, (operators.RoundedAttrs.operator,), "QuantizeLinear", exact=True)
MASK = Kind("mask", None, reason="it makes a mask for a Softmax, which stays in floating point")
STEEP = Kind(
    "steep",
    None,
    reason="it is a function that is steep near zero, for which 16 bits of what it reads are too few, or it makes what that reads",
)
VOLUME = Kind(
    "volume", None,
    ("relax.nn.conv3d", "relax.nn.conv3d_transpose", "relax.nn.max_pool3d", "relax.nn.avg_pool3d"),
    pairs=(("relax.nn.conv3d", "relax.add"), ("relax.nn.conv3d_transpose", "relax.add")),
    reason="it has three dimensions, and the accelerator works on planes",
)  # fmt: skip
OTHER = Kind("other", None)

KINDS = (
    CONV, CONV_TRANSPOSE, GEMM, ELTWISE, PRELU, CLAMP, MAX_POOL, AVG_POOL, MEAN, MAX, RESHAPE, TRANSPOSE, MOVE, RESIZE,
    NEAREST, ROUNDED, TABLE, NORMALIZATION, MASK, STEEP, VOLUME, OTHER,
)  # fmt: skip
# What passes over the nodes keep in float as a whole, so that no table takes a part of it.
KEPT_IN_FLOAT = (NORMALIZATION, MASK)
# Relax operators that have constant weights.
WEIGHTED = frozenset(name for kind in KINDS if kind.weights for name in kind.relax)


def kind_of(relax_operators: tuple[str, ...], first: Expr) -> Kind:
    """The kind of a node made of these Relax operators in a row, the ``first`` of them being this call; OTHER if none is."""
    return next((kind for kind in KINDS if relax_operators in kind.makes and kind.when(first)), OTHER)
