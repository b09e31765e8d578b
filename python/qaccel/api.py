"""The Python API: quantize, compile, load."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx

from .dialect.quantized import QuantizedModel
from .errors import UserError
from .evaluate.integers import run_model
from .export import export_library
from .machine.hw import DEFAULT_CONFIG, HwConfig, load_config
from .machine.native import load_library
from .options import (
    Bits,
    BitWidths,
    CompileOptions,
    TargetOptions,
    checked_input_range,
    checked_io_dtype,
    checked_plan,
    parse_bits,
    parse_target,
)
from .pipeline import Compiled, compile_model, compile_quantized, quantize_model
from .qdq.write import emit_qdq
from .report.text import write_report
from .run import execute
from .run.files import check_folder, write_file
from .stages import Stages

ModelLike: TypeAlias = str | Path | onnx.ModelProto
Data = str | Path | Mapping[str, np.ndarray]


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """What `quantize` gives and `compile` takes. ``notes``: what to know about it, one line each."""

    name: str
    hw: HwConfig
    options: CompileOptions
    quantized: QuantizedModel
    seconds: Mapping[str, float]

    @property
    def plan(self) -> dict[str, dict[str, int]]:
        """Bits of each layer with weights, as plan.json has them."""
        plan = self.quantized.plan
        return {n: {"weight_bits": b.weight_bits, "activation_bits": b.activation_bits} for n, b in plan.items()}

    @property
    def notes(self) -> tuple[str, ...]:
        return self.quantized.notes

    def save_onnx(self, path: str | Path) -> None:
        """Write the quantized model as standard ONNX QDQ."""
        write_file(path, lambda temporary: emit_qdq(self.quantized, temporary), "quantized model")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name in exact integers, without compiling."""
        return run_model(self.quantized, inputs)


@dataclass(frozen=True, eq=False)
class Module:
    """A network that was compiled, or loaded from a file."""

    compiled: Compiled | None = None
    loaded: execute.Runner | None = None

    @cached_property
    def runner(self) -> execute.Runner:
        """What runs it. Raises UserError if it was compiled for another kind of machine."""
        if self.compiled is None:
            assert self.loaded is not None
            return self.loaded
        if self.compiled.options.target.mtriple is not None:
            raise UserError(f"the module is for {self.compiled.options.target.mtriple}; export it and run it there")
        return execute.runner(self.compiled.executable, self.compiled.metadata)

    @property
    def report(self) -> dict[str, Any]:
        """``report.json`` as a dictionary. Raises UserError for a module that was compiled for the CPU alone."""
        report = self.metadata["report"] if self.compiled is None else self.compiled.report
        if report is None:
            raise UserError("the module was compiled for the CPU alone; there is no report of the accelerator")
        return report

    @property
    def metadata(self) -> dict[str, Any]:
        """Model, target, versions, inputs and outputs."""
        return self.runner.metadata if self.compiled is None else self.compiled.metadata

    @property
    def compile_seconds(self) -> dict[str, float]:
        """Seconds that each stage of the compilation took, in order; empty for a module that was loaded."""
        return {} if self.compiled is None else dict(self.compiled.compile_seconds)

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the compilation, one line each."""
        return () if self.compiled is None else self.compiled.notes

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name; see `execute.Runner.run`."""
        return self.runner.run(inputs)

    def export_library(self, path: str | Path) -> Path:
        """Write the module as .so or .tar. Raises UserError if it was loaded from one, or the path cannot be written."""
        if self.compiled is None:
            raise UserError("this module was loaded from a file; copy that file")
        return export_library(self.compiled.executable, path, self.compiled.options.target.mtriple)


