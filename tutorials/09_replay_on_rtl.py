"""For whoever builds the chip: a program with golden data of every instruction, replayed, and a fault found.

`docs/program_format.md` describes the files. On the command line the same is

    tvmc compile --target=qaccel tests/networks/resnet.onnx --calibration-data calibration.npz -o module.so --emit-program program
    tvmc replay program
"""

import argparse
import collections
import csv
import sys
from pathlib import Path

import qaccel
from qaccel.run.replay.replay import replay

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Write a program, replay it, read its golden data as a testbench would, and break it."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where program and report go")
    arguments = parser.parse_args()
    folder: Path = arguments.out / "program"

    # 1. Compile for the machine that is to be built, here the smallest config. The network has to be right before a chip can be.
    calibration = {data.INPUT_NAME: data.load("calibration", 128)["images"]}
    module = qaccel.compile(
        ROOT / "tests" / "networks" / "resnet.onnx", hw="qaccel-64", calibration_data=calibration, bits=8,
        emit_program=folder, report=arguments.out,
    )  # fmt: skip
    test = data.load("test", arguments.count)
    scores = module.run({data.INPUT_NAME: test["images"]})[data.OUTPUT_NAME]
    print(f"top-1      {100 * (scores.argmax(1) == test['labels']).mean():.1f}% of {arguments.count} images")

    # 2. Replay it: the slow interpreter, written from the ISA manual alone, and the simulator must do what the golden data say.
    (found,) = replay(folder)
    print(f"replayed   {found.instructions} instructions, {found.accesses} accesses, {found.compared_bytes:,} bytes")
    print(f"cycles     {found.cycles:,}, in the report {module.report['cycles']:,}")

    # 3. Read the golden data as a testbench does. accesses.csv says which bytes of which memory each instruction reads and
    #    writes; the bytes themselves lie in a file for each layer. When an engine of the RTL retires instruction N, its rows are
    #    what to compare.
    with (folder / "golden" / "accesses.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    first = next(row for row in rows if row["op"] == "CONV" and row["access"] == "write")
    size = int(first["rows"]) * int(first["pixels"]) * int(first["pixel_bytes"])
    golden = folder / "golden" / f"layer_{int(first['layer']):03}.bin"
    begin = int(first["offset"])
    print(
        f"first CONV instruction {first['instruction']} writes {size:,} bytes of {first['memory']} from {first['addr']} on:"
    )
    print("          ", golden.read_bytes()[begin : begin + size][:16].hex(" "), "...")
    counts = collections.Counter(row["op"] for row in rows if row["access"] == "write")
    print("writes     " + ", ".join(f"{count} by {op}" for op, count in sorted(counts.items())))

    # 4. One wrong bit, as RTL might have it: replay names instruction, layer, address, what was expected and what was found.
    right = golden.read_bytes()
    golden.write_bytes(right[: begin + 5] + bytes([right[begin + 5] ^ 1]) + right[begin + 6 :])
    try:
        replay(folder)
    except qaccel.UserError as error:
        print(f"broken     {error}")
    golden.write_bytes(right)


if __name__ == "__main__":
    main()
