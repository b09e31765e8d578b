"""The examples in the docstrings of everything public run and give what they say; and everything public has its sections."""

import doctest
import importlib
import inspect
from pathlib import Path
from types import FunctionType

import numpy as np
import onnx
import pytest

import qaccel
import small_models

MODULES = (
    "qaccel.api", "qaccel.networks", "qaccel.quantized_network", "qaccel.exploration", "qaccel.report.record.schema",
    "qaccel.relax_idioms",
)  # fmt: skip
EXAMPLES = [
    test
    for name in MODULES
    for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name))
    if test.examples
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, as the examples expect it."""
    model = small_models.chain()
    onnx.save(model, tmp_path / "model.onnx")
    samples = np.random.default_rng(3).standard_normal((8, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=samples)
    np.savez(tmp_path / "labelled.npz", x=samples, labels=np.arange(8))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name.removeprefix("qaccel."))
def test_example_gives_what_it_says(example: doctest.DocTest, folder: Path, capsys: pytest.CaptureFixture):
    example.globs.update(qaccel=qaccel, np=np)
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(example, clear_globs=False)
    assert runner.failures == 0, capsys.readouterr().out


def public() -> list[tuple[str, FunctionType]]:
    found = [(name, getattr(qaccel, name)) for name in qaccel.__all__ if not name.startswith("_")]
    functions = [(name, value) for name, value in found if isinstance(value, FunctionType)]
    for name, value in found:
        if inspect.isclass(value) and value.__name__ in ("Module", "QuantizedNetwork", "Exploration"):
            functions += [
                (f"{name}.{each}", method)
                for each, method in vars(value).items()
                if isinstance(method, FunctionType) and not each.startswith("_")
            ]
    return functions


@pytest.mark.parametrize("name, function", public(), ids=lambda value: value if isinstance(value, str) else "")
def test_docstring_names_every_argument(name: str, function: FunctionType):
    """Each argument stands under Args, but those that `quantize` has already, which the text refers to."""
    said, known = inspect.getdoc(function) or "", inspect.getdoc(qaccel.quantize)
    arguments = [each for each in inspect.signature(function).parameters if each != "self"]
    refers = "`quantize`" in said or "`Module.evaluate`" in said or "as `run`" in said
    silent = [each for each in arguments if f" {each}: " not in said and not (refers and f" {each}: " in known)]
    if "`Module.evaluate`" in said:
        silent = [each for each in silent if f" {each}: " not in inspect.getdoc(qaccel.Module.evaluate)]
    assert not silent
    assert "Raises" in said or not arguments


def test_the_check_of_arguments_sees_one_that_is_missing():
    def lacking(path: str, other: int) -> None:
        """Nothing.

        Args:
            path: where.

        Raises:
            UserError: never.
        """

    with pytest.raises(AssertionError):
        test_docstring_names_every_argument("lacking", lacking)
