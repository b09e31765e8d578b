"""Read a report: where the cycles of a network go, what holds it back, and what changes when something is changed.

`report.html` shows all of this in pictures (docs/report.md says what each means). Here the same figures are read from Python, where
one can compute with them: `module.report` has named, typed fields, those of report.json.
"""

import argparse
import sys
from pathlib import Path

import qaccel
from qaccel.cli.main import main as tvmc

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Compile a network twice, read the reports, and hold one against the other."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "mobilenet.onnx")
    parser.add_argument("--count", type=int, default=128, help="how many calibration images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where the reports go")
    arguments = parser.parse_args()
    calibration = {data.INPUT_NAME: data.load("calibration", arguments.count)["images"]}
    before, after = arguments.out / "W8A8", arguments.out / "W4A8"

    # 1. The whole. `bound_cycles` is what multipliers and DRAM need if nothing ever waits; the gap is what a better schedule, or
    #    another machine, could win.
    module = qaccel.compile(arguments.model, calibration_data=calibration, bits="W8A8", report=before)
    report = module.report
    print(f"cycles     {report.cycles:,}, bound {report.bound_cycles:,}: {report.gap_percent.cycles:.0f}% above it")
    print(f"multipliers busy {100 * report.utilization:.0f}% of the time, latency {report.latency_ms:.3f} ms")

    # 2. The layers that cost most. `stalls` sum to a layer's cycles: it computes, or it waits for something.
    print("\nthe five that cost most")
    for layer in sorted(report.layers, key=lambda each: -each.cycles)[:5]:
        waits = {cause: cycles for cause, cycles in layer.stalls.items() if cause != "compute" and cycles}
        cause = max(waits, key=waits.get) if waits else "nothing"
        print(
            f"  {layer.name:<14} {layer.op:<8} {layer.cycles:>7,} cycles, {100 * layer.cycles / report.cycles:4.1f}%, "
            f"computes in {100 * layer.stalls.compute / layer.cycles:3.0f}%, waits most for {cause.replace('_', ' ')}"
        )

    # 3. Who is to blame, over all layers: a machine is well balanced for a network where no cause stands out.
    print("\nall cycles by cause")
    for cause in report.layers[0].stalls:
        share = sum(layer.stalls[cause] for layer in report.layers) / report.cycles
        print(f"  {cause.replace('_', ' '):<16} {100 * share:5.1f}%  {'#' * round(40 * share)}")

    # 4. What the CPU does: each with the reason, and what would bring it to the accelerator.
    for each in report.fallback:
        print(f"on the CPU: {each.name} ({each.op}): {each.reason}; {each.fix}")

    # 5. Change one thing, and let `tvmc diff` say what that changed, layer by layer and why.
    qaccel.compile(arguments.model, calibration_data=calibration, bits="W4A8", report=after)
    print()
    if tvmc(["diff", str(before), str(after)]) != 0:
        raise SystemExit("the two reports could not be compared")

    # 6. What no report has: the program itself, and the time line for ui.perfetto.dev.
    first = module.disassemble().splitlines()[:6]
    print("\nthe program begins", *first, sep="\n  ")
    print(f"\ntimeline   {before / 'timeline.json'}, {len(module.timeline()['traceEvents']):,} events")
    print(f"report     {before / 'report.html'}")


if __name__ == "__main__":
    main()
