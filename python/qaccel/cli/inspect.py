"""tvmc inspect: what a compiled module is: target, versions, tensors, bits per layer, memory, disassembly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("module", metavar="MODULE", type=Path, help=".so or .tar that tvmc compile wrote")


def execute(arguments: argparse.Namespace) -> None:
    """Print everything that the file says of itself."""
    from .. import api
    from ..isa import decode, disassemble
    from ..run.report_text import bits_of, print_summary

    module = api.load(arguments.module)
    metadata = module.metadata
    print(f"model      {metadata['model']}")
    print(f"target     {metadata['target']}")
    print(
        f"versions   qaccel {metadata['qaccel']}, TVM {metadata['tvm']}, ISA {metadata['isa_version']}, format {metadata['format']}"
    )
    for kind in ("inputs", "outputs"):
        for entry in metadata[kind]:
            print(f"{kind[:-1]:<10} {_tensor(entry)}")
    if metadata["report"] is None:
        return
    print_summary(metadata["report"])
    for layer in metadata["report"]["layers"]:
        print(f"{bits_of(layer):<8} {layer['op']:<18} {layer['name']}")
    for artefact in module.runner.artefacts():
        print(
            f"\n# {artefact.symbol}: {len(artefact.program):,} B of program, {len(artefact.constants):,} B of constants"
        )
        print(disassemble(decode(artefact.program), artefact.layers), end="")


def _tensor(entry: dict[str, Any]) -> str:
    text = f"{entry['name']} {entry['dtype']} {entry['shape']} {entry['layout']}".rstrip()
    if "scale" in entry:
        text += f", {entry['bits']} bits, scale {entry['scale']:.6g}, zero point {entry['zero_point']}"
    return text
