"""tvmc inspect: what a compiled module is: target, versions, tensors, bits per layer, memory, disassembly."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ...machine.artefact import Artefact


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's flags."""
    parser.add_argument("module", metavar="MODULE", type=Path, help=".so or .tar that tvmc compile wrote")


def execute(arguments: argparse.Namespace) -> None:
    """Print everything that the file says of itself."""
    from ... import networks
    from ...machine.isa import decode, disassemble
    from ...report.text import bits_of, calibration_lines, print_summary

    module = networks.load(arguments.module)
    metadata = module.metadata
    print(f"model      {metadata['model']}")
    print(f"target     {metadata['target']}")
    print(
        f"versions   qaccel {metadata['qaccel']}, TVM {metadata['tvm']}, ISA {metadata['isa_version']}, format {metadata['format']}"
    )
    for kind in ("inputs", "outputs"):
        for entry in metadata[kind]:
            print(f"{kind[:-1]:<10} {_tensor(entry)}")
    if metadata.get("preprocess") is not None:
        print(f'preprocess "{metadata["preprocess"]}"')
    for line in calibration_lines(metadata.get("calibration", [])):
        print(line)
    for entry in metadata.get("came_quantized", []):
        print(f"as it came {_given(entry)}")
    if metadata["report"] is None:
        return
    print_summary(module.report)
    for layer in module.report.layers:
        print(f"{bits_of(layer):<8} {layer.op:<18} {layer.name}")
    for artefact in module.artefacts:
        print(f"\n# {artefact.symbol}: {artefact.dram_bytes:,} B of DRAM, {artefact.hw.sram_bytes:,} B of SRAM")
        for line in _memory(artefact):
            print(f"#   {line}")
        print(disassemble(decode(artefact.program), artefact.layers), end="")


def _memory(artefact: Artefact) -> list[str]:
    """Where everything lies in DRAM, by address."""
    parts = [
        (artefact.program_addr, len(artefact.program), "program"),
        (artefact.constants_addr, len(artefact.constants), "constants"),
    ]
    for kind, slots in (("input", artefact.inputs), ("output", artefact.outputs)):
        parts += [(s.dram_addr, s.dram_bytes, f"{kind} {s.name} {list(s.shape)}, {s.bits} bits") for s in slots]
    return [f"0x{address:08x} {count:>12,} B  {what}" for address, count, what in sorted(parts)]


def _tensor(entry: dict[str, Any]) -> str:
    text = f"{entry['name']} {entry['dtype']} {entry['shape']} {entry['layout']}".rstrip()
    if "scale" in entry:
        text += f", {entry['bits']} bits, scale {entry['scale']:.9g}, zero point {entry['zero_point']}"
    return text


def _given(entry: dict[str, Any]) -> str:
    """A tensor or a layer's weights of a model that came quantized."""
    if "weight_scales" in entry:
        scales = entry["weight_scales"]
        text = (
            f"{scales[0]:.9g}"
            if len(scales) == 1
            else f"{min(scales):.9g} to {max(scales):.9g} in {len(scales)} channels"
        )
        return f"{entry['name']}: weights of {entry['weight_bits']} bits, scale {text}"
    lo, hi = entry["integers"]
    return f"{entry['name']}: {lo}..{hi}, scale {entry['scale']:.9g}, zero point {entry['zero_point']}"
