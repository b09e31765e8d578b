"""The forms in which a quantized model comes, all read as plain QDQ: what the pipeline hands to the import."""

from __future__ import annotations

from ..frontend.canonicalize import Forms
from .read import read, without_rounding
from .settle import settled

QUANTIZED = Forms(lambda proto: proto, read, settled)
REQUANTIZED = Forms(QUANTIZED.spelled, lambda graph: without_rounding(read(graph)), lambda graph: graph)
