"""A model that comes quantized: by ONNX Runtime, another tool, training, or this compiler. Its integers stay what they are.

Whoever quantized a model has decided on bits, scales and zero points; here they are data, not advice. QDQ, QCDQ and QOperator
files of ONNX, TFLite files, and PyTorch programs of torchao's PT2E are read, each operator with the scales that it came with.
Training with the accelerator's own rounding is in 02_train_for_four_bits.py; what comes out of it is compiled as shown here.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Our own file and ONNX Runtime's, compiled with their integers; then the same file taken as float."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--count", type=int, default=200, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where files and the report go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    calibration = {data.INPUT_NAME: data.load("calibration", 128)["images"]}
    test = data.load("test", arguments.count)

    def scores_of(module: qaccel.Module) -> np.ndarray:
        return module.run({data.INPUT_NAME: test["images"]})[data.OUTPUT_NAME]

    def top1(scores: np.ndarray) -> str:
        return f"{100 * (scores.argmax(1) == test['labels']).mean():.1f}%"

    # 1. A file of our own. `save_onnx` writes standard ONNX with QuantizeLinear and DequantizeLinear, for any tool; compiled
    #    again it gives the same integers. "llvm" computes them on this machine's CPU, faster than the simulator does.
    q = qaccel.quantize(arguments.model, calibration, bits="W4A8")
    q.save_onnx(arguments.out / "ours.onnx")
    first = scores_of(qaccel.compile(q, target="llvm"))
    again = scores_of(qaccel.compile(arguments.out / "ours.onnx", target="llvm"))
    same = "the same" if (first == again).all() else "OTHER"
    print(f"ours, W4A8               top-1 {top1(first)}; from its file {same} scores")

    # 2. A file of ONNX Runtime's static quantization, where that is installed.
    path = arguments.out / "ours.onnx"
    try:
        import onnxruntime
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
        from onnxruntime.quantization.shape_inference import quant_pre_process
    except ImportError:
        print("ONNX Runtime is missing; pip install onnxruntime shows its file, too")
    else:

        class Reader(CalibrationDataReader):
            """The calibration images, one by one."""

            def __init__(self) -> None:
                self.images = iter(calibration[data.INPUT_NAME])

            def get_next(self) -> dict[str, np.ndarray] | None:
                image = next(self.images, None)
                return None if image is None else {data.INPUT_NAME: image[None]}

        path = arguments.out / "onnxruntime.onnx"
        quant_pre_process(str(arguments.model), str(arguments.out / "prepared.onnx"), skip_symbolic_shape=True)
        quantize_static(
            str(arguments.out / "prepared.onnx"), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
            activation_type=QuantType.QInt8, weight_type=QuantType.QInt8,
        )  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        theirs = np.concatenate([session.run(None, {data.INPUT_NAME: image[None]})[0] for image in test["images"]])
        found = scores_of(qaccel.compile(path, target="llvm"))
        agree = 100 * (found.argmax(1) == theirs.argmax(1)).mean()
        print(
            f"ONNX Runtime's, W8A8     top-1 {top1(theirs)} there, {top1(found)} here; first classes agree on {agree:.1f}%"
        )

    # 3. The accelerator runs the same file. Nothing has to be calibrated, and no data is needed.
    module = qaccel.compile(path, hw="qaccel-256", report=arguments.out)
    few = test["images"][:4]
    on_simulator = module.run({data.INPUT_NAME: few})[data.OUTPUT_NAME]
    on_cpu = qaccel.compile(path, target="llvm").run({data.INPUT_NAME: few})[data.OUTPUT_NAME]
    same = "the same" if (on_simulator == on_cpu).all() else "OTHER"
    print(f"accelerator              {same} scores, {module.report.cycles:,} cycles")

    # 4. Or take it as the float network that it came from, and let our quantizer do it again.
    requantized = qaccel.quantize(path, calibration, bits="W4A8", requantize=True)
    print(f"quantized again, W4A8    top-1 {top1(scores_of(qaccel.compile(requantized, target='llvm')))}")
    print(f"report     {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
