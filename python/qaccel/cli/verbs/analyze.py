"""tvmc analyze: why a quantized model loses accuracy, tensor by tensor, what would cure it and what that would gain."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from ..flags import add_model, add_quantizer, quantizer_of

SHOWN = 20  # sources of error in the terminal; -v shows all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add_model(parser)
    add_quantizer(parser, "8, W8A16, or plan.json (default: 8)")
    parser.add_argument("-o", "--output", metavar="FILE.json", type=Path, help="everything that was measured, as data")
    parser.add_argument("--plan", metavar="PLAN.json", type=Path, help="the bits, with the worst source's remedy")


def execute(arguments: argparse.Namespace) -> None:
    """Measure, print the sources of error, the worst first, and with -v every tensor."""
    from ... import api
    from ...report.analysis import analysis_json, plan_with_remedy, print_sources, print_tensors
    from ...run.files import check_file, write_text

    for path, flag in ((arguments.output, "--output"), (arguments.plan, "--plan")):
        if path is not None:
            check_file(path, flag)
    analysis = api.analyze(
        arguments.model,
        **quantizer_of(arguments),
        progress=not arguments.verbose,
    )
    for note in analysis.quantized.notes:
        print(f"note: {note}")
    if arguments.verbose:
        print_tensors(analysis)
    print_sources(analysis, len(analysis.sources) if arguments.verbose else SHOWN)
    if arguments.output is not None:
        print(f"written: {write_text(arguments.output, analysis_json(analysis), '--output')}")
    if arguments.plan is not None:
        plan = {name: asdict(bits) for name, bits in plan_with_remedy(analysis).items()}
        print(f"written: {write_text(arguments.plan, json.dumps(plan, indent=1), '--plan')}")
