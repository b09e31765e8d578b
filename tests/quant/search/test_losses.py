"""What a point is: beside SciPy's divergence, plain NumPy, and counted first classes."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from qaccel.frontend.import_model import import_model
from qaccel.quant.search.losses import Loss, Part, Sums, parts_of, points_of


def model_of(nodes: list[onnx.NodeProto], shape: list[int], out: list[int]) -> onnx.ModelProto:
    weights = {"w": np.eye(5) + 0.1, "k": np.ones((4, 3, 1, 1)), "k2": np.ones((2, 3, 1, 1))}
    initializers = [numpy_helper.from_array(v.astype(np.float32), n) for n, v in weights.items()]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", shape), ("y", out))]
    graph = helper.make_graph(nodes, "m", ends[:1], ends[1:], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def parts(nodes: list[onnx.NodeProto], shape: list[int], out: list[int], reference: np.ndarray) -> tuple[Part, ...]:
    return parts_of(import_model(model_of(nodes, shape, out), None, None, None), {"y": reference})


def test_divergence_is_scipys() -> None:
    rng = np.random.default_rng(0)
    wanted, got = rng.standard_normal((2, 20, 7))
    sums = Sums([Part("y", 1, 0, -1, True)])
    sums.add({"y": wanted[:12]}, {"y": got[:12]})
    sums.add({"y": wanted[12:]}, {"y": got[12:]})
    (loss,) = sums.losses()
    each = entropy(softmax(wanted, axis=1), softmax(got, axis=1), axis=1)
    assert loss.value == pytest.approx(each.mean())
    assert loss.error == pytest.approx(each.std(ddof=1) / np.sqrt(20))
    assert loss.changed == (wanted.argmax(1) != got.argmax(1)).mean()


def test_every_other_output_is_noise_over_power() -> None:
    rng = np.random.default_rng(1)
    wanted = rng.standard_normal((6, 4, 3))
    got = wanted + 0.1 * rng.standard_normal(wanted.shape)
    one, two = Part("y", 1, 0, 1), Part("y", 1, 1, 4)
    sums = Sums([one, two])
    sums.add({"y": wanted}, {"y": got})
    for part, loss in zip((wanted[:, :1], wanted[:, 1:]), sums.losses(), strict=True):
        noise = ((got[:, : part.shape[1]] if part.shape[1] == 1 else got[:, 1:]) - part) ** 2
        assert loss.value == pytest.approx(noise.sum() / (part**2).sum())
    points = points_of((one, two), {"y": wanted})
    assert points.estimate((Loss(0.01, 0.001), Loss(0.002, 0))).points == pytest.approx(1.0)
    assert points.estimate((Loss(0.01, 0.001), Loss(0.002, 0))).error == pytest.approx(0.1)
    assert points.budget(1.0) == pytest.approx([0.01, 0.01])


def test_no_number_is_a_loss_without_end() -> None:
    sums = Sums([Part("y", 0, 0, -1)])
    sums.add({"y": np.ones((2, 3))}, {"y": np.full((2, 3), np.nan)})
    assert sums.losses()[0].value > 1e6


SCORES = Part("y", 1, 0, -1, True)


def noisy(scores: np.ndarray, size: float, rng: np.random.Generator) -> Loss:
    """What noise of a size on scores loses."""
    sums = Sums([SCORES])
    sums.add({"y": scores}, {"y": scores + size * rng.standard_normal(scores.shape)})
    return sums.losses()[0]


def test_points_of_scores_are_the_changed_first_classes() -> None:
    """Those that were counted, whether few or many change, over more classes and fewer, of sure and of unsure networks."""
    rng = np.random.default_rng(2)
    for classes, reach in ((10, 3.0), (2, 3.0), (100, 1.0), (10, 12.0)):
        scores = reach * rng.standard_normal((20_000, classes))
        points = points_of((SCORES,), {"y": scores})
        for size in (0.05 * reach, 0.15 * reach):
            other = noisy(scores, size, rng)
            assert points.estimate((other,)).points == pytest.approx(100 * other.changed, rel=0.2)
        assert points.estimate((Loss(float(points.budget(2.0)[0]), 0),)).points == pytest.approx(2.0)


def test_samples_that_judge_may_be_harder_than_all() -> None:
    """The divergence of the half that is least sure of its classes, and of the other half, say the same of all."""
    rng = np.random.default_rng(6)
    scores = 3 * rng.standard_normal((20_000, 10))
    margins = np.diff(np.sort(scores, axis=1)[:, -2:], axis=1)[:, 0]
    halves = [scores[margins < np.median(margins)], scores[margins >= np.median(margins)]]
    seen = [(noisy(half, 0.2, rng),) for half in halves]
    hard, easy = (
        points_of((SCORES,), {"y": scores}, {"y": half}).estimate(each).points
        for half, each in zip(halves, seen, strict=True)
    )
    assert hard == pytest.approx(easy, rel=0.05)
    assert hard == pytest.approx(100 * noisy(scores, 0.2, rng).changed, rel=0.15)
    hard, easy = (points_of((SCORES,), {"y": scores}).estimate(each).points for each in seen)
    assert hard > 1.4 * easy


def test_the_error_of_points_covers_what_few_samples_do_to_them() -> None:
    """Over 60 draws of 192 samples points spread as their standard error says, and by less than a twelfth.

    Classes that small noise changes, counted, would spread by a quarter: eight of a hundred change in 192 samples.
    """
    rng = np.random.default_rng(5)
    plan = replace(noisy(3 * rng.standard_normal((50_000, 10)), 0.3, rng), error=0.0)
    estimates = [points_of((SCORES,), {"y": 3 * rng.standard_normal((192, 10))}).estimate((plan,)) for _ in range(60)]
    apart = [(each.points - 100 * plan.changed) / each.error for each in estimates]
    assert 0.6 < float(np.sqrt(np.mean(np.square(apart)))) < 1.4
    assert float(np.std([each.points for each in estimates])) < 100 * plan.changed / 12


def test_which_outputs_are_scores_and_which_have_parts() -> None:
    rng = np.random.default_rng(3)
    gemm = helper.make_node("MatMul", ["x", "w"], ["y"], "gemm")
    scores = rng.standard_normal((8, 5))
    assert parts([gemm], [1, 5], [1, 5], scores) == (Part("y", 1, 0, -1, True),)
    steady = scores.copy()
    steady[:, 2] = 99  # no classes: the first is always the same
    assert parts([gemm], [1, 5], [1, 5], steady) == (Part("y", 0, 0, -1),)
    soft = helper.make_node("Softmax", ["x"], ["y"], "soft", axis=1)
    assert parts([soft], [1, 5], [1, 5], softmax(scores, axis=1)) == (Part("y", 1, 0, -1, True, True),)
    joined = [
        helper.make_node("Conv", ["x", "k"], ["a"], "a"), helper.make_node("Conv", ["x", "k2"], ["b"], "b"),
        helper.make_node("Concat", ["a", "b"], ["y"], "join", axis=1),
    ]  # fmt: skip
    maps = rng.standard_normal((2, 6, 3, 3))
    assert parts(joined, [1, 3, 3, 3], [1, 6, 3, 3], maps) == (Part("y", 1, 0, 4), Part("y", 1, 4, 6))


def test_probabilities_and_logits_are_judged_alike() -> None:
    rng = np.random.default_rng(4)
    wanted, got = 2 * rng.standard_normal((2, 30, 5))
    values = []
    for part, make in (
        (Part("y", 1, 0, -1, True), lambda x: x),
        (Part("y", 1, 0, -1, True, True), lambda x: softmax(x, 1)),
    ):
        sums = Sums([part])
        sums.add({"y": make(wanted)}, {"y": make(got)})
        values.append(sums.losses()[0].value)
    assert values[0] == pytest.approx(values[1])
    assert np.allclose(Part("y", 1, 0, -1, True).of({"y": wanted})[:, 0], log_softmax(wanted, axis=1))
