"""Compile a trained network for the accelerator, run real images on the simulator, and read what it cost.

The network is the small ResNet of tests/networks; its images are handwritten digits in front of clutter. None of the
digits used here was seen in training. On the command line the same is

    python tests/networks/data.py --split calibration --out calibration.npz
    python tests/networks/data.py --split test --out labelled.npz
    tvmc compile tests/networks/resnet.onnx --target=qaccel --calibration-data calibration.npz -o module.so --report out
    tvmc evaluate module.so --data labelled.npz --reference tests/networks/resnet.onnx
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import onnx.reference

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Compile, run, compare with the float network, and print."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--count", type=int, default=200, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where module and report go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    # 1. Compile. A few unlabelled images tell the compiler how large the activations become.
    calibration = {data.INPUT_NAME: data.load("calibration", 128)["images"]}
    module = qaccel.compile(arguments.model, hw="qaccel-256", calibration_data=calibration, report=arguments.out)
    module.export_library(arguments.out / "module.so")

    # 2. Load it again, as an application would, and run labelled images on the simulated accelerator.
    module = qaccel.load(arguments.out / "module.so")
    test = data.load("test", arguments.count)
    images, labels = test["images"], test["labels"]
    scores = np.concatenate([module.run({data.INPUT_NAME: image[None]})[data.OUTPUT_NAME] for image in images])
    predicted = scores.argmax(1)
    print("label     ", *labels[:16])
    print("predicted ", *predicted[:16])

    # 3. The float network, for comparison: ONNX's own reference evaluator.
    reference = onnx.reference.ReferenceEvaluator(str(arguments.model))
    exact = np.asarray(reference.run(None, {data.INPUT_NAME: images})[0]).argmax(1)
    print(f"top-1      {100 * (predicted == labels).mean():.1f}%, float {100 * (exact == labels).mean():.1f}%")
    print(f"agreement  {100 * (predicted == exact).mean():.1f}% of {len(labels)} images")

    # 4. What it cost.
    report = module.report
    print(f"cycles     {report['cycles']:,} for one image, {report['latency_ms']:.3f} ms")
    print(f"           {100 * report['utilization']:.1f}% of the multipliers, bound {report['bound_cycles']:,}")
    print(f"report     {arguments.out / 'report.json'}")


if __name__ == "__main__":
    main()
