"""Cross-layer equalisation: channels of unequal reach are brought nearer to each other before anything is rounded.

A factor moves from a layer's weights into those of the layers behind it, also through depthwise layers, Relu, PRelu, pools, Add and
Concat (arXiv 1906.04721, section 4.1). Factors are powers of two, so the float network's outputs stay what they are to the bit.
"""

from __future__ import annotations

from dataclasses import replace

from ...model import Model
from ...options import DEFAULT_BITS, Bits, BitWidths
from ..calibrate.calibration import Calibration
from ..calibrate.ranges import Ranges, calibrate
from .classes import classes_of
from .factors import factors_of
from .scaled import scaled


def equalize(model: Model, calibration: Calibration, bits: Bits | None) -> tuple[Model, Calibration]:
    """The network with its channels on other scales, and the calibration of that; both as they are where nothing would be gained.

    ``bits``: what is to be rounded to, None for 8. A model that came quantized is left alone.
    """
    if model.given is not None or not calibration.measured:
        return model, calibration

    def widths(node: str) -> BitWidths:
        return bits if isinstance(bits, BitWidths) else (bits or {}).get(node, DEFAULT_BITS)

    classes = classes_of(model)
    factors = factors_of(classes, calibration.ranges.channels, widths)
    if (factors == 1).all():
        return model, calibration
    made = scaled(model, classes, factors)
    ranges = calibration.ranges
    if ranges.method == "minmax":
        ranges = rescaled(ranges, made)
    else:
        ranges = calibrate(made, calibration.samples, ranges.method, also=calibration.also)
    return made, replace(calibration, ranges=ranges)


def rescaled(ranges: Ranges, model: Model) -> Ranges:
    """Ranges of least and greatest values, of the ``model`` whose channels were divided by its factors."""
    values, means, channels = dict(ranges.values), dict(ranges.means), dict(ranges.channels)
    for name, factors in model.factors.items():
        if name in channels:
            before, after = channels[name], channels[name].scaled(factors)
            channels[name] = after
            # What lies beyond the ends of these samples, those of outliers for example, lies as far beyond them.
            old, new = (float(before.lo.min()), float(before.hi.max())), (float(after.lo.min()), float(after.hi.max()))
            beyond = [own / end if end else 1.0 for own, end in zip(values[name], old, strict=True)]
            values[name] = new[0] * beyond[0], new[1] * beyond[1]
        if name in means:
            means[name] = means[name] / factors
    return replace(ranges, values=values, means=means, channels=channels)
