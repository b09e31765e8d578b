"""Accuracy of quantized networks beside the float model and beside ONNX Runtime's static quantization, in one run.

`python tests/bench/bench_accuracy.py SHARED [folds] [no-data] [calibrated]`, all three by default. SHARED holds models/efflite0.onnx,
models/mltk_image_classification.onnx, data/imagenet400 (NNN.jpg named by class) and data/cifar10.tar.gz.

- folds: EfficientNet-Lite0, W8A8, four folds of a seeded permutation: calibrate on 100 photographs, test on the other 300.
- no-data: both networks compiled with nothing but an input range of -1 to 1.
- calibrated: ResNet-8 on the 10,000 CIFAR-10 test images, calibrated on the first 26 training images of each class.

Ours is compiled and run on the simulator, which is faster than the integers in NumPy of `QuantizedNetwork.run` and gives the same
(tests/breadth, tests/operators). ONNX Runtime quantizes the same float model on the same images: QDQ, weights per channel, MinMax,
everything else as it is by default. What ends in MISSED fails its bar, and so does the script.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import platform
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
from onnxruntime import quantization
from onnxruntime.quantization.shape_inference import quant_pre_process
from PIL import Image

import qaccel

SEED = 2026
FOLDS = 4
CALIBRATION_PER_CLASS = 26  # of CIFAR-10
INPUT_RANGE = (-1.0, 1.0)
LARGEST_DROP_POINTS, LEAST_AGREEMENT_PERCENT = 0.7, 97.5  # folds
LARGEST_DROP_WITHOUT_DATA_POINTS = 1.0

Scores = Callable[[np.ndarray], np.ndarray]


def photographs(folder: Path, size: int = 224) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [N, 3, size, size], class indices): centre crops, (pixel - 127) / 128."""
    pixels, labels = [], []
    for path in sorted(folder.glob("*.jpg")):
        image = Image.open(path).convert("RGB")
        left, top = (image.width - size) // 2, (image.height - size) // 2
        pixels.append(np.asarray(image.crop((left, top, left + size, top + size))))
        labels.append(int(path.stem))
    array = (np.stack(pixels).astype(np.float32) - 127) / 128
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)), np.array(labels)


