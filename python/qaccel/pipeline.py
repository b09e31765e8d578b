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

from . import link
from .dialect.quantized import QuantizedModel
from .errors import UserError, one_line
from .evaluate.dataset import check_inputs, load_calibration_data
from .frontend.import_model import import_for_cpu, import_model
from .host import host_notes, host_target
from .machine.hw import HwConfig, load_config
from .metadata import IntegerEnds, boundary, make_metadata
from .model import ImportedModel
from .npu.codegen import CompiledSubgraph, compile_subgraph
from .npu.partition.partition import Partitioned, float_macs, partition, subgraph_functions
from .options import BITS_WITHOUT_DATA, DEFAULT_BITS, GUESSED_INPUT_RANGE, CompileOptions
from .quant.calibrate import cache
from .quant.calibrate.ranges import Ranges, calibrate
from .quant.calibrate.synthetic import synthetic_inputs, widened
from .quant.io_dtype import with_integer_ends
from .quant.passes.bias_correction import correct_biases
from .quant.quantize import quantize
from .report.report import Profile, make_report, timeline
from .run.golden import golden_inputs
from .run.program import profile
from .schedules.database import Records, open_records, shipped_records
from .schedules.floating.choose import Choice
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
    """Everything that a compilation made. ``hw``, ``partitioned`` and ``report`` are None for the CPU alone, ``quantized`` for the
    float model."""

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
    sample: Mapping[str, np.ndarray]
    choices: tuple[Choice, ...] = ()

    def golden_inputs(self) -> dict[str, tuple[bytes, ...]]:
        """What enters each subgraph for one of the samples that the ranges come from, as `golden.golden_inputs`."""
        assert self.partitioned is not None
        artefacts = [each.compiled.artefact for each in self.subgraphs]
        return golden_inputs(self.partitioned.mod, artefacts, self.metadata["inputs"], self.sample)

    def timeline(self) -> dict[str, Any]:
        """Perfetto's JSON of all subgraphs, one after the other."""
        assert self.hw is not None
        return timeline([(s.compiled, s.profile) for s in self.subgraphs], self.hw.clock_mhz)


@dataclass(frozen=True, eq=False)
class Quantized:
    """A quantized model with what was said while making it. ``sample``: one batch of what its ranges come from, by input."""

    model: QuantizedModel
    notes: tuple[str, ...]
    sample: Mapping[str, np.ndarray]


