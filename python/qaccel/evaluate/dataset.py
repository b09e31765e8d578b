"""Calibration and run data: arrays from `.npz` archives or folders of images, checked before anything long starts."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..model import TensorSpec
from .images import image_folder, parse_preprocess


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
    path = Path(path)
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


def integer_notes(arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """A line for each array of integers that is for a float input: nobody scales it."""
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
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise UserError(f"'{path}' holds a single array; give an .npz with one array per input name")
        with archive:
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as err:
        raise UserError(f"'{path}' does not exist; give an .npz or a folder of images") from err
    except OSError as err:
        raise UserError(f"cannot read '{path}': {err.strerror or 'it is damaged'}") from err
    except (ValueError, EOFError, KeyError, zipfile.BadZipFile, TypeError, AttributeError) as err:
        raise UserError(f"'{path}' is not an .npz archive of numeric arrays, or is damaged") from err


def check_inputs(
    arrays: Mapping[str, np.ndarray], inputs: Sequence[TensorSpec], what: str, fixed: Mapping[str, Any] | None = None
) -> dict[str, np.ndarray]:
    """The arrays in the inputs' element types, after checking names, shapes, types, values and counts.

    Axis 0 holds samples and may be any multiple of the input's own; a single sample may come without it. Integers
    (images) become float where the input is float. `what` names the data in messages. `fixed`: values of inputs that were
    settled at compile time; arrays that repeat them are left out.
    """
    expected = ", ".join(f"'{spec.name}' {list(spec.shape)}" for spec in inputs)
    if not isinstance(arrays, Mapping):
        raise UserError(f"{what}: needed are arrays by input name, not a {type(arrays).__name__}; expected {expected}")
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
    checked = {spec.name: _checked(np.asarray(arrays[spec.name]), spec, what) for spec in inputs}
    counts = {spec.name: len(checked[spec.name]) // max(1, spec.shape[0]) for spec in inputs if spec.shape}
    if len(set(counts.values())) > 1:
        shown = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise UserError(f"{what}: the inputs differ in the number of samples: {shown}")
    return checked


def _names(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"'{name}'" for name in arrays) or "nothing"


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
        raise UserError(f"{what}: '{name}' has type {array.dtype}; needed are numbers ({spec.dtype})")
    if wanted.kind in "iub" and array.dtype.kind == "f":
        raise UserError(f"{what}: '{name}' has type {array.dtype}; the model takes {spec.dtype}")
    if spec.shape and array.shape == spec.shape[1:]:
        array = array[np.newaxis]
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
