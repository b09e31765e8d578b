"""Calibration and run data: arrays from `.npz` archives or folders of images, checked before anything long starts."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import UserError, path_of, shown
from ...model import TensorSpec
from .images import image_folder, parse_preprocess

NAMES_SHOWN = 8  # of the arrays in a file, where one is missing


def load_calibration_data(
    path: str | Path,
    inputs: Sequence[TensorSpec],
    preprocess: str | None = None,
    limit: int | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Samples by input name, along axis 0, at most `limit` of them, and what is odd about them, one line each.

    `path` is an .npz with one array per input, or a folder searched recursively for .jpg and .png (in the order of
    their paths). Raises UserError for data that is missing, damaged, misnamed, misshapen or not finite.
    """
    path = path_of(path, "--calibration-data")
    notes: tuple[str, ...] = ()
    if path.is_dir():
        folder = image_folder(path, inputs, parse_preprocess(preprocess or ""), limit)
        arrays, notes = {folder.spec.name: folder[:]}, folder.notes()
    elif preprocess is not None:
        raise UserError(f"--preprocess applies to a folder of images, and '{path}' is none; drop it or give the folder")
    else:
        arrays = {name: array[:limit] if array.ndim else array for name, array in load_npz(path).items()}
        notes = integer_notes(arrays, inputs)
    return check_inputs(arrays, inputs, f"calibration data '{path}'", fixed), notes


def integer_notes(arrays: Any, inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """A line for each array of integers that is for a float input: nobody scales it."""
    arrays = _named(arrays, inputs)
    notes = []
    for spec in inputs:
        array = np.asarray(arrays.get(spec.name, 0.0))
        if np.dtype(spec.dtype).kind == "f" and array.dtype.kind in "iu" and array.size:
            notes.append(
                f"calibration data: '{spec.name}' is {array.dtype} from {array.min()} to {array.max()}, and the input is "
                f"{spec.dtype}: the numbers enter as they are; scale them first if the model was trained on scaled ones"
            )
    return tuple(notes)


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


def _named(arrays: Any, inputs: Sequence[TensorSpec]) -> Any:
    """The array of the only input by its name; anything else as it is."""
    return {inputs[0].name: arrays} if len(inputs) == 1 and _is_array(arrays) else arrays


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
    arrays = _named(arrays, inputs)
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


def _swapped(shape: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """A hint where only the channels' axis is another one: last instead of second, or the other way round."""
    for order, layout in (((0, 3, 1, 2), "NHWC"), ((0, 2, 3, 1), "NCHW")):
        full = shape if len(shape) == 4 else (1, *shape)
        if len(full) == len(wanted) == 4 and tuple(full[axis] for axis in order)[1:] == wanted[1:]:
            return f"; it looks like {layout}: give array.transpose{order if len(shape) == 4 else tuple(a - 1 for a in order[1:])}"
    return ""


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
    if not spec.shape and array.ndim:
        raise UserError(
            f"{what}: '{name}' has shape {list(array.shape)}; the model takes one number, the same for all samples: shape []"
        )
    whole = array.ndim == len(spec.shape) and array.shape[1:] == spec.shape[1:]
    if not whole or spec.shape and array.shape[0] % spec.shape[0]:
        raise UserError(
            f"{what}: '{name}' has shape {list(array.shape)}; needed is [N, {', '.join(map(str, spec.shape[1:]))}] "
            f"with N a multiple of {spec.shape[0] if spec.shape else 1}{_swapped(array.shape, spec.shape)}"
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
