"""tvmc evaluate: accuracy of a compiled module on labelled data, and agreement with the float model."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..flags import PREPROCESS, add_workers


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("module", metavar="MODULE", type=Path, help=".so or .tar that tvmc compile wrote")
    parser.add_argument(
        "--data",
        metavar="PATH",
        type=Path,
        required=True,
        help=".npz of arrays by input name and labels, or a folder with a folder of images for each class",
    )
    parser.add_argument(
        "--preprocess",
        metavar="SPEC",
        help=f"of an image folder (default: that of the calibration images): {PREPROCESS}",
    )
    parser.add_argument("--reference", metavar="MODEL.onnx", type=Path, help="the float model, to compare with")
    add_workers(parser)


def execute(arguments: argparse.Namespace) -> None:
    """Run all samples and print the shares in percent."""
    from ... import api

    result = api.load(arguments.module).evaluate(
        arguments.data,
        arguments.reference,
        preprocess=arguments.preprocess,
        jobs=arguments.jobs,
        cluster=arguments.cluster,
        progress=not arguments.verbose,
    )
    for note in result.notes:
        print(f"note: {note}")
    print(f"samples    {result.samples}, judged by output '{result.output}'")
    top5 = f", top-5 {100 * result.top5:.2f}%" if result.top5 is not None else ""
    print(f"top-1      {100 * result.top1:.2f}%{top5}")
    if result.reference_top1 is not None and result.agreement is not None:
        print(f"reference  top-1 {100 * result.reference_top1:.2f}%")
        print(f"agreement  {100 * result.agreement:.2f}%")
