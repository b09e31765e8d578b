"""The algorithms that improve a quantized model, in the order in which they run.

Each is a file with one function that takes the quantized model and what is known of the float one, and returns a quantized
model. To add one, write that file and name it in PASSES. Those that are ``on_floats`` come first: they take and return the float
network and what is known of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from ...dialect.check import check_quantized
from ...dialect.quantized import QuantizedModel
from ...errors import UserError
from ...model import Model
from ...options import EFFORTS, Bits
from ..calibrate.calibration import Calibration
from ..equalize.equalize import equalize
from .bias_correction import correct_biases
from .reconstruct.reconstruction import MISSING_TORCH, has_torch, reconstruct_blocks
from .rounding import FREE, QUICK, WIDE, round_to_outputs


@dataclass(frozen=True)
class Pass:
    """One algorithm. ``needs_samples``: it learns from the user's samples and is left out where there are none. ``needs_torch``: it
    does nothing without PyTorch. ``effort``: the least of EFFORTS that takes it. ``pays``: it takes a third argument, what a bit of
    each layer's stream is worth, and every effort takes it where bits are worth something. ``takes_minutes``: while bits are
    searched it is left out. ``on_floats``: it runs before anything is rounded, from (`Model`, `Calibration`, the bits to round to,
    None for what is the default) to the first two."""

    name: str
    run: Callable[..., Any]
    needs_samples: bool = False
    needs_torch: bool = False
    effort: str = EFFORTS[0]
    pays: bool = False
    takes_minutes: bool = False
    on_floats: bool = False


PASSES = (
    Pass("equalization", equalize, needs_samples=True, effort="default", on_floats=True),
    Pass("rounding", partial(round_to_outputs, most=QUICK), needs_samples=True, effort="default", pays=True),
    # There is less to gain: it takes several times as long as all else that a network of 8 bits needs.
    Pass("rounding_of_8_bits", partial(round_to_outputs, most=WIDE), needs_samples=True, effort="best", pays=True),
    Pass("bias_correction", correct_biases, needs_samples=True),
    # It learns biases, too, for what stands behind the clamps; means before those would undo it.
    Pass(
        "reconstruction", reconstruct_blocks,
        needs_samples=True, needs_torch=True, effort="best", takes_minutes=True,
    ),
)  # fmt: skip


def run_float_passes(
    model: Model, calibration: Calibration, bits: Bits | None, names: Sequence[str] | None, effort: str | None
) -> tuple[Model, Calibration]:
    """The float network after the `chosen_passes` that work on it, and its calibration. Errors as `run_passes`."""
    for each in chosen_passes(names, effort):
        if each.on_floats and _has_samples(each, calibration, names):
            model, calibration = each.run(model, calibration, bits)
    return model, calibration


def run_passes(
    model: QuantizedModel,
    calibration: Calibration,
    names: Sequence[str] | None = None,
    effort: str | None = None,
    rates: Mapping[str, float] = FREE,
    searching: bool = False,
) -> QuantizedModel:
    """The model after the `chosen_passes` that the data allow. ``rates``: what bits are worth, as `round_to_outputs` takes it;
    ``searching``: without those passes that take minutes, which a note says.

    The form of the module is checked after each. Raises UserError for a name that asks for samples where there are none.
    """
    for each in chosen_passes(names, effort, bool(rates)):
        if each.on_floats:
            continue
        if searching and each.takes_minutes:
            way_out = "compile the plan that is found with --bits plan.json"
            note = f"{each.name}: it takes minutes and is left out while bits are searched; {way_out}"
            model = replace(model, notes=(note, *model.notes))
        elif _has_samples(each, calibration, names):
            model = each.run(model, calibration, rates) if each.pays else each.run(model, calibration)
            check_quantized(model.mod)
    return model


def _has_samples(each: Pass, calibration: Calibration, names: Sequence[str] | None) -> bool:
    """Whether there are the samples that a pass needs. Raises UserError where it was named, and there are none."""
    if each.needs_samples and not calibration.measured and names is not None:
        raise UserError(f"--passes {each.name}: it learns from samples, and there are none; add --calibration-data")
    return calibration.measured or not each.needs_samples


def chosen_passes(names: Sequence[str] | None, effort: str | None = None, paid: bool = False) -> tuple[Pass, ...]:
    """Those of PASSES that are named, in their order; for None those that ``effort``, by itself "default", takes, and where bits
    are ``paid`` for also those that pay.

    Raises UserError for an unknown name, and for one that needs PyTorch where that is missing.
    """
    if names is None:
        most = EFFORTS.index(effort or "default")
        return tuple(each for each in PASSES if EFFORTS.index(each.effort) <= most or each.pays and paid)
    known = {each.name: each for each in PASSES}
    for name in names:
        if name not in known:
            raise UserError(f"--passes {name!r} is unknown; the passes are {', '.join(known)}")
        if known[name].needs_torch and not has_torch():
            raise UserError(f"--passes {name}: {MISSING_TORCH}, or leave it out")
    return tuple(each for each in PASSES if each.name in names)
