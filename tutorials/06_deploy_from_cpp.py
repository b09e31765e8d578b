"""Run a compiled network from C++: no Python when it runs, no compiler, and the same integers and cycles as from Python.

The program is tutorials/06_deploy_from_cpp: a CMake project to copy. It links TVM's runtime, tvm-ffi and libqaccel_sim.so, which
stands for the accelerator until there is one. By hand the same is

    tvmc compile --target=qaccel tests/networks/resnet.onnx --calibration-data calibration.npz -o module.so
    cmake -S tutorials/06_deploy_from_cpp -B build/deploy && cmake --build build/deploy
    build/deploy/deploy module.so image=image.npy --outputs .
"""

import argparse
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

PROJECT = Path(__file__).with_suffix("")


def main() -> None:
    """Compile the network and the program, run images through both doors, and compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=200, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where module, program and report go")
    arguments = parser.parse_args()
    missing = [each for each in ("cmake", "g++") if tool(each) is None]
    if missing:
        print(f"skipped: {' and '.join(missing)} not installed")
        return
    out: Path = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)

    # 1. Compile the network, as in the first tutorial.
    calibration = {data.INPUT_NAME: data.load("calibration", 128)["images"]}
    path = out / "module.so"
    qaccel.compile(
        ROOT / "tests" / "networks" / "resnet.onnx", calibration_data=calibration, bits=8, output=path, report=out
    )

    # 2. Build the program. CMake asks this Python once where libraries and headers are; the program itself needs no Python.
    build = out / "deploy"
    flags = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={tool('ninja')}"] if tool("ninja") else []
    cmake = [str(tool("cmake"))]
    subprocess.run([*cmake, "-S", PROJECT, "-B", build, f"-DPython_EXECUTABLE={sys.executable}", *flags], check=True)
    subprocess.run([*cmake, "--build", build], check=True)
    linked = subprocess.run(["ldd", build / "deploy"], check=True, capture_output=True, text=True).stdout
    print("links     ", *sorted(set(re.findall(r"lib(?:tvm|qaccel)\w*\.so", linked))))

    # 3. Run images through it, one process each, and through Python. Inputs and outputs are .npy files.
    module = qaccel.load(path)
    test = data.load("test", arguments.count)
    predicted, same = [], 0
    for image in test["images"]:
        np.save(out / "image.npy", image[None])
        command = [build / "deploy", path, f"{data.INPUT_NAME}={out / 'image.npy'}", "--outputs", out]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        scores = np.load(out / "output_0.npy")
        same += np.array_equal(scores, module.run({data.INPUT_NAME: image[None]})[data.OUTPUT_NAME])
        predicted.append(scores.argmax())
    print(f"top-1      {100 * (np.array(predicted) == test['labels']).mean():.1f}% of {arguments.count} images")
    print(f"equal      {same} of {arguments.count} outputs are bit for bit those of Python")

    # 4. What it says itself: cycles that the simulator counted, and the memory that the process took, runtime included.
    print("\n".join(f"{line.split(' ', 1)[0]:<10} {line.split(' ', 1)[1]}" for line in text.splitlines()[-2:]))
    print(f"cycles     {module.report['cycles']} in Python's report")


def tool(name: str) -> str | None:
    """The path of a program: beside this Python, or on PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


if __name__ == "__main__":
    main()
