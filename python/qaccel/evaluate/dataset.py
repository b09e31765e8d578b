"""Calibration and run data: `.npz` archives and folders of images, checked before anything long starts."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import UserError, path_of, shown
from ..model import TensorSpec

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
NAMES_SHOWN = 8  # of the arrays in a file, where one is missing
PREPROCESS_KEYS = ("mean", "scale", "std", "resize", "crop", "layout")


@dataclass(frozen=True)
class Preprocess:
    """What happens to an 8-bit image: shorter side to `resize`, centre `crop`, then (pixel - mean) / divisor.

    `mean` and `divisor` hold one value or one per channel, in the units of `unit`: 1 for pixels 0 to 255, 255 for
    pixels 0 to 1. Zero for `resize` or `crop` takes the size from the network's input.
    """

    mean: tuple[float, ...] = (0.0,)
    divisor: tuple[float, ...] = (1.0,)
    unit: float = 1.0
    resize: int = 0
    crop: int = 0
    layout: str = "NCHW"


def load_calibration_data(
    path: str | Path,
    inputs: Sequence[TensorSpec],
    preprocess: str | None = None,
    limit: int | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> dict[str, np.ndarray]:
    """Samples by input name, along axis 0, at most `limit` of them.

    `path` is an .npz with one array per input, or a folder searched recursively for .jpg and .png (in the order of
    their paths). Raises UserError for data that is missing, damaged, misnamed, misshapen or not finite.
    """
    path = path_of(path, "--calibration-data")
    if path.is_dir():
        arrays = _images(path, inputs, parse_preprocess(preprocess or ""), limit)
    elif preprocess:
        raise UserError(f"--preprocess applies to a folder of images, and '{path}' is none; drop it or give the folder")
    else:
        arrays = {name: array[:limit] if array.ndim else array for name, array in load_npz(path).items()}
    return check_inputs(arrays, inputs, f"calibration data '{path}'", fixed)


def load_npz(path: str | Path) -> dict[str, np.ndarray]:
    """All arrays of an .npz archive. Raises UserError where it is missing, damaged, or needs unpickling."""
    path = path_of(path, "the data")
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"'{path}' holds a single array; give an .npz with one array per input name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as err:
        raise UserError(f"'{path}' does not exist; give an .npz or a folder of images") from err
    except IsADirectoryError as err:
        raise UserError(f"'{path}' is a folder; give an .npz with one array per input name") from err
    except OSError as err:
        raise UserError(f"cannot read '{path}': {err.strerror or 'it is damaged'}; give another .npz") from err
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, TypeError, AttributeError) as err:
        raise UserError(
            f"'{path}' is not an .npz archive of numeric arrays, or is damaged; numpy.savez writes one"
        ) from err


def joined_feeds(data: Any, inputs: Sequence[TensorSpec], what: str) -> Any:
    """Samples that come one by one, each as `check_inputs` takes it, joined along axis 0 into arrays by input name.

    Arrays by name and a single array are returned as they are. Raises UserError for a sample that does not fit, naming it, and
    for values of an input without axes that differ between samples.
    """
    if isinstance(data, Mapping) or _is_array(data) or not isinstance(data, Iterable):
        return data
    feeds = [check_inputs(feed, inputs, f"{what}, sample {k}") for k, feed in enumerate(data)]
    if not feeds:
        raise UserError(f"{what}: there is no sample; give at least one")
    for spec in inputs:
        if not spec.shape and len({feed[spec.name].item() for feed in feeds}) > 1:
            raise UserError(f"{what}: '{spec.name}' has no axis for samples; give one value of it for all")
    return {
        spec.name: np.concatenate([feed[spec.name] for feed in feeds]) if spec.shape else feeds[0][spec.name]
        for spec in inputs
    }


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "__array__")


def check_inputs(
    arrays: Any, inputs: Sequence[TensorSpec], what: str, fixed: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The arrays in the inputs' element types, after checking names, shapes, types, values and counts.

    Axis 0 holds samples and may be any multiple of the input's own; a single sample may come without it. Integers
    (images) become float where the input is float. `what` names the data in messages. `fixed`: values of inputs that were
    settled at compile time; arrays that repeat them are left out. A model with one input takes its array without a name, too.
    """
    if len(inputs) == 1 and _is_array(arrays):
        arrays = {inputs[0].name: arrays}
    expected = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in inputs)
    if not isinstance(arrays, Mapping):
        raise UserError(f"{what}: needed are arrays by input name, not {shown(arrays)}; expected {expected}")
    for spec in inputs:
        if spec.name not in arrays:
            raise UserError(f"{what}: no array named '{spec.name}'; it holds {_names(arrays)}, expected {expected}")
    names = {spec.name for spec in inputs} | set(fixed or {})
    for name, value in (fixed or {}).items():
        given, wanted = np.ravel(arrays.get(name, value)), np.ravel(value)
        if given.size % max(wanted.size, 1) or (given.reshape(-1, max(wanted.size, 1)) != wanted).any():
            raise UserError(
                f"{what}: '{name}' was fixed by --input-values, and this is another value; compile it again"
            )
    for name in arrays:
        if name not in names and name != "labels":
            raise UserError(f"{what}: '{name}' is not an input of the model; expected {expected}")
    checked = {spec.name: _checked(_array(arrays[spec.name], spec.name, what), spec, what) for spec in inputs}
    counts = {spec.name: len(checked[spec.name]) // max(1, spec.shape[0]) for spec in inputs if spec.shape}
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise UserError(f"{what}: the inputs differ in the number of samples: {listed}; give as many of each")
    return checked


def _names(arrays: Mapping[str, np.ndarray]) -> str:
    listed = [f"'{name}'" for name in arrays]
    more = f" and {len(listed) - NAMES_SHOWN} more" if len(listed) > NAMES_SHOWN else ""
    return ", ".join(listed[:NAMES_SHOWN]) + more or "nothing"


def _array(value: Any, name: str, what: str) -> np.ndarray:
    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        raise UserError(f"{what}: '{name}' is {shown(value)}, which is no array; give numbers of one shape") from None


def _checked(array: np.ndarray, spec: TensorSpec, what: str) -> np.ndarray:
    name = spec.name
    wanted = np.dtype(spec.dtype)
    if array.dtype.kind not in "fiub":
        given = "no array" if array.dtype.kind == "O" else f"of type {array.dtype}"
        raise UserError(f"{what}: '{name}' is {given}; needed are numbers ({spec.dtype})")
    if wanted.kind in "iub" and array.dtype.kind == "f":
        raise UserError(f"{what}: '{name}' has type {array.dtype}; the model takes {spec.dtype}")
    if spec.shape and array.shape == spec.shape[1:]:
        array = array[np.newaxis]
    whole = array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
    if not whole or spec.shape and array.shape[0] % spec.shape[0]:
        raise UserError(
            f"{what}: '{name}' has shape {list(array.shape)}; needed is [N, {', '.join(map(str, spec.shape[1:]))}] "
            f"with N a multiple of {spec.shape[0] if spec.shape else 1}"
        )
    if array.size == 0:
        raise UserError(f"{what}: '{name}' holds no samples; give at least one")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = np.unravel_index(int(np.argmin(np.isfinite(array))), array.shape)
        raise UserError(f"{what}: '{name}' holds {array[at]} at index {[int(i) for i in at]}; values must be finite")
    if wanted.kind in "iu" and array.dtype != wanted:
        limits = np.iinfo(wanted)
        if int(array.min()) < limits.min or int(array.max()) > limits.max:
            raise UserError(
                f"{what}: '{name}' ranges from {array.min()} to {array.max()}; the model takes {spec.dtype}"
            )
    with np.errstate(over="ignore"):
        converted = np.asarray(array, wanted, order="C")
    if wanted.kind == "f" and not np.isfinite(converted).all():
        raise UserError(f"{what}: '{name}' holds values beyond the range of {spec.dtype}")
    return converted


def parse_preprocess(text: str) -> Preprocess:
    """Reads `key=value,key=value`.

    mean=M, scale=S   (pixel - M) / S with pixels 0 to 255
    mean=M, std=D     the same with pixels 0 to 1, as PyTorch's Normalize
    resize=N          the shorter side becomes N before the crop (default: the size at which the crop just fits)
    crop=N            an N x N centre crop, then scaled to the input's size if that differs
    layout=NCHW|NHWC  of the network's input
    Values per channel are separated by colons: mean=0.485:0.456:0.406. Raises UserError for anything else.
    """
    result = Preprocess()
    seen: set[str] = set()
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, equals, value = (part.strip() for part in item.partition("="))
        if key not in PREPROCESS_KEYS or not equals or not value:
            raise UserError(f"--preprocess: '{item}' is not understood; keys are {', '.join(PREPROCESS_KEYS)}")
        if key in seen:
            raise UserError(f"--preprocess: '{key}' is given twice")
        seen.add(key)
        if key == "layout":
            if value.upper() not in ("NCHW", "NHWC"):
                raise UserError(f"--preprocess: layout '{value}' is unknown; choose NCHW or NHWC")
            result = replace(result, layout=value.upper())
        elif key in ("resize", "crop"):
            if not value.isdigit() or int(value) < 1:
                raise UserError(f"--preprocess: {key}={value} must be a whole number of pixels, at least 1")
            result = replace(result, resize=int(value)) if key == "resize" else replace(result, crop=int(value))
        else:
            numbers = _numbers(key, value)
            if key == "mean":
                result = replace(result, mean=numbers)
            else:
                result = replace(result, divisor=numbers, unit=255.0 if key == "std" else 1.0)
    if {"scale", "std"} <= seen:
        raise UserError("--preprocess: give scale (pixels 0 to 255) or std (pixels 0 to 1), not both")
    if len(result.mean) > 1 and len(result.divisor) > 1 and len(result.mean) != len(result.divisor):
        raise UserError("--preprocess: mean and scale/std differ in their number of channels")
    return result


def _numbers(key: str, value: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in value.split(":"))
    except ValueError as err:
        raise UserError(f"--preprocess: {key}={value} is not a number, or numbers separated by colons") from err
    if not np.isfinite(numbers).all() or key != "mean" and 0.0 in numbers:
        raise UserError(f"--preprocess: {key}={value} must be finite{'' if key == 'mean' else ' and not zero'}")
    return numbers


def _images(folder: Path, inputs: Sequence[TensorSpec], how: Preprocess, limit: int | None) -> dict[str, np.ndarray]:
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UserError(
            f"a folder of images fits a model with one input of 4 dimensions; this one has "
            f"{', '.join(f'{s.name} {list(s.shape)}' for s in inputs)}: give an .npz"
        )
    spec = inputs[0]
    first = how.layout == "NCHW"
    channels = spec.shape[1 if first else 3]
    height, width = spec.shape[2:] if first else spec.shape[1:3]
    if channels not in (1, 3):
        raise UserError(
            f"input '{spec.name}' has {channels} channels in layout {how.layout}, images have 1 or 3: give an .npz"
        )
    for given in (how.mean, how.divisor):
        if len(given) not in (1, channels):
            raise UserError(f"--preprocess gives {len(given)} values per channel, input '{spec.name}' has {channels}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())[:limit]
    if not files:
        raise UserError(f"folder '{folder}' holds no .jpg or .png images; give another folder, or an .npz")
    mean, divisor = np.asarray(how.mean, np.float32), np.asarray(how.divisor, np.float32)
    samples = np.empty((len(files), height, width, channels), np.float32)
    for k, file in enumerate(files):
        samples[k] = (_pixels(file, channels, height, width, how) / np.float32(how.unit) - mean) / divisor
    if np.dtype(spec.dtype).kind in "iu":
        samples = np.rint(samples).astype(np.int64)
    return {spec.name: np.ascontiguousarray(samples.transpose(0, 3, 1, 2)) if first else samples}


def _pixels(file: Path, channels: int, height: int, width: int, how: Preprocess) -> np.ndarray:
    """One image as float32 [height, width, channels], values 0 to 255."""
    try:
        with Image.open(file) as opened:
            image = opened.convert("RGB" if channels == 3 else "L")
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise UserError(f"'{file}' is not a readable image; remove it from the folder") from err
    crop_h, crop_w = (how.crop, how.crop) if how.crop else (height, width)
    if how.resize:
        factor = how.resize / min(image.size)
    elif min(image.width - crop_w, image.height - crop_h) < 0 or not how.crop and image.size != (width, height):
        factor = max(crop_w / image.width, crop_h / image.height)
    else:
        factor = 1.0
    size = max(1, round(image.width * factor)), max(1, round(image.height * factor))
    if size != image.size:
        image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - crop_w) // 2, (image.height - crop_h) // 2
    image = image.crop((left, top, left + crop_w, top + crop_h))
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image, np.float32).reshape(height, width, channels)