def cifar(archive: Path, split: str, per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [N, 3, 32, 32], (pixel - 128) / 128, labels), in order of class and name."""
    pixels, labels, taken = [], [], {}
    with tarfile.open(archive) as tar:
        members = sorted(
            (m for m in tar.getmembers() if m.name.startswith(split + "/") and m.name.endswith(".jpg")),
            key=lambda m: m.name,
        )
        classes = sorted({m.name.split("/")[1] for m in members})
        for member in members:
            label = classes.index(member.name.split("/")[1])
            taken[label] = taken.get(label, 0) + 1
            if per_class is not None and taken[label] > per_class:
                continue
            pixels.append(np.asarray(Image.open(io.BytesIO(tar.extractfile(member).read())).convert("RGB")))
            labels.append(label)
    array = (np.stack(pixels).astype(np.float32) - 128) / 128
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)), np.array(labels)


def runtime(model: Path) -> Scores:
    """A model in ONNX Runtime, one image at a time."""
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda images: np.concatenate([session.run(None, {name: image[None]})[0] for image in images])


def input_name(model: Path) -> str:
    return onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"]).get_inputs()[0].name


class _Images(quantization.CalibrationDataReader):
    def __init__(self, name: str, images: np.ndarray) -> None:
        self.parts = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.parts, None)


def runtime_quantized(model: Path, images: np.ndarray) -> Scores:
    """What ONNX Runtime makes of a model by static quantization with weights per channel."""
    with tempfile.TemporaryDirectory() as folder:
        prepared, made = Path(folder) / "prepared.onnx", Path(folder) / "quantized.onnx"
        quant_pre_process(str(model), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(str(prepared), str(made), _Images(input_name(model), images), per_channel=True)
        return runtime(made)


def ours(model: Path, images: np.ndarray | None) -> Scores:
    """What the accelerator gives: W8A8 calibrated on images, or the compile without data."""
    name = input_name(model)
    data = {"calibration_data": {name: images}, "bits": 8} if images is not None else {"input_range": INPUT_RANGE}
    module = qaccel.compile(str(model), **data)

    def scores(test: np.ndarray) -> np.ndarray:
        (result,) = module.run({name: test}).values()
        return result

    return scores


def compared(top: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> tuple[float, float, float]:
    """(accuracy, drop in points, agreement) of predictions, percent."""
    accuracy = 100 * float((top == labels).mean())
    return accuracy, 100 * float((reference == labels).mean()) - accuracy, 100 * float((top == reference).mean())


def folds(shared: Path) -> bool:
    model = shared / "models" / "efflite0.onnx"
    images, labels = photographs(shared / "data" / "imagenet400")
    reference = runtime(model)(images).argmax(-1)
    print(f"EfficientNet-Lite0, {len(images)} photographs, float {100 * (reference == labels).mean():.2f}%, W8A8")
    parts = np.array_split(np.random.default_rng(SEED).permutation(len(images)), FOLDS)
    results: dict[str, list[tuple[float, float, float]]] = {"qaccel": [], "onnxruntime": []}
    for k, part in enumerate(parts):
        rest = np.setdiff1d(np.arange(len(images)), part)
        for name, make in (("qaccel", ours), ("onnxruntime", runtime_quantized)):
            begin = time.perf_counter()
            top = make(model, images[part])(images[rest]).argmax(-1)
            results[name].append(compared(top, reference[rest], labels[rest]))
            accuracy, drop, agreement = results[name][-1]
            seconds = time.perf_counter() - begin
            print(
                f"  fold {k} {name:12} {accuracy:.2f}%, drop {drop:+.2f}, agreement {agreement:.2f}% ({seconds:.0f} s)",
                flush=True,
            )
    for name, each in results.items():
        _, drop, agreement = np.mean(each, axis=0)
        print(f"  mean   {name:12} drop {drop:+.2f} points, agreement {agreement:.2f}%")
    _, drop, agreement = np.mean(results["qaccel"], axis=0)
    return verdict(drop <= LARGEST_DROP_POINTS and agreement >= LEAST_AGREEMENT_PERCENT)


def without_data(shared: Path) -> bool:
    good = True
    for name, file, (images, labels) in (
        ("EfficientNet-Lite0", "efflite0.onnx", photographs(shared / "data" / "imagenet400")),
        ("ResNet-8", "mltk_image_classification.onnx", cifar(shared / "data" / "cifar10.tar.gz", "test")),
    ):
        model = shared / "models" / file
        reference = runtime(model)(images).argmax(-1)
        network = ours(model, None)
        accuracy, drop, agreement = compared(network(images).argmax(-1), reference, labels)
        print(
            f"{name} without data, {len(images)} images: float {100 * (reference == labels).mean():.2f}%, "
            f"{accuracy:.2f}%, drop {drop:+.2f} points, agreement {agreement:.2f}%"
        )
        good &= verdict(drop <= LARGEST_DROP_WITHOUT_DATA_POINTS)
    return good


def calibrated(shared: Path) -> bool:
    model = shared / "models" / "mltk_image_classification.onnx"
    samples, _ = cifar(shared / "data" / "cifar10.tar.gz", "train", CALIBRATION_PER_CLASS)
    images, labels = cifar(shared / "data" / "cifar10.tar.gz", "test")
    reference = runtime(model)(images).argmax(-1)
    print(f"ResNet-8, {len(images)} images, float {100 * (reference == labels).mean():.2f}%, W8A8")
    for name, make in (("qaccel", ours), ("onnxruntime", runtime_quantized)):
        accuracy, drop, agreement = compared(make(model, samples)(images).argmax(-1), reference, labels)
        print(f"  {name:12} {accuracy:.2f}%, drop {drop:+.2f} points, agreement {agreement:.2f}%")
    return True


def verdict(good: bool) -> bool:
    print("  within its bar" if good else "  MISSED")
    return good


PARTS = {"folds": folds, "no-data": without_data, "calibrated": calibrated}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], default=list(PARTS))
    arguments = parser.parse_args()
    logging.getLogger().setLevel(logging.ERROR)
    print(
        f"qaccel {qaccel.__version__}, onnxruntime {onnxruntime.__version__}, seed {SEED}, {platform.machine()}, {os.cpu_count()} cores"
    )
    return 0 if all([PARTS[part](arguments.shared) for part in arguments.parts]) else 1


if __name__ == "__main__":
    sys.exit(main())
