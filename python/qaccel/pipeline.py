"""The stages of a compilation in order, on one page. Each takes what the stages before it gave, and returns a frozen value.

import     a file or a Relax module -> Model      the float network in canonical form
calibrate  -> Calibration                                 ranges of its tensors, the samples they come from
quantize   -> QuantizedModel                              the network on integers, after the passes of the quantizer
partition  -> Partitioned                                 which operators the accelerator runs, and why not the others
codegen    -> CompiledSubgraph, one for each subgraph     programs and weight streams
profile    -> ProfiledSubgraph, one for each subgraph     what the simulator's cycle mode counts
link       -> Linked                                      programs and CPU functions in one module
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

from .dialect.plan_cost import LayerCost, PlanCost
from .dialect.quantized import QuantizedModel
from .errors import UserError
from .frontend.forms import Forms
from .frontend.import_model import check_sizes, import_for_cpu, import_model
from .frontend.import_relax import border_of
from .host import host_notes
from .link import Linked, link, records_of, with_artefacts
from .machine.hw import HwConfig, load_config
from .metadata.make import boundary, make_metadata
from .model import Model
from .npu.codegen import compile_subgraph
from .npu.partition.partition import Partitioned, check_fits, cpu_notes, float_macs, partition, subgraph_functions
from .npu.plan.schedule.resolve import check_for
from .options import DEFAULT_BITS, Bits, CompileOptions, Schedule, digest_of
from .qdq.forms import EVERY_RUN, QUANTIZED, of_floats, requantized
from .quant.analysis.analyze import Analysis, analyze
from .quant.asked import check_bits, check_passes
from .quant.calibrate.calibration import Calibration, measure, passed_ends, samples_of
from .quant.calibrate.narrow import narrowed
from .quant.io_dtype import with_ends
from .quant.passes import chosen_passes, run_float_passes, run_passes
from .quant.quantize import quantize
from .quant.search.judge import judged
from .quant.search.laboratory import Laboratory, Rounded
from .quant.search.paid import within_bytes
from .quant.search.search import search
from .quant.unlike import quantize_measured
from .report.record.schema import Report
from .report.report import layer_entries, make_report
from .report.subgraphs import ProfiledSubgraph
from .report.timeline import timeline
from .run.golden import golden_inputs
from .run.program import profile
from .schedules.floating.choose import Choice
from .stages import Stages, progress_lines

ModelLike: TypeAlias = Any  # the path of a file, an onnx.ModelProto, or a torch.export.ExportedProgram


@dataclass(frozen=True, eq=False)
class Compiled:
    """Everything that a compilation made. ``hw``, ``partitioned`` and ``report`` are None for the CPU alone, ``quantized`` for
    the float model. ``compile_seconds``: by stage."""

    model: Model
    options: CompileOptions
    hw: HwConfig | None
    quantized: QuantizedModel | None
    partitioned: Partitioned | None
    subgraphs: tuple[ProfiledSubgraph, ...]
    linked: Linked
    metadata: dict[str, Any]
    report: Report | None
    notes: tuple[str, ...]
    compile_seconds: Mapping[str, float]

    def __repr__(self) -> str:
        cycles = "" if self.report is None else f", {self.report['cycles']:,} cycles"
        return f"<Compiled '{self.metadata['model'][:60]}' for {self.metadata['target'][:60]}{cycles}>"

    @property
    def executable(self) -> Any:
        """The linked module, as `relax.VirtualMachine` takes it."""
        return self.linked.executable

    @property
    def choices(self) -> tuple[Choice, ...]:
        """How each function of the CPU was scheduled."""
        return self.linked.choices

    def golden_inputs(self) -> dict[str, tuple[bytes, ...]]:
        """What enters each subgraph for one of the samples that the ranges come from, as `golden.golden_inputs`."""
        assert self.partitioned is not None and self.quantized is not None
        artefacts = [each.compiled.artefact for each in self.subgraphs]
        return golden_inputs(self.partitioned.mod, artefacts, self.metadata["inputs"], self.quantized.sample)

    def schedule(self) -> Schedule:
        """The plan of all subgraphs."""
        assert self.hw is not None
        plans = {each.compiled.artefact.symbol: each.compiled.schedule for each in self.subgraphs}
        return Schedule(self.hw.name, plans, digest_of(self.hw))

    def timeline(self) -> dict[str, Any]:
        """Perfetto's JSON of all subgraphs, one after the other."""
        assert self.hw is not None
        return timeline(self.subgraphs, self.hw.clock_mhz)


