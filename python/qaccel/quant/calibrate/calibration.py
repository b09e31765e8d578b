"""The stage `calibrate`: what is known of a model's tensors before it is quantized, from samples or from made-up inputs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ...dialect.quantized import InputSeen
from ...emulate.data.dataset import check_inputs, integer_notes, joined_feeds, load_calibration_data
from ...errors import UserError
from ...model import Model
from ...options import BITS_WITHOUT_DATA, CALIBRATION_METHODS, GUESSED_INPUT_RANGE, CompileOptions
from ...stages import OfThisRun
from . import cache
from .inputs import preprocessing
from .inputs.outliers import find_outliers, without
from .inputs.seen import inputs_seen, line
from .inputs.synthetic import integer_guesses, synthetic_inputs, those_of, widened
from .inputs.tails import without_tails
from .ranges import NotFinite, Ranges, calibrate
from .runs import alike, batch_of, runs_of

HELD_OUT = 4  # one group of so many is held out to judge by
HELD_TOGETHER = 4  # samples in a row
FEWEST_TO_HOLD_OUT = 16
NOTABLE_SHARE = 1e-3  # of a tensor's values: a range that leaves out more is worth a note
PASSED = 0.25  # of a range: beyond its end by more is no matter of other samples
ROUNDED = 0.02  # of a range: beyond its end by less is a matter of weights that are rounded


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the quantizer and its passes may know of a model beside its operators.

    ``samples``: arrays by input name, samples along axis 0, without outliers. ``measured``: they are the user's; else
    they are made up, which does for ranges and for nothing finer. ``held``: those of the user's that take no part in what
    passes and searches do, to judge by; none where there are fewer than FEWEST_TO_HOLD_OUT runs. ``also``: those of them that
    ranges are of all the same: all where bits are given, none under --bits auto. ``notes``: what to tell the user, one line
    each. ``seen``: of the user's samples, by input; ``preprocess``: how they were made from images, None where they were
    arrays. ``holds_outliers``: the ranges reach as far as outliers that ``samples`` are without.
    """

    ranges: Ranges
    samples: Mapping[str, np.ndarray]
    measured: bool
    notes: tuple[str, ...] = ()
    seen: tuple[InputSeen, ...] = ()
    preprocess: str | None = None
    held: Mapping[str, np.ndarray] = field(default_factory=dict)
    also: Mapping[str, np.ndarray] = field(default_factory=dict)
    holds_outliers: bool = False

    def __repr__(self) -> str:
        return f"<Calibration: {self.ranges!r}, {'measured' if self.measured else 'made up'}>"

    def one_batch(self, model: Model) -> dict[str, np.ndarray]:
        """One batch by input name: the first of the user's; of made-up samples the last, because the first ones are flat."""
        batch = {spec.name: spec.shape[0] if spec.shape else 0 for spec in model.inputs}
        parts = {name: slice(size) if self.measured else slice(None, -size - 1, -1) for name, size in batch.items()}
        return {name: value[parts[name]] if batch[name] else value for name, value in self.samples.items()}


def measure(model: Model, options: CompileOptions, show: bool = False) -> Calibration:
    """Ranges of all tensors from ``options.calibration_data``, or without it from synthetic inputs.

    ``show``: a line of progress on standard error. Raises UserError for data that do not fit the model's inputs.
    """
    if options.calibration_data is None:
        return _without_data(model, options)
    given, said = _user_samples(model, options)
    method = options.calibration or CALIBRATION_METHODS[0]
    outliers = find_outliers(model.inputs, given)
    samples, spoilt = without(model.inputs, given, outliers)
    used, held = held_out(model, samples)
    # Where bits are given, ranges are of the held-out samples, too: few samples have the values that reach far.
    also = {} if options.auto else held
    notes = [*(each.note(method) for each in outliers), *said]
    apart = f", {HELD_TOGETHER} of {HELD_TOGETHER * HELD_OUT} apart{' but for ends' if also else ''}" if held else ""
    key = cache.key_of(model, given, method + apart)
    ranges = cache.load(key)
    if ranges is not None:
        said_of_cache = f"calibration: ranges of the same model and samples are known from before ({cache.folder()})"
        notes.append(OfThisRun(said_of_cache))
    else:
        ranges = calibrate(model, used, method, progress=show, also=also)
        if outliers and method == "minmax":
            ranges = _widened(ranges, calibrate(model, spoilt, method, progress=show))
        cache.store(key, ranges)
    images = _from_images(options)
    seen = inputs_seen(model.inputs, given)
    notes = [
        *alike(model, given),
        *preprocessing.warnings(model, samples, images),
        *notes,
        *_notes_on_cuts(ranges),
        *([line(seen)] if seen else []),
    ]
    preprocess = (options.preprocess or "") if images else None
    holds = bool(outliers) and method == "minmax"
    return Calibration(ranges, used, True, tuple(notes), seen, preprocess, held, also, holds)


