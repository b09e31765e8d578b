"""What runs where: one line for each layer on the accelerator and each operator that stays on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .text import bits_of


def offloads_text(report: Mapping[str, Any]) -> str:
    """The layers of a report, tab-separated: where, node, operator, and the bits or the reason and its cure."""
    lines = []
    for layer in report["layers"]:
        lines.append(f"accelerator\t{layer['name']}\t{layer['op']}\t{bits_of(layer)}")
        if post := layer["post"]:
            lines.append(f"accelerator\t{post['name']}\t{post['op']}\tin the post stage of {layer['name']}")
    for each in report["fallback"]:
        cure = f"; {each['fix']}" if each["fix"] else ""
        lines.append(f"CPU\t{each['name']}\t{each['op']}\t{each['reason']}{cure}")
    return "\n".join(lines) + "\n"
