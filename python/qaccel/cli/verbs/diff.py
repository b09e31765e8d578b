"""tvmc diff: two reports side by side, which layers changed and why."""

from __future__ import annotations

import argparse
from pathlib import Path

LAYERS_SHOWN = 20


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    what = "the folder of tvmc compile --report, or its report.json"
    parser.add_argument("a", metavar="REPORT_A", type=Path, help=what)
    parser.add_argument("b", metavar="REPORT_B", type=Path, help="what is held against it")
    parser.add_argument("-o", "--output", metavar="FILE.json", type=Path, help="all of it as JSON")


def execute(arguments: argparse.Namespace) -> None:
    """Print what differs, and write it if asked."""
    from ...report.compare import compare, comparison_json, print_comparison, read_report
    from ...run.files import check_file, write_text

    if arguments.output is not None:
        check_file(arguments.output, "comparison")
    found = compare(read_report(arguments.a), read_report(arguments.b))
    print_comparison(found, None if arguments.verbose else LAYERS_SHOWN)
    if arguments.output is not None:
        write_text(arguments.output, comparison_json(found), "comparison")
        print(f"written: {arguments.output}")
