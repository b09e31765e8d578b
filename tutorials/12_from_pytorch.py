"""From PyTorch: a network in memory, or a .pt2 file, without a way through ONNX. It needs PyTorch: pip install qaccel[train]

What `torch.export.export` gives goes into `qaccel.compile` as it is; a file of `torch.export.save` goes into `tvmc compile`.
PyTorch names inputs and nodes in a way of its own, and the report has its names. For training with the accelerator's
rounding see 02_train_for_four_bits.py.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

MODEL = ROOT / "tests" / "networks" / "mobilenet.onnx"


def main() -> None:
    """Export, compile from memory and from the file, compare with PyTorch."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--count", type=int, default=300, help="how many test images")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where the program and the report go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    try:
        import torch
    except ImportError:
        print("skipped: PyTorch is missing; pip install qaccel[train]")
        return
    from networks import torch_networks

    # 1. Any torch.nn.Module in eval mode. This one has the weights of the repository's MobileNet.
    network = torch_networks.mobilenet(MODEL).eval()
    test = data.load("test", arguments.count)
    with torch.no_grad():
        exact = network(torch.from_numpy(test["images"])).numpy()

    # 2. Export it for one image; the accelerator's programs have fixed shapes.
    program = torch.export.export(network, (torch.zeros(1, 3, 32, 32),))
    torch.export.save(program, str(arguments.out / "mobilenet.pt2"))

    # 3. Compile from memory. The array of the only input needs no name.
    calibration = data.load("calibration", 128)["images"]
    module = qaccel.compile(program, calibration_data=calibration, report=arguments.out)
    (name,) = (each["name"] for each in module.metadata["inputs"])
    (scores,) = module.run({name: test["images"]}).values()
    print(f"input      '{name}'")
    print(f"top-1      {100 * (scores.argmax(1) == test['labels']).mean():.1f}%, "
          f"PyTorch {100 * (exact.argmax(1) == test['labels']).mean():.1f}%")  # fmt: skip
    print(f"agreement  {100 * (scores.argmax(1) == exact.argmax(1)).mean():.1f}% of {len(exact)} images")

    # 4. From the file: the same. On the command line: tvmc compile mobilenet.pt2 --target=qaccel --calibration-data ...
    again = qaccel.compile(arguments.out / "mobilenet.pt2", calibration_data=calibration, target="llvm")
    few = {name: test["images"][:8]}
    print(f"file       the same scores: {bool(np.array_equal(next(iter(again.run(few).values())), scores[:8]))}")
    print(f"cycles     {module.report.cycles:,}")
    print(f"report     {arguments.out / 'report.html'}")


if __name__ == "__main__":
    main()
