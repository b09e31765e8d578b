"""Folders of images as input arrays: which files, how they are prepared, and what is odd about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from ...errors import UserError
from ...model import TensorSpec

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png"}
PREPROCESS_KEYS = ("mean", "scale", "std", "resize", "crop", "layout")
GRAY_MODES = ("1", "L", "LA", "I", "I;16", "F")  # Pillow's


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


@dataclass(frozen=True)
class ImageFolder:
    """The images of a folder in the order of their paths, as an array along axis 0 that is read when it is sliced.

    `spec` is the input that they are for: float32, or integers, to which the prepared values are rounded.
    """

    folder: Path
    files: tuple[Path, ...]
    spec: TensorSpec
    how: Preprocess

    def __repr__(self) -> str:
        return f"<ImageFolder '{self.folder.name[:60]}': {len(self.files)} images>"

    def __len__(self) -> int:
        return len(self.files)

    @property
    def size(self) -> tuple[int, int, int]:
        """Channels, height and width of the input."""
        shape = self.spec.shape
        return (shape[1], shape[2], shape[3]) if self.how.layout == "NCHW" else (shape[3], shape[1], shape[2])

    def __getitem__(self, part: slice) -> np.ndarray:
        """The prepared images of `part`, in the input's shape and type but for axis 0."""
        channels, height, width = self.size
        mean, divisor = np.asarray(self.how.mean, np.float32), np.asarray(self.how.divisor, np.float32)
        files = self.files[part]
        samples = np.empty((len(files), height, width, channels), np.float32)
        for k, file in enumerate(files):
            pixels = _pixels(file, channels, height, width, self.how)
            samples[k] = (pixels / np.float32(self.how.unit) - mean) / divisor
        if np.dtype(self.spec.dtype).kind in "iu":
            samples = np.rint(samples).astype(np.int64)
        return np.ascontiguousarray(samples.transpose(0, 3, 1, 2)) if self.how.layout == "NCHW" else samples

    def part(self, part: slice) -> ImageFolder:
        """Some of the images, not read yet."""
        return replace(self, files=self.files[part])

    def notes(self) -> tuple[str, ...]:
        """What is odd about the images, one line each: other shapes or colours than the input's, a scale below zero."""
        channels, height, width = self.size
        sizes, modes = zip(*(_header(file) for file in self.files), strict=True)
        gray = sum(mode in GRAY_MODES for mode in modes)
        count, odd = len(self.files), [size for size in sizes if size != (width, height)]
        notes = []
        if odd:
            crop = "" if all(w * height == h * width for w, h in odd) else " and cropped at the centre"
            smallest, largest = min(odd), max(odd)
            shown = _shown(smallest) if smallest == largest else f"{_shown(smallest)} to {_shown(largest)}"
            given = self.how.resize or self.how.crop
            how = "resized or cropped as --preprocess says" if given else f"resized{crop}"
            notes.append(f"{len(odd)} of {count} images are not {_shown((width, height))} but {shown}: they are {how}")
        if channels == 3 and gray:
            notes.append(f"{gray} of {count} images are gray, and the input has 3 channels: each gets the same values")
        if channels == 1 and gray < count:
            notes.append(
                f"{count - gray} of {count} images are in colour, and the input has 1 channel: they become gray"
            )
        if min(self.how.divisor) < 0:
            notes.append(
                "--preprocess has a negative scale or std: dark becomes bright; drop the sign unless that is meant"
            )
        return tuple(f"images in '{self.folder}': {note}" for note in notes)


def image_folder(
    folder: str | Path, inputs: Sequence[TensorSpec], how: Preprocess, limit: int | None = None
) -> ImageFolder:
    """The .jpg and .png files below `folder`, at most `limit`, for a model with one input that images fit.

    Raises UserError where they do not fit it, or there are none.
    """
    folder = Path(folder)
    if len(inputs) != 1 or len(inputs[0].shape) != 4:
        raise UserError(
            f"a folder of images fits a model with one input of 4 dimensions; this one has "
            f"{', '.join(f'{s.name} {list(s.shape)}' for s in inputs)}: give an .npz"
        )
    spec = inputs[0]
    channels, other = (spec.shape[axis] for axis in ((1, 3) if how.layout == "NCHW" else (3, 1)))
    if channels not in (1, 3):
        swapped = "NHWC" if how.layout == "NCHW" else "NCHW"
        way_out = f'say --preprocess "layout={swapped}"' if other in (1, 3) else "give an .npz"
        raise UserError(
            f"input '{spec.name}' {list(spec.shape)} has {channels} channels in layout {how.layout}, images have 1 or 3: "
            f"{way_out}"
        )
    for given in (how.mean, how.divisor):
        if len(given) not in (1, channels):
            raise UserError(f"--preprocess gives {len(given)} values per channel, input '{spec.name}' has {channels}")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())[:limit]
    if not files:
        raise UserError(f"folder '{folder}' holds no .jpg or .png images; give another folder, or an .npz")
    return ImageFolder(folder, tuple(files), spec, how)


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


def _header(file: Path) -> tuple[tuple[int, int], str]:
    """Size (width, height) and Pillow's mode of an image, from its first bytes."""
    with _opened(file) as image:
        return image.size, image.mode


def _shown(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _opened(file: Path) -> Image.Image:
    try:
        return Image.open(file)
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as err:
        raise UserError(f"'{file}' is not a readable image; remove it from the folder") from err


def _pixels(file: Path, channels: int, height: int, width: int, how: Preprocess) -> np.ndarray:
    """One image as float32 [height, width, channels], values 0 to 255."""
    try:
        with _opened(file) as opened:
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
