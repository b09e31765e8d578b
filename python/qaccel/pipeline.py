"""The stages of a compilation, in order, on one page: each takes what the ones before gave and returns a frozen value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import onnx
import tvm
from tvm import relax

from .errors import QaccelError
from .frontend.import_model import import_for_cpu, import_model
from .frontend.import_onnx import ImportedModel
from .hw import HwConfig, load_config
from .npu.codegen import CompiledSubgraph, compile_subgraph
from .npu.partition import Partitioned, float_macs, partition, subgraph_functions
from .options import BITS_WITHOUT_DATA, DEFAULT_BITS, GUESSED_INPUT_RANGE, Bits, BitWidths, CompileOptions
from .quant import cache
from .quant.bias_correction import correct_biases
from .quant.calibrate import Ranges, calibrate
from .quant.dataset import check_inputs, load_calibration_data
from .quant.io_dtype import with_integer_ends
from .quant.quantize import LayerBits, QuantizedModel, quantize
from .quant.synthetic import synthetic_inputs, widened
from .run import link
from .run.metadata import IntegerEnds, boundary, make_metadata
from .run.program import profile
from .run.report import Profile, make_report, timeline
from .stages import Stages

FLOAT = "float32"
ModelLike: TypeAlias = str | Path | onnx.ModelProto


@dataclass(frozen=True, eq=False)
class Subgraph:
    """One accelerator subgraph: the compiled program, and what the simulator's cycle mode counted on it."""

    compiled: CompiledSubgraph
    profile: Profile


@dataclass(frozen=True, eq=False)
class Compiled:
    """Everything that a compilation made. ``hw``, ``quantized``, ``partitioned`` and ``report`` are None for the CPU alone."""

    model: ImportedModel
    options: CompileOptions
    hw: HwConfig | None
    quantized: QuantizedModel | None
    partitioned: Partitioned | None
    subgraphs: tuple[Subgraph, ...]
    executable: relax.VMExecutable
    metadata: dict[str, Any]
    report: dict[str, Any] | None
    notes: tuple[str, ...]

    def timeline(self) -> dict[str, Any]:
        """Perfetto's JSON of all subgraphs, one after the other."""
        assert self.hw is not None
        return timeline([(s.compiled, s.profile) for s in self.subgraphs], self.hw.clock_mhz)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with what was said while making it."""

    model: QuantizedModel
    notes: tuple[str, ...]


def compile_model(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """All stages: import, calibrate, quantize, partition, codegen, profile, link.

    ``name`` is what the report calls the model. Raises QaccelError with one line for everything that a user can mend.
    """
    link.host_target(options.target)  # a mistake in the target shows before the long work
    if options.target.config is None:
        return _compile_float(model, options, name, stages)
    load_config(options.target.config)
    return compile_quantized(quantize_model(model, options, stages), options, name, stages)


def quantize_model(model: ModelLike, options: CompileOptions, stages: Stages) -> Quantized:
    """The stages import, calibrate and quantize."""
    with stages("import"):
        imported = import_model(model, options.input_shapes, options.model_format)
        if not imported.inputs:
            raise QaccelError("the model has no inputs: its outputs are constants, and there is nothing to compile")
    with stages("calibrate", own_progress=True):
        data = _checked_data(imported, options) if options.calibration_data is not None else None
        ranges, notes = measure_ranges(imported, data, options, stages.show)
    with stages("quantize"):
        bits = options.bits or (DEFAULT_BITS if data is not None else BITS_WITHOUT_DATA)
        quantized = quantize(imported, ranges, layer_bits(bits))
        if data is not None:
            quantized = correct_biases(quantized, data)
    return Quantized(quantized, (*notes, *quantized.notes))


def compile_quantized(quantized: Quantized, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The stages partition, codegen, profile and link."""
    assert options.target.config is not None
    hw, model = load_config(options.target.config), quantized.model.model
    with stages("partition"):
        source, ends = quantized.model.mod, None
        if options.io_dtype != FLOAT:
            source, *meanings = with_integer_ends(source, options.io_dtype, model.inputs, model.outputs)
            ends = IntegerEnds(options.io_dtype, *meanings)
        partitioned = partition(source, hw, quantized.model.unquantized, float_macs(model.mod))
        check_config(partitioned, hw)
    with stages("codegen"):
        functions = subgraph_functions(partitioned.mod)
        compiled = {symbol: compile_subgraph(functions[symbol], symbol, hw) for symbol in partitioned.subgraphs}
    with stages("profile"):
        subgraphs = tuple(Subgraph(each, profile(each.artefact)) for each in compiled.values())
    notes = quantized.notes
    if not subgraphs:
        notes = (*notes, "no operator runs on the accelerator; the whole network is on the CPU")

    def report() -> dict[str, Any]:
        pairs = [(each.compiled, each.profile) for each in subgraphs]
        return make_report(name, hw, pairs, partitioned.rejections, boundary(quantized.model.mod), stages.seconds)

    with stages("link"):
        metadata = make_metadata(name, str(options.target), model, quantized.model, report(), ends)
        mod = link.with_artefacts(partitioned.mod, {symbol: each.artefact for symbol, each in compiled.items()})
        executable = _built(mod, options, metadata)
    return Compiled(
        model, options, hw, quantized.model, partitioned, subgraphs, executable, metadata, report(), notes
    )  # fmt: skip


