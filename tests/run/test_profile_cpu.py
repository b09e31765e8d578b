"""The profile of a module on the CPU: every layer's function with its calls, times that fit the whole."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import pytest

import small_models
from qaccel import api
from qaccel.errors import QaccelError
from qaccel.options import BitWidths, CompileOptions, parse_target
from qaccel.pipeline import compile_model
from qaccel.run.profile_cpu import FunctionTime, profile_cpu, profile_text
from qaccel.stages import Stages


def test_functions_calls_and_times():
    made = small_models.chain()
    x = small_models.samples(made, 3)
    options = CompileOptions(parse_target("llvm"), calibration_data=x, bits=BitWidths(8, 8))
    module = api.Module(compile_model(made, options, "chain", Stages()))
    runner = module.runner
    start = time.perf_counter()
    rows = profile_cpu(runner, x, 4)
    whole = 1e6 * (time.perf_counter() - start) / 4
    named = {row.name: row for row in rows}
    assert sum(name.startswith("conv2d_") for name in named) >= 1
    assert any(name.startswith("quantize_") for name in named)
    assert all(row.calls % 3 == 0 for row in rows if row.name != "virtual machine")  # three samples, one after another
    assert 0 < sum(row.microseconds for row in rows) < whole
    expected = runner.run(x)["y"]
    np.testing.assert_array_equal(module.run(x)["y"], expected)
    with pytest.raises(QaccelError, match="x"):
        profile_cpu(runner, {"z": x["x"]}, 1)


def test_text():
    text = profile_text([FunctionTime("conv2d_a", 2, 75.0), FunctionTime("virtual machine", 9, 25.0)])
    assert text.splitlines()[1].split() == ["75.0", "75.0%", "2", "conv2d_a"]
    assert text.splitlines()[-1].split() == ["100.0", "100.0%", "all"]


def test_a_module_on_another_machine_is_not_timed_here():
    options = CompileOptions(target=parse_target("llvm"), bits=BitWidths(8, 8))
    module = api.Module(compile_model(small_models.chain(), options, "chain", Stages(False)))
    with pytest.raises(QaccelError, match="without --rpc-tracker"):
        profile_cpu(dataclasses.replace(module.runner, remote="cpu of another machine"), {}, 1)
