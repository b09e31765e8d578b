"""SUPPORTED_OPS.md is what the constraints say, and what it promises is what quantization has rules for."""

from pathlib import Path

from qaccel.npu.partition.constraints import RULES
from qaccel.npu.partition.supported import ROWS, page

FILE = Path(__file__).parents[3] / "SUPPORTED_OPS.md"


def test_the_page_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run python -m qaccel.npu.partition.supported > SUPPORTED_OPS.md"


def test_every_limit_is_on_the_page_in_one_line() -> None:
    for rule, _ in RULES:
        assert rule.__doc__ is not None and "\n" not in rule.__doc__.strip(), rule.__name__
        assert rule.__doc__ in page()


def test_no_operator_is_promised_twice() -> None:
    names = [name for row in ROWS for name in row.onnx]
    assert len(names) == len(set(names))
