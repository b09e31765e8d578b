from pathlib import Path

import numpy as np
import onnx.reference
import pytest
from onnx import TensorProto, helper

import qaccel
import small_models
from qaccel.run.evaluate import evaluate, load_labelled


@pytest.fixture(scope="module")
def chain() -> qaccel.Module:
    model = small_models.chain()
    return qaccel.compile(model, calibration_data=small_models.samples(model))


def test_shares(chain: qaccel.Module, tmp_path: Path):
    """Labels made from the module's own scores: the best class for half of them, the fourth best for the others."""
    model = small_models.chain()
    data = small_models.samples(model, 40)
    scores = chain.run(data)["y"]
    order = np.argsort(-scores, axis=1, kind="stable")
    labels = np.where(np.arange(40) % 2 == 0, order[:, 0], order[:, 3])
    np.savez(tmp_path / "labelled.npz", **data, labels=labels)
    onnx.save(model, tmp_path / "model.onnx")
    loaded, read = load_labelled(tmp_path / "labelled.npz", chain.runner.inputs)
    seen: list[int] = []
    result = evaluate(chain.runner, loaded, read, tmp_path / "model.onnx", seen.append)
    exact = onnx.reference.ReferenceEvaluator(model)
    best = np.array([exact.run(None, {"x": x[None]})[0].argmax() for x in data["x"]])
    assert (result.samples, result.top1, result.top5) == (40, 0.5, 1.0)
    assert result.agreement == (best == scores.argmax(1)).mean()
    assert result.reference_top1 == (best == labels).mean()
    assert sum(seen) == 40


@pytest.fixture(scope="module")
def folder(chain: qaccel.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The module as a file, and 70 samples with labels: three parts."""
    folder = tmp_path_factory.mktemp("evaluate")
    chain.export_library(folder / "chain.so")
    labels = np.random.default_rng(5).integers(0, 10, 70)
    np.savez(folder / "labelled.npz", **small_models.samples(small_models.chain(), 70), labels=labels)
    return folder


def test_two_processes_give_what_one_gives(chain: qaccel.Module, folder: Path) -> None:
    module = qaccel.load(folder / "chain.so")
    one = module.evaluate(folder / "labelled.npz", jobs=1)
    assert one == module.evaluate(folder / "labelled.npz", jobs=2) == chain.evaluate(folder / "labelled.npz")
    assert one.samples == 70
    for elsewhere in ({"cluster": "tcp://127.0.0.1:9"}, {"jobs": 2}):
        with pytest.raises(qaccel.UserError, match="--jobs and --cluster evaluate a module's file"):
            chain.evaluate(folder / "labelled.npz", **elsewhere)


def test_a_file_that_was_written_again_is_not_what_was_loaded(folder: Path, tmp_path: Path) -> None:
    path, proto = tmp_path / "module.so", small_models.chain()
    for bits in ("W8A8", "W4A4"):
        qaccel.compile(proto, calibration_data=small_models.samples(proto), bits=bits, output=path)
        if bits == "W8A8":
            before = qaccel.load(path)
            expected = before.evaluate(folder / "labelled.npz")
    assert before.evaluate(folder / "labelled.npz") == expected
    with pytest.raises(qaccel.UserError, match="load it again"):
        before.evaluate(folder / "labelled.npz", jobs=2)


@pytest.mark.wide
def test_trained_network(network_path: Path, calibration_data, labelled_data, tmp_path: Path):
    """8 bits keep a trained network's accuracy within a point of float on 500 images."""
    module = qaccel.compile(network_path, calibration_data=calibration_data)
    images = {"image": labelled_data["images"]}
    result = evaluate(module.runner, images, labelled_data["labels"], network_path)
    assert result.reference_top1 is not None
    assert abs(result.top1 - result.reference_top1) <= 0.01
    assert result.agreement is not None
    assert result.agreement >= 0.97


def test_maps_are_no_class_scores() -> None:
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, (1, 3, 4, 4)) for name in "xy")
    module = qaccel.compile(helper.make_model(helper.make_graph([node], "maps", [x], [y])), target="llvm")
    samples = {"x": np.zeros((2, 3, 4, 4), np.float32)}
    with pytest.raises(
        qaccel.QaccelError, match=r"class scores \[N, classes\], and the module gives 'y' \[1, 3, 4, 4\]"
    ):
        evaluate(module.runner, samples, np.zeros(2, np.int64))
