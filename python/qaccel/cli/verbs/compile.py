"""tvmc compile: compile an ONNX model into a module, for the accelerator and the host or for the host alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import UserError
from ...options import IO_DTYPES, MINIMIZED, MODULE_SUFFIXES, parse_target
from ..flags import add_model, add_quantizer, number, quantizer_of
from ..pass_context import add_pass_context, pass_context

if TYPE_CHECKING:
    from ...schedules.floating.choose import Choice

NOTES_SHOWN = 5
FIRST = ("warning: ", "--bits auto: ")  # how notes begin that nobody should miss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add_model(parser)
    parser.add_argument(
        "--target", required=True, help='"qaccel", "llvm", "qaccel -config=qaccel-1024, llvm -mcpu=native"'
    )
    parser.add_argument(
        "-o", "--output", type=Path, help=f"{' or '.join(MODULE_SUFFIXES)} (default: module.so, or by --output-format)"
    )
    parser.add_argument("-f", "--output-format", metavar="FORMAT", help="so or tar (default: by the output's suffix)")
    parser.add_argument(
        "--io-dtype",
        metavar="TYPE",
        default="float32",
        help=f"of inputs and outputs: {', '.join(IO_DTYPES)} (default: float32)",
    )
    data = parser.add_argument_group("quantization")
    add_quantizer(
        data,
        "8, W8A16, plan.json, or auto (default: 8 with calibration data, single layers 16 where it loses too much, "
        "W8A16 without; llvm alone: float without either)",
    )
    data.add_argument(
        "--input-range", metavar="LO,HI", help="of the inputs' values, where there is no calibration data"
    )
    data.add_argument("--minimize", metavar="WHAT", help=f"of --bits auto: {', '.join(MINIMIZED)} (default: cycles)")
    data.add_argument(
        "--max-drop",
        metavar="POINTS",
        type=number,
        help="points that may be lost against float, estimated (default: 1.0)",
    )
    data.add_argument("--max-cycles", metavar="CYCLES", type=number, help="of --bits auto: of one sample, simulated")
    data.add_argument(
        "--max-bytes",
        metavar="BYTES",
        type=number,
        help="of streams, parameter records and tables: what --bits auto, or rounding at given bits, keeps",
    )
    data.add_argument(
        "--requantize",
        action="store_true",
        help="take a model that came quantized as a float one (default: keep its integers)",
    )
    parser.add_argument(
        "--tuning-records",
        metavar="PATH",
        type=Path,
        help="what tvmc tune wrote; taken before the records that come along",
    )
    parser.add_argument(
        "--schedule",
        metavar="FILE.json",
        type=Path,
        help="what is decided of the accelerator's plan, as --emit-schedule writes it; the rest is planned as usual",
    )
    host = parser.add_argument_group("the host's half")
    host.add_argument(
        "--cross-compiler", metavar="PROGRAM", help="links a .so for another machine (default: that of -mtriple)"
    )
    host.add_argument("--cross-compiler-options", metavar="FLAGS", help='such as "-static-libgcc"')
    add_pass_context(host)
    extra = parser.add_argument_group("what else to write")
    extra.add_argument("--emit-qdq", metavar="FILE.onnx", type=Path, help="the quantized model as standard ONNX QDQ")
    extra.add_argument(
        "--emit-program", metavar="DIR", type=Path, help="program, memory map, golden inputs and outputs"
    )
    extra.add_argument(
        "--emit-schedule",
        metavar="FILE.json",
        type=Path,
        help="the accelerator's plan, to be edited and given to --schedule",
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
    extra.add_argument(
        "--dump-offloads",
        metavar="PATH",
        help="which layers run on the accelerator, and which on the CPU and why; - prints it",
    )


def execute(arguments: argparse.Namespace) -> None:
    """Compile and write, then print the notes, the summary and what was written."""
    from ... import api
    from ...report.text import calibration_lines, print_summary

    output = output_path(arguments.output, arguments.output_format)
    if arguments.dump_offloads == "-" and parse_target(arguments.target).config is None:
        raise UserError(
            f"--dump-offloads needs the accelerator, and --target '{arguments.target}' has none; add qaccel"
        )
    with pass_context(arguments):
        module = api.compile(
            arguments.model,
            target=arguments.target,
            **quantizer_of(arguments),
            input_range=arguments.input_range,
            io_dtype=arguments.io_dtype,
            tuning_records=arguments.tuning_records,
            schedule=arguments.schedule,
            requantize=arguments.requantize,
            minimize=arguments.minimize,
            max_drop=arguments.max_drop,
            max_cycles=arguments.max_cycles,
            max_bytes=arguments.max_bytes,
            output=output,
            cross_compiler=_cross_compiler(arguments),
            report=arguments.report,
            emit_qdq=arguments.emit_qdq,
            emit_program=arguments.emit_program,
            emit_schedule=arguments.emit_schedule,
            dump_code=arguments.dump_code or (),
            dump_offloads=None if arguments.dump_offloads == "-" else arguments.dump_offloads,
            progress=not arguments.verbose,
        )
    assert module.compiled is not None
    _print_notes(module.notes, arguments.verbose)
    if arguments.verbose:
        for line in calibration_lines(module.metadata["calibration"]):
            print(line)
        _print_choices(module.compiled.choices)
    if module.compiled.report is not None:
        print_summary(module.report, layers=arguments.verbose)
    if arguments.print_pass_times:
        for stage, seconds in module.compile_seconds.items():
            print(f"{stage:<20} {seconds:8.2f} s")
    if arguments.dump_offloads == "-":
        print(module.offloads(), end="")
    print("written: " + ", ".join(map(str, module.written)))


def output_path(output: Path | None, output_format: str | None) -> Path:
    """Where the module goes, of ``--output`` and ``--output-format``. Raises UserError where the two do not agree."""
    if output_format is None:
        return output or Path("module.so")
    suffix = f".{output_format}"
    if suffix not in MODULE_SUFFIXES:
        way_out = "Model Library Format is gone from TVM, a .tar holds object files" if output_format == "mlf" else ""
        raise UserError(f"--output-format {output_format!r} is unknown{': ' * bool(way_out)}{way_out}; use so or tar")
    if output is not None and output.suffix != suffix:
        raise UserError(
            f"--output '{output}' does not end in {suffix}, which --output-format asks for; drop one of them"
        )
    return output or Path(f"module{suffix}")


def _cross_compiler(arguments: argparse.Namespace) -> str | None:
    if arguments.cross_compiler is None:
        if arguments.cross_compiler_options is not None:
            raise UserError("--cross-compiler-options are for a --cross-compiler; give one")
        return None
    return " ".join(filter(None, (arguments.cross_compiler, arguments.cross_compiler_options)))


def _print_notes(notes: tuple[str, ...], verbose: int) -> None:
    notes = tuple(sorted(notes, key=lambda note: not note.startswith(FIRST)))
    shown = notes if verbose else notes[:NOTES_SHOWN]
    for note in shown:
        print(note if note.startswith("warning: ") else f"note: {note}")
    if len(notes) > len(shown):
        print(f"note: and {len(notes) - len(shown)} more; -v shows them")


def _print_choices(choices: tuple[Choice, ...]) -> None:
    for choice in choices:
        plan = f", {choice.plan}" if choice.plan else ""
        layers = ", ".join(choice.layers) or "between layers"
        print(f"schedule: {choice.function}: by {choice.source}{plan}: {layers}")
