"""Whatever is done to a model, importing it gives a module or one line; seeds 0 to 199, ten times as many with `-m slow`."""

import numpy as np
import onnx
import pytest

from frontend.checks import assert_equals_onnx_runtime
from frontend.mutations import mutated, rich_model
from qaccel.errors import QaccelError
from qaccel.frontend.import_model import import_for_cpu


def outcome(proto: onnx.ModelProto) -> str:
    """ "imported", or the one line of the refusal; any other exception comes through."""
    try:
        import_for_cpu(proto, None, None)
    except QaccelError as error:
        assert "\n" not in str(error) and 10 < len(str(error)) < 600
        return str(error)
    return "imported"


def test_the_model_itself_is_good():
    assert_equals_onnx_runtime(rich_model())


@pytest.mark.parametrize("first", [0, pytest.param(200, marks=pytest.mark.slow)])
def test_mutations_are_imported_or_refused_in_one_line(first: int, capfd):
    base = rich_model()
    seeds = range(first, 200 if first == 0 else 2000)
    outcomes = {seed: outcome(mutated(base, np.random.default_rng(seed))) for seed in seeds}
    imported = sum(text == "imported" for text in outcomes.values())
    assert 0.05 < imported / len(outcomes) < 0.5  # otherwise the changes are too weak or too strong to tell anything
    assert capfd.readouterr().out == ""


@pytest.mark.wide
@pytest.mark.parametrize("first", [0, pytest.param(200, marks=pytest.mark.slow)])
def test_truncations_and_flipped_bytes(first: int, tmp_path):
    good = rich_model().SerializeToString()
    path = tmp_path / "damaged.onnx"
    for seed in range(first, 200 if first == 0 else 2000):
        rng = np.random.default_rng(seed)
        damaged = bytearray(good[: int(rng.integers(len(good)))] if seed % 4 == 0 else good)
        for _ in range(int(rng.integers(1, 4)) if damaged else 0):
            # half of them outside of the weights, which are most of the file
            end = len(damaged) if rng.integers(2) else min(len(damaged), 1500)
            damaged[int(rng.integers(end))] = int(rng.integers(256))
        path.write_bytes(damaged)
        try:
            import_for_cpu(path, None, None)
        except QaccelError as error:
            assert "\n" not in str(error)