def compile_model(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """All stages: import, calibrate, quantize, partition, codegen, profile, link.

    ``name`` is what the report calls the model. Raises UserError with one line for everything that a user can mend.
    """
    _records(options)  # a mistake in target or records shows before the long work
    if options.target.config is None and options.bits is None and options.calibration_data is None:
        return _compile_float(model, options, name, stages)
    if options.target.config is not None:
        load_config(options.target.config)
    return compile_quantized(quantize_model(model, options, stages), options, name, stages)


def quantize_model(model: ModelLike, options: CompileOptions, stages: Stages) -> Quantized:
    """The stages import, calibrate and quantize."""
    with stages("import"):
        imported = import_model(model, options.input_shapes, options.model_format)
        if not imported.inputs:
            raise UserError("the model has no inputs: its outputs are constants, and there is nothing to compile")
    with stages("calibrate", own_progress=True):
        data = _checked_data(imported, options) if options.calibration_data is not None else None
        ranges, notes = measure_ranges(imported, data, options, stages.show)
    with stages("quantize"):
        bits = options.bits or (DEFAULT_BITS if data is not None else BITS_WITHOUT_DATA)
        quantized = quantize(imported, ranges, bits)
        if data is not None:
            quantized = correct_biases(quantized, data, ranges.means)
    return Quantized(quantized, (*notes, *quantized.notes), _sample(imported, data, options))


def compile_quantized(quantized: Quantized, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The stages partition, codegen, profile and link; for the CPU alone, which runs the same integers, only link."""
    source, ends = _with_ends(quantized.model, options.io_dtype)
    model = quantized.model.model
    if options.target.config is None:
        with stages("link"):
            metadata = make_metadata(name, str(options.target), model, quantized.model, None, ends)
            executable, choices = _built(source, options, metadata)
        notes = (*quantized.notes, *host_notes(options.target))
        return Compiled(
            model, options, None, quantized.model, None, (), executable, metadata, None, notes, quantized.sample, choices
        )  # fmt: skip
    hw = load_config(options.target.config)
    with stages("partition"):
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
        executable, choices = _built(mod, options, metadata)
    return Compiled(
        model, options, hw, quantized.model, partitioned, subgraphs, executable, metadata, report(), notes, quantized.sample,
        choices,
    )  # fmt: skip


def _with_ends(quantized: QuantizedModel, io_dtype: str) -> tuple[tvm.IRModule, IntegerEnds | None]:
    """The quantized module with inputs and outputs of ``io_dtype``, and what they mean if they are integers."""
    if io_dtype == FLOAT:
        return quantized.mod, None
    source, *meanings = with_integer_ends(quantized.mod, io_dtype, quantized.model.inputs, quantized.model.outputs)
    return source, IntegerEnds(io_dtype, *meanings)


def _built(
    mod: tvm.IRModule, options: CompileOptions, metadata: dict[str, Any]
) -> tuple[relax.VMExecutable, tuple[Choice, ...]]:
    """What `link.build` gives, and how each function of the CPU was scheduled.

    What TVM cannot compile for the CPU is the user's to know in one line, not a bug here.
    """
    choices: list[Choice] = []
    try:
        executable = link.build(mod, host_target(options.target), metadata, _records(options), choices)
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(
            f"TVM cannot compile the part that runs on the CPU for --target '{options.target}': {one_line(error)}"
        ) from error
    return executable, tuple(choices)


def check_config(partitioned: Partitioned, hw: HwConfig) -> None:
    """Tiles make any layer fit any sensible config: one that a layer does not fit is a mistake, not a reason for the CPU."""
    for rejection in partitioned.rejections:
        if rejection.too_large:
            raise UserError(
                f"config {hw.name} is too small for node '{rejection.name}' ({rejection.op}): {rejection.reason}; {rejection.fix}"
            )


def _compile_float(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The float model on the CPU alone: import and link."""
    for flag, given in (
        ("--io-dtype", options.io_dtype != FLOAT), ("--input-range", options.input_range is not None),
        ("--preprocess", options.preprocess is not None),
    ):  # fmt: skip
        if given:
            raise UserError(
                f"{flag} is for quantization, and --target '{options.target}' alone compiles the float model; add --bits or "
                "--calibration-data, which run it in integers"
            )
    with stages("import"):
        imported, notes = import_for_cpu(model, options.input_shapes, options.model_format)
    with stages("link"):
        metadata = make_metadata(name, str(options.target), imported, None, None)
        executable, choices = _built(imported.mod, options, metadata)
    notes = (*notes, *host_notes(options.target))
    return Compiled(imported, options, None, None, None, (), executable, metadata, None, notes, {}, choices)


def _records(options: CompileOptions) -> list[Records]:
    """The user's, then those that come with the package."""
    target = host_target(options.target)
    own = [open_records(options.tuning_records, target)] if options.tuning_records is not None else []
    return own + shipped_records(target)


def measure_ranges(
    model: ImportedModel,
    data: Mapping[str, np.ndarray] | None,
    options: CompileOptions,
    show: bool,
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
        raise UserError("--preprocess describes images, and there are none; add --calibration-data FOLDER")
    input_range = options.input_range or GUESSED_INPUT_RANGE
    made = _synthetic(model, options)
    # A given input range is the user's word; a guessed one gets the same headroom as everything behind it.
    exact = [spec.name for spec in model.inputs] if options.input_range else []
    ranges = widened(calibrate(model, made, "minmax"), model, exact)
    lo, hi = input_range
    guessed = "" if options.input_range else ", a guess: give --input-range LO,HI"
    bits = "" if options.bits else f"; bits are {BITS_WITHOUT_DATA} for that reason, for 8 bits give --calibration-data"
    learnt = "batch-norm statistics and " if model.statistics else ""
    return ranges, (f"no calibration data: ranges come from {learnt}synthetic inputs in {lo:g}..{hi:g}{guessed}{bits}",)


def _sample(
    model: ImportedModel, data: Mapping[str, np.ndarray] | None, options: CompileOptions
) -> dict[str, np.ndarray]:
    """The first batch of the data, or the last synthetic one from its end: the first of those are flat, the last is not."""
    made = data if data is not None else _synthetic(model, options)
    cut = {spec.name: spec.shape[0] if spec.shape else 0 for spec in model.inputs}
    if data is None:
        return {name: value[: -cut[name] - 1 : -1] if cut[name] else value for name, value in made.items()}
    return {name: value[: cut[name]] if cut[name] else value for name, value in made.items()}


def _synthetic(model: ImportedModel, options: CompileOptions) -> dict[str, np.ndarray]:
    input_range, guessed = options.input_range or GUESSED_INPUT_RANGE, options.input_range is None
    return synthetic_inputs(model.inputs, input_range, options.synthetic_samples, guessed=guessed)


def _checked_data(model: ImportedModel, options: CompileOptions) -> dict[str, np.ndarray]:
    data = options.calibration_data
    if isinstance(data, Mapping):
        if options.preprocess is not None:
            raise UserError(
                "preprocess describes a folder of images, and calibration_data are arrays; drop one of them"
            )
        return check_inputs(data, model.inputs, "calibration data")
    assert data is not None
    return load_calibration_data(data, model.inputs, options.preprocess)