def _built(mod: tvm.IRModule, options: CompileOptions, metadata: dict[str, Any]) -> relax.VMExecutable:
    """What `link.build` gives; what TVM cannot compile for the CPU is the user's to know in one line, not a bug here."""
    try:
        return link.build(mod, link.host_target(options.target), metadata)
    except (RuntimeError, ValueError, TypeError) as error:
        raise QaccelError(
            f"TVM cannot compile the part that runs on the CPU for --target '{options.target}': {link.one_line(error)}"
        ) from error


def check_config(partitioned: Partitioned, hw: HwConfig) -> None:
    """Tiles make any layer fit any sensible config: one that a layer does not fit is a mistake, not a reason for the CPU."""
    for rejection in partitioned.rejections:
        if rejection.too_large:
            raise QaccelError(
                f"config {hw.name} is too small for node '{rejection.name}' ({rejection.op}): {rejection.reason}; {rejection.fix}"
            )


def _compile_float(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The CPU alone: import and link."""
    for flag, value in (
        ("--io-dtype", options.io_dtype if options.io_dtype != FLOAT else None),
        ("--calibration-data", options.calibration_data), ("--bits", options.bits), ("--input-range", options.input_range),
    ):  # fmt: skip
        if value is not None:
            raise QaccelError(
                f"{flag} is for quantization, and --target '{options.target}' compiles the float model; add qaccel"
            )
    with stages("import"):
        imported, notes = import_for_cpu(model, options.input_shapes, options.model_format)
    with stages("link"):
        metadata = make_metadata(name, str(options.target), imported, None, None)
        executable = _built(imported.mod, options, metadata)
    return Compiled(imported, options, None, None, None, (), executable, metadata, None, notes)


def measure_ranges(
    model: ImportedModel, data: Mapping[str, np.ndarray] | None, options: CompileOptions, show: bool
) -> tuple[Ranges, tuple[str, ...]]:
    """Ranges of all tensors, from the user's data or from synthetic inputs, and what to tell the user about them."""
    if data is not None:
        key = cache.key_of(model, data, options.calibration)
        known = cache.load(key)
        if known is not None:
            return known, (
                f"calibration: ranges of the same model and samples are known from before ({cache.folder()})",
            )
        ranges = calibrate(model, dict(data), options.calibration, progress=show)
        cache.store(key, ranges)
        return ranges, ()
    if options.preprocess is not None:
        raise QaccelError("--preprocess describes images, and there are none; add --calibration-data FOLDER")
    input_range = options.input_range or GUESSED_INPUT_RANGE
    made = synthetic_inputs(model.inputs, input_range, options.synthetic_samples, guessed=options.input_range is None)
    # A given input range is the user's word; a guessed one gets the same headroom as everything behind it.
    exact = [spec.name for spec in model.inputs] if options.input_range else []
    ranges = widened(calibrate(model, made, "minmax"), model, exact)
    lo, hi = input_range
    guessed = "" if options.input_range else ", a guess: give --input-range LO,HI"
    bits = "" if options.bits else f"; bits are {BITS_WITHOUT_DATA} for that reason, for 8 bits give --calibration-data"
    learnt = "batch-norm statistics and " if model.statistics else ""
    return ranges, (f"no calibration data: ranges come from {learnt}synthetic inputs in {lo:g}..{hi:g}{guessed}{bits}",)


def _checked_data(model: ImportedModel, options: CompileOptions) -> dict[str, np.ndarray]:
    data = options.calibration_data
    if isinstance(data, Mapping):
        if options.preprocess is not None:
            raise QaccelError(
                "preprocess describes a folder of images, and calibration_data are arrays; drop one of them"
            )
        return check_inputs(data, model.inputs, "calibration data")
    assert data is not None
    return load_calibration_data(data, model.inputs, options.preprocess)


def layer_bits(bits: Bits) -> LayerBits | dict[str, LayerBits]:
    """The user's bits as the quantizer takes them."""
    if isinstance(bits, BitWidths):
        return LayerBits(bits.weight_bits, bits.activation_bits)
    return {name: LayerBits(widths.weight_bits, widths.activation_bits) for name, widths in bits.items()}
