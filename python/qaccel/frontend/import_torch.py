"""PyTorch programs that ``torch.export.save`` wrote, through TVM's Relax frontend; torchao's PT2E-converted ones as plain QDQ."""

from __future__ import annotations

import importlib
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import ir, relax

from ..dialect import kinds
from ..errors import UserError, one_line
from ..relax_tools import bindings, main_function, renewed, results

_PROGRAM = ("torch.export.exported_program", "ExportedProgram")
_STEP = "_step"  # between a node and the number of a variable that is only a step of it; torch has no such names
CARRIERS = (
    "int8",
    "uint8",
    "int16",
    "uint16",
)  # the first that holds all integers from quant_min to quant_max is taken


def from_torch_file(path: Path) -> tvm.IRModule:
    """The module that a file holds. Raises UserError in one line for a missing package, a file that is none, and operators that
    TVM does not know."""
    torch = _torch(f"'{path}': PyTorch models need")
    if _needs_torchao(path):
        try:
            importlib.import_module(
                "torchao.quantization.pt2e.quantize_pt2e"
            )  # which defines the operators of the file
        except ImportError:
            raise UserError(
                f"'{path}' was quantized by torchao, whose operators it needs; pip install qaccel[train], or export to ONNX"
            ) from None
    try:
        program = torch.export.load(str(path))
    except Exception as error:  # torch raises whatever its unpicklers meet
        raise UserError(f"'{path}' is not what torch.export.save writes: {one_line(error)}") from error
    return from_program(program, f"'{path}'")


def is_program(model: object) -> bool:
    """Whether an object is a torch.export.ExportedProgram; asked without importing torch."""
    return any((each.__module__, each.__name__) == _PROGRAM for each in type(model).__mro__)


def from_program(program: Any, what: str, graph: Any = None) -> tvm.IRModule:
    """The module of a torch.export.ExportedProgram; ``what``: how messages call it.

    A variable has the name of the node of ``graph`` (default: the program's own) that it comes from. Where a node became several,
    the one with weights has it, or else the last; of the others `origin_of` tells it.
    Raises UserError in one line for operators that TVM does not know.
    """
    _torch(f"{what}: PyTorch models need")
    try:
        origins = _Origins(program.graph if graph is None else graph)
        whole = program.run_decompositions(_decompositions())
        made = origins.importer().from_exported_program(whole, False, True, False, _converters())
    except UserError:
        raise
    except Exception as error:  # TVM's frontends raise AssertionError, KeyError and others
        raise UserError(f"{what} cannot be imported by TVM: {one_line(error)}") from error
    return _named(made)


def _torch(needs: str) -> Any:
    try:
        importlib.import_module("tvm.relax.frontend.torch")
        return importlib.import_module("torch")
    except ImportError:
        raise UserError(f"{needs} the package torch; pip install torch, or export to ONNX") from None


class _Origins:
    """From which node of a graph a node of a program comes that was made from it, and how its variables are called meanwhile."""

    def __init__(self, graph: Any) -> None:
        self._graph_id = id(graph)
        self._now = ""
        self._numbers: Counter[str] = Counter()

    def name_of(self, node: Any) -> str:
        """The name of the first node of the graph among those that torch says the node was made from; else its own."""
        pending = list(node.meta.get("from_node", ()))
        while pending:
            source = pending.pop(0)
            if source.graph_id == self._graph_id:
                return str(source.name)
            pending += source.from_node
        return str(node.name)

    def importer(self) -> Any:
        """An importer of TVM whose variables are called so."""
        from tvm.relax.frontend.torch.exported_program_translator import ExportedProgramImporter

        origins = self

        class Builder(relax.BlockBuilder):
            """Names what it emits after the node at hand."""

            def emit(self, expr: relax.Expr, name_hint: str = "") -> relax.Var:
                return super().emit(expr, origins._fresh() or name_hint)

        class Importer(ExportedProgramImporter):
            """Says which node is at hand."""

            @property
            def block_builder(self) -> Any:
                return self._builder

            @block_builder.setter
            def block_builder(self, builder: Any) -> None:
                self._builder = builder if builder is None else Builder()

            def _translate_fx_graph(self, graph_module: Any, nodes: Any, *rest: Any) -> Any:
                return super()._translate_fx_graph(graph_module, origins._announced(nodes), *rest)

        return Importer()

    def _announced(self, nodes: Any) -> Iterator[Any]:
        for node in nodes:
            self._now = "" if node.op in ("placeholder", "output") else self.name_of(node)
            yield node

    def _fresh(self) -> str:
        self._numbers[self._now] += 1
        return self._now and f"{self._now}{_STEP}{self._numbers[self._now]}"


def origin_of(name: str) -> str:
    """The node of a program that a variable, a step of one or an ONNX tensor comes from, by its name."""
    return re.split(rf"[.:]|{_STEP}", name)[0]


