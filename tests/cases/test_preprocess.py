"""Calibration data scaled otherwise than in training are seen; what made them stays with the module, for folders of images."""

import tarfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import qaccel
import small_models
from cases.nets import Net, normal, weights
from qaccel.cli.main import main
from qaccel.errors import UserError

SIZE = 16
CLASSES = 5


def pictures(count: int, seed: int = 0) -> np.ndarray:
    """Pixels [N, 3, 16, 16], uint8: coarse patterns of unlike brightness, as photographs are."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(0, 45, (count, 3, 4, 4)).repeat(4, 2).repeat(4, 3)
    fine, light = rng.normal(0, 25, (count, 3, SIZE, SIZE)), rng.normal(118, 30, (count, 1, 1, 1))
    made = np.clip(coarse + fine + light, 0, 255)
    made[:, :, 0, 0], made[:, :, 0, 1] = 0, 255
    return made.astype(np.uint8)


SCALINGS = {
    "right": lambda p: (p - 127.5) / 127.5,
    "none": lambda p: p,
    "scale alone": lambda p: p / 127.5,
    "255": lambda p: p / 255,
    "inverted": lambda p: p * 127.5 + 127.5,
    "wrong sign": lambda p: (p + 127.5) / 127.5,
}


def scaled(how: str, seed: int = 1, count: int = 32) -> np.ndarray:
    return SCALINGS[how](pictures(count, seed).astype(np.float64)).astype(np.float32)


def trained(folded: bool) -> onnx.ModelProto:
    """Convolutions whose batch norms hold what (pixel - 127.5) / 127.5 gives; inverted bottlenecks as MobileNetV2 has."""
    net, rng, name = Net(), np.random.default_rng(3), "x"
    value = scaled("right", seed=2, count=64)
    for k, (channels, kernel, linear) in enumerate([(16, 3, 0), (12, 1, 1), (32, 1, 0), (12, 3, 1), (32, 1, 0)]):
        kernels = weights(channels, value.shape[1], kernel, kernel, seed=k) + 0.1 * rng.normal(size=(channels, 1, 1, 1))
        kernels, pads = kernels.astype(np.float32), [kernel // 2] * 4
        one = Net()
        made = one.model(
            {"x": [64, *value.shape[1:]]}, {one("Conv", "x", kernels, pads=pads): [64, channels, SIZE, SIZE]}
        )
        session = onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
        out = session.run(None, {"x": value})[0].astype(np.float64)
        mean, variance = out.mean((0, 2, 3)), out.var((0, 2, 3))
        beta = np.zeros(channels) if linear else rng.normal(0.2, 0.4, channels)
        gamma = rng.uniform(0.4, 1.2, channels)
        gain = gamma / np.sqrt(variance + 1e-5)
        shift = beta - mean * gain
        if folded:
            bias = shift.astype(np.float32)
            name = net("Conv", name, (kernels * gain.reshape(-1, 1, 1, 1)).astype(np.float32), bias, pads=pads)
        else:
            name = net("Conv", name, kernels, pads=pads)
            name = net("BatchNormalization", name, *(each.astype(np.float32) for each in (gamma, beta, mean, variance)))
        value = out * gain.reshape(-1, 1, 1) + shift.reshape(-1, 1, 1)
        if not linear:
            name, value = net("Relu", name), np.maximum(value, 0)
        value = value.astype(np.float32)
    net("Gemm", net("Flatten", net("GlobalAveragePool", name)), weights(32, CLASSES), out="y")
    return net.model({"x": [1, 3, SIZE, SIZE]}, {"y": [1, CLASSES]})


@pytest.fixture(scope="module")
def networks() -> dict[str, onnx.ModelProto]:
    return {"kept": trained(False), "folded": trained(True)}


def warned(model: onnx.ModelProto, data: dict[str, np.ndarray]) -> list[str]:
    return [note for note in qaccel.quantize(model, data).notes if note.startswith("warning: ") or "training's" in note]


@pytest.mark.parametrize("how", SCALINGS)
@pytest.mark.parametrize("norm", ["kept", "folded"])
def test_scaling(networks, norm, how):
    """Whether the batch norm's statistics are still there or only what folding left in the biases."""
    found = warned(networks[norm], {"x": scaled(how)})
    if how == "right":
        assert found == []
    else:
        (line,) = found
        assert line.startswith("warning: ") and "try -1 to 1 (mean=127.5,scale=127.5 of pixels)" in line
        assert f"mean {scaled(how).mean():.3g} and deviation" in line


