"""Top-1 of the networks here in ONNX Runtime: float, and its own static quantization as the figure to beat."""

import logging
import tempfile
from pathlib import Path

import data
import numpy as np
import onnx
import onnxruntime
from onnx import version_converter
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

CALIBRATION_COUNT = 128


class Reader(CalibrationDataReader):
    """Feeds the calibration images one at a time."""

    def __init__(self) -> None:
        self.images = iter(data.load("calibration", CALIBRATION_COUNT)["images"])

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next image, [1, 3, 32, 32], or None at the end."""
        image = next(self.images, None)
        return None if image is None else {data.INPUT_NAME: image[None]}


def predictions(path: Path, images: np.ndarray) -> np.ndarray:
    """Class of each image."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    batches = np.array_split(images, max(1, len(images) // 100))
    return np.concatenate([session.run(None, {data.INPUT_NAME: batch})[0].argmax(1) for batch in batches])


def quantize(source: Path, target: Path, weights: QuantType, per_channel: bool) -> None:
    """ONNX Runtime's static quantization, activations uint8 by min-max, weights rounded to nearest."""
    prepared = target.with_suffix(".prepared.onnx")
    quant_pre_process(source, prepared, skip_symbolic_shape=True)
    onnx.save(version_converter.convert_version(onnx.load(prepared), 21), prepared)
    quantize_static(
        prepared,
        target,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        weight_type=weights,
        activation_type=QuantType.QUInt8,
        extra_options={"WeightSymmetric": True},
    )


def main() -> None:
    """Print one line for each network and each precision."""
    logging.disable(logging.WARNING)
    test = data.load("test")
    settings = {
        "W8A8 per channel": (QuantType.QInt8, True),
        "W8A8 per tensor": (QuantType.QInt8, False),
        "W4A8 per channel": (QuantType.QInt4, True),
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in ("resnet", "mobilenet"):
            source = data.HERE / f"{name}.onnx"
            exact = predictions(source, test["images"])
            print(f"{name} float: {100 * (exact == test['labels']).mean():.2f}%")
            for label, setting in settings.items():
                target = Path(folder) / "quantized.onnx"
                quantize(source, target, *setting)
                found = predictions(target, test["images"])
                top1, agree = 100 * (found == test["labels"]).mean(), 100 * (found == exact).mean()
                print(f"{name} {label}: {top1:.2f}%, agrees with float on {agree:.2f}%")


if __name__ == "__main__":
    main()
