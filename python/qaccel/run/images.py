"""Folders of images as inputs of a compiled module, prepared as its calibration images were."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..emulate.data.dataset import check_inputs, load_npz
from ..emulate.data.images import ImageFolder, image_folder, parse_preprocess
from ..errors import UserError, path_of
from .execute import Runner

Notes = tuple[str, ...]


def read_inputs(
    module: Runner, path: str | Path, preprocess: str | None, what: str
) -> tuple[dict[str, np.ndarray], Notes]:
    """Arrays as the module takes them, from an .npz or a folder of images, and what to tell the user about the images.

    Images lie along axis 0 in the order of their paths. ``preprocess``: None for the module's own. ``what`` names the data in
    messages.
    """
    fixed = module.metadata.get("fixed_inputs")
    if not path_of(path, what).is_dir():
        check_no_preprocess(path, preprocess)
        return check_inputs(load_npz(path), module.inputs, f"{what} '{path}'", fixed), ()
    folder, notes = open_images(module, path, preprocess)
    (entry,) = module.metadata["inputs"]
    whole, batch = len(folder) - len(folder) % folder.spec.shape[0], folder.spec.shape[0]
    if whole < len(folder):
        raise UserError(f"{what} '{path}': {len(folder)} images are no multiple of the module's batch of {batch}")
    return check_inputs({entry["name"]: as_integers(folder[:], entry)}, module.inputs, f"{what} '{path}'", fixed), notes


def open_images(module: Runner, path: str | Path, preprocess: str | None) -> tuple[ImageFolder, Notes]:
    """The images of a folder, for the module's input. Raises UserError where neither it nor ``preprocess`` says how."""
    own = module.metadata.get("preprocess")
    if preprocess is None and own is None:
        raise UserError(
            f"'{path}' is a folder of images, and the module knows no preprocessing, because it was not calibrated on images; "
            'give --preprocess, such as "mean=127,scale=128"'
        )
    notes: Notes = ()
    if preprocess is not None and own is not None and parse_preprocess(preprocess) != parse_preprocess(own):
        notes = (f'--preprocess "{preprocess}" is taken instead of the module\'s own, "{own}"',)
    entries = module.metadata["inputs"]
    # Where the module takes integers of a scale, images are prepared as real numbers first.
    real = tuple(
        replace(spec, dtype="float32") if "scale" in entry else spec
        for spec, entry in zip(module.inputs, entries, strict=True)
    )
    folder = image_folder(path, real, parse_preprocess((own or "") if preprocess is None else preprocess))
    return folder, (*notes, *folder.notes())


def labelled_images(
    module: Runner, path: str | Path, preprocess: str | None
) -> tuple[dict[str, ImageFolder], np.ndarray, Notes]:
    """Images by input name and their classes [samples], from a folder that has a folder of images for each class.

    Classes are the folders in alphabetical order; folders whose names are whole numbers are the classes of those numbers.
    Raises UserError where images lie outside of such folders, or the folders are not as many as the module's classes.
    """
    folder, notes = open_images(module, path, preprocess)
    classes = math.prod(module.outputs[0].shape[1:])
    names = [file.relative_to(folder.folder).parts for file in folder.files]
    stray = next((parts[0] for parts in names if len(parts) == 1), None)
    if stray is not None:
        raise UserError(
            f"'{path}': '{stray}' lies in no folder of a class; put the images of each class into a folder of its own"
        )
    known = sorted({entry.name for entry in folder.folder.iterdir() if entry.is_dir()})
    if all(name.isdecimal() for name in known):
        number = {name: int(name) for name in known}
        said = f"classes: the numbers that the {len(known)} folders are named by"
    elif len(known) == classes:
        number = {name: k for k, name in enumerate(known)}
        said = (
            f"classes: the {classes} folders in alphabetical order, '{known[0]}' is 0, '{known[-1]}' is {classes - 1}"
        )
    else:
        raise UserError(
            f"'{path}' has {len(known)} folders, and the module {classes} classes: which is which cannot be told; name the "
            "folders by the numbers of their classes"
        )
    labels = np.array([number[parts[0]] for parts in names], np.int64)
    return {folder.spec.name: folder}, labels, (said, *notes)


def check_no_preprocess(path: str | Path, preprocess: str | None) -> None:
    """Raises UserError if a file of arrays comes with --preprocess."""
    if preprocess is not None:
        raise UserError(f"--preprocess applies to a folder of images, and '{path}' is none; drop it or give the folder")


def as_integers(values: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Real samples as the integers that the module's input takes; integers and float inputs stay."""
    if values.dtype.kind != "f" or np.dtype(entry["dtype"]).kind == "f" or "scale" not in entry:
        return values
    limits = np.iinfo(entry["dtype"])
    steps = np.rint(values.astype(np.float32) / np.float32(entry["scale"])) + entry["zero_point"]
    return np.clip(steps, limits.min, limits.max).astype(entry["dtype"])
