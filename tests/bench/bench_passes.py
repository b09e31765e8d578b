"""What each pass of the quantizer gains, width by width: the contrasts of arXiv 1806.08342 with this machine's integers.

`python tests/bench/bench_passes.py SHARED [--networks efflite0 resnet8] [--bits W8A8 W4A8 W8A4 W4A4] [--folds 4] [--bars]
[--effort best] [--rates 3e-9 1e-8]`. SHARED as for
`bench_accuracy.py`. Weights have a scale per tensor or per channel; per channel the passes are added one after the other, in the
order in which they run by default. EfficientNet-Lite0: 100 photographs calibrate, the other 300 test, fold by fold; ResNet-8: 260
training images of CIFAR-10 calibrate, the 10,000 test images test. Scores are those of the exact integers, as on the machine.

Printed: mean KL divergence from the float model's classes, agreement with its first class, drop of accuracy in points with the
standard error of the paired differences, seconds that the passes took. ``--bars``: only what has a bar, with the passes of ``--effort``, and whether it
is kept; then the script fails where one is missed. ``--rates``: instead, rounding that pays so much for a bit, and what it saves.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from bench_accuracy import CALIBRATION_PER_CLASS, FOLDS, SEED, cifar, photographs

from qaccel.dialect import operators
from qaccel.dialect.quantized import QuantizedModel
from qaccel.evaluate.executor import execute
from qaccel.evaluate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.machine.streams import entropy_bits
from qaccel.model import Model
from qaccel.options import EFFORTS, parse_bits
from qaccel.quant.calibrate.calibration import Calibration
from qaccel.quant.calibrate.narrow import narrowed
from qaccel.quant.calibrate.ranges import calibrate
from qaccel.quant.passes import FloatPass, chosen_passes
from qaccel.quant.passes.bias_correction import correct_biases
from qaccel.quant.passes.constants import LayerConstants, with_constants
from qaccel.quant.passes.rounding import round_to_outputs
from qaccel.quant.quantize import quantize
from qaccel.relax_tools import bindings

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


def rounded(model: Model, calibration: Calibration, bits: str) -> tuple[QuantizedModel, Calibration]:
    """The network to nearest integers, with the ranges that tensors of few bits have."""
    plain = quantize(model, calibration.ranges, parse_bits(bits))
    own = narrowed(plain, calibration, None)
    return (plain if own is calibration else quantize(model, own.ranges, parse_bits(bits))), own


def steps(
    model: Model, calibration: Calibration, bits: str, effort: str, only_last: bool
) -> Iterator[tuple[str, QuantizedModel]]:
    """What is contrasted, and the model."""
    source, q = calibration, quantize(model, calibration.ranges, parse_bits(bits))
    if not only_last:
        yield "per tensor", per_tensor(q)
        yield "per tensor + bias_correction", correct_biases(per_tensor(q), calibration)
        yield "per channel", q
        yield "per channel + bias_correction", correct_biases(q, calibration)
    q, calibration = rounded(model, source, bits)
    name = "per channel"
    if calibration is not source:
        name += " + ranges"
        if not only_last:
            yield name, q
    passes = chosen_passes(None, effort)
    for each in passes:
        name = f"{name} + {each.name}"
        if isinstance(each, FloatPass):
            model, source = each.run(model, source, parse_bits(bits))
            q, calibration = rounded(model, source, bits)
        else:
            q = each.run(q, calibration)
        if not only_last or each is passes[-1]:
            yield name, q


def at_rates(q: QuantizedModel, calibration: Calibration, rates: list[float]) -> Iterator[tuple[str, QuantizedModel]]:
    """Rounding that pays for bits, with the entropy of all weights against that of plain rounding."""
    for rate in rates:
        made = correct_biases(round_to_outputs(q, calibration, rate), calibration)
        yield f"at rate {rate:g}, {100 * entropy(made) / entropy(q) - 100:+.1f}% of the weights' entropy", made


def entropy(q: QuantizedModel) -> float:
    """Order-0 entropy of all integer weights, layer by layer, bits."""
    calls = [b.value for b in bindings(q.mod["main"]) if operators.is_quantized(b.value)]
    return sum(entropy_bits(operators.constant(c.args[1])) for c in calls if c.op.name == operators.ConvAttrs.operator)


def contrasts(
    model: Model, split: Split, bits: str, bars: bool, effort: str, rates: list[float]
) -> Iterator[tuple[str, Result, float]]:
    """(what, result, seconds that it took to make) of one split."""
    name, output = model.inputs[0].name, model.outputs[0].name
    reference = execute(model, {name: split.images})[output]
    ranges = calibrate(model, {name: split.calibration})
    calibration = Calibration(ranges, {name: split.calibration}, measured=True)
    begin = time.perf_counter()
    made = (
        at_rates(quantize(model, ranges, parse_bits(bits)), calibration, rates)
        if rates
        else steps(model, calibration, bits, effort, bars)
    )
    for what, q in made:
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
    parser.add_argument("--effort", choices=EFFORTS, default="best")
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
                for what, result, seconds in contrasts(
                    model, split, bits, arguments.bars, arguments.effort, arguments.rates
                ):
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
