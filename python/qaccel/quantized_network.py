"""A network that was quantized: what `quantize` gives and `compile` takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from .dialect.quantized import QuantizedModel, plan_entries
from .emulate.data.dataset import check_inputs
from .emulate.integers import run_model
from .errors import UserError, boundary
from .machine.hw import HwConfig
from .options import CompileOptions
from .qdq.write import emit_qdq as write_qdq
from .quant.io_dtype import with_ends
from .run.files import check_file, write_file


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """What `quantize` gives and `compile` takes. ``notes``: what to know about it, one line each.

    Example:
        >>> q = qaccel.quantize("model.onnx", "data.npz", bits="W4A8")
        >>> q.save_onnx("model_qdq.onnx")
        >>> qaccel.compile(q, hw="qaccel-64").report.hw["name"]
        'qaccel-64'
    """

    name: str
    hw: HwConfig
    options: CompileOptions
    quantized: QuantizedModel
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        widths = sorted({str(bits) for bits in self.quantized.plan.values()})
        return f"<QuantizedNetwork '{self.name[:60]}': {len(self.plan)} layers with weights, {', '.join(widths) or 'none'}>"

    @property
    def plan(self) -> dict[str, dict[str, Any]]:
        """Bits of each layer with weights, as plan.json has them; of bits that were searched for also ``why``.

        Returns:
            By node: a dictionary with ``weight_bits``, ``activation_bits`` and perhaps ``why``.

        Example:
            >>> qaccel.quantize("model.onnx", "data.npz", bits="W4A8").plan["conv1"]
            {'weight_bits': 4, 'activation_bits': 8}
        """
        return plan_entries(self.quantized)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the quantization, one line each."""
        return self.quantized.notes

    def save_onnx(self, path: str | Path) -> None:
        """Write the quantized model as standard ONNX QDQ.

        Args:
            path: a file that ends in .onnx.

        Raises:
            UserError: the path cannot be written, or has another suffix.
        """
        with boundary("emit QDQ"):
            check_onnx(path, "quantized model")
            write_file(path, lambda temporary: write_qdq(self.quantized, temporary), "quantized model")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The network in exact integers, without compiling.

        Args:
            inputs: arrays by input name, real values, samples along axis 0.

        Returns:
            Real outputs by name.

        Raises:
            UserError: a name, shape, type or value that does not fit the model.

        Example:
            >>> q = qaccel.quantize("model.onnx", "data.npz")
            >>> q.run({"x": np.zeros((1, 3, 16, 16), np.float32)})["y"].shape
            (1, 10)
        """
        with boundary("run"):
            quantized, model = self.quantized, self.quantized.model
            mod, ends = with_ends(quantized, "float32")
            if ends is not None:  # those of the model are integers
                types = zip(model.inputs, ends.input_types, strict=True)
                model = replace(model, inputs=tuple(replace(spec, dtype=dtype) for spec, dtype in types))
                quantized = replace(quantized, mod=mod, model=model)
            return run_model(quantized, check_inputs(inputs, model.inputs, "inputs", model.fixed))


def check_onnx(path: str | Path, what: str) -> None:
    """Raises UserError for a place that cannot be written, or whose name does not say what lies there."""
    if check_file(path, what).suffix != ".onnx":
        raise UserError(f"{what} '{path}' must end in .onnx")