def _named(mod: tvm.IRModule) -> tvm.IRModule:
    """The module with one variable of each node under the node's own name."""
    function = mod["main"]
    chosen: dict[str, relax.Binding] = {}
    for binding in bindings(function):
        origin, step, _ = str(binding.var.name).rpartition(_STEP)
        if step and not (origin in chosen and _has_weights(chosen[origin].value)):
            chosen[origin] = binding
    own = {binding.var: origin for origin, binding in chosen.items()}
    returned = results(function)
    builder = relax.BlockBuilder()
    now: dict[relax.Var, relax.Expr] = {}
    with main_function(builder, list(function.params)):
        with builder.dataflow():
            for binding in bindings(function):
                last = len(returned) == 1 and binding.var.same_as(returned[0])
                emit = builder.emit_output if last else builder.emit
                now[binding.var] = emit(renewed(binding.value, now), own.get(binding.var) or str(binding.var.name))
            fields = [renewed(field, now) for field in returned]
            several = isinstance(function.ret_ty, relax.TupleType)
            out = relax.Tuple(fields) if several else fields[0]
            if several or returned[0] not in {binding.var for binding in bindings(function)}:
                out = builder.emit_output(out)
        builder.emit_func_output(out)
    return builder.get()


def _has_weights(value: relax.Expr) -> bool:
    return isinstance(value, relax.Call) and isinstance(value.op, ir.Op) and value.op.name in kinds.WEIGHTED


def _needs_torchao(path: Path) -> bool:
    """Whether the program that a file holds, a text in an archive, calls operators that torchao defines."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [name for name in archive.namelist() if name.endswith(".json")]
            return any(b"quantized_decomposed" in archive.read(name) for name in texts)
    except (OSError, zipfile.BadZipFile):
        return False  # torch says what is wrong with it


def _decompositions() -> Any:
    """Those of torch but for operators that the compiler knows as one."""
    torch = importlib.import_module("torch")
    table = torch.export.default_decompositions()
    for operator in (torch.ops.aten.hardsigmoid.default, torch.ops.aten.prelu.default):
        table.pop(operator, None)
    return table


def _converters() -> dict[str, Callable[[Any, Any], relax.Expr]]:
    """What TVM's frontend has not, by its names: PT2E's operators, and a maximum over windows of one size."""
    return {**_borders(), "adaptive_max_pool2d.default": _adaptive_maximum}


def _adaptive_maximum(node: Any, importer: Any) -> relax.Expr:
    data, sizes = importer.retrieve_args(node)[:2]
    shape = [int(size) for size in data.ty.shape][2:]
    if any(size % out for size, out in zip(shape, sizes, strict=True)):
        raise UserError(
            f"node '{node.name}': windows of unlike sizes ({shape} to {list(sizes)}); use an input that they divide"
        )
    window = [size // out for size, out in zip(shape, sizes, strict=True)]
    pooled = importer.block_builder.emit(relax.op.nn.max_pool2d(data, window, window))
    return pooled, None  # nobody reads where the maxima were


def _borders() -> dict[str, Callable[[Any, Any], relax.Expr]]:
    """Converters of PT2E's operators, by their names in TVM's frontend."""
    found: dict[str, Callable[[Any, Any], relax.Expr]] = {}
    for name, convert in (("quantize", _quantize), ("dequantize", _dequantize)):
        for form in ("per_tensor.default", "per_tensor.tensor", "per_channel.default"):
            found[f"{name}_{form}"] = convert
    return found


def _quantize(node: Any, importer: Any) -> relax.Expr:
    """Integers of the smallest type that holds quant_min to quant_max, and a clip where that is narrower than the type."""
    data, scale, zero_point, axis, least, most = _operands(node, importer)
    kind = _carrier(node, least, most)
    made = importer.block_builder.emit(relax.op.quantize(data, scale, zero_point, axis=axis, out_dtype=kind))
    return made if _fills(kind, least, most) else importer.block_builder.emit(relax.op.clip(made, least, most))


def _dequantize(node: Any, importer: Any) -> relax.Expr:
    """Real values; those of weights are quantized and clipped once more where their bits are fewer than their type's."""
    data, scale, zero_point, axis, least, most = _operands(node, importer)
    kind, emit = _carrier(node, least, most), importer.block_builder.emit
    if str(data.ty.dtype) != kind:
        data = emit(relax.op.astype(data, kind))
    made = emit(relax.op.dequantize(data, scale, zero_point, axis=axis))
    if node.args[0].op == "call_function" or _fills(kind, least, most):
        return made
    integers = emit(relax.op.quantize(made, scale, zero_point, axis=axis, out_dtype=kind))
    return emit(relax.op.dequantize(emit(relax.op.clip(integers, least, most)), scale, zero_point, axis=axis))


def _operands(node: Any, importer: Any) -> tuple[relax.Expr, relax.Expr, relax.Expr, int, int, int]:
    """The tensor, its scales float32 and zero points int32, their axis, quant_min and quant_max."""
    data, scale, zero_point, *rest = importer.retrieve_args(node)
    axis, least, most = rest[:3] if "per_channel" in str(node.target) else (0, *rest[:2])
    typed = []
    for value, dtype in ((scale, "float32"), (zero_point, "int32")):
        if not isinstance(value, relax.Expr):
            typed.append(relax.const(value, dtype))
        else:
            typed.append(
                value if str(value.ty.dtype) == dtype else importer.block_builder.emit(relax.op.astype(value, dtype))
            )
    return data, *typed, int(axis), int(least), int(most)


def _fills(kind: str, least: int, most: int) -> bool:
    limits = np.iinfo(kind)
    return (least, most) == (limits.min, limits.max)


def _carrier(node: Any, least: int, most: int) -> str:
    for kind in CARRIERS:
        if np.iinfo(kind).min <= least and most <= np.iinfo(kind).max:
            return kind
    raise UserError(f"node '{node.name}': integers from {least} to {most} do not fit 16 bits")
