"""Your own model with your own images: folders of pictures in, accuracy out.

Two folders are all that is needed. One holds a few dozen unlabelled pictures such as the network will see: the compiler runs the
float network on them to learn how large its activations become. The other has a folder for each class, to judge by. How a
pixel becomes an input is the one thing that the compiler cannot know; `preprocess` says it, in the words of the training
script: (pixel - mean) / scale. The module keeps it, so that later images are prepared the same way.

Without arguments the script plays it through: it writes the pictures of tests/networks as PNG files. With your own:

    python tutorials/03_your_own_images.py --model model.onnx --images FOLDER --labelled FOLDER --preprocess "mean=127,scale=128"

On the command line the same is

    tvmc compile model.onnx --target=qaccel --calibration-data FOLDER --preprocess "mean=127,scale=128" -o module.so --report out
    tvmc evaluate module.so --data FOLDER --reference model.onnx
"""

import argparse
import sys
from pathlib import Path

from PIL import Image

import qaccel

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from networks import data  # noqa: E402


def main() -> None:
    """Calibrate on a folder, judge by another, and see what wrong preprocessing does."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--model", type=Path, default=ROOT / "tests" / "networks" / "resnet.onnx")
    parser.add_argument("--images", type=Path, help="a folder of pictures to calibrate on")
    parser.add_argument("--labelled", type=Path, help="a folder with a folder of pictures for each class")
    parser.add_argument("--preprocess", default=f"mean={data.MEAN},scale={data.SCALE}")
    parser.add_argument("--count", type=int, default=300, help="how many test pictures to write")
    parser.add_argument("--out", type=Path, default=ROOT / "demo_output", help="where module and report go")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    images, labelled = arguments.images, arguments.labelled
    if images is None or labelled is None:
        images, labelled = write_pictures(arguments.out, arguments.count)

    # 1. Compile. The notes say what the compiler saw and what it is unsure of: read them.
    module = qaccel.compile(
        arguments.model, calibration_data=str(images), preprocess=arguments.preprocess,
        output=arguments.out / "module.so", report=arguments.out,
    )  # fmt: skip
    for note in module.notes:
        print(f"note       {note}")

    # 2. Judge it. The module prepares the pictures as it was told when it was compiled.
    found = qaccel.evaluate(arguments.out / "module.so", labelled, arguments.model)
    print(f"top-1      {100 * found.top1:.1f}%, float {100 * found.reference_top1:.1f}%")
    print(f"agreement  {100 * found.agreement:.1f}% of {found.samples} pictures")

    # 3. One picture, as an application would have it: a folder with that picture.
    one = arguments.out / "one"
    one.mkdir(exist_ok=True)
    picture = next(path for path in sorted(labelled.rglob("*")) if path.is_file())
    (one / picture.name).write_bytes(picture.read_bytes())
    (scores,) = module.run(one).values()
    print(f"one        {picture.name} in folder '{picture.parent.name}': class {scores[0].argmax()}")

    # 4. The mistake that everyone makes once: the wrong preprocessing. The module still compiles, and no longer knows anything.
    #    Where the file still has the first batch normalization, the compiler knows what training saw, and warns.
    wrong = qaccel.compile(arguments.model, calibration_data=str(images), preprocess="scale=255", target="llvm")
    for note in wrong.notes:
        print(f"wrong      {note}")
    print(f"wrong      top-1 {100 * wrong.evaluate(labelled).top1:.1f}%")
    print(f"report     {arguments.out / 'report.html'}")


def write_pictures(out: Path, count: int) -> tuple[Path, Path]:
    """Pictures as a user has them: 100 to calibrate on, and ``count`` in a folder for each class."""
    images, labelled = out / "pictures", out / "labelled"
    images.mkdir(exist_ok=True)
    for number, pixels in enumerate(data.pixels("calibration", 100)[0]):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(images / f"{number:03}.png")
    for number, (pixels, label) in enumerate(zip(*data.pixels("test", count), strict=True)):
        (labelled / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.transpose(1, 2, 0)).save(labelled / str(label) / f"{number:03}.png")
    return images, labelled


if __name__ == "__main__":
    main()
