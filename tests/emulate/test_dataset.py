"""Calibration and run data: what loads, how images are prepared, and the line that each mistake gets."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qaccel.emulate.data.dataset import check_inputs, load_calibration_data, load_npz
from qaccel.emulate.data.images import parse_preprocess
from qaccel.errors import QaccelError
from qaccel.model import TensorSpec

X = (TensorSpec("x", (1, 3, 8, 10), "float32"),)


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(QaccelError) as caught:
        call()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def loaded(*given, **named) -> dict[str, np.ndarray]:
    """The samples alone."""
    return load_calibration_data(*given, **named)[0]


def saved(tmp_path: Path, **arrays: np.ndarray) -> Path:
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    return path


def image(path: Path, width: int, height: int, mode: str = "RGB", seed: int = 0) -> np.ndarray:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    picture = Image.fromarray(pixels).convert(mode)
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)
    return np.asarray(picture)


def test_npz(tmp_path: Path) -> None:
    data = np.random.default_rng(1).integers(0, 256, (5, 3, 8, 10), np.uint8)
    first = loaded(saved(tmp_path, x=data, labels=np.arange(5)), X, limit=3)
    assert first["x"].dtype == np.float32
    np.testing.assert_array_equal(first["x"], data[:3])
    single = loaded(saved(tmp_path, x=data[0]), X)
    np.testing.assert_array_equal(single["x"], data[:1])


def test_images(tmp_path: Path) -> None:
    pictures = [image(tmp_path / name, 10, 8, seed=k) for k, name in enumerate(["a/1.png", "a/2.PNG", "b.png"])]
    (tmp_path / "notes.txt").write_text("not an image")
    data = loaded(tmp_path, X, "mean=127,scale=128,layout=NCHW")["x"]
    expected = (np.stack(pictures).astype(np.float64) - 127) / 128
    np.testing.assert_allclose(data, expected.transpose(0, 3, 1, 2), atol=1e-6)
    assert len(loaded(tmp_path, X, limit=2)["x"]) == 2
    channels_last = (TensorSpec("x", (1, 8, 10, 3), "float32"),)
    text = "mean=0.485:0.456:0.406, std=0.229:0.224:0.225, layout=NHWC"
    data = loaded(tmp_path, channels_last, text)["x"]
    expected = (np.stack(pictures) / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(data, expected, atol=1e-5)
    raw = loaded(tmp_path, (TensorSpec("x", (1, 3, 8, 10), "uint8"),))["x"]
    np.testing.assert_array_equal(raw, np.stack(pictures).transpose(0, 3, 1, 2))


def test_grey_images(tmp_path: Path) -> None:
    pixels = image(tmp_path / "a.png", 10, 8, "L")
    np.testing.assert_array_equal(loaded(tmp_path, (TensorSpec("x", (1, 1, 8, 10), "float32"),))["x"][0, 0], pixels)
    colour = loaded(tmp_path, X)["x"]
    np.testing.assert_array_equal(colour[0, 1], pixels)


def test_resize_and_crop(tmp_path: Path) -> None:
    pixels = image(tmp_path / "a.png", 30, 20)
    with Image.open(tmp_path / "a.png") as opened:
        small = np.asarray(opened.resize((18, 12), Image.Resampling.BILINEAR), np.float32)
        fitted = np.asarray(opened.resize((12, 8), Image.Resampling.BILINEAR), np.float32)
    # 20 rows at resize=12: factor 0.6; then the middle 8 x 10 of 12 x 18
    data = loaded(tmp_path, X, "resize=12")["x"][0]
    np.testing.assert_array_equal(data, small[2:10, 4:14].transpose(2, 0, 1))
    # by default as large as just fits: 20 x 30 at 0.4
    data = loaded(tmp_path, X)["x"][0]
    np.testing.assert_array_equal(data, fitted[:, 1:11].transpose(2, 0, 1))
    square = (TensorSpec("x", (1, 3, 16, 16), "float32"),)
    data = loaded(tmp_path, square, "crop=16")["x"][0]
    np.testing.assert_array_equal(data, pixels[2:18, 7:23].transpose(2, 0, 1))


def test_file_errors(tmp_path: Path) -> None:
    assert "does not exist" in refusal(lambda: loaded(tmp_path / "no.npz", X))
    (tmp_path / "t.npz").write_bytes(b"hello")
    assert "not an .npz" in refusal(lambda: loaded(tmp_path / "t.npz", X))
    np.save(tmp_path / "one.npy", np.zeros(3))
    assert "single array" in refusal(lambda: load_npz(tmp_path / "one.npy"))
    np.savez(tmp_path / "o.npz", x=np.array([{}], object))
    assert "numeric" in refusal(lambda: loaded(tmp_path / "o.npz", X))
    good = saved(tmp_path, x=np.zeros((2, 3, 8, 10), np.float32)).read_bytes()
    for length in range(0, len(good), 97):
        (tmp_path / "cut.npz").write_bytes(good[:length])
        refusal(lambda: loaded(tmp_path / "cut.npz", X))
    damaged = bytearray(good)
    damaged[len(good) // 2] ^= 0xFF
    (tmp_path / "bad.npz").write_bytes(damaged)
    refusal(lambda: loaded(tmp_path / "bad.npz", X))


def test_array_errors(tmp_path: Path) -> None:
    def load(**arrays: np.ndarray) -> str:
        return refusal(lambda: loaded(saved(tmp_path, **arrays), X))

    fine = np.zeros((2, 3, 8, 10), np.float32)
    message = load(image=fine)
    assert "'image'" in message and "'x' [1, 3, 8, 10]" in message
    assert "'extra'" in load(x=fine, extra=fine)
    assert "[2, 3, 8, 9]" in load(x=fine[..., :9])
    assert "[2, 8, 10, 3]" in load(x=fine.transpose(0, 2, 3, 1))
    assert "<U" in load(x=np.array(["a", "b"]))
    assert "complex" in load(x=fine.astype(np.complex64))
    assert "no samples" in load(x=fine[:0])
    for bad in (np.nan, np.inf):
        broken = fine.copy()
        broken[1, 2, 3, 4] = bad
        message = load(x=broken)
        assert str(bad) in message and "[1, 2, 3, 4]" in message
    assert "beyond the range" in load(x=np.full((1, 3, 8, 10), 1e300))


def test_check_inputs() -> None:
    two = (TensorSpec("x", (1, 4), "float32"), TensorSpec("i", (1, 2), "int32"))
    checked = check_inputs({"x": np.zeros((3, 4)), "i": np.ones((3, 2), np.int64)}, two, "run data")
    assert checked["x"].dtype == np.float32 and checked["i"].dtype == np.int32
    assert "number of samples" in refusal(
        lambda: check_inputs({"x": np.zeros((3, 4)), "i": np.ones((2, 2), int)}, two, "d")
    )
    assert "int32" in refusal(lambda: check_inputs({"x": np.zeros((1, 4)), "i": np.ones((1, 2))}, two, "d"))
    assert "ranges from" in refusal(
        lambda: check_inputs({"x": np.zeros((1, 4)), "i": np.full((1, 2), 2**40)}, two, "d")
    )
    pairs = (TensorSpec("x", (2, 4), "float32"),)
    assert "multiple of 2" in refusal(lambda: check_inputs({"x": np.zeros((3, 4))}, pairs, "d"))


@pytest.mark.parametrize(
    "text",
    [
        "means=1",
        "mean",
        "mean=",
        "mean=a",
        "scale=0",
        "std=nan",
        "scale=1,std=1",
        "layout=CHWN",
        "resize=-1",
        "crop=x",
        "mean=1,mean=2",
        "mean=1:2,std=1:2:3",
    ],
)
def test_bad_preprocess(text: str) -> None:
    assert "--preprocess" in refusal(lambda: parse_preprocess(text))


def test_folder_errors(tmp_path: Path) -> None:
    assert "no .jpg or .png" in refusal(lambda: loaded(tmp_path, X))
    (tmp_path / "a.jpg").write_bytes(b"not a picture")
    assert "a.jpg" in refusal(lambda: loaded(tmp_path, X))
    assert "5 channels" in refusal(lambda: loaded(tmp_path, (TensorSpec("x", (1, 5, 4, 4), "float32"),)))
    assert "one input" in refusal(lambda: loaded(tmp_path, (TensorSpec("x", (1, 5), "float32"),)))
    assert "per channel" in refusal(lambda: loaded(tmp_path, X, "mean=1:2"))
    assert "--preprocess" in refusal(lambda: loaded(saved(tmp_path, x=np.zeros(1)), X, "mean=1"))


def test_a_scalar_input_takes_one_number() -> None:
    spec = TensorSpec("gain", (), "float32")
    assert check_inputs({"gain": np.float32(2)}, (spec,), "inputs")["gain"] == 2
    said = refusal(lambda: check_inputs({"gain": np.ones(24, np.float32)}, (spec,), "inputs"))
    assert "inputs: 'gain' has shape [24]; the model takes one number, the same for all samples" in said
