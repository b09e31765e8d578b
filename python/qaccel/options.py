"""What the user can choose, as frozen values, and how the command line's strings become them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from .bits import BITS_WITHOUT_DATA as BITS_WITHOUT_DATA
from .bits import DEFAULT_BITS as DEFAULT_BITS
from .bits import MINIMIZED as MINIMIZED
from .bits import WIDTHS as WIDTHS
from .bits import Bits as Bits
from .bits import BitWidths as BitWidths
from .bits import Limits as Limits
from .bits import bits_of as bits_of
from .bits import checked_plan as checked_plan
from .bits import is_auto, is_whole, limits_of
from .bits import parse_bits as parse_bits
from .bits import read_plan as read_plan
from .errors import UserError, did_you_mean, path_of, shown
from .machine.hw import DEFAULT_CONFIG, HwConfig

MODEL_FORMATS = ("onnx", "torch", "tflite")
IO_DTYPES = ("float32", "int8", "uint8")
CALIBRATION_METHODS = ("minmax", "percentile", "entropy", "mse")  # the first where none is asked for
# Without data, weights need none and 16-bit activations forgive loose ranges.
GUESSED_INPUT_RANGE = (-1.0, 1.0)

# Flags of TVM's llvm target that make sense on a command line, and the type that TVM wants.
_HOST_FLAGS: dict[str, type] = {
    "mcpu": str, "mtriple": str, "mattr": list, "mabi": str, "mfloat-abi": str,
    "num-cores": int, "opt-level": int, "vector-width": int,
}  # fmt: skip


# An .npz, a folder of images, arrays by input name, the array of the only input, or an iterable of such samples.
Data = str | Path | Mapping[str, np.ndarray] | np.ndarray | Iterable[Any]


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
        return host if self.config is None else f"qaccel -config={_name(self.config)}, {host}"


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides what a module contains. Defaults are those of ``tvmc compile``.

    ``calibration_data``: path of an .npz or an image folder, or arrays by input name; None takes synthetic inputs within
    ``input_range``. ``calibration`` None: minmax. ``bits`` None: 8 with data, W8A16 without. ``auto``: bits are searched for within
    ``limits``, of which ``max_drop`` judges bits that are given, too. ``model_format`` None: by suffix.
    ``passes``: names of the quantizer's that may run; None for all. ``requantize``: what came quantized is taken as float.

    Raises UserError for a value that is none, and for what does nothing beside the rest: a method without data, a range with data.
    """

    target: TargetOptions = TargetOptions()
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    input_values: Mapping[str, Any] | None = None  # what inputs are fixed to: numbers, or arrays of them
    calibration_data: Data | None = None
    preprocess: str | None = None
    calibration: str | None = None
    input_range: tuple[float, float] | None = None
    bits: Bits | None = None
    io_dtype: str = "float32"
    model_format: str | None = None
    tuning_records: Path | None = None
    passes: tuple[str, ...] | None = None
    requantize: bool = False
    auto: bool = False
    limits: Limits = Limits()
    synthetic_samples: int = field(default=16, repr=False)

    def __post_init__(self) -> None:
        if self.calibration is not None:
            _check_choice("--calibration", self.calibration, CALIBRATION_METHODS)
            if self.calibration_data is None:
                raise UserError(
                    f"--calibration {self.calibration} measures samples; add --calibration-data, or drop it"
                )
        _check_choice("--io-dtype", self.io_dtype, IO_DTYPES)
        if self.model_format is not None:
            _check_choice("--model-format", self.model_format, MODEL_FORMATS)
        if self.input_range is not None:
            lo, hi = self.input_range
            if not (math.isfinite(lo) and math.isfinite(hi) and lo < hi):
                raise UserError(f"--input-range {lo:g},{hi:g}: both ends must be finite and the first below the second")
            if self.calibration_data is not None:
                raise UserError(f"--input-range {lo:g},{hi:g} takes the place of --calibration-data; drop one of them")
        self._check_limits()

    def _check_limits(self) -> None:
        if self.auto and self.calibration_data is None:
            raise UserError(
                "--bits auto measures on samples what each width loses; add --calibration-data, or give bits"
            )
        if self.auto and self.target.config is None:
            raise UserError(
                f"--bits auto weighs the accelerator's cycles and bytes, and --target '{self.target}' has none; add qaccel"
            )
        limits = self.limits
        for flag, given in (
            ("--minimize", limits.minimize), ("--max-cycles", limits.max_cycles), ("--max-bytes", limits.max_bytes)
        ):  # fmt: skip
            if given is not None and not self.auto:
                raise UserError(f"{flag} {given} is for bits that the compiler chooses; add --bits auto")
        if limits.max_drop is not None and self.calibration_data is None:
            raise UserError(f"--max-drop {limits.max_drop:g} is judged on samples; add --calibration-data")

    @property
    def quantizes(self) -> bool:
        """Whether the network will run in integers: on the accelerator always, on the CPU alone where bits or data ask for it."""
        given = self.bits is not None or self.auto or self.calibration_data is not None
        return self.target.config is not None or given

    def __repr__(self) -> str:
        given = [each.name for each in fields(self)[1:] if each.repr and getattr(self, each.name) is not each.default]
        return f"<CompileOptions {self.target}; {', '.join(given) or 'nothing'} given>"


