"""What each pass of the quantizer gains, width by width: the contrasts of arXiv 1806.08342 with this machine's integers.

`python tests/bench/bench_passes.py SHARED [--networks efflite0 resnet8] [--bits W8A8 W4A8 W8A4 W4A4] [--folds 4] [--bars]
[--rates 3e-10 1e-9]`. SHARED as for
`bench_accuracy.py`. Weights have a scale per tensor or per channel; per channel the passes are added one after the other, in the
order in which they run by default. EfficientNet-Lite0: 100 photographs calibrate, the other 300 test, fold by fold; ResNet-8: 260
training images of CIFAR-10 calibrate, the 10,000 test images test. Scores are those of the exact integers, as on the machine.

Printed: mean KL divergence from the float model's classes, agreement with its first class, drop of accuracy in points with the
standard error of the paired differences, seconds that the passes took. ``--bars``: only what has a bar, with all passes (those of `--effort best`), and whether it
is kept; then the script fails where one is missed. ``--rates``: instead, the compiler's networks whose rounding pays so much for a
bit (a KL divergence), beside scales so many times coarser with the same rounding: bytes that LOADW fetches, by the compiled program.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
from bench_accuracy import CALIBRATION_PER_CLASS, FOLDS, SEED, cifar, photographs

from qaccel.dialect import operators
from qaccel.dialect.quantized import QuantizedModel
from qaccel.evaluate.executor import execute
from qaccel.evaluate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.options import CompileOptions, parse_bits
from qaccel.pipeline import laboratory
from qaccel.quant.calibrate.calibration import Calibration, measure
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.passes import PASSES, lattice, rounding
from qaccel.quant.passes.bias_correction import correct_biases
from qaccel.quant.passes.constants import LayerConstants, with_constants
from qaccel.quant.quantize import quantize
from qaccel.relax_tools import bindings

Weights = tuple[np.ndarray, np.ndarray]  # integers, scales
WIDTHS = ("W8A8", "W4A8", "W8A4", "W4A4")
# Drop in points, agreement in percent, and the KL divergence at which a drop within one standard error of its bar will do.
BARS = {
    ("efflite0", "W8A8"): (0.3, 99.0, 0.003), ("efflite0", "W4A8"): (2.0, 0.0, 0.0),
    ("resnet8", "W8A8"): (0.2, 0.0, 0.0), ("resnet8", "W4A8"): (1.0, 0.0, 0.0),
}  # fmt: skip


@dataclass(frozen=True)
class Split:
    """One way to part the images of a network."""

    calibration: np.ndarray
    images: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Result:
    """Per image: KL divergence, whether the classes agree, by how much the float model is more right (-1, 0, 1)."""

    kl: np.ndarray
    agrees: np.ndarray
    worse: np.ndarray
    images: int  # different ones

    def __str__(self) -> str:
        return f"KL {self.kl.mean():.4f}, agreement {100 * self.agrees.mean():.2f}%, drop {self.drop:+.2f} +- {self.error:.2f} points"

    @property
    def drop(self) -> float:
        return 100 * float(self.worse.mean())

    @property
    def error(self) -> float:
        """Standard error of the drop, points."""
        return 100 * float(self.worse.std()) / self.images**0.5


def splits(network: str, shared: Path, folds: int) -> Iterator[Split]:
    if network == "resnet8":
        calibration, _ = cifar(shared / "data" / "cifar10.tar.gz", "train", CALIBRATION_PER_CLASS)
        yield Split(calibration, *cifar(shared / "data" / "cifar10.tar.gz", "test"))
        return
    images, labels = photographs(shared / "data" / "imagenet400")
    for part in np.array_split(np.random.default_rng(SEED).permutation(len(images)), FOLDS)[:folds]:
        rest = np.setdiff1d(np.arange(len(images)), part)
        yield Split(images[part], images[rest], labels[rest])


FILES = {"efflite0": "efflite0.onnx", "resnet8": "mltk_image_classification.onnx"}


def per_tensor(q: QuantizedModel) -> QuantizedModel:
    """The model with one weight scale for all channels of a layer, rounded to nearest."""
    made = {}
    for binding in bindings(q.mod["main"]):
        attrs = operators.read(binding.value) if operators.is_quantized(binding.value) else None
        if isinstance(attrs, operators.ConvAttrs) and attrs.name in q.real:
            _, bias, scale = (operators.constant(arg) for arg in binding.value.args[1:])
            real, limit = q.real[attrs.name].weight, (1 << (attrs.weight_bits - 1)) - 1
            common = np.full_like(scale, np.abs(real).max() / limit)
            weight = np.rint(real / common[:, None, None, None])
            made[attrs.name] = LayerConstants(weight, np.rint(bias * (scale / common).astype(np.float64)), common)
    return replace(q, mod=with_constants(q.mod, made))


def probabilities(scores: np.ndarray) -> np.ndarray:
    """A Softmax of logits; what is one already stays."""
    if scores.min() >= 0 and abs(scores.sum(axis=-1) - 1).max() < 0.05:
        return scores.astype(np.float64)
    powers = np.exp(scores.astype(np.float64) - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def judged(scores: np.ndarray, reference: np.ndarray, labels: np.ndarray) -> Result:
    p, q = probabilities(reference), probabilities(scores)
    top, wanted = scores.argmax(-1), reference.argmax(-1)
    kl = (p * np.log((p + 1e-9) / (q + 1e-9))).sum(axis=-1)
    return Result(kl, top == wanted, (wanted == labels).astype(int) - (top == labels), len(labels))


def steps(q: QuantizedModel, calibration: Calibration, only_last: bool) -> Iterator[tuple[str, QuantizedModel]]:
    """What is contrasted, and the model."""
    if not only_last:
        yield "per tensor", per_tensor(q)
        yield "per tensor + bias_correction", correct_biases(per_tensor(q), calibration)
        yield "per channel", q
        yield "per channel + bias_correction", correct_biases(q, calibration)
    name = "per channel"
    for each in PASSES:
        q, name = each.run(q, calibration), f"{name} + {each.name}"
        if not only_last or each is PASSES[-1]:
            yield name, q


COARSER = (2.0, 4.0)  # scales beside rates


def at_rates(model: Model, split: Split, bits: str, rates: list[float]) -> list[tuple[str, int, Result]]:
    """(what, bytes that LOADW fetches, result on the test images) of plain rounding, of rates, and of coarser scales."""
    name, output = model.inputs[0].name, model.outputs[0].name
    options = CompileOptions(calibration_data={name: split.calibration})
    lab = laboratory(model, measure(model, options), options)
    reference = execute(model, {name: split.images})[output]

    def result(what: str, q: QuantizedModel) -> tuple[str, int, Result]:
        fetched = sum(each.stream_bytes for each in lab.price(q).layers)
        found = judged(run_model(q, {name: split.images})[output], reference, split.labels)
        print(f"  {what}: {fetched:,} bytes, {found}", flush=True)
        return what, fetched, found

    made = [result("plain", lab.make(parse_bits(bits)))]
    made += [result(f"a bit at {rate:g}", lab.make(parse_bits(bits), rate)) for rate in rates]
    for factor in COARSER:

        def coarser(target: np.ndarray, gram: np.ndarray, start: np.ndarray, limit: int, worth: float) -> Weights:
            scale = lattice.searched_scales(target, gram, start, limit) * factor  # noqa: B023
            q = lattice.carried(target, gram, scale, lattice.closest(limit))
            return lattice.descended(target, gram, q, scale, lattice.closest(limit)), scale

        with patch.object(rounding, "priced_weights", coarser):
            made.append(result(f"scales {factor:g} times as coarse", lab.make(parse_bits(bits), rates[0])))
    return made


def saved(model: Model, split: Split, bits: str, rates: list[float]) -> None:
    """Prints what each rate saves, against plain rounding and against coarser scales of the same divergence."""
    made = at_rates(model, split, bits, rates)
    _, plain, _ = made[0]
    beside = sorted((np.log(result.kl.mean()), np.log(size)) for _, size, result in made[1 + len(rates) :])
    kls, sizes = zip(*beside, strict=True)
    for what, size, result in made[1 : 1 + len(rates)]:
        coarse = float(np.exp(np.interp(np.log(result.kl.mean()), kls, sizes)))
        print(
            f"{what}: {100 * size / plain - 100:+.1f}% bytes against plain, {100 * size / coarse - 100:+.1f}% against coarser scales of "
            f"the same KL: {result}",
            flush=True,
        )


def contrasts(model: Model, split: Split, bits: str, bars: bool) -> Iterator[tuple[str, Result, float]]:
    """(what, result, seconds that it took to make) of one split."""
    name, output = model.inputs[0].name, model.outputs[0].name
    reference = execute(model, {name: split.images})[output]
    ranges = calibrate(model, {name: split.calibration})
    calibration = Calibration(ranges, {name: split.calibration}, measured=True)
    begin = time.perf_counter()
    plain = quantize(model, ranges, parse_bits(bits))
    for what, q in steps(plain, calibration, bars):
        seconds = time.perf_counter() - begin
        yield what, judged(run_model(q, {name: split.images})[output], reference, split.labels), seconds
        begin = time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--networks", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--bits", nargs="+", default=list(WIDTHS))
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--bars", action="store_true")
    parser.add_argument("--rates", nargs="+", type=float, default=[])
    arguments = parser.parse_args()
    good = True
    for network in arguments.networks:
        model = import_onnx(arguments.shared / "models" / FILES[network])
        for bits in (
            arguments.bits if not arguments.bars else [b for n, b in BARS if n == network and b in arguments.bits]
        ):
            found: dict[str, list[Result]] = {}
            for k, split in enumerate(splits(network, arguments.shared, arguments.folds)):
                if arguments.rates:
                    print(f"{network} {bits} fold {k}", flush=True)
                    saved(model, split, bits, arguments.rates)
                    continue
                for what, result, seconds in contrasts(model, split, bits, arguments.bars):
                    found.setdefault(what, []).append(result)
                    print(f"{network} {bits} fold {k} {what}: {result} ({seconds:.0f} s)", flush=True)
            for what, results in found.items():
                drops = [each.drop for each in results]
                whole = joined(results)
                print(f"{network} {bits} mean {what}: {whole}, spread of folds {np.std(drops):.2f}", flush=True)
                if arguments.bars:
                    good &= kept(whole, *BARS[network, bits])
    return 0 if good else 1


def joined(results: list[Result]) -> Result:
    """Of all folds; each image is tested in all folds but one."""
    folds, images = len(results), results[0].images
    distinct = images if folds == 1 else min(folds * images, images * FOLDS // (FOLDS - 1))
    return Result(*(np.concatenate([getattr(r, f) for r in results]) for f in ("kl", "agrees", "worse")), distinct)


def kept(result: Result, drop: float, agreement: float, kl: float) -> bool:
    """Prints and says whether a result keeps its bars."""
    near = result.drop <= drop + result.error and result.kl.mean() <= kl
    good = (result.drop <= drop or near) and 100 * result.agrees.mean() >= agreement
    print(f"  bars: drop <= {drop}, agreement >= {agreement}%: {'kept' if good else 'MISSED'}", flush=True)
    return bool(good)


if __name__ == "__main__":
    sys.exit(main())
