"""tvmc compile: compile an ONNX model into a module, for the accelerator and the host or for the host alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import UserError
from ..options import (
    CALIBRATION_METHODS,
    IO_DTYPES,
    MODEL_FORMATS,
    CompileOptions,
    checked_io_dtype,
    checked_model_format,
    parse_bits,
    parse_input_range,
    parse_input_shapes,
    parse_passes,
    parse_target,
)
from ..run.files import check_file, check_folder, write_file, write_text

if TYPE_CHECKING:
    from ..pipeline import Compiled
    from ..schedules.floating.choose import Choice

DUMPS = ("relax", "asm")
NOTES_SHOWN = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("model", metavar="MODEL", type=Path, help=".onnx, .pt2 (torch.export.save) or .tflite")
    parser.add_argument(
        "--target", required=True, help='"qaccel", "llvm", "qaccel -config=qaccel-1024, llvm -mcpu=native"'
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("module.so"), help=".so or .tar (default: %(default)s)"
    )
    parser.add_argument("--input-shapes", metavar="SHAPES", help='"x:[1,3,224,224]", several with spaces between')
    parser.add_argument("--model-format", metavar="FORMAT", help=f"{', '.join(MODEL_FORMATS)} (default: by the suffix)")
    parser.add_argument(
        "--io-dtype",
        metavar="TYPE",
        default="float32",
        help=f"of inputs and outputs: {', '.join(IO_DTYPES)} (default: float32)",
    )
    data = parser.add_argument_group("quantization")
    data.add_argument(
        "--calibration-data", metavar="PATH", type=Path, help=".npz with one array per input, or an image folder"
    )
    data.add_argument("--preprocess", metavar="SPEC", help='for an image folder: "mean=127,scale=128,layout=NCHW"')
    data.add_argument(
        "--calibration", metavar="METHOD", default="minmax", help=f"{', '.join(CALIBRATION_METHODS)} (default: minmax)"
    )
    data.add_argument(
        "--input-range", metavar="LO,HI", help="of the inputs' values, where there is no calibration data"
    )
    data.add_argument(
        "--bits",
        metavar="BITS",
        help="8, W8A16, or plan.json (default: 8 with calibration data, W8A16 without; llvm alone: float without either)",
    )
    data.add_argument("--passes", metavar="NAME,NAME", help="run only these passes of the quantizer (default: all)")
    parser.add_argument(
        "--tuning-records",
        metavar="PATH",
        type=Path,
        help="what tvmc tune wrote; taken before the records that come along",
    )
    extra = parser.add_argument_group("what else to write")
    extra.add_argument("--emit-qdq", metavar="FILE.onnx", type=Path, help="the quantized model as standard ONNX QDQ")
    extra.add_argument(
        "--emit-program", metavar="DIR", type=Path, help="program, memory map, golden inputs and outputs"
    )
    extra.add_argument(
        "--report",
        metavar="DIR",
        type=Path,
        help="report.json, layers.csv, timeline.json, report.html, compile_seconds.json",
    )
    extra.add_argument(
        "--dump-code", metavar="KINDS", help="relax,asm: written beside the module as module.so.relax, .asm"
    )


def execute(arguments: argparse.Namespace) -> None:
    """Compile, then write; whatever cannot be written is found out before the work begins."""
    options = options_of(arguments)
    dumps = _dumps(arguments.dump_code)
    _check_places(arguments, options)
    from .. import api, export
    from ..pipeline import compile_model
    from ..stages import Stages

    export.check_output_path(arguments.output)
    compiled = compile_model(arguments.model, options, api.model_name(arguments.model), Stages(show=True))
    written = [export.export_library(compiled.executable, arguments.output, options.target.mtriple)]
    written += _write_extras(arguments, compiled)
    for kind in dumps:
        place = arguments.output.with_name(f"{arguments.output.name}.{kind}")
        written.append(write_text(place, _dump(compiled, kind), "dump"))
    _print_notes(compiled.notes, arguments.verbose)
    if arguments.verbose:
        _print_choices(compiled.choices)
    if compiled.report is not None:
        from ..report.text import print_summary

        print_summary(compiled.report, layers=arguments.verbose)
    print("written: " + ", ".join(map(str, written)))


def options_of(arguments: argparse.Namespace) -> CompileOptions:
    """The flags as options. Raises UserError for a value that is not of its form."""
    if arguments.calibration not in CALIBRATION_METHODS:
        raise UserError(
            f"--calibration {arguments.calibration} is unknown; choose one of {', '.join(CALIBRATION_METHODS)}"
        )
    return CompileOptions(
        target=parse_target(arguments.target),
        input_shapes=parse_input_shapes(arguments.input_shapes) if arguments.input_shapes is not None else None,
        calibration_data=arguments.calibration_data,
        preprocess=arguments.preprocess,
        calibration=arguments.calibration,
        input_range=parse_input_range(arguments.input_range) if arguments.input_range is not None else None,
        bits=parse_bits(arguments.bits) if arguments.bits is not None else None,
        io_dtype=checked_io_dtype(arguments.io_dtype),
        model_format=checked_model_format(arguments.model_format),
        tuning_records=arguments.tuning_records,
        passes=parse_passes(arguments.passes) if arguments.passes is not None else None,
    )


def _check_places(arguments: argparse.Namespace, options: CompileOptions) -> None:
    if arguments.emit_qdq is not None:
        check_file(arguments.emit_qdq, "--emit-qdq")
    for flag in ("emit_program", "report"):
        if getattr(arguments, flag) is not None:
            check_folder(getattr(arguments, flag), "--" + flag.replace("_", "-"))
    if options.target.config is None:
        if arguments.emit_qdq is not None and options.bits is None and options.calibration_data is None:
            raise UserError("--emit-qdq is for a quantized model; add --bits or --calibration-data")
        for flag in ("emit_program", "report"):
            if getattr(arguments, flag) is not None:
                raise UserError(
                    f"--{flag.replace('_', '-')} needs the accelerator, and --target '{options.target}' has none; add qaccel"
                )


def _dumps(text: str | None) -> list[str]:
    kinds = [kind.strip() for kind in text.split(",")] if text is not None else []
    for kind in kinds:
        if kind not in DUMPS:
            raise UserError(f"--dump-code {kind!r} is unknown; it knows {', '.join(DUMPS)}")
    return kinds


def _dump(compiled: Compiled, kind: str) -> str:
    if kind == "relax":
        quantized = compiled.model.mod if compiled.quantized is None else compiled.quantized.mod
        mod = quantized if compiled.partitioned is None else compiled.partitioned.mod
        return mod.script(show_meta=False)
    from ..machine.isa import decode, disassemble

    artefacts = [each.compiled.artefact for each in compiled.subgraphs]
    return "\n".join(f"# {a.symbol}\n{disassemble(decode(a.program), a.layers)}" for a in artefacts)


def _write_extras(arguments: argparse.Namespace, compiled: Compiled) -> list[Path]:
    written = []
    if arguments.emit_qdq is not None and compiled.quantized is not None:
        from ..qdq.write import emit_qdq

        quantized = compiled.quantized
        written.append(write_file(arguments.emit_qdq, lambda path: emit_qdq(quantized, path), "--emit-qdq"))
    if arguments.emit_program is not None:
        from ..run.package import write_program

        artefacts = [each.compiled.artefact for each in compiled.subgraphs]
        written.append(write_program(arguments.emit_program, artefacts, compiled.golden_inputs()))
    if arguments.report is not None and compiled.report is not None:
        from ..report.text import write_report

        written.append(write_report(arguments.report, compiled.report, compiled.timeline(), compiled.compile_seconds))
    return written


def _print_notes(notes: tuple[str, ...], verbose: bool) -> None:
    shown = notes if verbose else notes[:NOTES_SHOWN]
    for note in shown:
        print(f"note: {note}")
    if len(notes) > len(shown):
        print(f"note: and {len(notes) - len(shown)} more; -v shows them")


def _print_choices(choices: tuple[Choice, ...]) -> None:
    for choice in choices:
        plan = f", {choice.plan}" if choice.plan else ""
        layers = ", ".join(choice.layers) or "between layers"
        print(f"schedule: {choice.function}: by {choice.source}{plan}: {layers}")
