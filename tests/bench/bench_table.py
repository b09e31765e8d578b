"""The README's table of figures: accuracy, cycles, bytes and times, beside ONNX Runtime, OpenVINO and Arm's weight codec, as Markdown.

`python tests/bench/bench_table.py SHARED [--part accelerator|cpu] [--images 300] [--rounds 20] [--threads 1 2]` where SHARED holds
models/efflite0.onnx, models/mltk_image_classification.onnx, data/imagenet400 and data/cifar10.tar.gz. `--part cpu` is all that depends on
what else the machine does: it wants a quiet one. What is measured, and how, is in bench_accuracy.py,
bench_cpu_int8.py and bench_streams.py, whose functions this calls. A peer that is not installed is named as missing.

Accuracy is that of the integers on the CPU (`--target llvm`), which are the simulator's. OpenVINO runs in float32 (its default on
some CPUs is bfloat16) and, at 8 bits, ONNX Runtime's quantized file. LiteRT reads no ONNX: it is named and not measured.
"""

import argparse
import datetime
import importlib.util
import platform
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import bench_accuracy as accuracy
import bench_cpu_int8 as cpu
import bench_streams as streams
import numpy as np
from sides import Side, measured

import qaccel

BITS = ("W8A8", "W4A8")
CALIBRATION = 100
PARTS = ("accelerator", "cpu")
VERSIONS = ("qaccel", "apache-tvm", "onnxruntime", "openvino", "ai-edge-litert", "ethos-u-vela")