def _without_training(seed: int) -> onnx.ModelProto:
    """Random weights, and batch norms that never saw them."""
    rng, net, name, channels = np.random.default_rng(seed), Net(), "x", 3
    for k in range(4):
        name = net("Conv", name, weights(16, channels, 3, 3, seed=10 * seed + k), pads=[1] * 4)
        mean, beta = (0.3 * rng.normal(size=16).astype(np.float32) for _ in range(2))
        gamma, variance = (rng.uniform(0.5, 1.5, 16).astype(np.float32) for _ in range(2))
        name, channels = net("Relu", net("BatchNormalization", name, gamma, beta, mean, variance)), 16
    net("Flatten", net("GlobalAveragePool", name), out="y")
    return net.model({"x": [1, 3, 16, 16]}, {"y": [1, 16]})


@pytest.mark.parametrize(
    "build", [small_models.chain, small_models.interrupted, small_models.several, _without_training]
)
def test_random_weights_are_not_warned_of(build):
    """Nor are other scalings of the data, where there is no batch norm that tells."""
    for seed in range(3):
        model = build(seed) if build is _without_training else build()
        data = small_models.samples(model, seed=seed)
        for gain, shift in [(1, 0)] if build is _without_training else [(1, 0), (0.25, 0.5), (40, 120)]:
            assert warned(model, {k: np.float32(gain) * v + np.float32(shift) for k, v in data.items()}) == []


def test_what_calibration_saw():
    data = scaled("255") * np.float32([0.5, 1, 2]).reshape(3, 1, 1) + 1000
    module = qaccel.compile(small_models.chain(), calibration_data={"x": data})
    (entry,) = module.report["calibration"]
    assert entry == module.metadata["calibration"][0]
    assert (entry["name"], entry["samples"]) == ("x", 32)
    for figures, values in [(entry, data), *((entry["channels"][c], data[:, c]) for c in range(3))]:
        real = values.astype(np.float64)
        wanted = {"lo": real.min(), "hi": real.max(), "mean": real.mean(), "deviation": real.std()}
        assert {key: figures[key] for key in wanted} == pytest.approx(wanted, rel=1e-6)
    assert any(note.startswith("calibration saw 32 samples: 'x' 1e+03 to 1e+03, mean 1e+03") for note in module.notes)
    assert qaccel.compile(small_models.chain()).report["calibration"] == []


def _save(folder: Path, pixels: np.ndarray, labels: np.ndarray | None = None) -> Path:
    for k, (image, label) in enumerate(zip(pixels, [""] * len(pixels) if labels is None else labels, strict=True)):
        place = folder / str(label)
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.transpose(1, 2, 0)).save(place / f"{k:03}.png")
    return folder


@pytest.mark.parametrize("io_dtype", ["float32", "int8"])
def test_a_module_prepares_images_as_its_calibration_did(networks, tmp_path, capfd, monkeypatch, io_dtype):
    """run and evaluate give on folders what they give on arrays; another --preprocess is said; inspect shows it."""
    monkeypatch.chdir(tmp_path)
    onnx.save(networks["folded"], "model.onnx")
    pixels, labels = pictures(40, 5), np.sort(np.random.default_rng(6).integers(0, CLASSES, 40))
    labels[:CLASSES] = np.sort(labels[:CLASSES])
    labels = np.sort(np.concatenate([np.arange(CLASSES), labels[CLASSES:]]))
    _save(tmp_path / "calibration", pictures(24, 7))
    names = np.array(["ant", "bee", "cow", "dog", "elk"])
    _save(tmp_path / "named", pixels, names[labels])
    _save(tmp_path / "numbered", pixels, labels)
    arrays = ((pixels - np.float32(127)) / np.float32(128)).astype(np.float32)
    np.savez("labelled.npz", x=arrays, labels=labels)

    def tvmc(*arguments: str) -> str:
        assert main(list(arguments)) == 0
        return capfd.readouterr().out

    out = tvmc(
        "compile", "model.onnx", "--target=qaccel", "--calibration-data", "calibration", "--preprocess", "mean=127,scale=128",
        "--io-dtype", io_dtype, "-o", "m.so", "-v",
    )  # fmt: skip
    assert "warning" not in out and "   channel 2: -0.9922 to 1, mean" in out
    assert 'preprocess "mean=127,scale=128"' in tvmc("inspect", "m.so")
    expected = tvmc("evaluate", "m.so", "--data", "labelled.npz")
    assert "note: classes: the 5 folders in alphabetical order, 'ant' is 0" in (
        named := tvmc("evaluate", "m.so", "--data", "named")
    )
    assert named.endswith(expected) and tvmc("evaluate", "m.so", "--data", "numbered").endswith(expected)
    tvmc("run", "m.so", "--inputs", "named", "--outputs", "out.npz")
    module = qaccel.load("m.so")
    if io_dtype == "float32":
        np.testing.assert_array_equal(np.load("out.npz")["y"], module.run({"x": arrays})["y"])
        np.testing.assert_array_equal(module.run(tmp_path / "named")["y"], module.run({"x": arrays})["y"])
    other = tvmc("run", "m.so", "--inputs", "named", "--preprocess", "scale=255")
    assert 'note: --preprocess "scale=255" is taken instead of the module\'s own, "mean=127,scale=128"' in other
    assert "instead" not in tvmc("run", "m.so", "--inputs", "named", "--preprocess", "scale=128.0,mean=127")
    assert module.evaluate("named", preprocess="scale=255").notes[1].startswith('--preprocess "scale=255" is taken')
    for refused, words in (
        (lambda: module.run("labelled.npz", preprocess="mean=1"), "applies to a folder"),
        (lambda: module.evaluate("labelled.npz", preprocess="mean=1"), "applies to a folder"),
        (lambda: module.run({"x": arrays}, preprocess="mean=1"), "inputs are arrays"),
        (lambda: module.evaluate("calibration"), "'000.png' lies in no folder of a class"),
    ):
        with pytest.raises(UserError, match=words):
            refused()
    (tmp_path / "named" / "elk").rename(tmp_path / "named" / "dog" / "elk")
    with pytest.raises(UserError, match="4 folders, and the module 5 classes"):
        module.evaluate("named")
    float_module = qaccel.compile("model.onnx", target="llvm")
    with pytest.raises(UserError, match="knows no preprocessing"):
        float_module.run("numbered")
    got = float_module.run("numbered", preprocess="mean=127,scale=128")["y"]
    np.testing.assert_array_equal(got, float_module.run({"x": arrays})["y"])


