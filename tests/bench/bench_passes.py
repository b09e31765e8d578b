"""What each pass of the quantizer gains, width by width: the contrasts of arXiv 1806.08342 with this machine's integers.

`python tests/bench/bench_passes.py SHARED [--networks efflite0 resnet8] [--bits W8A8 W4A8 W8A4 W4A4] [--efforts default best]
[--folds 4] [--bars] [--rates 3e-10 1e-9]`. SHARED as for
`bench_accuracy.py`. Weights have a scale per tensor or per channel; per channel the passes are added one after the other, in the
order in which they run by default. EfficientNet-Lite0: 100 photographs calibrate, the other 300 test, fold by fold; ResNet-8: 260
training images of CIFAR-10 calibrate, the 10,000 test images test. Scores are those of the exact integers, as on the machine.

Printed: mean KL divergence from the float model's classes, agreement with its first class, drop of accuracy in points with the
standard error of the paired differences, seconds that the passes took. ``--bars``: only what has a bar, at the effort that it is for,
and whether it is kept; then the script fails where one is missed. W4A4-ends has the first and the last layer at 8 bits, W4A4-sums also
the sums of residuals, which are no layers; W4A4, every layer at 4 bits, has no bar and is printed with its causes. `--effort best`
reconstructs blocks where torch is installed. ``--rates``: instead, the compiler's networks whose rounding pays so much for a bit (a KL
divergence), beside scales so many times coarser with the same rounding: bytes that LOADW fetches, by the compiled program.
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

import qaccel
from qaccel.dialect import operators
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.executor import execute
from qaccel.emulate.integers import run_model
from qaccel.frontend.import_onnx import import_onnx
from qaccel.model import Model
from qaccel.options import DEFAULT_BITS, EFFORTS, Bits, CompileOptions, parse_bits
from qaccel.pipeline import laboratory
from qaccel.quant.calibrate.calibration import Calibration, measure
from qaccel.quant.calibrate.narrow import narrowed
from qaccel.quant.calibrate.ranges import Ranges
from qaccel.quant.passes import chosen_passes, lattice, rounding, run_float_passes, run_passes
from qaccel.quant.passes.bias_correction import correct_biases
from qaccel.quant.passes.constants import LayerConstants, with_constants
from qaccel.quant.quantize import quantize
from qaccel.quant.unlike import quantize_measured
from qaccel.relax_tools import bindings
from qaccel.report.analysis import print_sources

Weights = tuple[np.ndarray, np.ndarray]  # integers, scales
WIDTHS = ("W8A8", "W4A8", "W8A4", "W4A4")
NO_BAR = (100.0, 0.0, 0.0)
# By network, bits and effort: drop in points, agreement in percent, and the KL divergence at which a drop within one standard error of
# its bar will do.
BARS = {
    ("efflite0", "W8A8", "default"): (0.3, 99.0, 0.003), ("efflite0", "W8A8", "best"): (0.3, 99.0, 0.003),
    ("efflite0", "W4A8", "default"): (2.0, 0.0, 0.0), ("efflite0", "W4A8", "best"): (1.3, 0.0, 0.0),
    ("efflite0", "W4A4-ends", "best"): (7.0, 0.0, 0.0), ("efflite0", "W4A4-sums", "best"): (7.0, 0.0, 0.0),
    ("efflite0", "W4A4", "best"): NO_BAR,
    ("resnet8", "W8A8", "default"): (0.2, 0.0, 0.0), ("resnet8", "W8A8", "best"): (0.2, 0.0, 0.0),
    ("resnet8", "W4A8", "default"): (1.0, 0.0, 0.0), ("resnet8", "W4A8", "best"): (1.0, 0.0, 0.0),
}  # fmt: skip
CAUSES = 10  # that are printed of a row without bar


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


def rounded(model: Model, calibration: Calibration, bits: Bits) -> tuple[QuantizedModel, Calibration]:
    """The network to nearest integers, with the ranges that tensors of few bits have."""
    plain = quantize_measured(model, calibration, bits)
    own = narrowed(plain, calibration, None)
    return (plain if own is calibration else quantize_measured(model, own, bits)), own


def steps(model: Model, calibration: Calibration, bits: str) -> Iterator[tuple[str, QuantizedModel]]:
    """What is contrasted, and the model."""
    source, widths = calibration, parse_bits(bits)
    q = quantize(model, calibration.ranges, widths)
    yield "per tensor", per_tensor(q)
    yield "per tensor + bias_correction", correct_biases(per_tensor(q), calibration)
    yield "per channel", q
    yield "per channel + bias_correction", correct_biases(q, calibration)
    q, calibration = rounded(model, source, widths)
    name = "per channel"
    if calibration is not source:
        name += " + ranges"
        yield name, q
    for each in chosen_passes(None, "best"):
        name = f"{name} + {each.name}"
        if each.on_floats:
            model, source = each.run(model, source, widths)
            q, calibration = rounded(model, source, widths)
        else:
            q = each.run(q, calibration)
        yield name, q


def plan_of(model: Model, ranges: Ranges, bits: str) -> Bits:
    """The bits of a row's name."""
    uniform, _, wide = bits.partition("-")
    if not wide:
        return parse_bits(bits)
    q = quantize(model, ranges)
    layers = list(q.plan)
    plan = dict.fromkeys(layers, parse_bits(uniform)) | dict.fromkeys((layers[0], layers[-1]), DEFAULT_BITS)
    if wide == "sums":
        biases = set(q.added.values())
        plan |= {x.name: DEFAULT_BITS for x in model.operators if x.op_type == "Add" and x.name not in biases}
    return plan


