"""Describe an accelerator of your own, measure a network on it, and sweep its parameters.

A machine is a small .toml: `base` names one that there is, and the rest is what differs. `target/hw.toml` lists every
parameter with unit, limits and meaning. One quantization serves all machines; each is compiled for and counted cycle by
cycle, on all cores.

On the command line the same is

    tvmc compile model.onnx --target "qaccel -config=mine.toml" --calibration-data calibration.npz --report out
    tvmc explore model.onnx --target "qaccel -config=mine.toml" --calibration-data calibration.npz --sweep "rows=8,16" -o machines
"""

import argparse
import sys
from pathlib import Path

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

MINE = """\
# Half the memory of qaccel-256, behind a narrower bus.
base = "qaccel-256"
name = "mine"
sram_bytes = 262144
dram_bytes_per_cycle = 4
"""


def main() -> None:
    """One network on a machine of our own, then on many like it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--sweep", default="rows=8,16 dram_bytes_per_cycle=4,8 sram_bytes=64K,128K,256K")
    parser.add_argument("--count", type=int, default=128, help="how many calibration images")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo_output", help="where the config, the report and the plots go"
    )
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    # 1. The machine. A value that no machine may have is an error in one line, before any work.
    config = arguments.out / "mine.toml"
    config.write_text(MINE, encoding="utf-8")

    # 2. Quantize once.
    q = qaccel.quantize(
        arguments.model, {data.INPUT_NAME: data.load("calibration", arguments.count)["images"]}, hw=config
    )

    # 3. On this machine and on the one it is made from.
    for hw in (config, "qaccel-256"):
        report = qaccel.compile(q, hw=hw, report=arguments.out if hw is config else None).report
        print(
            f"{report.hw['name']:<11} {report.cycles:>7,} cycles, {report.gap_percent.cycles:3.0f}% above its bound, "
            f"SRAM {report.memory.peak_sram_bytes:>7,} B, DRAM {sum(report.dram_bytes.values()):>7,} B"
        )

    # 4. The sweep: every combination. A machine on which the network has no room is a row with its reason.
    found = qaccel.explore(q, arguments.sweep, hw=config, output=arguments.out / "machines")
    front = set(found.front)
    for number, row in sorted(enumerate(found.rows), key=lambda each: each[1]["cycles"] or float("inf")):
        mark, shown = "*" if number in front else " ", {key: value for key, value in row.items() if key != "reason"}
        print(mark, "  ".join(f"{key} {value:,}" for key, value in shown.items() if value is not None), row["reason"])
    print("* no other machine is better in cycles, DRAM bytes, multipliers and SRAM at once")

    # 5. What the rows do not say, the reports do: where the slowest machine waits, layer by layer.
    reports = [each for each in found.reports if each is not None]
    slowest = max(reports, key=lambda each: each.cycles)
    waits = {cause: sum(layer.stalls[cause] for layer in slowest.layers) for cause in slowest.layers[0].stalls}
    print("slowest    waits:", ", ".join(f"{cause} {cycles:,}" for cause, cycles in waits.items() if cycles))
    print(f"plots      {arguments.out / 'machines' / 'explore.html'}")
    print(f"report     {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
