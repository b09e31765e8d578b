"""The stage `calibrate`: what is known of a model's tensors before it is quantized, from samples or from made-up inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...dialect.quantized import InputSeen
from ...errors import UserError
from ...evaluate.dataset import check_inputs, integer_notes, joined_feeds, load_calibration_data
from ...model import Model
from ...options import BITS_WITHOUT_DATA, CALIBRATION_METHODS, GUESSED_INPUT_RANGE, CompileOptions
from . import cache, preprocessing
from .ranges import Ranges, calibrate
from .seen import inputs_seen, line
from .synthetic import synthetic_inputs, widened


@dataclass(frozen=True, eq=False)
class Calibration:
    """What the quantizer and its passes may know of a model beside its operators.

    ``samples``: arrays by input name, samples along axis 0. ``measured``: they are the user's; else they are made up, which does
    for ranges and for nothing finer. ``notes``: what to tell the user, one line each. ``seen``: of the user's samples, by input;
    ``preprocess``: how they were made from images, None where they were arrays.
    """

    ranges: Ranges
    samples: Mapping[str, np.ndarray]
    measured: bool
    notes: tuple[str, ...] = ()
    seen: tuple[InputSeen, ...] = ()
    preprocess: str | None = None

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
    samples, notes = _user_samples(model, options)
    method = options.calibration or CALIBRATION_METHODS[0]
    key = cache.key_of(model, samples, method)
    ranges = cache.load(key)
    if ranges is None:
        ranges = calibrate(model, samples, method, progress=show)
        cache.store(key, ranges)
    else:
        known = f"calibration: ranges of the same model and samples are known from before ({cache.folder()})"
        notes = (*notes, known)
    images = _from_images(options)
    seen = inputs_seen(model.inputs, samples)
    notes = (*preprocessing.warnings(model, samples, images), *notes, *([line(seen)] if seen else []))
    return Calibration(ranges, samples, True, notes, seen, (options.preprocess or "") if images else None)


def _from_images(options: CompileOptions) -> bool:
    return isinstance(options.calibration_data, str | os.PathLike) and Path(options.calibration_data).is_dir()


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
    samples = synthetic_inputs(model.inputs, (lo, hi), options.synthetic_samples, guessed=guess)
    # A given input range is the user's word; a guessed one gets the same headroom as everything behind it.
    exact = [] if guess else [spec.name for spec in model.inputs]
    ranges = widened(calibrate(model, samples, "minmax"), model, exact)
    guessed = ", a guess: give --input-range LO,HI" if guess else ""
    bits = "" if options.bits else f"; bits are {BITS_WITHOUT_DATA} for that reason, for 8 bits give --calibration-data"
    learnt = "batch-norm statistics and " if model.statistics else ""
    note = f"no calibration data: ranges come from {learnt}synthetic inputs in {lo:g}..{hi:g}{guessed}{bits}"
    return Calibration(ranges, samples, False, (note,))
