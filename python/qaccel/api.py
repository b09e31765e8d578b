"""The Python API: quantize, compile, load. ``tvmc`` calls the same functions."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from .errors import UserError, boundary, path_of, shown
from .exploration import Exploration, explore_quantized
from .exploration import least_sram as find_least_sram
from .frontend.import_torch import is_program
from .machine.hw import DEFAULT_CONFIG, HwConfig, load_config
from .networks import Module, dumps_of
from .networks import load as load
from .options import Data, TargetOptions, options_of, parse_target
from .options.sweep import Sweep, checked_percent, parse_sweep, swept_configs
from .parallel import Workers
from .pipeline import Analysis, ModelLike, analyze_model, compile_model, compile_quantized, quantize_model
from .places import Places
from .quantized_network import QuantizedNetwork
from .run.evaluate import Evaluation
from .run.files import check_folder
from .stages import Stages


def quantize(
    model: ModelLike,
    calibration_data: Data | None = None,
    *,
    bits: Any = None,
    hw: str | HwConfig = DEFAULT_CONFIG,
    calibration: str | None = None,
    input_range: str | tuple[float, float] | None = None,
    input_shapes: str | Mapping[str, tuple[int, ...]] | None = None,
    input_values: str | Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    model_format: str | None = None,
    passes: str | Sequence[str] | None = None,
    effort: str | None = None,
    requantize: bool = False,
    minimize: str | None = None,
    max_drop: float | None = None,
    max_cycles: int | None = None,
    max_bytes: int | None = None,
    progress: bool = False,
) -> QuantizedNetwork:
    """Quantize a model.

    Args:
        model: the path of an .onnx, .pt2 or .tflite file, or in memory an ONNX model or a `torch.export.ExportedProgram`. One that
            came quantized keeps its integers.
        calibration_data: an .npz, a folder of images, arrays by input name with samples along axis 0, the array of the only input,
            or an iterable of such samples. Without it ranges come from synthetic inputs and activations get 16 bits.
        bits: 8, "W8A16", (8, 16), a plan by node name (a dictionary or the path of a plan.json), or "auto": the compiler chooses.
            Without it and with data: 8, and 16 where the estimated drop passes ``max_drop``.
        hw: the accelerator, what `compile` defaults to: a name, the path of a .toml, or a config.
        calibration: "minmax", "percentile", "entropy" or "mse"; by default ranges of 4 and 8 bits are searched at their width.
        input_range: least and greatest value of inputs, where there is no data.
        input_shapes: by input name, or as ``--input-shapes`` has them.
        input_values: fixes inputs, which are none any more.
        preprocess: how images become inputs, "mean=127,scale=128"; for a folder of images.
        model_format: "onnx", "torch" or "tflite", where the file's name does not say it.
        passes: names of the quantizer's passes that may run; all that ``effort`` takes, unless given.
        effort: "fast" rounds weights to nearest; "default" equalises channels of unequal reach and rounds weights of 4 bits towards
            the float model's outputs; "best" those of 8 bits, too, and reconstructs blocks of 4 bits where torch is installed.
        requantize: take a model that came quantized as a float model.
        minimize: what "auto" makes least: "cycles", "bytes" or "drop".
        max_drop: points that "auto" may lose.
        max_cycles: cycles that "auto" may take for a sample.
        max_bytes: bytes that weights and tables may take; at given bits rounding pays for bits until they are kept.
        progress: show on a terminal what runs.

    Returns:
        The quantized network, for `compile`.

    Raises:
        UserError: one line for what a user can mend.
        CompilerFault: what only we can.

    Example:
        >>> q = qaccel.quantize("model.onnx", "data.npz", bits={"conv1": {"weight_bits": 4, "activation_bits": 8}})
        >>> {name: bits["weight_bits"] for name, bits in q.plan.items()}
        {'conv1': 4, 'conv2': 8, 'classifier': 8}
    """
    name = model_name(model)
    with boundary("quantize"):
        config = load_config(hw)
        options = options_of(
            TargetOptions(config), calibration_data=calibration_data, bits=bits, calibration=calibration,
            input_range=input_range, input_shapes=input_shapes, input_values=input_values, preprocess=preprocess,
            model_format=model_format, passes=passes, effort=effort, requantize=requantize, minimize=minimize,
            max_drop=max_drop, max_cycles=max_cycles, max_bytes=max_bytes,
        )  # fmt: skip
        stages = Stages(progress)
        return QuantizedNetwork(name, config, options, quantize_model(model, options, stages), stages.seconds)


def analyze(
    model: ModelLike,
    calibration_data: Data,
    *,
    bits: Any = None,
    hw: str | HwConfig = DEFAULT_CONFIG,
    calibration: str | None = None,
    input_shapes: str | Mapping[str, tuple[int, ...]] | None = None,
    input_values: str | Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    model_format: str | None = None,
    passes: str | Sequence[str] | None = None,
    effort: str | None = None,
    progress: bool = False,
) -> Analysis:
    """What a float model loses by its quantization, where, why, and what would cure it.

    Args:
        model: as `quantize` takes it, and so are all others.
        calibration_data: samples; needed here.
        bits: a width or a plan; 8 unless given.

    Returns:
        ``tensors``: the error of every tensor, alone and accumulated; ``sources``: each source of error with its cause, its remedy
        and what that would gain, worst first; ``drop``: the whole.

    Raises:
        UserError: no samples, or a model that came quantized.

    Example:
        >>> found = qaccel.analyze("model.onnx", "data.npz", bits="W4A4")
        >>> [each.node for each in found.tensors][:2]
        ['x', 'conv1']
    """
    with boundary("analyze"):
        options = options_of(
            TargetOptions(load_config(hw)), calibration_data=calibration_data, bits=bits, calibration=calibration,
            input_shapes=input_shapes, input_values=input_values, preprocess=preprocess, model_format=model_format,
            passes=passes, effort=effort,
        )  # fmt: skip
        return analyze_model(model, options, Stages(progress))


def compile(
    model: ModelLike | QuantizedNetwork,
    hw: str | HwConfig | None = None,
    target: str = "qaccel",
    *,
    calibration_data: Data | None = None,
    bits: Any = None,
    calibration: str | None = None,
    input_range: str | tuple[float, float] | None = None,
    input_shapes: str | Mapping[str, tuple[int, ...]] | None = None,
    input_values: str | Mapping[str, Any] | None = None,
    preprocess: str | None = None,
    model_format: str | None = None,
    passes: str | Sequence[str] | None = None,
    effort: str | None = None,
    requantize: bool = False,
    minimize: str | None = None,
    max_drop: float | None = None,
    max_cycles: int | None = None,
    max_bytes: int | None = None,
    io_dtype: str = "float32",
    tuning_records: str | Path | None = None,
    schedule: str | Path | Mapping[str, Any] | None = None,
    output: str | Path | None = None,
    report: str | Path | None = None,
    emit_qdq: str | Path | None = None,
    emit_program: str | Path | None = None,
    emit_schedule: str | Path | None = None,
    dump_code: str | Sequence[str] = (),
    dump_offloads: str | Path | None = None,
    cross_compiler: str | None = None,
    progress: bool = False,
) -> Module:
    """Compile a model, or what `quantize` gave: all that ``tvmc compile`` can do, by keywords of the same names.

    Args:
        model: as `quantize` takes it, or what that gave; then the arguments that it has, too, must be absent.
        hw: the accelerator; qaccel-256, or what the model was quantized for, unless given.
        target: as ``--target``: "qaccel" is the accelerator and this machine, "qaccel, llvm -mcpu=..." names the host too, "llvm"
            is the CPU alone.
        io_dtype: "int8" or "uint8" gives the module integer inputs and outputs.
        tuning_records: a folder that ``tvmc tune`` wrote.
        schedule: what is decided of the accelerator's plan: a file that ``emit_schedule`` wrote, edited or not, or its contents.
        output: a file for the module, .so or .tar.
        report: a folder, see `Module.write_report`.
        emit_qdq: a file for the quantized model as ONNX QDQ.
        emit_program: a folder for program, memory map and golden data.
        emit_schedule: a file for the accelerator's plan, for ``schedule``.
        dump_code: "relax" and "asm", written beside ``output``.
        dump_offloads: a file that says what runs where.
        cross_compiler: links ``output`` for another machine: a program and its flags.
        progress: show on a terminal what runs.

    Returns:
        The module; `Module.written` has the paths of what was written.

    Raises:
        UserError: one line for what a user can mend.
        CompilerFault: what only we can.

    Example:
        >>> m = qaccel.compile("model.onnx", hw="qaccel-64", calibration_data="data.npz", output="m.so")
        >>> m.written
        (PosixPath('m.so'),)
    """
    given = model if isinstance(model, QuantizedNetwork) else None
    name = model_name(model) if not isinstance(model, QuantizedNetwork) else model.name
    with boundary("compile"):
        if given is not None:
            before = (
                calibration_data, bits, calibration, input_range, input_shapes, input_values, preprocess, model_format,
                passes, effort, requantize or None, minimize, max_drop, max_cycles, max_bytes,
            )  # fmt: skip
            if any(each is not None for each in before):
                raise UserError("the model is quantized already; give bits and data to qaccel.quantize")
        parsed = parse_target(target, hw, DEFAULT_CONFIG if given is None else given.hw)
        if parsed.config is not None:
            parsed = TargetOptions(load_config(parsed.config), parsed.host)
        options = options_of(
            parsed, calibration_data=calibration_data, bits=bits, calibration=calibration, input_range=input_range,
            input_shapes=input_shapes, input_values=input_values, preprocess=preprocess, io_dtype=io_dtype,
            model_format=model_format, tuning_records=tuning_records, passes=passes, effort=effort,
            requantize=requantize, minimize=minimize, max_drop=max_drop, max_cycles=max_cycles, max_bytes=max_bytes,
            schedule=schedule,
        )  # fmt: skip
        places = Places(
            output, dumps_of(dump_code), emit_qdq, emit_program, emit_schedule, report, dump_offloads, cross_compiler
        )
        places.check(options, given is not None or options.quantizes)
        stages = Stages(progress)
        if isinstance(model, QuantizedNetwork):
            stages.seconds.update(model.seconds)
            compiled = compile_quantized(model.quantized, options, name, stages)
        else:
            compiled = compile_model(model, options, name, stages)
        return Module(compiled, written=places.write(Module(compiled)))


def explore(
    model: ModelLike | QuantizedNetwork,
    sweep: Sweep | None = None,
    *,
    least_sram: float | None = None,
    target: str = "qaccel",
    hw: str | HwConfig | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    output: str | Path | None = None,
    progress: bool = False,
    **quantizer: Any,
) -> Exploration:
    """One quantization, many machines: what the network takes on each.

    Args:
        model: as `compile` takes it.
        sweep: values of parameters of hw.toml, "rows=8,16 sram_bytes=256K,512K" or lists by name; every combination is tried.
        least_sram: instead of a sweep: the smallest SRAM is looked for that takes so many per cent more cycles at most.
        target: as `compile`.
        hw: what all other parameters are of; that of ``target``, unless given.
        jobs: processes; one for each core, unless given.
        cluster: the Dask cluster on whose workers it runs instead, "tcp://host:port".
        output: a folder for explore.csv, .json and .html.
        progress: a bar, if standard error is a terminal.
        quantizer: what else `quantize` takes; bits that the compiler chooses are chosen once, for ``hw``.

    Returns:
        A row for each machine; one on which the network does not compile has its reason.

    Raises:
        UserError: values that no machine may have, or what `quantize` raises.
    """
    with boundary("explore"):
        workers = Workers(jobs, cluster)
        if (sweep is None) == (least_sram is None):
            raise UserError("explore tries a --sweep, or looks for the --least-sram; give one of them")
        values = {} if sweep is None else parse_sweep(sweep)
        percent = 0.0 if least_sram is None else checked_percent(least_sram)
        given = model if isinstance(model, QuantizedNetwork) else None
        parsed = parse_target(target, hw, DEFAULT_CONFIG if given is None else given.hw)
        if parsed.config is None:
            raise UserError(f"explore tries accelerators, and --target '{target}' names none; add qaccel")
        base = load_config(parsed.config)
        swept_configs(base, values)  # a mistake in them shows before the long work
        if output is not None:
            check_folder(output, "--output")
    if given is not None and quantizer:
        raise UserError("the model is quantized already; give bits and data to qaccel.quantize")
    quantized = quantize(model, hw=base, progress=progress, **quantizer) if given is None else given
    with boundary("explore"):
        what = quantized.name, quantized.quantized, "float32", base
        if least_sram is None:
            found = explore_quantized(*what, values, workers, progress)
        else:
            found = find_least_sram(*what, percent, workers, progress)
        if output is not None:
            found.write(output)
        return found


def evaluate(
    module: Module | str | Path,
    data: str | Path,
    reference: str | Path | None = None,
    *,
    preprocess: str | None = None,
    jobs: int | None = None,
    cluster: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Accuracy of a module on labelled data, and agreement with the float model: `Module.evaluate`, of a file, too.

    Args:
        module: what `compile` or `load` gave, or the path of a .so or .tar.
        data: as `Module.evaluate` takes it, and so are all others.

    Returns:
        Shares from 0 to 1: ``top1``, ``top5``, ``reference_top1``, ``agreement``; None for what there is not.

    Raises:
        UserError: as `load` and `Module.evaluate`.

    Example:
        >>> _ = qaccel.compile("model.onnx", calibration_data="data.npz", output="m.so")
        >>> found = qaccel.evaluate("m.so", "labelled.npz", "model.onnx")
        >>> found.samples, 0 <= found.agreement <= 1
        (8, True)
    """
    opened = module if isinstance(module, Module) else load(module)
    return opened.evaluate(data, reference, preprocess=preprocess, jobs=jobs, cluster=cluster, progress=progress)


def model_name(model: ModelLike) -> str:
    """What the report calls a model: its file's name without suffix, its graph's name, or "program" for one of PyTorch.

    Raises UserError if it is none of these."""
    if isinstance(model, onnx.ModelProto):
        return model.graph.name or "model"
    if is_program(model):
        return "program"
    if not isinstance(model, str | os.PathLike):
        raise UserError(
            "the model must be the path of a file, an onnx.ModelProto or a torch.export.ExportedProgram; it is "
            f"{shown(model)}"
        )
    return path_of(model, "the model").stem
