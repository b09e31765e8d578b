"""Flags that several verbs have: the model, and how it is quantized."""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any

from ..options import CALIBRATION_METHODS, EFFORTS, MODEL_FORMATS

PREPROCESS = (
    '"mean=127,scale=128": (pixel - mean) / scale with pixels 0 to 255, or "mean=0.5,std=0.5" with pixels 0 to 1, values per '
    "channel with colons between; resize=N: the shorter side first becomes N; crop=N: the N x N centre; layout=NCHW or NHWC of "
    "the input"
)


def add_model(parser: argparse.ArgumentParser) -> None:
    """The model, and what its file leaves open."""
    parser.add_argument("model", metavar="MODEL", type=Path, help=".onnx, .pt2 (torch.export.save) or .tflite")
    parser.add_argument("--input-shapes", metavar="SHAPES", help='"x:[1,3,224,224]", several with spaces between')
    parser.add_argument(
        "--input-values", metavar="VALUES", help='"sr:16000", several with spaces: inputs that are fixed'
    )
    parser.add_argument("--model-format", metavar="FORMAT", help=f"{', '.join(MODEL_FORMATS)} (default: by the suffix)")


def add_quantizer(group: Any, bits: str) -> None:
    """Calibration, bits and passes; ``bits``: the help of ``--bits``."""
    group.add_argument(
        "--calibration-data", metavar="PATH", type=Path, help=".npz with one array per input, or an image folder"
    )
    group.add_argument("--preprocess", metavar="SPEC", help=f"for an image folder: {PREPROCESS}")
    group.add_argument(
        "--calibration",
        metavar="METHOD",
        help=f"{', '.join(CALIBRATION_METHODS)} (default: minmax at 16 bits, mse below)",
    )
    group.add_argument("--bits", metavar="BITS", help=bits)
    group.add_argument("--effort", metavar="EFFORT", help=f"how long the quantizer may work: {', '.join(EFFORTS)}")
    group.add_argument(
        "--passes", metavar="NAME,NAME", help="run only these passes of the quantizer (default: by effort)"
    )


def quantizer_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `add_model` and `add_quantizer` took, as the keywords of `qaccel.quantize`."""
    names = (
        "input_shapes", "input_values", "model_format", "calibration_data", "preprocess", "calibration", "bits", "effort",
        "passes",
    )  # fmt: skip
    return {name: getattr(arguments, name) for name in names}


def number(text: str) -> int | float | str:
    """A flag's text as the number that it spells; as it is where it spells none, for the API to refuse by its own words."""
    with contextlib.suppress(ValueError):
        return int(text)
    with contextlib.suppress(ValueError):
        made = float(text)
        return int(made) if made.is_integer() else made  # 2e6 cycles
    return text


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Who does the work."""
    parser.add_argument("--jobs", metavar="N", type=int, help="processes on this machine (default: one for each core)")
    parser.add_argument(
        "--cluster", metavar="tcp://HOST:PORT", help="a Dask scheduler, whose workers do it instead (qaccel[cluster])"
    )
