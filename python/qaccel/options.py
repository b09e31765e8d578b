"""What the user can choose, as frozen values, and how the command line's strings become them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .errors import UserError
from .machine.hw import DEFAULT_CONFIG, HwConfig
from .machine.isa import isa

WIDTHS = isa().widths
MODEL_FORMATS = ("onnx", "torch", "tflite")
IO_DTYPES = ("float32", "int8", "uint8")
CALIBRATION_METHODS = ("minmax", "percentile", "entropy", "mse")
# Without data, weights need none and 16-bit activations forgive loose ranges.
GUESSED_INPUT_RANGE = (-1.0, 1.0)

# Flags of TVM's llvm target that make sense on a command line, and the type that TVM wants.
_HOST_FLAGS: dict[str, type] = {
    "mcpu": str, "mtriple": str, "mattr": list, "mabi": str, "mfloat-abi": str,
    "num-cores": int, "opt-level": int, "vector-width": int,
}  # fmt: skip


@dataclass(frozen=True)
class BitWidths:
    """Weight and activation bits of one layer, each 4, 8 or 16."""

    weight_bits: int
    activation_bits: int

    def __post_init__(self) -> None:
        for name, value in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            if value not in WIDTHS:
                raise UserError(f"{name} is {value!r}; the machine has 4, 8 and 16")

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.activation_bits}"


Bits = BitWidths | Mapping[str, BitWidths]
DEFAULT_BITS = BitWidths(8, 8)
BITS_WITHOUT_DATA = BitWidths(8, 16)


@dataclass(frozen=True)
class TargetOptions:
    """``config``: the accelerator's, by name, path or value; None for the CPU alone. ``host``: flags of TVM's llvm target."""

    config: str | HwConfig | None = DEFAULT_CONFIG
    host: tuple[tuple[str, Any], ...] = ()

    @property
    def mtriple(self) -> str | None:
        """The triple to cross-compile the host part for."""
        return dict(self.host).get("mtriple")

    def __str__(self) -> str:
        flags = " ".join(f"-{k}={','.join(v) if isinstance(v, tuple) else v}" for k, v in self.host)
        host = f"llvm {flags}".strip()
        name = self.config.name if isinstance(self.config, HwConfig) else self.config
        return host if name is None else f"qaccel -config={name}, {host}"


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides what a module contains. Defaults are those of ``tvmc compile``.

    ``calibration_data``: path of an .npz or an image folder, or arrays by input name with samples along axis 0; None
    takes synthetic inputs within ``input_range``. ``bits`` None: 8 with calibration data, W8A16 without. ``io_dtype``: of the
    module's inputs and outputs. ``model_format`` None: by the file's suffix.
    ``tuning_records``: a folder of tvmc tune, for the CPU's part. ``passes``: names of the quantizer's passes that may run;
    None for all.
    """

    target: TargetOptions = TargetOptions()
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    calibration_data: str | Path | Mapping[str, np.ndarray] | None = None
    preprocess: str | None = None
    calibration: str = "minmax"
    input_range: tuple[float, float] | None = None
    bits: Bits | None = None
    io_dtype: str = "float32"
    model_format: str | None = None
    tuning_records: Path | None = None
    passes: tuple[str, ...] | None = None
    synthetic_samples: int = field(default=16, repr=False)


def parse_target(text: str) -> TargetOptions:
    """``"qaccel -config=qaccel-1024, llvm -mcpu=native"``: either half alone, too. Flags are ``-name=value``.

    Raises UserError for another kind, a flag that the kind does not have, or a value of the wrong type.
    """
    config: str | None = None
    host: dict[str, Any] = {}
    kinds: list[str] = []
    # Attributes such as +avx2,+fma have commas of their own; a kind begins with a letter.
    for half in re.split(r",\s*(?=[A-Za-z])", text.strip()):
        words = half.split()
        kind = words[0] if words else ""
        if kind not in ("qaccel", "llvm"):
            raise UserError(f"--target {text!r}: unknown kind {kind!r}; use qaccel, llvm, or both with a comma between")
        if kind in kinds:
            raise UserError(f"--target {text!r}: {kind} occurs twice")
        kinds.append(kind)
        flags = dict(_flag(word, kind, text) for word in words[1:])
        if kind == "qaccel":
            for name in flags:
                if name != "config":
                    raise UserError(f"--target {text!r}: qaccel has no flag -{name}; it has -config")
            config = flags.get("config", DEFAULT_CONFIG)
        else:
            host = {name: _host_value(name, value, text) for name, value in flags.items()}
    return TargetOptions(config, tuple(host.items()))


def checked_model_format(text: str | None) -> str | None:
    """The same format. Raises UserError unless it is one of MODEL_FORMATS, or None."""
    if text is not None and text not in MODEL_FORMATS:
        raise UserError(f"--model-format {text} is unknown; choose one of {', '.join(MODEL_FORMATS)}")
    return text


def checked_io_dtype(text: str) -> str:
    """The same type. Raises UserError unless it is one of IO_DTYPES."""
    if text not in IO_DTYPES:
        raise UserError(f"--io-dtype {text} is unknown; choose one of {', '.join(IO_DTYPES)}")
    return text


