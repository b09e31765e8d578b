"""Train a network for the accelerator's integers, when rounding it is not enough: 4-bit weights, and 4-bit activations too.

The network is the small MobileNet of tests/networks. Rounding a trained network to 4 bits loses points of top-1; a pass over
training images, in which every tensor is rounded as the accelerator rounds it, wins most of them back. It needs PyTorch:
pip install qaccel[train]
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402

MODEL = ROOT / "tests" / "networks" / "mobilenet.onnx"
BATCH, SEED = 125, 7
RATE = 0.01


def main() -> None:
    """Quantize, train, export, compile, compare."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--train", type=int, default=15_000, help="how many training images")
    parser.add_argument("--count", type=int, default=2000, help="how many test images")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "demo_output", help="where the trained programs and the report go"
    )
    arguments = parser.parse_args()
    try:
        import torch
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    except ImportError:
        print("skipped: PyTorch or torchao is missing; pip install qaccel[train]")
        return
    from networks import torch_networks
    from qaccel.train import QaccelQuantizer, fit

    torch.manual_seed(SEED)
    arguments.out.mkdir(parents=True, exist_ok=True)
    test = data.load("test", arguments.count)
    calibration = {data.INPUT_NAME: data.load("calibration", 128)["images"]}

    def top1(module: qaccel.Module) -> float:
        (name,) = (each["name"] for each in module.metadata["inputs"])
        (scores,) = module.run({name: test["images"]}).values()
        return 100 * float((scores.argmax(1) == test["labels"]).mean())

    # 1. The float network, and what plain quantization makes of it. "llvm" computes on this machine's CPU: the
    #    accelerator's integers, but faster than the simulator gives them.
    print(f"top-1 float                  {top1(qaccel.compile(MODEL, target='llvm')):.2f}%")

    # 2. The same network in PyTorch. Its batch normalizations lie in the convolutions already, as in the file: that
    #    trains fastest. `fit` takes networks that still have them as well.
    teacher = torch_networks.mobilenet(MODEL).to(memory_format=torch.channels_last)
    images = {k: torch.from_numpy(v) for k, v in data.load("train", arguments.train).items()}

    class Batches:
        """The training images in a new random order each time, as a DataLoader would give them."""

        def __len__(self) -> int:
            return len(images["labels"]) // BATCH

        def __iter__(self):
            for chosen in torch.randperm(len(images["labels"]))[: len(self) * BATCH].split(BATCH):
                yield images["images"][chosen].contiguous(memory_format=torch.channels_last), images["labels"][chosen]

    example = (next(iter(Batches()))[0],)
    for bits in ("W4A8", "W4A4"):
        rounded = qaccel.compile(qaccel.quantize(MODEL, calibration, bits=bits), target="llvm")
        print(f"top-1 {bits}, untrained        {top1(rounded):.2f}%")

        # 3. QaccelQuantizer says which tensors become integers, of which bits, and which share a scale: what the
        #    compiler would do with the plan. `fit` trains weights and step sizes, by the labels and by what the float
        #    network says. Both can be left: any other loop trains what prepare_qat_pt2e gives.
        begin = time.perf_counter()
        program = torch.export.export(torch_networks.mobilenet(MODEL), example).module(check_guards=False)
        prepared = prepare_qat_pt2e(program.to(memory_format=torch.channels_last), QaccelQuantizer(bits))
        losses = fit(prepared, Batches(), 1, rate=RATE, teacher=teacher, progress=True)

        # 4. Convert, export for one image at a time, compile. The program keeps its bits, scales and integers.
        converted = convert_pt2e(prepared)
        path = arguments.out / f"mobilenet_{bits}.pt2"
        torch.export.save(torch.export.export(converted, (example[0][:1].contiguous(),)), str(path))
        minutes = (time.perf_counter() - begin) / 60
        found = top1(qaccel.compile(path, target="llvm"))
        print(f"top-1 {bits}, trained          {found:.2f}% (loss {losses[-1]:.3f}, {minutes:.1f} min)")

    # 5. The same file for the accelerator: what it costs.
    module = qaccel.compile(path, hw="qaccel-256", report=arguments.out)
    report = module.report
    widths = sorted({(each["weight_bits"], each["activation_bits"]) for each in report["layers"] if each["macs"]})
    print(f"cycles                       {report['cycles']:,} for one image; (weight, activation) bits {widths}")
    few = test["images"][:4]
    (name,) = (each["name"] for each in module.metadata["inputs"])
    same = np.array_equal(
        *(next(iter(m.run({name: few}).values())) for m in (module, qaccel.compile(path, target="llvm")))
    )
    print(f"simulator                    {'the same scores as' if same else 'OTHER scores than'} the CPU")
    print(f"report                       {arguments.out / 'report.json'}")


if __name__ == "__main__":
    main()