def compile_model(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """All stages; ``name`` is what the report calls the model.

    Without an accelerator, bits and data it is the float model for the CPU. Raises UserError with one line for everything that a
    user can mend.
    """
    records_of(options)  # a mistake in target or records shows before the long work
    if not options.quantizes:
        return _compile_float(model, options, name, stages)
    if options.target.config is not None:
        load_config(options.target.config)
    return compile_quantized(quantize_model(model, options, stages), options, name, stages)


def quantize_model(model: ModelLike, options: CompileOptions, stages: Stages) -> QuantizedModel:
    """The stages import, calibrate and quantize."""
    check_passes(options)  # a mistake in them shows before the long work
    with stages("import"):
        imported = _imported(model, options, requantized() if options.requantize else QUANTIZED)
        if not imported.inputs:
            raise UserError("the model has no inputs: its outputs are constants, and there is nothing to compile")
        check_sizes(imported)
    if options.requantize:
        with stages("calibrate", own_progress=True):
            passed = passed_ends(imported, options, stages.show)
        if passed:
            with stages("import"):
                imported = _imported(model, options, requantized(passed))
        imported = of_floats(imported)
    return quantize_imported(imported, options, stages)


def _imported(model: ModelLike, options: CompileOptions, forms: Forms) -> Model:
    return import_model(model, options.input_shapes, options.model_format, options.input_values, forms)


def quantize_imported(model: Model, options: CompileOptions, stages: Stages) -> QuantizedModel:
    """The stages calibrate and quantize: all ways into the compiler go through here.

    A model that came quantized keeps its integers: there is nothing to calibrate. Raises UserError for one that no form of
    quantized models could be read from.
    """
    check_bits(model, options)
    border = border_of(model.mod)
    if border is not None:
        raise UserError(
            f"node '{border}': the model came quantized, and its scales cannot be read ({'; '.join(model.notes)}); export it "
            "without what is named here, or as ONNX"
        )
    if model.given is not None and model.given.activations:
        with stages("calibrate", own_progress=True):
            calibration = samples_of(model, options)
        with stages("quantize"):
            quantized = quantize(model, calibration.ranges)
        return _with_notes(quantized, calibration)
    with stages("calibrate", own_progress=True):
        calibration = measure(model, options, stages.show)
    if options.auto:
        with stages("search", own_progress=True), progress_lines("searching", stages.show) as advance:
            quantized = search(_laboratory(model, calibration, options), options.limits, advance)
    else:
        with stages("quantize"):
            lab = _laboratory(model, calibration, options)
            quantized, bits = _at_given_bits(lab, options)
            quantized = judged(quantized, lab, bits, options.limits)
    if model.given is not None and model.given.weights:
        origin = "calibration data" if calibration.measured else "made-up inputs"
        count = len(model.given.weights)
        note = (
            f"the weights of {count} nodes keep the integers that they came with; activations' scales are from {origin}"
        )
        quantized = replace(quantized, notes=(note, *quantized.notes))
    return _with_notes(quantized, calibration)


def analyze_model(model: ModelLike, options: CompileOptions, stages: Stages) -> Analysis:
    """The stages import, calibrate and quantize, and what the network loses by them, and where.

    Raises UserError without calibration data, and for a model that came quantized.
    """
    chosen_passes(options.passes, options.effort)
    if options.calibration_data is None:
        raise UserError("analyze measures on samples what each rounding loses; add --calibration-data")
    if options.auto:
        raise UserError("analyze says what given bits lose, and --bits auto chooses them; give 8, W4A8, or a plan.json")
    with stages("import"):
        imported = _imported(model, options, QUANTIZED)
    if imported.given is not None:
        raise UserError(
            "the model came quantized: there is no float network to hold its integers against; analyze the float model"
        )
    with stages("calibrate", own_progress=True):
        calibration = measure(imported, options, stages.show)
    with stages("analyze"):
        return analyze(_laboratory(imported, calibration, options), options.bits)


def _laboratory(model: Model, calibration: Calibration, options: CompileOptions) -> Laboratory:
    """`laboratory`, of the network after the passes that work on floats."""
    return laboratory(*run_float_passes(model, calibration, options.bits, options.passes, options.effort), options)


def laboratory(model: Model, calibration: Calibration, options: CompileOptions) -> Laboratory:
    """Where plans of the network are tried: what the search needs of the other rooms, as functions."""
    rounded = partial(_rounded, model, calibration, options)
    improved, price = partial(_improved, options), partial(_price, options)
    return Laboratory(model, calibration, rounded, improved, price, options.io_dtype != "float32")


def _at_given_bits(lab: Laboratory, options: CompileOptions) -> tuple[QuantizedModel, Bits | None]:
    """The network at the bits that are given, and those, None for the default. Within a limit on bytes the default is exactly 8.

    Raises UserError where rounding that pays for bits does not come down to the limit.
    """
    most_bytes = options.limits.max_bytes
    if most_bytes is None:
        return lab.make(options.bits), options.bits
    bits = options.bits or DEFAULT_BITS
    paid = within_bytes(lab, bits, most_bytes)
    if paid.cost.bytes > most_bytes:
        raise UserError(
            f"--max-bytes {most_bytes}: at these widths rounding that pays for bits comes down to {paid.cost.bytes:,} bytes; "
            "give a higher limit, fewer bits, or --bits auto"
        )
    if not paid.rate and paid.cost.cycles:
        return paid.quantized, bits
    note = f"--max-bytes {most_bytes}: rounding pays {paid.rate:.2g} for a bit, and the module takes {paid.cost.bytes:,} bytes"
    note = note if paid.cost.cycles else options.limits.moot
    return replace(paid.quantized, notes=(note, *paid.quantized.notes)), bits


def _improved(options: CompileOptions, rounded: Rounded, rates: Mapping[str, float]) -> QuantizedModel:
    """A rounded network after the passes, which pay for bits at rates by layer."""
    plain, own = rounded
    quantized = run_passes(plain, own, options.passes, options.effort, rates, searching=options.auto)
    return replace(quantized, ranges=own.ranges.summary())


def _rounded(model: Model, calibration: Calibration, options: CompileOptions, bits: Bits | None) -> Rounded:
    """The network at these bits before the passes, and the calibration with the ranges that tensors of few bits have."""
    rounded = quantize_measured(model, calibration, bits)
    own = calibration if options.effort == "fast" else narrowed(rounded, calibration, options.calibration)
    return (rounded if own is calibration else quantize_measured(model, own, bits)), own


def _price(options: CompileOptions, quantized: QuantizedModel) -> PlanCost:
    """What a quantized network costs on the accelerator: compiled without the proofs, and simulated.

    Raises UserError for one that the accelerator, or the module's ends, cannot take.
    """
    assert options.target.config is not None
    hw = load_config(options.target.config)
    source, _ = with_ends(quantized, options.io_dtype)
    partitioned = partition(source, hw, quantized.unquantized, float_macs(quantized.model.mod))
    check_fits(partitioned, hw)
    functions = subgraph_functions(partitioned.mod)
    cycles, size, layers = 0, 0, list[LayerCost]()
    for symbol in partitioned.subgraphs:
        compiled = compile_subgraph(functions[symbol], symbol, hw, proven=False, cured=False)
        counters = profile(compiled.artefact, trace=False)
        cycles += int(counters["cycles"])
        size += len(compiled.artefact.constants)
        layers += [
            LayerCost(
                entry["name"],
                entry["cycles"],
                entry["stream_bytes"],
                2 * entry["stalls"]["weight_load"] > entry["cycles"],
            )
            for entry in layer_entries(ProfiledSubgraph(compiled, counters))
        ]
    return PlanCost(cycles, size, tuple(layers), sum(each.macs for each in partitioned.rejections))


def _with_notes(quantized: QuantizedModel, calibration: Calibration) -> QuantizedModel:
    model = quantized.model
    notes = (*calibration.notes, *model.notes, *quantized.notes)
    return replace(
        quantized,
        notes=notes,
        sample=calibration.one_batch(model),
        ranges=quantized.ranges or calibration.ranges.summary(),
        seen=calibration.seen,
        preprocess=calibration.preprocess,
    )


def compile_quantized(quantized: QuantizedModel, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The stages partition, codegen, profile and link; for the CPU alone, which runs the same integers, only link."""
    source, ends = with_ends(quantized, options.io_dtype)
    model = quantized.model
    notes = (*quantized.notes, *(ends.notes if ends is not None else ()))
    if options.target.config is None:
        with stages("link"):
            metadata = make_metadata(name, str(options.target), model, quantized, None, ends)
            linked = link(source, options, metadata)
        notes = (*notes, *host_notes(options.target))
        return Compiled(model, options, None, quantized, None, (), linked, metadata, None, notes, dict(stages.seconds))
    hw = load_config(options.target.config)
    made = _on_accelerator(name, source, quantized, hw, stages, schedule=options.schedule)
    partitioned, subgraphs, report = made.partitioned, made.subgraphs, made.report
    with stages("link"):
        # The config by its name: where its file lies is not the module's to tell.
        target = str(replace(options.target, config=hw))
        metadata = make_metadata(name, target, model, quantized, report, ends)
        artefacts = {each.compiled.artefact.symbol: each.compiled.artefact for each in subgraphs}
        mod = with_artefacts(partitioned.mod, artefacts)
        linked = link(mod, options, metadata)
    notes = (*notes, *cpu_notes(partitioned))
    return Compiled(
        model, options, hw, quantized, partitioned, subgraphs, linked, metadata, report, notes, dict(stages.seconds)
    )


@dataclass(frozen=True, eq=False)
class _Accelerated:
    partitioned: Partitioned
    subgraphs: tuple[ProfiledSubgraph, ...]
    report: Report


def _on_accelerator(
    name: str, source: Any, quantized: QuantizedModel, hw: HwConfig, stages: Stages, proven: bool = True,
    schedule: Schedule | None = None,
) -> _Accelerated:  # fmt: skip
    """The stages partition, codegen and profile. ``source``: the network with its ends; ``proven``, ``schedule``: as
    `compile_subgraph`."""
    with stages("partition"):
        model = quantized.model
        partitioned = partition(
            source, hw, quantized.unquantized, float_macs(model.mod), came_quantized=model.given is not None
        )
        check_fits(partitioned, hw)
    with stages("codegen"):
        functions = subgraph_functions(partitioned.mod)
        if schedule is not None:
            check_for(schedule, hw, partitioned.subgraphs)
        compiled = [
            compile_subgraph(functions[symbol], symbol, hw, proven, schedule) for symbol in partitioned.subgraphs
        ]
    with stages("profile"):
        subgraphs = tuple(ProfiledSubgraph(each, profile(each.artefact)) for each in compiled)
        ends_in_dram = boundary(quantized.mod, [functions[symbol] for symbol in partitioned.subgraphs])
        report = make_report(name, hw, subgraphs, partitioned.rejections, ends_in_dram, quantized)
    return _Accelerated(partitioned, subgraphs, report)


def price_report(name: str, quantized: QuantizedModel, io_dtype: str, hw: HwConfig) -> Report:
    """``report.json`` of a quantized network on a machine, compiled without the proofs and simulated.

    Raises UserError for a network that the machine, or the module's ends, cannot take.
    """
    source, _ = with_ends(quantized, io_dtype)
    return _on_accelerator(name, source, quantized, hw, Stages(), proven=False).report


def imported_for_cpu(model: ModelLike, options: CompileOptions, stages: Stages) -> tuple[Model, tuple[str, ...]]:
    """The stage import for the CPU alone; and what to say of it."""
    with stages("import"):
        forms = requantized(None) if options.requantize else EVERY_RUN
        imported, notes = import_for_cpu(model, options.input_shapes, options.model_format, options.input_values, forms)
        check_sizes(imported)
        return imported, notes


def _compile_float(model: ModelLike, options: CompileOptions, name: str, stages: Stages) -> Compiled:
    """The float model on the CPU alone: import and link."""
    for flag, given in (
        ("--io-dtype", options.io_dtype != "float32"), ("--input-range", options.input_range is not None),
        ("--preprocess", options.preprocess is not None), ("--passes", options.passes is not None),
        ("--effort", options.effort is not None),
    ):  # fmt: skip
        if given:
            raise UserError(
                f"{flag} is for quantization, and --target '{options.target}' alone compiles the float model; add --bits or "
                "--calibration-data, which run it in integers"
            )
    imported, notes = imported_for_cpu(model, options, stages)
    if imported.given is not None and imported.given.activations:
        return compile_quantized(quantize_imported(imported, options, stages), options, name, stages)
    with stages("link"):
        metadata = make_metadata(name, str(options.target), imported, None, None)
        linked = link(imported.mod, options, metadata)
    notes = (*imported.notes, *notes, *host_notes(options.target))
    return Compiled(imported, options, None, None, None, (), linked, metadata, None, notes, dict(stages.seconds))