def at_effort(
    model: Model, calibration: Calibration, bits: str, effort: str
) -> Iterator[tuple[str, QuantizedModel]]:  # fmt: skip
    """What the compiler makes at these bits."""
    plan = plan_of(model, calibration.ranges, bits)
    model, calibration = run_float_passes(model, calibration, plan, None, effort)
    q = run_passes(*rounded(model, calibration, plan), effort=effort)
    yield f"--effort {effort}", q
    for note in q.notes:
        if note.startswith("reconstruction"):
            print(f"  {note}", flush=True)


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


def contrasts(model: Model, split: Split, bits: str, effort: str) -> Iterator[tuple[str, Result, float]]:
    """(what, result, seconds that it took to make) of one split; ``effort``: empty for pass after pass."""
    name, output = model.inputs[0].name, model.outputs[0].name
    reference = execute(model, {name: split.images})[output]
    calibration = measure(model, CompileOptions(calibration_data={name: split.calibration}))
    begin = time.perf_counter()
    made = at_effort(model, calibration, bits, effort) if effort else steps(model, calibration, bits)
    for what, q in made:
        seconds = time.perf_counter() - begin
        yield what, judged(run_model(q, {name: split.images})[output], reference, split.labels), seconds
        begin = time.perf_counter()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("shared", type=Path)
    parser.add_argument("--networks", nargs="+", choices=FILES, default=list(FILES))
    parser.add_argument("--bits", nargs="+", default=[*WIDTHS, "W4A4-ends", "W4A4-sums"])
    parser.add_argument("--efforts", nargs="+", choices=EFFORTS, default=list(EFFORTS))
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--bars", action="store_true")
    parser.add_argument("--rates", nargs="+", type=float, default=[])
    arguments = parser.parse_args()
    good = True
    for network in arguments.networks:
        model = import_onnx(arguments.shared / "models" / FILES[network])
        barred = [(b, e) for n, b, e in BARS if n == network and b in arguments.bits and e in arguments.efforts]
        for bits, effort in barred if arguments.bars else [(b, "") for b in arguments.bits if b in WIDTHS]:
            found: dict[str, list[Result]] = {}
            for k, split in enumerate(splits(network, arguments.shared, arguments.folds)):
                if arguments.rates:
                    print(f"{network} {bits} fold {k}", flush=True)
                    saved(model, split, bits, arguments.rates)
                    continue
                for what, result, seconds in contrasts(model, split, bits, effort):
                    found.setdefault(what, []).append(result)
                    print(f"{network} {bits} fold {k} {what}: {result} ({seconds:.0f} s)", flush=True)
            for what, results in found.items():
                drops = [each.drop for each in results]
                whole = joined(results)
                print(f"{network} {bits} mean {what}: {whole}, spread of folds {np.std(drops):.2f}", flush=True)
                if arguments.bars and BARS[network, bits, effort] != NO_BAR:
                    good &= kept(whole, *BARS[network, bits, effort])
            if arguments.bars and BARS[network, bits, effort] == NO_BAR:
                data = next(splits(network, arguments.shared, 1)).calibration
                print_sources(qaccel.analyze(arguments.shared / "models" / FILES[network], data, bits=bits), CAUSES)
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
