"""tvmc explore: one quantization, many machines: cycles, DRAM bytes, multipliers and SRAM of each, and the Pareto front."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..flags import add_model, add_quantizer, add_workers, number, quantizer_of


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    add_model(parser)
    parser.add_argument(
        "--sweep",
        metavar="SWEEP",
        help='"rows=8,16,32 sram_bytes=256K,512K": all combinations are tried',
    )
    parser.add_argument(
        "--least-sram",
        metavar="PERCENT",
        nargs="?",
        const=1,
        type=number,
        help="instead: the smallest SRAM that takes so many per cent more cycles at most (default: 1)",
    )
    parser.add_argument(
        "--target",
        default="qaccel",
        help='whose other parameters stay, "qaccel -config=mine.toml" (default: %(default)s)',
    )
    parser.add_argument("--input-range", metavar="LO,HI", help="of the inputs' values, without calibration data")
    add_quantizer(parser, "as tvmc compile; auto chooses them once, for --target")
    parser.add_argument(
        "-o", "--output", metavar="DIR", type=Path, help="explore.csv, explore.json and explore.html, with plots"
    )
    add_workers(parser)


def execute(arguments: argparse.Namespace) -> None:
    """Quantize, try all machines, print the table and write the files."""
    from ... import api
    from ...report.exploration import print_exploration

    found = api.explore(
        arguments.model,
        arguments.sweep,
        least_sram=arguments.least_sram,
        target=arguments.target,
        **quantizer_of(arguments),
        input_range=arguments.input_range,
        jobs=arguments.jobs,
        cluster=arguments.cluster,
        output=arguments.output,
        progress=not arguments.verbose,
    )
    print_exploration(f"{found.model} on machines like {found.base.name}", found.rows)
    if found.least_sram_bytes is not None:
        print(f"sram_bytes = {found.least_sram_bytes} suffices; {found.base.name} has {found.base.sram_bytes}")
    if arguments.output is not None:
        print(f"written: {arguments.output}")
