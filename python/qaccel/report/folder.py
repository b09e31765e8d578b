"""The folder that holds a report in all its forms."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..run.files import write_folder
from .layers_csv import layers_csv


def write_report(
    folder: str | Path, report: Mapping[str, Any], timeline: Mapping[str, Any], compile_seconds: Mapping[str, float]
) -> Path:
    """report.json, layers.csv, timeline.json, report.html and compile_seconds.json in ``folder``, all or none of them.

    Only the last differs between two compilations of one model: it has the seconds that each stage took.
    """
    from .page.page import report_html  # with the charting library

    seconds = {stage: round(value, 3) for stage, value in compile_seconds.items()}
    files = {
        "report.json": json.dumps(report, indent=2).encode(),
        "layers.csv": layers_csv(report).encode(),
        "timeline.json": json.dumps(timeline, separators=(",", ":")).encode(),
        "report.html": report_html(report).encode(),
        "compile_seconds.json": json.dumps(seconds, indent=2).encode(),
    }
    return write_folder(folder, files, "report")
