"""Bits for each layer, under a limit: as few cycles or bytes as an accuracy allows, or as little loss as a budget allows.

4-bit weights are half the bytes and twice the multiplications of 8-bit ones, and some layers do not mind them. `bits="auto"` finds
out which: it measures what each width of each layer loses and costs, solves an integer program, compiles the best plans, and
judges them on calibration samples that took no part. On the command line: tvmc compile --bits auto --max-drop 1 --minimize cycles.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Uniform bits for comparison, then two searches: cycles within a drop, and a drop within bytes."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--calibrate", type=int, default=128, help="how many calibration images")
    parser.add_argument("--effort", default="default", help="how long the quantizer may work: fast, default or best")
    parser.add_argument("--count", type=int, default=500, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where the report goes")
    arguments = parser.parse_args()
    calibration = {data.INPUT_NAME: data.load("calibration", arguments.calibrate)["images"]}
    test = data.load("test", arguments.count)

    def show(name: str, q: qaccel.QuantizedNetwork) -> None:
        """A line: what the accelerator takes, and what the network knows."""
        report = qaccel.compile(q).report
        scores = q.run({data.INPUT_NAME: test["images"]})[data.OUTPUT_NAME]
        right = 100 * float((scores.argmax(1) == test["labels"]).mean())
        print(f"{name:<24} {report.cycles:>7,} cycles {report.weights.stream_bytes:>8,} B, top-1 {right:.1f}%")

    # 1. The same bits everywhere.
    for bits in ("W8A8", "W4A8", "W4A4"):
        show(bits, qaccel.quantize(arguments.model, calibration, bits=bits, effort=arguments.effort))

    # 2. As few cycles as one point of loss allows. A point: 1% of samples whose first class is another than the float network's.
    fast = qaccel.quantize(
        arguments.model, calibration, bits="auto", minimize="cycles", max_drop=1.0, effort=arguments.effort
    )
    show("auto, at most 1 point", fast)
    print(f"  bits of weights: {dict(Counter(each['weight_bits'] for each in fast.plan.values()))}")
    for name, each in list(fast.plan.items())[:3]:
        print(f"  {name}: W{each['weight_bits']}A{each['activation_bits']}, {each['why']}")

    # 3. As little loss as a budget of bytes and cycles allows. A cost without a limit is spent: without max_cycles this one would
    #    take 16-bit activations everywhere.
    report = qaccel.compile(fast).report
    cycles, size = round(1.05 * report.cycles), round(0.6 * report.weights.float_bytes / 4)
    small = qaccel.quantize(
        arguments.model, calibration, bits="auto", minimize="drop", max_cycles=cycles, max_bytes=size,
        effort=arguments.effort,
    )  # fmt: skip
    show(f"auto, at most {size:,} B", small)

    # 4. The report has the Pareto curve, and for each layer why. A plan can be kept, edited, and given as bits="plan.json".
    qaccel.compile(fast, report=arguments.out)
    print(f"report     {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
