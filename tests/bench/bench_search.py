"""Bits by search beside trying everything, along its own curve, over calibration sets, and on networks with data.

    python tests/bench/bench_search.py enumerate [--networks 30] [--layers 2]    regret against every plan of small networks
    python tests/bench/bench_search.py curve MODEL.onnx DATA.npz                 ten limits on cycles and ten on bytes; uniform plans
    python tests/bench/bench_search.py resnet8 SHARED [--sets 4] [--max-drop 1]  CIFAR-10: drop on 10,000 test images, by calibration set
    python tests/bench/bench_search.py efflite0 SHARED [--max-drop 0.9]          photographs: calibration on 100, test on 300, by fold

Plans are judged and priced by the search's own laboratory; what is reported of a chosen one is what its module's report says, and
labels, where there are some.
"""

import argparse
import io
import itertools
import statistics
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import onnx
from PIL import Image

import qaccel

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from qaccel.emulate.executor import execute
from qaccel.frontend.import_model import import_model
from qaccel.options import WIDTHS, CompileOptions, Limits
from qaccel.pipeline import laboratory
from qaccel.quant.calibrate.calibration import measure
from qaccel.quant.search.laboratory import Laboratory, Trial
from qaccel.quant.search.search import search
from qaccel.quant.search.space import Choice
from quant.search.enumerable import network

POINTS = 2.0
FOLDS = 4


def laboratory_of(model: onnx.ModelProto | Path, samples: dict[str, np.ndarray]) -> Laboratory:
    """Where plans of the model are tried on samples, a quarter of them held out."""
    imported, options = import_model(model, None, None, None), CompileOptions(calibration_data=samples, auto=True)
    return laboratory(imported, measure(imported, options), options)


def every_trial(lab: Laboratory) -> list[Trial]:
    """Every plan of a network, tried."""
    layers, groups = len(lab.space.layers), len(lab.space.groups)
    every = (Choice(x[:layers], x[layers:]) for x in itertools.product(WIDTHS, repeat=layers + groups))
    return [trial for trial in map(lab.trial, every) if trial.cost is not None]


