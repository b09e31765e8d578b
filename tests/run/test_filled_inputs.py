"""Made-up inputs for `tvmc run`: of the right type and shape, within what the input can hold, and the same every time."""

import numpy as np

from qaccel.run.filled_inputs import filled_inputs

REAL = {"dtype": "float32", "shape": [4, 50]}
ENTRIES = [
    {"name": "plain", **REAL},
    {"name": "quantized", **REAL, "bits": 8, "scale": 0.5, "zero_point": -28},
    {"name": "integers", "dtype": "uint8", "shape": [4, 50], "bits": 8, "scale": 0.5, "zero_point": 3},
    {"name": "ids", "dtype": "int64", "shape": [1, 50]},
    {"name": "flags", "dtype": "bool", "shape": [50]},
    {"name": "scalar", "dtype": "float32", "shape": []},
]


def test_inputs_of_every_kind():
    made, again = filled_inputs(ENTRIES), filled_inputs(ENTRIES)
    for entry in ENTRIES:
        value = made[entry["name"]]
        assert (value.dtype, list(value.shape)) == (np.dtype(entry["dtype"]), entry["shape"])
        np.testing.assert_array_equal(value, again[entry["name"]])
    low, high = 0.5 * (-128 + 28), 0.5 * (127 + 28)
    assert low <= made["quantized"].min() < 0.8 * low and 0.8 * high < made["quantized"].max() <= high
    assert made["integers"].min() < 25 and made["integers"].max() > 230
    assert set(made["ids"].ravel()) == {0, 1} and set(made["flags"]) == {False, True}
