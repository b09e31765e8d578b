"""How long code generation takes, and how busy the multipliers are, on large networks (`large_networks.py`).

    python tests/bench/bench_codegen.py [--networks resnet50 text_detector] [--configs qaccel-256 qaccel-1024] [--bits W8A8] [--profile]

They are quantized on seeded noise. By network and config: CPU seconds of `compile_layers` and of the planning in it, cycles, and which
part of what the array could do in that time is done. With --profile, what takes longest.
"""

from __future__ import annotations

import argparse
import cProfile
import itertools
import pstats
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx

import qaccel
from qaccel.machine.hw import HwConfig, load_config
from qaccel.npu.codegen import compile_layers, planned
from qaccel.npu.layers import LayerGraph
from qaccel.run.program import profile

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from bench.large_networks import NETWORKS, SEED, Network
from golden import estimates

SHOWN = 30


def graphs(network: Network, bits: str, hw: HwConfig) -> list[LayerGraph]:
    """A network's layers, quantized on noise."""
    samples = np.random.default_rng(SEED).normal(size=(2, 3, network.side, network.side)).astype(np.float32)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "network.onnx"
        onnx.save(network.make(), path)
        quantized = qaccel.quantize(str(path), {"x": samples}, bits=bits, effort="fast")
    return estimates.subgraphs(quantized, hw)


def busy_percent(graph: LayerGraph, hw: HwConfig, cycles: int) -> float:
    """Multiplications done of those that the array could have done in that time, each layer at its own bits."""
    rates = [
        (layer.macs, hw.array_rows(graph.maps[layer.inputs[0]].bits) * hw.array_columns(layer.weight_bits))
        for layer in graph.layers
        if hasattr(layer, "macs")
    ]
    return 100 * sum(macs / rate for macs, rate in rates) / cycles


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", choices=NETWORKS, default=list(NETWORKS))
    parser.add_argument("--configs", nargs="*", default=["qaccel-256", "qaccel-1024"])
    parser.add_argument("--bits", default="W8A8")
    parser.add_argument("--profile", action="store_true")
    args = parser.parse_args()
    for name, config in itertools.product(args.networks, args.configs):
        hw = load_config(config)
        (graph,) = graphs(NETWORKS[name], args.bits, hw)
        begin = time.process_time()
        planned(graph, hw)
        planning, begin, wall = time.process_time() - begin, time.process_time(), time.perf_counter()
        compiled = compile_layers(graph, hw)
        seconds, wall = time.process_time() - begin, time.perf_counter() - wall
        cycles = int(profile(compiled.artefact, trace=False)["cycles"])
        print(
            f"{name} {args.bits} on {hw.name}: {seconds:.1f} s of CPU, {wall:.1f} s, {planning:.1f} s of it planning; {cycles:,} cycles, "
            f"multipliers busy {busy_percent(graph, hw, cycles):.1f}%",
            flush=True,
        )
        if args.profile:
            recorded = cProfile.Profile()
            recorded.runcall(compile_layers, graph, hw)
            pstats.Stats(recorded).sort_stats("cumulative").print_stats(SHOWN)
    return 0


if __name__ == "__main__":
    sys.exit(main())
