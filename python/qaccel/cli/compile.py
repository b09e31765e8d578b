"""tvmc compile: compile an ONNX model into a module, for the accelerator and the host or for the host alone."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ..options import IO_DTYPES, MINIMIZED
from .flags import add_model, add_quantizer

if TYPE_CHECKING:
    from ..schedules.floating.choose import Choice

NOTES_SHOWN = 5
FIRST = ("warning: ", "--bits auto: ")  # how notes begin that nobody should miss


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add_model(parser)
    parser.add_argument(
        "--target", required=True, help='"qaccel", "llvm", "qaccel -config=qaccel-1024, llvm -mcpu=native"'
    )
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("module.so"), help=".so or .tar (default: %(default)s)"
    )
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
        "--max-drop", metavar="POINTS", help="points that may be lost against float, estimated (default: 1.0)"
    )
    data.add_argument("--max-cycles", metavar="CYCLES", help="of --bits auto: of one sample, simulated")
    data.add_argument(
        "--max-bytes",
        metavar="BYTES",
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
    """Compile and write, then print the notes, the summary and what was written."""
    from .. import api
    from ..report.text import calibration_lines, print_summary

    module = api.compile(
        arguments.model,
        target=arguments.target,
        calibration_data=arguments.calibration_data,
        bits=arguments.bits,
        calibration=arguments.calibration,
        input_range=arguments.input_range,
        input_shapes=arguments.input_shapes,
        input_values=arguments.input_values,
        preprocess=arguments.preprocess,
        model_format=arguments.model_format,
        io_dtype=arguments.io_dtype,
        tuning_records=arguments.tuning_records,
        passes=arguments.passes,
        effort=arguments.effort,
        requantize=arguments.requantize,
        minimize=arguments.minimize,
        max_drop=arguments.max_drop,
        max_cycles=arguments.max_cycles,
        max_bytes=arguments.max_bytes,
        output=arguments.output,
        report=arguments.report,
        emit_qdq=arguments.emit_qdq,
        emit_program=arguments.emit_program,
        dump_code=arguments.dump_code or (),
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
    print("written: " + ", ".join(map(str, module.written)))


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