def test_what_is_odd_about_the_data(tmp_path):
    """Gray images, other shapes, inverted scales; integers for a float input; channels last."""
    model, pixels = small_models.chain(), pictures(3)

    def notes(how: str, folder: str) -> str:
        return "\n".join(qaccel.quantize(model, tmp_path / folder, preprocess=how).notes)

    _save(tmp_path / "plain", pixels)
    assert "images in" not in notes("scale=255", "plain")
    assert "negative scale" in notes("scale=-255", "plain")
    _save(tmp_path / "odd", pixels)
    Image.fromarray(pixels[0, 0]).save(tmp_path / "odd" / "gray.png")
    Image.fromarray(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "odd" / "wide.png")
    odd = notes("scale=255", "odd")
    assert "1 of 5 images are gray, and the input has 3 channels" in odd
    assert "1 of 5 images are not 16x16 but 30x20: they are resized and cropped at the centre" in odd
    assert "resized or cropped as --preprocess says" in notes("scale=255,resize=18", "odd")
    (line,) = [n for n in qaccel.quantize(model, {"x": pixels}).notes if "uint8" in n]
    assert "'x' is uint8 from 0 to 255, and the input is float32" in line
    np.savez(tmp_path / "a.npz", x=pixels)
    assert any("uint8 from 0 to 255" in note for note in qaccel.quantize(model, tmp_path / "a.npz").notes)
    last = normal(16, 16, 3, samples=2, seed=8)
    for data, hint in ((last, "(0, 3, 1, 2)"), (last[0], "(2, 0, 1)")):
        with pytest.raises(UserError) as caught:
            qaccel.quantize(model, {"x": data})
        assert f"it looks like NHWC: give array.transpose{hint}" in str(caught.value)


@pytest.mark.slow
def test_resnet8_on_photographs(shared_dir, tmp_path):
    """Right preprocessing keeps about 69% and is not warned of; each wrong one is, with the flag that mends it."""
    model = shared_dir / "models" / "mltk_image_classification.onnx"
    archive = shared_dir / "data" / "cifar10.tar.gz"
    if not archive.is_file():
        pytest.skip("the shared folder has no CIFAR-10")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path / "all", filter="data")
    for k, file in enumerate(sorted((tmp_path / "all" / "train").rglob("*.jpg"))[::200]):
        (tmp_path / "cal").mkdir(exist_ok=True)
        file.rename(tmp_path / "cal" / f"{k}.jpg")
    right = "mean=128,scale=128"
    for k, file in enumerate(sorted((tmp_path / "all" / "test").rglob("*.jpg"))):
        if k % 10:
            file.unlink()
    for how, floor, most in (
        (right, 0.65, 1.0), ("mean=0", 0.0, 0.2), ("scale=128", 0.0, 0.5), ("scale=255", 0.0, 0.5), ("mean=-128,scale=128", 0.0, 0.5),
        ("mean=-16256,scale=0.0078125", 0.0, 0.2),
    ):  # fmt: skip
        module = qaccel.compile(model, calibration_data=tmp_path / "cal", preprocess=how, bits=8)
        result = module.evaluate(tmp_path / "all" / "test", preprocess=right)
        assert floor <= result.top1 <= most, how
        found = [note for note in module.notes if note.startswith("warning: ") and "--max-drop" not in note]
        assert [('try --preprocess "mean=127.5,scale=127.5"' in line) for line in found] == [True] * (how != right), how
