"""The list of the quantizer's passes: all ways into the compiler run it, and names cut it."""

from dataclasses import replace

import numpy as np
import pytest
import tvm
from tvm.ir import assert_structural_equal

import qaccel
from qaccel.backend import qaccel_pipeline
from qaccel.cli.main import main
from qaccel.dialect.quantized import QuantizedModel
from qaccel.errors import QaccelError
from qaccel.frontend.import_model import import_model
from qaccel.options import CompileOptions, TargetOptions, options_of, parse_target
from qaccel.pipeline import compile_model
from qaccel.quant import passes
from qaccel.quant.calibrate.calibration import Calibration, measure
from qaccel.quant.passes import PASSES, Pass, chosen_passes, run_passes
from qaccel.quant.passes.constants import LayerConstants, with_constants
from qaccel.quant.quantize import quantize
from qaccel.stages import Stages
from small_models import chain, samples


@pytest.fixture
def ran(monkeypatch) -> list[str]:
    """Names of three passes that only note that they ran, "b" on samples alone."""
    names: list[str] = []

    def noted(name: str, needs_samples: bool = False) -> Pass:
        def run(model: QuantizedModel, calibration: Calibration) -> QuantizedModel:
            assert set(calibration.samples) == {"x"} and set(calibration.ranges.values) >= {"x"}
            names.append(name)
            return replace(model, notes=(*model.notes, name))

        return Pass(name, run, needs_samples)

    monkeypatch.setattr(passes, "PASSES", (noted("a"), noted("b", needs_samples=True), noted("c")))
    return names


def test_each_runs_once_in_order_on_what_the_one_before_gave(ran):
    quantized = qaccel.quantize(chain(), samples(chain()))
    assert ran == ["a", "b", "c"]
    assert quantized.notes[-3:] == ("a", "b", "c")


def test_without_data_those_that_need_samples_are_left_out(ran):
    qaccel.quantize(chain())
    assert ran == ["a", "c"]


def test_names_cut_the_list_and_keep_its_order(ran):
    qaccel.quantize(chain(), samples(chain()), passes=["c", "b"])
    assert ran == ["b", "c"]
    qaccel.compile(chain(), calibration_data=samples(chain()), passes=())
    assert ran == ["b", "c"]


@pytest.mark.parametrize("way", ["partition_for_qaccel", "pipeline"])
def test_relax_modules_take_the_same_list(ran, way):
    mod = import_model(chain(), None, None).mod
    if way == "pipeline":
        with tvm.target.Target({"kind": "llvm"}):
            qaccel_pipeline()(mod)
        assert ran == ["a", "c"]
    else:
        qaccel.partition_for_qaccel(mod, calibration_data=samples(chain()))
        assert ran == ["a", "b", "c"]


def test_unknown_names_and_missing_samples_are_said_in_one_line():
    with pytest.raises(
        QaccelError,
        match=r"^--passes 'rouding' is unknown; the passes are equalization, rounding, rounding_of_8_bits, bias_correction, "
        r"reconstruction$",
    ):
        qaccel.quantize("no such file.onnx", passes=["bias_correction", "rouding"])
    with pytest.raises(QaccelError, match=r"^--passes bias_correction: .*none; add --calibration-data$"):
        qaccel.quantize(chain(), passes=["bias_correction"])
    with pytest.raises(QaccelError, match="quantized already"):
        qaccel.compile(qaccel.quantize(chain(), samples(chain())), passes=["bias_correction"])
    with pytest.raises(QaccelError, match=r"^--passes is for quantization"):
        compile_model(chain(), CompileOptions(parse_target("llvm"), passes=()), "chain", Stages())


def test_tvmc_takes_names(capsys):
    assert options_of(TargetOptions(), passes="bias_correction, other").passes == ("bias_correction", "other")
    assert options_of(TargetOptions(), passes="").passes == ()
    assert options_of(TargetOptions(), passes=["other"]).passes == ("other",)
    assert options_of(TargetOptions()).passes is None
    assert main(["compile", "m.onnx", "--target", "qaccel", "--passes", "bias_correction, other"]) == 1
    assert "--passes 'other' is unknown" in capsys.readouterr().err


def test_a_pass_that_breaks_the_form_is_found_at_once(monkeypatch):
    def broken(model: QuantizedModel, calibration: Calibration) -> QuantizedModel:
        ((name, real), *_) = model.real.items()
        return replace(
            model,
            mod=with_constants(model.mod, {name: LayerConstants(real.weight, np.zeros(3), np.ones(len(real.weight)))}),
        )

    imported = import_model(chain(), None, None)
    calibration = measure(imported, CompileOptions(calibration_data=samples(chain())))
    monkeypatch.setattr(passes, "PASSES", (Pass("broken", broken),))
    with pytest.raises(QaccelError, match="bias"):
        run_passes(quantize(imported, calibration.ranges), calibration)


def test_names_are_unique():
    every = PASSES
    assert len({each.name for each in every}) == len(every)


def test_effort_chooses_passes():
    assert chosen_passes(None) == chosen_passes(None, "default")
    assert [each.name for each in chosen_passes(None)] == ["equalization", "rounding", "bias_correction"]
    assert chosen_passes(None, "best") == PASSES
    assert [each.name for each in chosen_passes(None, "fast")] == ["bias_correction"]
    with pytest.raises(QaccelError, match=r"^--effort great is unknown; choose one of fast, default, best$"):
        qaccel.quantize(chain(), samples(chain()), effort="great")
    with pytest.raises(
        QaccelError, match=r"^--effort fast chooses among the passes, and --passes names them; drop one$"
    ):
        qaccel.quantize(chain(), samples(chain()), effort="fast", passes=["rounding"])
    with pytest.raises(QaccelError, match=r"^--effort is for quantization"):
        compile_model(chain(), CompileOptions(parse_target("llvm"), effort="fast"), "chain", Stages())


def test_effort_decides_the_integers():
    made = {
        effort: qaccel.quantize(chain(), samples(chain()), bits="W4A8", effort=effort).quantized
        for effort in ("fast", "default")
    }
    named = qaccel.quantize(chain(), samples(chain()), bits="W4A8", passes=["bias_correction"]).quantized
    assert_structural_equal(made["fast"].mod, named.mod)
    with pytest.raises(ValueError):
        assert_structural_equal(made["fast"].mod, made["default"].mod)
