"""Top-1 of ResNet-8 on the 10,000 CIFAR-10 test images, compiled at W8A8 and run on the simulator, beside the float model.

`python tests/bench/bench_accuracy.py SHARED` where SHARED holds models/mltk_image_classification.onnx and data/cifar10.tar.gz. Calibration takes
256 training images, the first of each class; no test image is looked at before the result.
"""

import argparse
import io
import tarfile
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

import qaccel

CALIBRATION_IMAGES = 256


def images(archive: Path, split: str, per_class: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """(images float32 [N, 3, 32, 32] as the model wants them, labels), in order of class and name."""
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--bits", default="8")
    arguments = parser.parse_args()
    model = arguments.shared / "models" / "mltk_image_classification.onnx"
    archive = arguments.shared / "data" / "cifar10.tar.gz"
    calibration, _ = images(archive, "train", -(-CALIBRATION_IMAGES // 10))
    test, labels = images(archive, "test")
    session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    layout = "NCHW" if list(session.get_inputs()[0].shape[1:]) == [3, 32, 32] else "NHWC"
    turned = test if layout == "NCHW" else test.transpose(0, 2, 3, 1)
    float_top = np.concatenate(
        [session.run(None, {name: part})[0].argmax(-1) for part in np.array_split(turned, len(turned))]
    )
    module = qaccel.compile(str(model), calibration_data={name: calibration[:CALIBRATION_IMAGES]}, bits=arguments.bits)
    (scores,) = module.run({name: test}).values()
    top = scores.argmax(-1)
    print(f"onnxruntime {onnxruntime.__version__}, {len(test)} images, bits {arguments.bits}")
    print(f"float {100 * (float_top == labels).mean():.2f}%  quantized {100 * (top == labels).mean():.2f}%", end="  ")
    print(
        f"drop {100 * ((float_top == labels).mean() - (top == labels).mean()):.2f} points  agreement {100 * (top == float_top).mean():.2f}%"
    )


if __name__ == "__main__":
    main()