@dataclass(frozen=True)
class Network:
    """A model with samples to calibrate on and labelled ones to judge by; ``stem`` of its file."""

    name: str
    stem: str
    samples: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def networks(shared: Path, most: int) -> Iterator[Network]:
    """Calibration and test share no image."""
    images, labels = accuracy.photographs(shared / "data" / "imagenet400")
    order = np.random.default_rng(accuracy.SEED).permutation(len(images))
    few, rest = order[:CALIBRATION], order[CALIBRATION:][:most]
    yield Network("EfficientNet-Lite0", "efflite0", images[few], images[rest], labels[rest])
    archive = shared / "data" / "cifar10.tar.gz"
    samples, _ = accuracy.cifar(archive, "train", CALIBRATION // 10)
    images, labels = accuracy.cifar(archive, "test", most // 10 or 1)
    yield Network("ResNet-8", "mltk_image_classification", samples, images, labels)


def accelerator_rows(network: Network, model: Path) -> Iterator[str]:
    """A row for each width: top-1 of float, ours and ONNX Runtime's, cycles, milliseconds, times the bound, bytes."""

    def percent(scores: np.ndarray) -> float:
        return 100 * float((scores.reshape(len(scores), -1).argmax(1) == network.labels).mean())

    exact = percent(accuracy.runtime(model)(network.images))
    for bits in BITS:
        q = qaccel.quantize(model, network.samples, bits=bits)
        report = qaccel.compile(q).report
        (scores,) = qaccel.compile(q, target="llvm").run(network.images).values()
        theirs = "–"
        if bits == "W8A8":
            theirs = f"{percent(accuracy.runtime_quantized(model, network.samples)(network.images)):.2f}"
        yield (
            f"| {network.name} | {bits} | {exact:.2f} | {percent(scores):.2f} | {theirs} | {report.cycles:,} | {report.latency_ms:.3f} | "
            f"{report.cycles / report.bound_cycles:.3f} | {sum(report.dram_bytes.values()):,} | {report.weights.stream_bytes:,} | "
            f"{100 * (8 * report.weights.stream_bytes / report.weights.entropy_bits - 1):+.1f}% | {codec_bytes(q, bits)} |"
        )


def codec_bytes(q: qaccel.QuantizedNetwork, bits: str) -> str:
    """Arm's codec on the same tiles, over our streams; it carries 8 bits, and only where it is installed."""
    if streams.mlw_codec is None or bits != "W8A8":
        return "–"
    with streams.all_from_dram():
        subgraphs = qaccel.compile(q).compiled.subgraphs
    found = [
        (list(streams.chunks_of(each.compiled.artefact).values()), len(each.compiled.layers)) for each in subgraphs
    ]
    theirs = sum(streams.mlw_bytes(chunks, layers)[0] for chunks, layers in found)
    own = sum(len(chunk.stream) for chunks, _ in found for chunk in chunks)
    return f"{100 * (theirs / own - 1):+.1f}%"


def openvino(path: Path, x: np.ndarray, threads: int) -> tuple[Callable[[], object], None]:
    """OpenVINO in float32, for `Side`."""
    from openvino import Core

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    core = Core()
    read = core.read_model(path)
    read.reshape(list(x.shape))
    compiled = core.compile_model(read, "CPU", settings)
    return lambda: compiled([x]), None


def cpu_rows(network: Network, model: Path, threads: int, rounds: int) -> Iterator[str]:
    """A row for float and one for int8: milliseconds of a sample on each side, medians of turns, and ours over the fastest."""
    with tempfile.TemporaryDirectory() as name:
        folder, samples = Path(name), network.samples[: cpu.SAMPLES]
        for what, bits in (("float", None), ("int8", "8")):
            path = model if bits is None else cpu.quantized_by_peer(model, samples, folder)
            sides = {
                "qaccel": Side(cpu.ours, model, samples, folder, bits, threads),
                "ONNX Runtime": Side(cpu.peer, path, samples[:1], threads),
            }
            if importlib.util.find_spec("openvino") is not None:
                sides["OpenVINO"] = Side(openvino, path, samples[:1], threads)
            taken = [1e3 * float(np.median(each)) for each in measured(list(sides.values()), rounds)]
            times = dict(zip(sides, taken, strict=True))
            fastest = min(time for side, time in times.items() if side != "qaccel")
            other = f"{times['OpenVINO']:.3f}" if "OpenVINO" in times else "–"
            yield (
                f"| {network.name} | {what} | {threads} | {times['qaccel']:.3f} | {times['ONNX Runtime']:.3f} | {other} | "
                f"{times['qaccel'] / fastest:.2f} |"
            )


def installed(package: str) -> str:
    """The package and its version, or that it is missing."""
    if package == "qaccel":
        return f"qaccel {qaccel.__version__}"
    try:
        return f"{package} {version(package)}"
    except PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--images", type=int, default=300, help="to judge each network by, at most")
    parser.add_argument("--rounds", type=int, default=20, help="turns of each side on the CPU")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--part", choices=PARTS, help="one of the two tables alone")
    arguments = parser.parse_args()
    found = list(networks(arguments.shared, arguments.images))
    paths = {each.stem: arguments.shared / "models" / f"{each.stem}.onnx" for each in found}
    print(f"{datetime.date.today():%d %B %Y}, {', '.join(map(installed, VERSIONS))}, {platform.machine()}.\n")
    if arguments.part != "cpu":
        images = " and ".join(f"{len(each.images)} images of {each.name}" for each in found)
        print(f"`qaccel-256`; {images}, {CALIBRATION} others to calibrate on.\n")
        print(
            "| network | bits | float top-1 | ours | ONNX Runtime | cycles | ms | × bound | DRAM B | stream B | over entropy | mlw over ours |"
        )
        print("|---|---|---|---|---|---|---|---|---|---|---|---|")
        for each in found:
            for row in accelerator_rows(each, paths[each.stem]):
                print(row, flush=True)
    if arguments.part != "accelerator":
        print("\n| network | CPU | threads | qaccel ms | ONNX Runtime ms | OpenVINO ms | ours over the fastest |")
        print("|---|---|---|---|---|---|---|")
        for each in found:
            for threads in arguments.threads:
                for row in cpu_rows(each, paths[each.stem], threads, arguments.rounds):
                    print(row, flush=True)


if __name__ == "__main__":
    main()