def enumerate_all(seeds: range, layers: int) -> None:
    """Regret of the objective against the best of all plans that keep the limit, on networks of these seeds."""
    regrets = []
    for seed in seeds:
        model, samples = network(seed, layers)
        minimize = ("cycles", "bytes", "drop")[seed % 3]
        whole = laboratory_of(model, samples)
        start = time.perf_counter()
        every = every_trial(whole)
        seconds = time.perf_counter() - start
        least, most = (pick(each.cost.cycles for each in every) for pick in (min, max))
        limits = Limits("drop", None, (least + most) // 2) if minimize == "drop" else Limits(minimize, POINTS)
        keep = [
            x
            for x in every
            if x.estimate.points <= limits.max_points and x.cost.cycles <= (limits.max_cycles or 1 << 60)
        ]
        name = f"{model.graph.name:12} {minimize:6} {len(every):5} plans, {len(keep):5} keep the limits"
        if not keep:
            print(f"{name}: none to compare with")
            continue
        value = {
            "cycles": lambda x: x.cost.cycles,
            "bytes": lambda x: x.cost.bytes,
            "drop": lambda x: x.estimate.points,
        }[minimize]
        best = min(value(each) for each in keep)
        lab = laboratory_of(model, samples)
        start = time.perf_counter()
        chosen = search(lab, limits, lambda _: None).chosen
        assert chosen is not None
        found = {"cycles": chosen.cycles, "bytes": chosen.bytes, "drop": chosen.drop.points}[minimize]
        regrets.append(100 * (found - best) / max(best, 1e-12))
        print(
            f"{name}: best {best:,.6g} in {seconds:.1f} s, search {found:,.6g} in {time.perf_counter() - start:.1f} s and "
            f"{chosen.trials} trials, regret {regrets[-1]:.2f}%, gap {100 * chosen.gap:.2g}%"
        )
    print(
        f"{len(regrets)} networks: regret median {statistics.median(regrets):.2f}%, mean {statistics.mean(regrets):.2f}%, "
        f"most {max(regrets):.2f}%, above 2%: {sum(each > 2 for each in regrets)}"
    )


def curve(model: Path, data: Path) -> None:
    """Ten limits on cycles and ten on bytes between the cheapest and the dearest uniform plan; then the nine uniform plans."""
    samples = dict(np.load(data))
    lab = laboratory_of(model, samples)
    kept = better = 0
    for what in ("cycles", "bytes"):
        costs = [getattr(lab.trial(lab.space.uniform(widths)).cost, what) for widths in lab.prices]
        for limit in np.geomspace(min(costs), max(costs), 10).astype(int):
            q = search(lab, Limits(**{f"max_{what}": int(limit)}), lambda _: None)
            report = _report(q.chosen, model, samples, int(limit) if what == "bytes" else None)
            kept += report[what] <= limit
            print(
                f"max {what} {limit:9,}: {report[what]:9,} simulated, {q.chosen.drop.points:7.3f} points, "
                f"gap {100 * q.chosen.gap:.2g}%, cost estimated within {100 * (q.chosen.rounds or (0,))[-1]:.2g}%"
            )
    print(f"limit kept in {kept} of 20")
    for widths in lab.prices:
        trial = lab.trial(lab.space.uniform(widths))
        chosen = search(lab, Limits("drop", None, trial.cost.cycles, trial.cost.bytes), lambda _: None).chosen
        fine = chosen.cycles <= trial.cost.cycles and chosen.bytes <= trial.cost.bytes
        no_worse = all(
            chosen.drop.losses[part.name] <= x.value for part, x in zip(lab.parts, trial.estimate.losses, strict=True)
        )
        better += fine and no_worse
        print(
            f"{widths}: {trial.cost.cycles:,} cycles, {trial.estimate.points:.3f} points; search {chosen.cycles:,}, {chosen.drop.points:.3f}"
        )
    print(f"a plan that costs no more and loses no more than the uniform one: {better} of {len(lab.prices)}")


def _report(chosen: object, model: Path, samples: dict[str, np.ndarray], max_bytes: int | None) -> dict[str, int]:
    """What a module compiled at the chosen plan costs: it is made anew, with nothing of the search but bits and limit."""
    q = qaccel.quantize(model, samples, bits=chosen.plan, max_drop=100, max_bytes=max_bytes)
    report = qaccel.compile(q).report
    return {"cycles": report["cycles"], "bytes": report["dram_bytes"]["weights"]}


def resnet8(shared: Path, sets: int, max_drop: float) -> None:
    """ResNet-8 minimizing bytes over calibration sets of 256 training images: drop on all test images, mean bits."""
    model = shared / "models" / "mltk_image_classification.onnx"
    images, labels = _cifar(shared, "test", 10_000)
    train, _ = _cifar(shared, "train", 256 * sets)
    name = onnx.load(model).graph.input[0].name
    accuracies = []
    exact = import_model(model, None, None, None)
    scores = next(iter(execute(exact, {name: images}).values()))
    print(f"float {100 * (scores.argmax(1) == labels).mean():.2f}%")
    for number in range(sets):
        start = time.perf_counter()
        q = qaccel.quantize(model, {name: train[number::sets]}, bits="auto", minimize="bytes", max_drop=max_drop)
        seconds, chosen = time.perf_counter() - start, q.quantized.chosen
        got = next(iter(q.run({name: images}).values()))
        accuracies.append(100 * (got.argmax(1) == labels).mean())
        print(
            f"set {number}: {accuracies[-1]:.2f}%, agreement {100 * (got.argmax(1) == scores.argmax(1)).mean():.2f}%, "
            f"{chosen.mean_weight_bits:.2f} bits a weight, {chosen.mean_stream_bits:.2f} in its stream, "
            f"{chosen.bytes:,} bytes, estimated {chosen.drop.points:.2f} +- "
            f"{chosen.drop.error:.2f} points, {chosen.rate:.2g} paid for a bit, {chosen.trials} trials, {seconds:.0f} s",
            flush=True,
        )
    print(f"between sets: {max(accuracies) - min(accuracies):.2f} points")


def efflite0(shared: Path, max_drop: float, folds: int) -> None:
    """EfficientNet-Lite0 minimizing bytes: for each fold 100 photographs calibrate and 300 test."""
    model = shared / "models" / "efflite0.onnx"
    files = sorted((shared / "data" / "imagenet400").glob("*.jpg"))
    name = onnx.load(model).graph.input[0].name
    exact = import_model(model, None, None, None)
    for fold in range(folds):
        own = [_photograph(path) for k, path in enumerate(files) if k % FOLDS == fold]
        rest = [(_photograph(path), int(path.stem)) for k, path in enumerate(files) if k % FOLDS != fold]
        test, labels = np.stack([x for x, _ in rest]), np.array([label for _, label in rest])
        start = time.perf_counter()
        q = qaccel.quantize(
            model, {name: np.stack(own)}, bits="auto", minimize="bytes", max_drop=max_drop, progress=True
        )
        seconds, chosen = time.perf_counter() - start, q.quantized.chosen
        wanted, got = (
            next(iter(each.values())).astype(np.float64) for each in (execute(exact, {name: test}), q.run({name: test}))
        )
        logs = [
            x - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True)) - x.max(1, keepdims=True)
            for x in (wanted, got)
        ]
        kl = (np.exp(logs[0]) * (logs[0] - logs[1])).sum(1)
        right = [(x.argmax(1) == labels) for x in (wanted, got)]
        apart = 100 * (right[0].astype(float) - right[1])
        print(
            f"fold {fold}: {chosen.mean_weight_bits:.2f} bits a weight, {chosen.mean_stream_bits:.2f} in its stream, "
            f"{chosen.bytes:,} bytes, {chosen.cycles:,} cycles, estimated "
            f"{chosen.drop.points:.2f} +- {chosen.drop.error:.2f} points; test: float {100 * right[0].mean():.2f}%, drop "
            f"{apart.mean():.2f} +- {apart.std(ddof=1) / np.sqrt(len(apart)):.2f}, agreement "
            f"{100 * (wanted.argmax(1) == got.argmax(1)).mean():.2f}%, KL {kl.mean():.4f}; {chosen.trials} trials, {seconds:.0f} s",
            flush=True,
        )


