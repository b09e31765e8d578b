"""A model of any format: ONNX by our own import, PyTorch and TFLite through TVM's Relax frontends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import tvm

from ..errors import UserError
from ..model import Model
from .forms import AS_FLOAT, Forms
from .from_relax.to_onnx import NotTranslated, relax_to_onnx
from .graph import NotStatic
from .import_onnx import import_onnx
from .import_relax import border_of, import_relax, tidied
from .import_tflite import from_tflite_file
from .import_torch import from_program, from_torch_file, is_program

FORMATS = {".onnx": "onnx", ".pt2": "torch", ".tflite": "tflite"}


def import_model(
    model: Any,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    model_format: str | None,
    input_values: Mapping[str, Any] | None = None,
    forms: Forms = AS_FLOAT,
) -> Model:
    """The model in canonical Relax; ``forms`` reads what came quantized.

    ``model``: the path of a file, an `onnx.ModelProto`, or a `torch.export.ExportedProgram`. ``model_format`` None: by the file's
    suffix, ONNX if that says nothing.

    Raises UserError for an unknown format, a missing package, and everything that `import_onnx` and `import_relax` refuse.
    """
    if isinstance(model, onnx.ModelProto):
        return import_onnx(model, input_shapes, input_values, forms)
    in_memory = is_program(model)
    path = Path() if in_memory else Path(model)
    chosen = "torch" if in_memory else model_format or FORMATS.get(path.suffix.lower(), "onnx")
    if chosen == "onnx":
        return import_onnx(path, input_shapes, input_values, forms)
    if input_values:
        raise UserError(f"--input-values is for ONNX models; export the {chosen} model with the value in it")
    if input_shapes:
        raise UserError(
            f"--input-shapes: the shapes of a {chosen} model are in its file; export it with the shapes you want"
        )
    if in_memory:
        return import_frontend_module(from_program(model, "the program"), forms)
    if not path.is_file():
        raise UserError(f"cannot read '{path}': there is no such file")
    return import_frontend_module(from_torch_file(path) if chosen == "torch" else from_tflite_file(path), forms)


def check_sizes(model: Model) -> None:
    """Raises UserError for an input that holds no values: nothing can be measured with it, or run."""
    empty = next((spec for spec in model.inputs if 0 in spec.shape), None)
    if empty is not None:
        raise UserError(
            f"input '{empty.name}' of shape {list(empty.shape)} holds no values; give it a size with --input-shapes, or export the "
            "model without it"
        )


def import_for_cpu(
    model: Any,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    model_format: str | None,
    input_values: Mapping[str, Any] | None = None,
    forms: Forms = AS_FLOAT,
) -> tuple[Model, tuple[str, ...]]:
    """The model as `import_model` gives it, or as TVM's own ONNX importer does where the model is no static graph; and
    what to tell the user about that. Raises UserError as `import_model` does."""
    try:
        return import_model(model, input_shapes, model_format, input_values, forms), ()
    except NotStatic as refusal:
        if input_values or is_program(model):
            raise
        from .import_by_tvm import import_by_tvm

        return import_by_tvm(model, input_shapes, refusal), (
            f"imported as it is by TVM's own importer: {refusal.reason}",
        )


def import_frontend_module(mod: tvm.IRModule, forms: Forms = AS_FLOAT) -> Model:
    """What a frontend of TVM gave: through ONNX, whose import makes it canonical, or as it is where that has no word for it."""
    try:
        return import_onnx(relax_to_onnx(tidied(mod)), forms=forms)
    except NotTranslated as refusal:
        made = import_relax(mod)
        return replace(made, notes=(f"taken as it is: {refusal}",)) if border_of(made.mod) is not None else made
