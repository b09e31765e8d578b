"""Options as Python or the command line give them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError, did_you_mean, path_of, shown
from ..machine.hw import DEFAULT_CONFIG, HwConfig
from .limits import Limits, is_auto, is_number, is_whole
from .plans import bits_of
from .read_schedule import schedule_of
from .values import CompileOptions, Data, TargetOptions, name_of_config

# Flags of TVM's llvm target that make sense on a command line, and the type that TVM wants.
_HOST_FLAGS: dict[str, type] = {
    "mcpu": str, "mtriple": str, "mattr": list, "mabi": str, "mfloat-abi": str,
    "num-cores": int, "opt-level": int, "vector-width": int,
}  # fmt: skip


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
    effort: str | None = None,
    requantize: bool = False,
    minimize: str | None = None,
    max_drop: Any = None,
    max_cycles: Any = None,
    max_bytes: Any = None,
    schedule: Any = None,
) -> CompileOptions:
    """Options as Python or the command line give them: values, or the strings that the flags take.

    ``input_shapes``: by input name, or `parse_input_shapes`; ``input_values``: by input name, or `parse_input_values`;
    ``input_range``: (LO, HI), or "LO,HI"; ``bits``: see `bits_of`, or "auto";
    ``passes``: names, or "NAME,NAME"; ``schedule``: see `schedule_of`. Raises UserError for a value that is not of its form.
    """
    if preprocess is not None and not isinstance(preprocess, str):
        raise UserError(f'--preprocess must be a text such as "mean=127,scale=128"; it is {shown(preprocess)}')
    if not isinstance(requantize, bool):
        raise UserError(f"--requantize must be True or False; it is {shown(requantize)}")
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
        limits=Limits(minimize, max_drop, max_cycles, max_bytes),
        io_dtype=io_dtype,
        model_format=model_format,
        tuning_records=path_of(tuning_records, "--tuning-records") if tuning_records is not None else None,
        passes=parse_passes(passes) if passes is not None else None,
        effort=effort,
        requantize=requantize,
        schedule=schedule_of(schedule) if schedule is not None else None,
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
                raise UserError(
                    f"the accelerator is given twice: hw={name_of_config(hw)!r} and target={text!r}; drop one"
                )
            config = flags.get("config", default if hw is None else hw)
        else:
            host = {name: _host_value(name, value, text) for name, value in flags.items()}
    if hw is not None and "qaccel" not in kinds:
        raise UserError(
            f"hw={name_of_config(hw)!r} names an accelerator, and target={text!r} is the CPU alone; give 'qaccel, {text}' "
            "or drop hw"
        )
    return TargetOptions(config, tuple(host.items()))


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
        parts = [float(part) for part in given.split(",")] if isinstance(given, str) else list(given)
    except (ValueError, TypeError):
        parts = []
    if len(parts) != 2 or not all(map(is_number, parts)):
        raise UserError(f"--input-range {shown(given)} must be two numbers LO,HI, such as -1,1")
    return float(parts[0]), float(parts[1])


def parse_passes(given: Any) -> tuple[str, ...]:
    """``"NAME,NAME"``, or names in a list, as names; an empty text is none. Raises UserError for anything else."""
    if isinstance(given, str):
        return tuple(name.strip() for name in given.split(",") if name.strip())
    if not isinstance(given, list | tuple):
        raise UserError(f'--passes must be names, "NAME,NAME" or a list of them; it is {shown(given)}')
    return tuple(given)
