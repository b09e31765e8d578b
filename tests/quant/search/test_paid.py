"""Rounding that pays for bits until a limit is kept: bytes of the compiled module, and what ONNX Runtime's float network says of it."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest

import qaccel
from networks import data
from qaccel.dialect.plan_cost import PlanCost
from qaccel.quant.search.laboratory import Laboratory
from qaccel.quant.search.paid import NEAR, first_rate, most_paid, within_bytes

RESNET = data.HERE / "resnet.onnx"


def bytes_of(q: qaccel.QuantizedNetwork) -> int:
    """Streams, parameter records and tables, by the report of the compiled module."""
    return int(qaccel.compile(q).report["dram_bytes"]["weights"])


def divergence(q: qaccel.QuantizedNetwork) -> float:
    """Mean KL divergence from ONNX Runtime's float network, on digits that calibrated nothing."""
    images = {data.INPUT_NAME: data.load("test", 200)["images"]}
    session = onnxruntime.InferenceSession(RESNET, providers=["CPUExecutionProvider"])
    wanted = np.concatenate([session.run(None, {data.INPUT_NAME: x[None]})[0] for x in images[data.INPUT_NAME]])
    (got,) = q.run(images).values()
    logs = [
        x - np.log(np.exp(x).sum(axis=1, keepdims=True)) for x in (wanted.astype(np.float64), got.astype(np.float64))
    ]
    return float((np.exp(logs[0]) * (logs[0] - logs[1])).sum(axis=1).mean())


@pytest.mark.wide
def test_a_limit_on_bytes_is_kept_at_the_bits_that_are_given(calibration_data: dict[str, np.ndarray]) -> None:
    """A quarter fewer bytes than plain 8 bits; it loses less than 4 bits do, which is how else they would be saved."""
    plain, four = (qaccel.quantize(RESNET, calibration_data, bits=bits) for bits in (8, "W4A8"))
    limit = bytes_of(plain) * 3 // 4
    q = qaccel.quantize(RESNET, calibration_data, bits=8, max_bytes=limit)
    assert 0.98 * limit <= bytes_of(q) <= limit
    assert {tuple(each.values()) for each in q.plan.values()} == {(8, 8)}
    assert any(note.startswith(f"--max-bytes {limit}: rounding pays") for note in q.notes)
    assert divergence(q) < 0.5 * divergence(four)


class Fake:
    """A laboratory of one network whose bytes fall with the logarithm of the rate, from 100,000 down to ``least``."""

    def __init__(self, least: int) -> None:
        self.least = least
        self.space = SimpleNamespace(layers=[SimpleNamespace(weight_count=100_000)])
        self.rates: list[float] = []

    def make(self, bits: Any, rate: float) -> float:
        self.rates.append(rate)
        return rate

    def price(self, rate: float) -> PlanCost:
        return PlanCost(1, max(self.least, round(100_000 - 9_000 * np.log1p(rate * 3e8))), (), 0)


@pytest.mark.parametrize("limit", [99_000, 80_000, 60_123, 20_001])
def test_the_rate_is_found_in_few_tries(limit: int) -> None:
    fake = Fake(20_000)
    paid = within_bytes(cast(Laboratory, fake), None, limit)
    assert NEAR * limit <= paid.cost.bytes <= limit and len(fake.rates) <= 10


def test_a_limit_that_plain_rounding_keeps_is_not_paid_for() -> None:
    fake = Fake(20_000)
    assert within_bytes(cast(Laboratory, fake), None, 100_000).rate == 0 and fake.rates == [0]


def test_the_fewest_bytes_are_said_where_no_rate_keeps_the_limit() -> None:
    assert within_bytes(cast(Laboratory, Fake(50_000)), None, 40_000).cost.bytes == 50_000


def paid_most(most: float, used: Callable[[float], float]) -> tuple[float | None, int]:
    """The rate that `most_paid` finds where rates up to ``most`` keep the limits, and how many it tried."""
    fake = cast(Laboratory, Fake(20_000))
    tries: list[float] = []

    def tried(rate: float) -> Any:
        tries.append(rate)
        return rate

    found = most_paid(
        fake, tried, cast(Any, lambda rate: rate <= most), cast(Any, lambda rate: -rate), cast(Any, used), 2
    )
    return cast("float | None", found), len(tries)


@pytest.mark.parametrize("times", [3, 100, 0.5])
def test_the_highest_rate_that_keeps_a_limit(times: float) -> None:
    """Within a factor that two halvings leave, whatever the drop says; none where the first is too much already."""
    most = times * first_rate(cast(Laboratory, Fake(20_000)))
    rate, tries = paid_most(most, lambda rate: 0.1)
    assert rate is not None and most / 8**0.25 <= rate <= most and tries <= 6
    assert paid_most(most / 1000, lambda rate: 0.1)[0] is None


@pytest.mark.parametrize("times", [3, 100, 7.9])
def test_the_drop_says_how_near_a_rate_is(times: float) -> None:
    """Points that grow as a power of the rate: a rate nearer than two halvings come is found, and not passed."""
    most = times * first_rate(cast(Laboratory, Fake(20_000)))
    rate, _ = paid_most(most, lambda rate: (rate / most) ** 0.6)
    assert rate is not None and 0.85 * most <= rate <= most


@pytest.mark.slow
def test_the_fewest_bytes_are_those_of_eight_bits_that_pay(calibration_data: dict[str, np.ndarray]) -> None:
    """A search for the fewest bytes is not beaten by what `--bits 8 --max-bytes` makes of the same samples at as small a drop."""
    auto = qaccel.quantize(RESNET, calibration_data, bits="auto", minimize="bytes", max_drop=2)
    chosen = auto.quantized.chosen
    plain = qaccel.quantize(RESNET, calibration_data, bits=8, max_bytes=bytes_of(auto), max_drop=100)
    assert chosen is not None and chosen.drop.points <= 2
    assert divergence(auto) <= 1.5 * divergence(plain)
