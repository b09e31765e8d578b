"""Plans of integer kernels: all give the same integers, records choose among them, and layers that are alike share one."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relax

from qaccel.cpu.compile import fuse_integers
from qaccel.dialect.quantized import QuantizedModel
from qaccel.emulate.integers import run_quantized
from qaccel.link import build
from qaccel.options import BitWidths
from qaccel.quant.quantize import quantize
from qaccel.schedules.database import create_records, key_of, open_records, plan_of
from qaccel.schedules.tuning.measure import measure_here
from qaccel.schedules.tuning.tune import Candidate, tasks_of, tune
from quant.layers import PAIRS, model, node, prepared
from schedules.kernels import CPUS, check_conv, conv_kernel, exact, run, runs_here, target
from schedules.test_integer_conv import SHAPES, case
from tiers import wide_after

HERE = [cpu for cpu in CPUS if runs_here(cpu)]


def drawn(name: str, bits: tuple[int, int, int] = (8, 8, 8)) -> tuple:
    return case(np.random.default_rng(len(name)), bits, **SHAPES[name])


@pytest.mark.parametrize("name", wide_after(3, SHAPES))
def test_plans_compute_the_same_integers(name: str) -> None:
    """On a CPU and at widths that the name draws."""
    cpu, pair = HERE[len(name) % len(HERE)], PAIRS[len(name) % 9]
    check_conv(cpu, *drawn(name, (*pair, 8)), plans=2)


@pytest.mark.slow
@pytest.mark.parametrize("cpu", HERE)
@pytest.mark.parametrize("name", SHAPES)
def test_many_plans_compute_the_same_integers(cpu: str, name: str) -> None:
    check_conv(cpu, *drawn(name), plans=40)
    check_conv(cpu, *drawn(name, (4, 16, 8)), plans=20)


def test_a_plan_that_leaves_rows_out_is_seen() -> None:
    """The last of eight rows: a share of seven, which no list of plans has."""
    attrs, q, weight, bias, scale = drawn("3x3")
    kernel, expected = conv_kernel(HERE[0], attrs, q, weight, bias, scale), exact(attrs, q, weight, bias, scale)
    wrong = replace(kernel.plans[0], share=7)
    assert wrong not in kernel.plans
    got = run(HERE[0], kernel.build(wrong), expected.shape, str(expected.dtype), q)
    assert np.array_equal(got[:, :7], expected[:, :7]) and not np.array_equal(got, expected)


@pytest.mark.parametrize("name", ["1x1", "3x3", "groups", "depthwise"])
def test_plans_are_several_and_no_two_the_same(name: str) -> None:
    kernel = conv_kernel(HERE[-1], *drawn(name))
    assert len(set(kernel.plans)) == len(kernel.plans) > 4


def test_records_keep_a_kernel_by_its_shape_and_widths_not_by_its_values() -> None:
    def key(bits: tuple[int, int, int] = (8, 8, 8), seed: int = 1, **changed: object) -> str:
        attrs, *rest = case(np.random.default_rng(seed), bits, **{**SHAPES["3x3"], **changed})
        return key_of(conv_kernel("plain", attrs, *rest).workload)

    assert key() == key(seed=2)
    others = [
        key((4, 8, 8)),
        key((8, 16, 8)),
        key((8, 8, 16)),
        key(oc=34),
        key(strides=(2, 2)),
        key(shape=(1, 8, 7, 20)),
    ]
    assert len({key(), *others}) == 7


def three_layers() -> QuantizedModel:
    """Three convolutions, of which the last two are alike but for their weights; rows of 8."""
    rng = np.random.default_rng(8)
    weights = {name: rng.normal(size=(20, 20, 3, 3)).astype(np.float32) / 13 for name in ("w1", "w2")}
    weights["w0"] = rng.normal(size=(20, 3, 3, 3)).astype(np.float32) / 5
    nodes = [node("Conv", f"c{k}", [before, f"w{k}"], pads=[1, 1, 1, 1]) for k, before in enumerate(("x", "c0", "c1"))]
    imported, ranges, _ = prepared(model(nodes, {"x": (1, 3, 8, 8)}, ["c2"], weights))
    return quantize(imported, ranges, BitWidths(8, 8))


def by_share(candidates: Sequence[Candidate], found: Callable[[int, float | str], None]) -> None:
    """A made-up measurement: large shares are fast, and no two plans as fast."""
    for position, candidate in enumerate(candidates):
        plan = plan_of(candidate.trace)
        share = int(re.findall(r"(?:share|rows)=(\d+)", plan)[0])
        found(position, 1.0 / (share + zlib.crc32(plan.encode()) / 2**32))


def test_tuned_plans_are_used_and_the_integers_stay(tmp_path: Path) -> None:
    chosen, quantized = target(HERE[-1]), three_layers()
    records = create_records(tmp_path / "records", chosen)
    tasks = tasks_of(fuse_integers(quantized.mod, chosen), chosen, records)
    assert [(task.name, task.uses) for task in tasks] == [("conv2d_c0", 1), ("conv2d_c1", 2)]
    state = tune(tasks, records, chosen, 10**6, by_share, lambda _: None)
    assert state.done == sum(len(task.plans) for task in tasks) and state.seconds < state.untuned
    x = np.random.default_rng(9).normal(size=(1, 3, 8, 8)).astype(np.float32)
    (expected,) = run_quantized(quantized.mod, {quantized.mod["main"].params[0].name: x}).values()
    for tuned in ((), [open_records(tmp_path / "records", chosen)]):
        linked = build(quantized.mod, chosen, {}, tuned)
        by = {choice.function: (choice.source, choice.plan, choice.layers) for choice in linked.choices}
        for task in tasks:
            source, plan, layers = by[task.name]
            assert layers == (task.name.removeprefix("conv2d_"),)
            assert (source, plan) == (("record", task.best) if tuned else ("rule", str(task.plans[0])))
        assert by["conv2d_c2"][:2] == by["conv2d_c1"][:2]
        result = relax.VirtualMachine(linked.executable, tvm.cpu())["main"](tvm.runtime.tensor(x))
        np.testing.assert_array_equal(result.numpy(), expected)


def test_a_tune_of_integers_that_is_stopped_goes_on(tmp_path: Path) -> None:
    chosen = target("plain")
    for trials in (3, 5):
        records = create_records(tmp_path, chosen)
        tasks = tasks_of(fuse_integers(three_layers().mod, chosen), chosen, records)
        assert sum(len(task.measured) for task in tasks) == trials - (3 if trials == 3 else 2)
        tune(tasks, records, chosen, trials, by_share, lambda _: None)
        del records


def test_each_candidate_can_be_measured() -> None:
    """By the process itself: a time, no reason why not."""
    kernel = conv_kernel("plain", *drawn("1x1"))
    found: list[float | str] = []
    candidate = Candidate(kernel.candidate(kernel.plans[-1]), kernel.trace(kernel.plans[-1]))
    measure_here(target("plain"))([candidate], lambda _, result: found.append(result))
    assert len(found) == 1 and isinstance(found[0], float)