def quantize(
    model: ModelLike,
    calibration_data: Data | None = None,
    *,
    bits: Any = None,
    hw: str | HwConfig = DEFAULT_CONFIG,
    calibration: str = "minmax",
    input_range: tuple[float, float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    preprocess: str | None = None,
    passes: Sequence[str] | None = None,
    progress: bool = False,
) -> QuantizedNetwork:
    """Quantize an ONNX model.

    ``calibration_data``: an .npz, a folder of images, or arrays by input name with samples along axis 0; without it
    ranges come from synthetic inputs within ``input_range`` and activations get 16 bits. ``bits``: 8, "W8A16",
    (8, 16), or a plan by node name (a dictionary or the path of a plan.json). ``passes``: names of the quantizer's
    passes that may run (default: all). ``hw`` is what `compile` defaults to.
    Raises UserError with one line for what a user can mend.
    """
    options = _options(
        TargetOptions(load_config(hw)),
        calibration_data,
        bits,
        calibration,
        input_range,
        input_shapes,
        preprocess,
        passes,
    )
    stages = Stages(progress)
    quantized = quantize_model(model, options, stages)
    return QuantizedNetwork(model_name(model), load_config(hw), options, quantized, stages.seconds)


def compile(
    model: ModelLike | QuantizedNetwork,
    hw: str | HwConfig | None = None,
    target: str = "llvm",
    *,
    calibration_data: Data | None = None,
    bits: Any = None,
    calibration: str = "minmax",
    input_range: tuple[float, float] | None = None,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    preprocess: str | None = None,
    passes: Sequence[str] | None = None,
    io_dtype: str = "float32",
    report: str | Path | None = None,
    progress: bool = False,
) -> Module:
    """Compile an ONNX model, or what `quantize` gave, for the accelerator ``hw`` (default: qaccel-256) and the host.

    ``target`` names the host ("llvm -mcpu=native") or both ("qaccel -config=qaccel-64, llvm"); ``report`` is a folder for
    report.json, layers.csv, timeline.json, report.html and compile_seconds.json; ``io_dtype`` "int8" or "uint8" gives the
    module integer inputs and outputs. The other arguments are those of `quantize`; they must be absent if that was called
    before. Raises UserError with one line for what a user can mend.
    """
    if report is not None:
        check_folder(report, "report")
    parsed = parse_target(target)
    if parsed.config is not None and hw is not None:
        raise UserError(f"the accelerator is given twice: hw={hw!r} and target={target!r}")
    default = model.hw if isinstance(model, QuantizedNetwork) else DEFAULT_CONFIG
    config = load_config(parsed.config or hw or default)
    stages = Stages(progress)
    options = _options(
        TargetOptions(config, parsed.host),
        calibration_data,
        bits,
        calibration,
        input_range,
        input_shapes,
        preprocess,
        passes,
    )
    options = replace(options, io_dtype=checked_io_dtype(io_dtype))
    if isinstance(model, QuantizedNetwork):
        if any(each is not None for each in (calibration_data, bits, input_range, input_shapes, preprocess, passes)):
            raise UserError("the model is quantized already; give bits and data to qaccel.quantize")
        stages.seconds.update(model.seconds)
        compiled = compile_quantized(model.quantized, options, model.name, stages)
    else:
        compiled = compile_model(model, options, model_name(model), stages)
    module = Module(compiled)
    if report is not None:
        write_report(report, module.report, compiled.timeline(), compiled.compile_seconds)
    return module


def load(path: str | Path) -> Module:
    """A module that was exported. Raises UserError if it is missing, damaged or of another version."""
    load_library()
    return Module(loaded=execute.load(path))


def model_name(model: ModelLike) -> str:
    """What the report calls a model: its file's name without suffix, or its graph's name."""
    if isinstance(model, onnx.ModelProto):
        return model.graph.name or "model"
    return Path(os.fspath(model)).stem


def _options(
    target: TargetOptions,
    calibration_data: Data | None,
    bits: Any,
    calibration: str,
    input_range: tuple[float, float] | None,
    input_shapes: Mapping[str, tuple[int, ...]] | None,
    preprocess: str | None,
    passes: Sequence[str] | None,
) -> CompileOptions:
    return CompileOptions(
        target=target,
        input_shapes=dict(input_shapes) if input_shapes is not None else None,
        calibration_data=calibration_data,
        preprocess=preprocess,
        calibration=calibration,
        input_range=checked_input_range(input_range) if input_range is not None else None,
        bits=_bits(bits),
        passes=tuple(passes) if passes is not None else None,
    )


def _bits(bits: Any) -> Bits | None:
    if bits is None or isinstance(bits, BitWidths):
        return bits
    if isinstance(bits, Mapping):
        return checked_plan(bits, "bits")
    if isinstance(bits, tuple) and len(bits) == 2:
        return parse_bits(f"W{bits[0]}A{bits[1]}")
    return parse_bits(os.fspath(bits) if isinstance(bits, os.PathLike) else str(bits))
