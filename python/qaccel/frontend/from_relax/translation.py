"""The ONNX graph that a Relax module becomes, while it is being written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx
from onnx import helper
from tvm import ir, relax

from ...dialect.names import step
from ...errors import UserError


class NotTranslated(UserError):
    """The module holds something that has no translation; `import_relax` takes it as it is."""


class Translation:
    """The ONNX graph under construction. Tensors are named after Relax variables, nodes after the variable they define; of
    several nodes for one variable those behind the first are steps of it."""

    def __init__(self, folded: Mapping[str, Callable[..., Any]]) -> None:
        self.folded = folded  # how operators of constants are computed
        self.nodes: list[onnx.NodeProto] = []
        self.consts: dict[str, np.ndarray] = {}
        self.names: dict[relax.Var, str] = {}
        self.values: dict[relax.Var, relax.Expr] = {}
        self.node_name = ""
        self._named: Counter[str] = Counter()

    def tensor(self, expr: relax.Expr) -> str:
        """The name of an operand: a variable, or a constant, which is stored."""
        if isinstance(expr, relax.Var):
            return self.names[expr]
        if isinstance(expr, ir.GenericConst):
            return self.const(expr.value.numpy())
        raise NotTranslated(f"operand {type(expr).__name__} in Relax has no ONNX form")

    def value(self, expr: relax.Expr | None) -> np.ndarray | None:
        """The array of an operand that is constant, or a constant moved, broadcast or dequantized."""
        if isinstance(expr, ir.GenericConst):
            return expr.value.numpy()
        if isinstance(expr, relax.Var):
            return self.value(self.values.get(expr))
        if not isinstance(expr, relax.Call) or not isinstance(expr.op, ir.Op) or expr.op.name not in self.folded:
            return None
        fold = self.folded[str(expr.op.name)]
        values = [self.value(a) for a in expr.args if not isinstance(a, relax.ShapeExpr)]
        return None if any(v is None for v in values) else fold(expr, *values)

    def const(self, value: Any, dtype: Any = None) -> str:
        """A new constant."""
        name = f"constant{len(self.consts)}"
        self.consts[name] = np.asarray(value, dtype)
        return name

    def node(self, op: str, inputs: Sequence[str], outputs: int = 1, **attrs: Any) -> str:
        """A node of the call under translation; returns its first output."""
        label = f"{self.node_name}:{len(self.nodes)}"
        names = [label if k == 0 else f"{label}.{k}" for k in range(outputs)]
        count = self._named[self.node_name]
        self._named[self.node_name] += 1
        name = step(self.node_name, str(count)) if count else self.node_name
        self.nodes.append(helper.make_node(op, list(inputs), names, name=name, **attrs))
        return names[0]

    def reshape(self, source: str, shape: Sequence[int]) -> str:
        """Reshape to a static shape, beside the node that has the call's name."""
        return self._beside("Reshape", [source, self.const(list(shape), np.int64)])

    def transpose(self, source: str, perm: Sequence[int]) -> str:
        """Transpose, unless it is the identity, beside the node that has the call's name."""
        return source if list(perm) == sorted(perm) else self._beside("Transpose", [source], perm=list(perm))

    def _beside(self, op: str, inputs: Sequence[str], **attrs: Any) -> str:
        own = self.node_name
        self.node_name = f"{own}:{op.lower()}"
        made = self.node(op, inputs, **attrs)
        self.node_name = own
        return made


Operator: TypeAlias = Callable[[relax.Call, Translation], str]