def options_of(
    target: TargetOptions,
    *,
    input_shapes: str | Mapping[str, tuple[int, ...]] | None = None,
    input_values: str | Mapping[str, Any] | None = None,
    calibration_data: Data | None = None,
    preprocess: str | None = None,
    calibration: str | None = None,
    input_range: str | tuple[float, float] | None = None,
    bits: Any = None,
    io_dtype: str = "float32",
    model_format: str | None = None,
    tuning_records: str | Path | None = None,
    passes: str | Sequence[str] | None = None,
    requantize: bool = False,
    minimize: str | None = None,
    max_drop: Any = None,
    max_cycles: Any = None,
    max_bytes: Any = None,
) -> CompileOptions:
    """Options as Python or the command line give them: values, or the strings that the flags take.

    ``input_shapes``: by input name, or `parse_input_shapes`; ``input_values``: by input name, or `parse_input_values`;
    ``input_range``: (LO, HI), or "LO,HI"; ``bits``: see `bits_of`, or "auto";
    ``passes``: names, or "NAME,NAME". Raises UserError for a value that is not of its form.
    """
    if preprocess is not None and not isinstance(preprocess, str):
        raise UserError(f'--preprocess must be a text such as "mean=127,scale=128"; it is {shown(preprocess)}')
    return CompileOptions(
        target=target,
        input_shapes=_input_shapes(input_shapes) if input_shapes is not None else None,
        input_values=parse_input_values(input_values) if input_values is not None else None,
        calibration_data=calibration_data,
        preprocess=preprocess,
        calibration=calibration,
        input_range=_input_range(input_range) if input_range is not None else None,
        bits=bits_of(bits) if bits is not None and not is_auto(bits) else None,
        auto=is_auto(bits),
        limits=limits_of(minimize, max_drop, max_cycles, max_bytes),
        io_dtype=io_dtype,
        model_format=model_format,
        tuning_records=path_of(tuning_records, "--tuning-records") if tuning_records is not None else None,
        passes=parse_passes(passes) if passes is not None else None,
        requantize=requantize,
    )


def parse_target(
    text: str, hw: str | HwConfig | None = None, default: str | HwConfig = DEFAULT_CONFIG
) -> TargetOptions:
    """``"qaccel -config=qaccel-1024, llvm -mcpu=native"``: either half alone, too. Flags are ``-name=value``.

    ``hw``: the accelerator's config, if the text gives none; ``default``: if neither does. Raises UserError for another
    kind, a flag that the kind does not have, a value of the wrong type, and for ``hw`` beside a text that gives a config
    itself or names no accelerator.
    """
    if not isinstance(text, str):
        raise UserError(f'--target must be a text such as "qaccel, llvm -mcpu=native"; it is {shown(text)}')
    config: str | HwConfig | None = None
    host: dict[str, Any] = {}
    kinds: list[str] = []
    # Attributes such as +avx2,+fma have commas of their own; a kind begins with a letter.
    for half in re.split(r",\s*(?=[A-Za-z])", text.strip()):
        words = half.split()
        kind = words[0] if words else ""
        if kind not in ("qaccel", "llvm"):
            raise UserError(
                f"--target {text!r}: unknown kind {kind!r}; use qaccel, llvm, or both with a comma between"
                f"{did_you_mean(kind, ('qaccel', 'llvm'))}"
            )
        if kind in kinds:
            raise UserError(f"--target {text!r}: {kind} occurs twice")
        kinds.append(kind)
        flags: dict[str, str] = {}
        for name, value in (_flag(word, kind, text) for word in words[1:]):
            if name in flags:
                raise UserError(f"--target {text!r}: -{name} of {kind} is given twice; drop one")
            flags[name] = value
        if kind == "qaccel":
            for name in flags:
                if name != "config":
                    raise UserError(f"--target {text!r}: qaccel has no flag -{name}; it has -config")
            if "config" in flags and hw is not None:
                raise UserError(f"the accelerator is given twice: hw={_name(hw)!r} and target={text!r}; drop one")
            config = flags.get("config", default if hw is None else hw)
        else:
            host = {name: _host_value(name, value, text) for name, value in flags.items()}
    if hw is not None and "qaccel" not in kinds:
        raise UserError(
            f"hw={_name(hw)!r} names an accelerator, and target={text!r} is the CPU alone; give 'qaccel, {text}' or drop hw"
        )
    return TargetOptions(config, tuple(host.items()))


