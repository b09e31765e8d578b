"""The two networks and their data are what the other tests take them for."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from networks import data


def test_first_images_do_not_depend_on_count():
    few, many = data.load("test", 3), data.load("test", 300)
    assert np.array_equal(few["images"], many["images"][:3])
    assert np.array_equal(few["labels"], many["labels"][:3])


def test_no_test_digit_is_used_elsewhere():
    test, train = data.digits_of("test")[0], data.digits_of("train")[0]
    assert data.digits_of("calibration")[0].shape == train.shape
    assert (len(test), len(train)) == (1000, 4000)
    assert not {image.tobytes() for image in test} & {image.tobytes() for image in train}


@pytest.mark.wide
@pytest.mark.parametrize(("name", "top1"), [("resnet", 84.15), ("mobilenet", 85.75)])
def test_float_accuracy(repo_root: Path, name: str, top1: float):
    test = data.load("test")
    session = onnxruntime.InferenceSession(repo_root / "tests" / "networks" / f"{name}.onnx")
    found = [session.run(None, {data.INPUT_NAME: part})[0].argmax(1) for part in np.array_split(test["images"], 20)]
    # A pixel in a million may round differently on another machine.
    assert 100 * (np.concatenate(found) == test["labels"]).mean() == pytest.approx(top1, abs=0.2)


def test_form(network_path: Path):
    model = onnx.load(network_path)
    onnx.checker.check_model(model, full_check=True)
    assert network_path.stat().st_size < 1_000_000
    (image,), (scores,) = model.graph.input, model.graph.output
    assert (image.name, scores.name) == (data.INPUT_NAME, data.OUTPUT_NAME)
    assert image.type.tensor_type.shape.dim[0].dim_param == "batch"
    kinds = {node.op_type for node in model.graph.node}
    assert ("BatchNormalization" in kinds) == (network_path.stem == "resnet")
