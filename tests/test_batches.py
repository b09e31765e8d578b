"""Networks of several samples, of none that is fixed, and of inputs whose first axis is no batch, from Python."""

import numpy as np
import pytest

import qaccel
import small_models
from frontend.onnx_models import model, node, ort_run


@pytest.fixture(scope="module")
def data() -> dict[str, np.ndarray]:
    return small_models.samples(small_models.chain(), 16)


def test_batch_is_an_outer_loop(data: dict[str, np.ndarray]):
    single = qaccel.compile(small_models.chain(), calibration_data=data)
    batched = qaccel.compile(small_models.chain(batch=4), calibration_data=data)
    np.testing.assert_array_equal(batched.run(data)["y"], single.run(data)["y"])
    ours, theirs = batched.report, single.report
    assert ours["batch"] == 4
    assert ours["cycles"] == theirs["cycles"]
    assert ours["cycles_per_batch"] == 4 * theirs["cycles"]
    assert ours["bound_cycles"] == theirs["bound_cycles"]


def test_steps_of_a_recurrent_network_are_no_batch():
    rng = np.random.RandomState(4)
    weights = {name: rng.randn(1, 8, n).astype(np.float32) for name, n in (("w", 3), ("r", 2))}
    lstm = model([node("LSTM", ["x", "w", "r"], ["", "y"], "lstm", hidden_size=2)], weights, (5, 1, 3))
    module = qaccel.compile(lstm, calibration_data={"x": rng.randn(5, 1, 3).astype(np.float32)})
    assert not module.report["fallback"]
    assert module.report["batch"] == 1 and module.report["cycles_per_batch"] == module.report["cycles"]


def test_symbolic_batch(data: dict[str, np.ndarray]):
    module = qaccel.compile(small_models.chain(batch="N"), calibration_data=data)
    assert module.metadata["inputs"][0]["shape"] == [1, 3, 16, 16]
    wide = qaccel.compile(small_models.chain(batch="N"), calibration_data=data, input_shapes={"x": (2, 3, 16, 16)})
    np.testing.assert_array_equal(wide.run(data)["y"], module.run(data)["y"])


def test_inputs_of_other_batches_and_scalars_calibrate_and_run():
    """A recurrent state [2, 1, 8], a scalar and data of batch 1 side by side, as speech networks have them; batch 3 alone."""
    nodes = [
        node("Gather", ["state", "one"], ["s"], axis=0),
        node("MatMul", ["x", "w"], ["m"]),
        node("Add", ["m", "s"], ["a"]),
        node("Mul", ["a", "gain"], ["y"]),
    ]
    rng = np.random.default_rng(6)
    consts = {"one": np.array(1), "w": rng.standard_normal((8, 8)).astype(np.float32)}
    proto = model(nodes, consts, {"x": (1, 8), "state": (2, 1, 8), "gain": ()})
    data = {
        "x": rng.standard_normal((5, 8)).astype(np.float32),
        "state": rng.standard_normal((10, 1, 8)).astype(np.float32),
        "gain": np.array(0.5, np.float32),
    }
    one = {"x": data["x"][:1], "state": data["state"][:2], "gain": data["gain"]}
    wanted = ort_run(proto, one)["y"]
    for options in ({"calibration_data": data, "bits": "W16A16"}, {"input_range": (-3, 3)}):
        got = qaccel.compile(proto, **options).run(one)["y"]
        assert got.shape == wanted.shape and np.abs(got - wanted).max() < 0.02 * np.abs(wanted).max()
    three = model([node("MatMul", ["x", "w"], ["y"])], consts, (3, 8))
    samples = {"x": rng.standard_normal((66, 8)).astype(np.float32)}
    assert qaccel.compile(three, calibration_data=samples).run({"x": samples["x"][:3]})["y"].shape == (3, 8)