def _name(config: str | HwConfig) -> str:
    return config.name if isinstance(config, HwConfig) else config if isinstance(config, str) else shown(config)


def _check_choice(flag: str, value: Any, choices: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in choices:
        given = value if isinstance(value, str) else shown(value)
        raise UserError(f"{flag} {given} is unknown; choose one of {', '.join(choices)}")


def _flag(word: str, kind: str, text: str) -> tuple[str, str]:
    match = re.fullmatch(r"--?([A-Za-z][\w-]*)=(.+)", word)
    if match is None:
        raise UserError(f"--target {text!r}: {word!r} of {kind} must have the form -name=value")
    return match[1], match[2]


def _host_value(name: str, value: str, text: str) -> Any:
    if name not in _HOST_FLAGS:
        known = f"it has -{', -'.join(_HOST_FLAGS)}"
        raise UserError(f"--target {text!r}: llvm has no flag -{name}{did_you_mean(name, _HOST_FLAGS) or f'; {known}'}")
    if _HOST_FLAGS[name] is list:
        return tuple(value.split(","))
    if _HOST_FLAGS[name] is int:
        if not value.isdecimal():
            raise UserError(f"--target {text!r}: -{name} is {value!r}, must be a whole number")
        return int(value)
    return value


def _input_shapes(given: Any) -> dict[str, tuple[int, ...]]:
    """Shapes by input name, or the text that `parse_input_shapes` takes. Raises UserError for anything else."""
    if isinstance(given, str):
        return parse_input_shapes(given)
    if not isinstance(given, Mapping):
        raise UserError(f'--input-shapes must be shapes by input name, {{"x": (1, 3, 224, 224)}}; it is {shown(given)}')
    shapes = {}
    for name, shape in given.items():
        sizes = tuple(shape) if isinstance(shape, list | tuple) else ()
        if not isinstance(shape, list | tuple) or not all(is_whole(size) and size > 0 for size in sizes):
            raise UserError(
                f"--input-shapes: {name!r} must be a tuple of positive whole numbers such as (1, 3, 224, 224); "
                f"it is {shown(shape)}"
            )
        shapes[name] = tuple(int(size) for size in sizes)
    return shapes


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


def parse_input_values(text: Any) -> dict[str, Any]:
    """``"sr:16000 flags:[1,0]"``, separated by spaces or commas; or values by input name. Raises UserError for anything else."""
    if isinstance(text, Mapping):
        return dict(text)
    if not isinstance(text, str):
        raise UserError(f'--input-values must be values by input name, {{"sr": 16000}}; it is {shown(text)}')
    values: dict[str, Any] = {}
    pattern = re.compile(r"[\s,;]*([^\s,;\[\]]+?)\s*:\s*(\[[^\[\]]*\]|[^\s,;\[\]:]+)(?=$|[\s,;])")
    position = 0
    while text[position:].strip(" ,;\t\n"):
        match = pattern.match(text, position)
        try:
            parsed = json.loads(match[2].lower()) if match is not None else None
        except ValueError:
            match = None
        if match is None:
            raise UserError(f'--input-values {text!r} must have the form "name:16000", several with spaces between')
        if match[1] in values:
            raise UserError(f"--input-values: {match[1]!r} occurs twice")
        values[match[1]] = parsed
        position = match.end()
    if not values:
        raise UserError('--input-values is empty; give "name:16000"')
    return values


def _input_range(given: str | tuple[float, float]) -> tuple[float, float]:
    """``"LO,HI"`` or a pair as two numbers. Raises UserError if it is none."""
    try:
        lo, hi = (float(part) for part in (given.split(",") if isinstance(given, str) else given))
    except (ValueError, TypeError):
        raise UserError(f"--input-range {shown(given)} must be two numbers LO,HI, such as -1,1") from None
    return lo, hi


def parse_passes(given: Any) -> tuple[str, ...]:
    """``"NAME,NAME"``, or names in a list, as names; an empty text is none. Raises UserError for anything else."""
    if isinstance(given, str):
        return tuple(name.strip() for name in given.split(",") if name.strip())
    if not isinstance(given, list | tuple):
        raise UserError(f'--passes must be names, "NAME,NAME" or a list of them; it is {shown(given)}')
    return tuple(given)