def _photograph(path: Path) -> np.ndarray:
    image = Image.open(path).convert("RGB")
    left, top = ((size - 224) // 2 for size in image.size)
    return ((np.asarray(image.crop((left, top, left + 224, top + 224)), np.float32) - 127) / 128).transpose(2, 0, 1)


def _cifar(shared: Path, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images [count, 3, 32, 32] as the network takes them, evenly over the classes, and their labels."""
    with tarfile.open(shared / "data" / "cifar10.tar.gz") as archive:
        members = sorted(
            (m for m in archive.getmembers() if m.isfile() and f"{split}/" in m.name), key=lambda m: m.name
        )
        classes = sorted({Path(m.name).parent.name for m in members})
        chosen = members[:: max(1, len(members) // count)][:count]
        images = [
            np.asarray(Image.open(io.BytesIO(archive.extractfile(m).read())).convert("RGB"), np.float32) for m in chosen
        ]
    labels = np.array([classes.index(Path(m.name).parent.name) for m in chosen])
    return ((np.stack(images) - 128) / 128).transpose(0, 3, 1, 2), labels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=("enumerate", "curve", "resnet8", "efflite0"))
    parser.add_argument("paths", nargs="*", type=Path)
    parser.add_argument("--networks", type=int, default=30)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--sets", type=int, default=4)
    parser.add_argument("--folds", type=int, default=FOLDS)
    parser.add_argument("--max-drop", type=float, default=0.9)
    given = parser.parse_args()
    if given.what == "enumerate":
        enumerate_all(range(given.first, given.networks, given.step), given.layers)
    elif given.what == "curve":
        curve(*given.paths)
    elif given.what == "resnet8":
        resnet8(given.paths[0], given.sets, given.max_drop)
    else:
        efflite0(given.paths[0], given.max_drop, given.folds)


if __name__ == "__main__":
    main()
