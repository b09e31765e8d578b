"""Calibration and quantization beside ONNX Runtime's static quantization: seconds and memory, each side in processes of its own, in turns.

`python tests/bench/bench_calibration.py SHARED [--rounds 3]` where SHARED holds models/ and data/imagenet400. EfficientNet-Lite0 on
100 photographs, and a detector of the size of YOLOv8n (640x640, made here, random weights) on 32 samples. Both sides by minimum and
maximum, weights per channel, with an empty cache; what they import is not counted, what they compile is. The processor's seconds stand
beside those of the clock, because other programs slow the clock down and not the processor.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

PHOTOGRAPHS, SAMPLES, SIZE = 100, 32, 640
WIDTHS, DEPTHS, OUTPUTS = (16, 32, 64, 128, 256), (1, 2, 2, 1), 144


class Network:
    """Nodes and weights of a detector as they are put together."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def node(self, op: str, inputs: list[str], outputs: int = 1, **attributes: object) -> list[str]:
        """The names of a new node's outputs."""
        name = f"{op.lower()}{len(self.nodes)}"
        names = [name] if outputs == 1 else [f"{name}_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name, **attributes))
        return names

    def constant(self, value: np.ndarray) -> str:
        """The name of a new initializer."""
        self.weights.append(numpy_helper.from_array(value, f"c{len(self.weights)}"))
        return self.weights[-1].name

    def conv(self, x: str, ic: int, oc: int, kernel: int = 1, stride: int = 1, act: bool = True) -> str:
        """A convolution, and SiLU as x * sigmoid(x)."""
        scale = (2 / (ic * kernel * kernel)) ** 0.5
        weight = self.constant((self.rng.standard_normal((oc, ic, kernel, kernel)) * scale).astype(np.float32))
        bias = self.constant((self.rng.standard_normal(oc) * 0.1).astype(np.float32))
        pads = [kernel // 2] * 4
        y = self.node("Conv", [x, weight, bias], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads)[0]
        return self.node("Mul", [y, self.node("Sigmoid", [y])[0]])[0] if act else y

    def c2f(self, x: str, ic: int, oc: int, depth: int, shortcut: bool) -> str:
        """YOLOv8's block: half of the channels through ``depth`` bottlenecks, all of them joined."""
        half = oc // 2
        parts = self.node("Split", [self.conv(x, ic, oc), self.constant(np.array([half, half]))], 2, axis=1)
        for _ in range(depth):
            y = self.conv(self.conv(parts[-1], half, half, 3), half, half, 3)
            parts.append(self.node("Add", [parts[-1], y])[0] if shortcut else y)
        return self.conv(self.node("Concat", parts, axis=1)[0], half * len(parts), oc)

    def sppf(self, x: str, channels: int) -> str:
        """Three poolings of 5x5 in a row, joined."""
        parts = [self.conv(x, channels, channels // 2)]
        for _ in range(3):
            parts += self.node("MaxPool", parts[-1:], kernel_shape=[5, 5], strides=[1, 1], pads=[2] * 4)
        return self.conv(self.node("Concat", parts, axis=1)[0], channels * 2, channels)

    def joined(self, x: str, skip: str, twice: bool) -> str:
        """A map beside another one, which has twice its size or the same."""
        if twice:
            sizes = self.constant(np.array([1, 1, 2, 2], np.float32))
            x = self.node("Resize", [x, "", sizes], mode="nearest", coordinate_transformation_mode="asymmetric",
                          nearest_mode="floor")[0]  # fmt: skip
        return self.node("Concat", [x, skip], axis=1)[0]


def detector() -> onnx.ModelProto:
    """A network like YOLOv8n: C2f blocks, SPPF, neck of up- and downsampling, three heads; 640x640, 4.3 G multiply-adds."""
    net, x, channels, maps = Network(), "images", 3, []
    for k, width in enumerate(WIDTHS):
        x = net.conv(x, channels, width, 3, 2)
        channels = width
        if k:
            x = net.c2f(x, width, width, DEPTHS[k - 1], True)
            maps.append(x)
    p3, p4, p5 = maps[1], maps[2], net.sppf(maps[3], channels)
    n4 = net.c2f(net.joined(p5, p4, True), 384, 128, 1, False)
    n3 = net.c2f(net.joined(n4, p3, True), 192, 64, 1, False)
    m4 = net.c2f(net.joined(net.conv(n3, 64, 64, 3, 2), n4, False), 192, 128, 1, False)
    m5 = net.c2f(net.joined(net.conv(m4, 128, 128, 3, 2), p5, False), 384, 256, 1, False)
    outputs = []
    for y, width, side in ((n3, 64, SIZE // 8), (m4, 128, SIZE // 16), (m5, 256, SIZE // 32)):
        y = net.conv(net.conv(net.conv(y, width, 64, 3), 64, 64, 3), 64, OUTPUTS, act=False)
        outputs.append(helper.make_tensor_value_info(y, TensorProto.FLOAT, [1, OUTPUTS, side, side]))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIZE, SIZE])
    graph = helper.make_graph(net.nodes, "detector", [image], outputs, net.weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def photographs(folder: Path) -> list[Path]:
    """The calibration images of EfficientNet-Lite0."""
    return sorted((folder / "data" / "imagenet400").glob("*.jpg"))[:PHOTOGRAPHS]


def ours(model: Path, samples: Path) -> dict[str, float]:
    """Stages calibrate (reading images too) and quantize."""
    import qaccel

    spent = time.process_time()
    preprocess = "mean=127,scale=128" if samples.is_dir() else None
    made = qaccel.quantize(model, calibration_data=samples, preprocess=preprocess, bits=8)
    return {"seconds": made.seconds["calibrate"] + made.seconds["quantize"], "processor": time.process_time() - spent}


def peer(model: Path, samples: Path) -> dict[str, float]:
    """ONNX Runtime's quantize_static, reading images too."""
    import onnxruntime as ort
    from onnxruntime import quantization
    from PIL import Image

    name = ort.InferenceSession(model, providers=["CPUExecutionProvider"]).get_inputs()[0].name

    def feeds():
        if not samples.is_dir():
            for sample in np.load(samples)[name]:
                yield {name: sample[np.newaxis]}
            return
        for path in sorted(samples.glob("*.jpg")):
            pixels = np.asarray(Image.open(path).convert("RGB").crop((16, 16, 240, 240)), np.float32)
            yield {name: np.ascontiguousarray(((pixels - 127) / 128).transpose(2, 0, 1)[np.newaxis])}

    class Reader(quantization.CalibrationDataReader):
        def __init__(self) -> None:
            self.rest = feeds()

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self.rest, None)

    start, spent = time.perf_counter(), time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        quantization.quantize_static(
            model, Path(folder) / "quantized.onnx", Reader(), quantization.QuantFormat.QDQ, per_channel=True,
            weight_type=quantization.QuantType.QInt8, activation_type=quantization.QuantType.QInt8,
        )  # fmt: skip
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - spent}


SIDES = {"qaccel": ours, "ONNX Runtime": peer}


def measured(side: str, model: Path, samples: Path) -> dict[str, float]:
    """One turn of a side in a new process with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, __file__, "--side", side, str(model), str(samples)]
        said = subprocess.run(command, env={**os.environ, "QACCEL_CACHE": cache}, capture_output=True, text=True)
    if said.returncode:
        raise SystemExit(said.stderr)
    return json.loads(said.stdout.splitlines()[-1])


def compare(name: str, model: Path, samples: Path, rounds: int) -> None:
    """Both sides in turns; medians."""
    turns = [{side: measured(side, model, samples) for side in SIDES} for _ in range(rounds)]
    for side in SIDES:
        middle = {key: statistics.median(turn[side][key] for turn in turns) for key in turns[0][side]}
        print(
            f"{name}, {side}: {middle['seconds']:.2f} s ({middle['processor']:.2f} s of the processor), "
            f"{middle['peak_gb']:.2f} GB at most",
            flush=True,
        )
    ratio = statistics.median(turn["qaccel"]["seconds"] / turn["ONNX Runtime"]["seconds"] for turn in turns)
    print(f"{name}: ratio {ratio:.2f}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--side"]:
        side, model, samples = sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4])
        found = SIDES[side](model, samples)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({**found, "peak_gb": peak}))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        onnx.save(detector(), folder / "detector.onnx")
        samples = np.random.default_rng(1).random((SAMPLES, 3, SIZE, SIZE), dtype=np.float32)
        np.savez(folder / "samples.npz", images=samples)
        if arguments.shared is not None:
            images = folder / "images"
            images.mkdir()
            for path in photographs(arguments.shared):
                (images / path.name).symlink_to(path.resolve())
            compare("EfficientNet-Lite0", arguments.shared / "models" / "efflite0.onnx", images, arguments.rounds)
        compare("detector", folder / "detector.onnx", folder / "samples.npz", arguments.rounds)


if __name__ == "__main__":
    main()
