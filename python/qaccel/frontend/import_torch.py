"""PyTorch programs that ``torch.export.save`` wrote, through TVM's Relax frontend; torchao's PT2E-converted ones as plain QDQ."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from tvm import relax

from ..errors import UserError

CARRIERS = (
    "int8",
    "uint8",
    "int16",
    "uint16",
)  # the first that holds all integers from quant_min to quant_max is taken


def from_torch_file(path: Path) -> tvm.IRModule:
    """The module that a file holds. Raises UserError in one line for a missing package, a file that is none, and operators that
    TVM does not know."""
    try:
        import torch
        from tvm.relax.frontend.torch import from_exported_program
    except ImportError:
        raise UserError(
            f"'{path}': PyTorch models need the package torch; pip install torch, or export to ONNX"
        ) from None
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
        raise UserError(f"'{path}' is not what torch.export.save writes: {_one_line(error)}") from error
    try:
        return from_exported_program(program, unwrap_unit_return_tuple=True, custom_convert_map=_borders())
    except UserError:
        raise
    except Exception as error:  # TVM's frontends raise AssertionError, KeyError and others
        raise UserError(f"'{path}' cannot be imported by TVM: {_one_line(error)}") from error


def _needs_torchao(path: Path) -> bool:
    """Whether the program that a file holds, a text in an archive, calls operators that torchao defines."""
    try:
        with zipfile.ZipFile(path) as archive:
            texts = [name for name in archive.namelist() if name.endswith(".json")]
            return any(b"quantized_decomposed" in archive.read(name) for name in texts)
    except (OSError, zipfile.BadZipFile):
        return False  # torch says what is wrong with it


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


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