def _flag(word: str, kind: str, text: str) -> tuple[str, str]:
    match = re.fullmatch(r"--?([A-Za-z][\w-]*)=(.+)", word)
    if match is None:
        raise UserError(f"--target {text!r}: {word!r} of {kind} must have the form -name=value")
    return match[1], match[2]


def _host_value(name: str, value: str, text: str) -> Any:
    if name not in _HOST_FLAGS:
        raise UserError(f"--target {text!r}: llvm has no flag -{name}; it has -{', -'.join(_HOST_FLAGS)}")
    if _HOST_FLAGS[name] is list:
        return tuple(value.split(","))
    if _HOST_FLAGS[name] is int:
        if not value.isdecimal():
            raise UserError(f"--target {text!r}: -{name} is {value!r}, must be a whole number")
        return int(value)
    return value


def parse_input_shapes(text: str) -> dict[str, tuple[int, ...]]:
    """``"x:[1,3,224,224] y:[1,10]"``, separated by spaces or commas. Raises UserError if it is not of that form."""
    shapes: dict[str, tuple[int, ...]] = {}
    pattern = re.compile(r"[\s,;]*([^\s,;\[\]][^\[\]]*?)\s*:\s*\[([^\[\]]*)\]")
    position = 0
    while text[position:].strip(" ,;\t\n"):
        match = pattern.match(text, position)
        if match is None:
            raise UserError(
                f'--input-shapes {text!r} must have the form "name:[1,3,224,224]", several with spaces between'
            )
        name, dims = match[1], [dim.strip() for dim in match[2].split(",") if dim.strip()]
        if name in shapes:
            raise UserError(f"--input-shapes: {name!r} occurs twice")
        if not all(dim.isdecimal() and int(dim) > 0 for dim in dims):
            raise UserError(
                f"--input-shapes: {name!r} has the shape [{match[2]}]; each size must be a positive whole number"
            )
        shapes[name] = tuple(int(dim) for dim in dims)
        position = match.end()
    if not shapes:
        raise UserError('--input-shapes is empty; give "name:[1,3,224,224]"')
    return shapes


def parse_input_range(text: str) -> tuple[float, float]:
    """``"LO,HI"``, finite and LO < HI. Raises UserError if it is not."""
    parts = text.split(",")
    try:
        lo, hi = (float(part) for part in parts)
    except ValueError:
        raise UserError(f"--input-range {text!r} must be two numbers LO,HI") from None
    return checked_input_range((lo, hi))


def checked_input_range(values: tuple[float, float]) -> tuple[float, float]:
    """The same range. Raises UserError unless both ends are finite and the first is below the second."""
    lo, hi = values
    if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
        raise UserError(f"--input-range {lo:g},{hi:g}: both ends must be finite and the first below the second")
    return float(lo), float(hi)


def parse_passes(text: str) -> tuple[str, ...]:
    """``"NAME,NAME"`` as names; an empty text is none."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def parse_bits(text: str) -> Bits:
    """``8``, ``W4A8``, or the path of a plan: ``{node name: {"weight_bits": 4, "activation_bits": 8}}`` as JSON.

    Raises UserError for widths other than 4, 8 and 16, and for a plan that is missing, damaged or not of that form.
    """
    both = re.fullmatch(r"[wW](\d+)[aA](\d+)", text) or re.fullmatch(r"(\d+)", text)
    if both is not None:
        weight, activation = int(both[1]), int(both[both.re.groups])
        return _widths(weight, activation, f"--bits {text}")
    if not text.endswith(".json"):
        raise UserError(f"--bits {text!r} is not a width; use 8, W8A16 (weights, activations), or a plan.json")
    return read_plan(text)


def read_plan(path: str | Path) -> dict[str, BitWidths]:
    """The plan in a JSON file; errors as ``parse_bits``."""
    try:
        plan = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read the plan {str(path)!r}: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"the plan {str(path)!r} is not valid JSON: {error}") from None
    return checked_plan(plan, str(path))


def checked_plan(plan: Any, origin: str) -> dict[str, BitWidths]:
    """Plan entries as bit widths; ``origin`` names the plan in errors."""
    keys = {"weight_bits", "activation_bits"}
    if not isinstance(plan, Mapping):
        raise UserError(f"{origin}: a plan is an object of node names, this is a {type(plan).__name__}")
    checked = {}
    for name, entry in plan.items():
        if isinstance(entry, BitWidths):
            checked[name] = _widths(entry.weight_bits, entry.activation_bits, f"{origin}: {name!r}")
            continue
        if not isinstance(entry, Mapping) or set(entry) != keys:
            raise UserError(
                f'{origin}: {name!r} must be {{"weight_bits": ..., "activation_bits": ...}}, it is {entry!r}'
            )
        checked[name] = _widths(entry["weight_bits"], entry["activation_bits"], f"{origin}: {name!r}")
    return checked


def _widths(weight: Any, activation: Any, origin: str) -> BitWidths:
    for what, value in (("weights", weight), ("activations", activation)):
        if isinstance(value, bool) or value not in WIDTHS:
            raise UserError(f"{origin}: {value!r} bits for {what}; the accelerator has 4, 8 and 16")
    return BitWidths(int(weight), int(activation))