def held_out(
    model: Model, samples: dict[str, np.ndarray]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:  # fmt: skip
    """The samples without every HELD_OUT-th group of HELD_TOGETHER, and those; none are held out of fewer than FEWEST_TO_HOLD_OUT.

    A group is of whole runs; so a network of another batch holds out the same samples.
    """
    runs, own = runs_of(model, samples), batch_of(model)
    together = max(1, HELD_TOGETHER // own)
    held = [k for k in range(runs) if k // together % HELD_OUT == HELD_OUT - 1]
    if runs * own < FEWEST_TO_HOLD_OUT or not held:
        return samples, {}
    left = [k for k in range(runs) if k // together % HELD_OUT != HELD_OUT - 1]
    return those_of(model.inputs, samples, left), those_of(model.inputs, samples, held)


def _widened(ranges: Ranges, others: Ranges) -> Ranges:
    """Ranges that hold those of other samples as well; what else is known of the tensors stays."""
    values = {name: (min(lo, others.values[name][0]), max(hi, others.values[name][1]))
              for name, (lo, hi) in ranges.values.items()}  # fmt: skip
    return replace(ranges, values=values)


def _notes_on_cuts(ranges: Ranges) -> list[str]:
    """One line where ranges leave out more than a tail that nobody misses; it names the tensor that loses most."""
    cut = {name: each for name, each in ranges.cuts.items() if each.share > NOTABLE_SHARE}
    if not cut:
        return []
    name = max(cut, key=lambda each: cut[each].share)
    (lo, hi), worst = ranges.values[name], cut[name]
    farthest = worst.least if lo - worst.least > worst.most - hi else worst.most
    return [
        f"{name}: --calibration {ranges.method} leaves {100 * worst.share:.2g}% of its values out of its range {lo:.4g}..{hi:.4g}, "
        f"the farthest of them {farthest:.4g}; tensors that lose more than {100 * NOTABLE_SHARE:g}%: {len(cut)}"
    ]


def _from_images(options: CompileOptions) -> bool:
    return isinstance(options.calibration_data, str | os.PathLike) and Path(options.calibration_data).is_dir()


def samples_of(model: Model, options: CompileOptions) -> Calibration:
    """No ranges, for a model that came quantized, and the samples alone: the user's, or made-up ones.

    Raises UserError as `measure` does.
    """
    none = Ranges({}, "as it came", 0)
    ends = model.given.ends if model.given is not None else {}
    model = replace(model, inputs=tuple(replace(spec, dtype=ends.get(spec.name, spec.dtype)) for spec in model.inputs))
    if options.calibration_data is not None:
        note = "calibration data: the model came quantized, and its scales stay as they are"
        samples, said = _user_samples(model, options)
        return Calibration(none, samples, True, (note, *said))
    lo, hi = options.input_range or GUESSED_INPUT_RANGE
    samples = synthetic_inputs(model.inputs, (lo, hi), options.synthetic_samples, guesses=integer_guesses(model))
    return Calibration(none, samples, False)


def _user_samples(model: Model, options: CompileOptions) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    data = options.calibration_data
    assert data is not None
    if isinstance(data, str | os.PathLike):
        return load_calibration_data(data, model.inputs, options.preprocess, fixed=model.fixed)
    if options.preprocess is not None:
        raise UserError("preprocess describes a folder of images, and calibration_data are arrays; drop one of them")
    joined = joined_feeds(data, model.inputs, "calibration data")
    arrays = check_inputs(joined, model.inputs, "calibration data", model.fixed)
    return arrays, integer_notes(joined, model.inputs)


def _without_data(model: Model, options: CompileOptions) -> Calibration:
    if options.preprocess is not None:
        raise UserError("--preprocess describes images, and there are none; add --calibration-data FOLDER")
    guess = options.input_range is None
    lo, hi = options.input_range or GUESSED_INPUT_RANGE
    guesses = integer_guesses(model) if guess else {}
    samples = synthetic_inputs(model.inputs, (lo, hi), options.synthetic_samples, guesses=guesses)
    # A given input range is the user's word; a guessed one gets the same headroom as everything behind it.
    exact = [] if guess else [spec.name for spec in model.inputs]
    try:
        measured, odd = calibrate(model, samples, "minmax"), ""
    except NotFinite as error:
        samples, measured, odd = _finite_ones(model, samples, options.synthetic_samples, str(error), mirror=guess)
    tails = without_tails(model, samples, measured)
    ranges = widened(tails.ranges, model, [*exact, *tails.nodes])
    guessed = ", a guess: give --input-range LO,HI" if guess else ""
    bits = "" if options.bits else f"; bits are {BITS_WITHOUT_DATA} for that reason, for 8 bits give --calibration-data"
    learnt = "batch-norm statistics and " if model.statistics else ""
    others = "".join(f", '{name}' in {least:g}..{most:g}" for name, (least, most) in guesses.items())
    note = (
        f"no calibration data: ranges come from {learnt}synthetic inputs in {lo:g}..{hi:g}{others}{odd}{guessed}{bits}"
    )
    return Calibration(ranges, samples, False, (note, *filter(None, [tails.note(measured)])))


# Ways to make finite values of a made-up sample whose range is a guess, for logarithms, roots and Acosh.
_MOVED = {"": 0.0, "without their signs": 0.0, "without their signs, moved up by 1": 1.0}


def _finite_ones(
    model: Model, samples: Mapping[str, np.ndarray], count: int, error: str, mirror: bool
) -> tuple[dict[str, np.ndarray], Ranges, str]:
    """Of ``count`` made-up samples those that give finite values everywhere, their ranges, and words for the note.

    A mask that hides every key of a Softmax is nothing that a user has, nor is the logarithm of a negative number. ``mirror``: the
    range is a guess, and a sample that is not finite may become one without negative values. Raises UserError where no sample is
    left; ``error`` is what was wrong with all of them together.
    """

    def is_finite(sample: Mapping[str, np.ndarray]) -> bool:
        try:
            calibrate(model, sample, "minmax")
        except NotFinite:
            return False
        return True

    finite = []
    kinds = Counter[str]()
    for k in range(count):
        sample = those_of(model.inputs, samples, [k])
        for kind, moved in _MOVED.items() if mirror else [("", 0.0)]:
            tried = {n: moved + np.abs(v) if kind and v.dtype.kind == "f" else v for n, v in sample.items()}
            if is_finite(tried):
                finite.append(tried)
                kinds.update([kind] if kind else [])
                break
    what = error.split(" on the calibration data")[0]
    if not finite:
        raise UserError(f"{what} on every made-up input; give --calibration-data, or the inputs' --input-range LO,HI")
    left = {
        spec.name: np.concatenate([each[spec.name] for each in finite]) if spec.shape else finite[0][spec.name]
        for spec in model.inputs
    }
    words = [f"{number} of {count} {kind}" for kind, number in kinds.items()]
    odd = ", ".join([*words, f"without {count - len(finite)} of {count}"] if len(finite) < count else words)
    return left, calibrate(model, left, "minmax"), f" ({odd}: {what})"


def passed_ends(model: Model, options: CompileOptions, show: bool = False) -> dict[str, tuple[bool, bool]]:
    """By node, whether its values pass the ends below and above of the integers that they came as (`Given.saturates`): what its
    quantizer left to these would be lost. Raises UserError as `measure`.

    Ends that no clamp made are passed as well, by some of other samples. So one that is passed far, or a Relu, has to show that
    there was a clamp; then the other end counts as soon as it is passed at all.
    """
    ends = model.given.saturates if model.given is not None else {}
    ranges = measure(model, options, show).ranges.values if ends else {}
    passed = {}
    for name, end in ends.items():
        least, greatest = ranges.get(name, (end.lo, end.hi))
        beyond = (end.lo - least) / (end.hi - end.lo), (greatest - end.hi) / (end.hi - end.lo)
        if end.relu or max(beyond) > PASSED:
            passed[name] = beyond[0] > ROUNDED, beyond[1] > ROUNDED
    return {name: each for name, each in passed.items() if any(each)}
