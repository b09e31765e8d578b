"""What is seen inside a module, against exact integers computed without the machine; and where two modules part."""

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import qaccel
from qaccel.emulate.integers import run_model
from qaccel.machine.hw import load_config
from qaccel.run.compare import CLOSE_DB, _difference, first_parting
from qaccel.run.tensors import tensors_of

sys.path.insert(0, str(Path(__file__).parents[1]))
from qdq.every_operator import Net
from small_models import chain, interrupted, samples, several

NETWORKS = Path(__file__).parents[1] / "networks"
SMALL = dataclasses.replace(load_config("qaccel-256"), name="small", sram_bytes=8192)


def images(count=2):
    return {"image": np.random.default_rng(0).uniform(-1, 1, (count, 3, 32, 32)).astype(np.float32)}


@pytest.mark.parametrize(
    ("model", "bits", "hw"),
    [
        (NETWORKS / "resnet.onnx", "W4A8", "qaccel-256"),
        (NETWORKS / "mobilenet.onnx", "W8A16", "qaccel-64"),
        (NETWORKS / "resnet.onnx", "W8A4", SMALL),  # maps go to DRAM
        (chain(batch=2), "8", "qaccel-256"),
        (several(), "W4A4", "qaccel-256"),
        (interrupted(), "8", "qaccel-256"),  # Softmax between two subgraphs
    ],
)
def test_every_layer_is_seen_as_it_was_computed(model, bits, hw):
    data = images() if isinstance(model, Path) else samples(model)
    q = qaccel.quantize(model, calibration_data=data, bits=bits, hw=hw)
    module = qaccel.compile(q)
    batch = {spec.name: data[spec.name][: spec.shape[0]] for spec in module.runner.inputs}
    expected: dict[str, np.ndarray] = {}
    run_model(q.quantized, batch, lambda name, value: expected.setdefault(name, np.array(value)))
    seen = {each.name: each.values for each in tensors_of(module.runner, batch) if each.where != "cpu"}
    layers = {name for each in module.artefacts for name in each.layers}
    assert seen.keys() == layers
    for name in layers:
        np.testing.assert_array_equal(seen[name], expected[name], err_msg=name)
    if hw is SMALL:
        assert {slot.memory for each in module.artefacts for slot in each.maps} == {"sram", "dram"}


def test_dump_says_what_the_integers_mean(tmp_path):
    model, data = chain(), samples(chain())
    module = qaccel.compile(model, calibration_data=data, bits=8)
    module.dump_tensors({"x": data["x"][:1]}, tmp_path / "d")
    arrays = np.load(tmp_path / "d" / "tensors.npz")
    listed = json.loads((tmp_path / "d" / "tensors.json").read_text())["tensors"]
    assert [entry["name"] for entry in listed if entry["where"] != "cpu"][:2] == ["conv1", "pool1"]
    entry = next(each for each in listed if each["name"] == "classifier")
    assert entry["tensor"] == "classifier" and entry["bits"] == 8
    real = (arrays["classifier"].reshape(-1) - float(entry["zero_point"])) * entry["scale"]
    np.testing.assert_allclose(real, module.run({"x": data["x"][:1]})["y"].reshape(-1), rtol=1e-6)


def test_the_layer_that_was_changed_is_named(tmp_path):
    """One weight of the second convolution is another one: all before it is equal, and it is the first that is not."""
    model, data = chain(), samples(chain())
    changed = onnx.ModelProto.FromString(model.SerializeToString())
    weight = next(each for each in changed.graph.initializer if each.name == "w2")
    value = numpy_helper.to_array(weight).copy()
    value[3, 2, 1, 1] = value[3, 2, 0, 0]
    weight.CopyFrom(numpy_helper.from_array(value, "w2"))
    one, other = (qaccel.compile(each, calibration_data=data, bits=8, passes=()) for each in (model, changed))
    other.export_library(tmp_path / "other.so")
    differences = one.compare(data, tmp_path / "other.so")
    first = first_parting(differences)
    assert first is not None and first.name == "conv2" and first.differing > 0
    assert [each.name for each in differences if not each.parts][:2] == ["quantize_x", "conv1"]
    assert first_parting(one.compare(data, one)) is None


def test_the_layer_that_leaves_the_float_model_is_named(tmp_path):
    model, data = chain(), samples(chain())
    onnx.save(model, tmp_path / "m.onnx")
    plan = {"conv1": (16, 16), "conv2": (4, 16), "classifier": (16, 16)}
    bits = {name: {"weight_bits": w, "activation_bits": a} for name, (w, a) in plan.items()}
    module = qaccel.compile(model, calibration_data=data, bits=bits, passes=())
    differences = {each.name: each for each in module.compare(data, tmp_path / "m.onnx")}
    assert differences["conv1"].db > 60 > 30 > differences["conv2"].db
    assert module.compare(data, tmp_path / "m.onnx")[-1].where == "output"


def test_a_reference_with_other_inputs_is_refused(tmp_path):
    onnx.save(several(), tmp_path / "m.onnx")
    module = qaccel.compile(chain(), calibration_data=samples(chain()), bits=8)
    with pytest.raises(qaccel.UserError, match="is another model: its inputs are a, b"):
        module.compare(samples(chain()), tmp_path / "m.onnx")
    with pytest.raises(qaccel.UserError, match="inputs"):
        module.compare(samples(chain()), qaccel.compile(several(), calibration_data=samples(several()), bits=8))


def test_modules_of_other_outputs_are_refused():
    """Nothing in common must not read as no difference."""
    other = onnx.ModelProto.FromString(chain().SerializeToString())
    other.graph.node[-1].output[0] = other.graph.output[0].name = "z"
    one, two = (qaccel.compile(each, calibration_data=samples(chain()), bits=8) for each in (chain(), other))
    with pytest.raises(qaccel.UserError, match="--reference has other outputs"):
        one.compare(samples(chain()), two)


def test_what_is_no_number_parts():
    a, b = np.array([1.0, np.nan, np.inf]), np.array([1.0, 2.0, np.inf])
    assert _difference("t", "cpu", a, b, CLOSE_DB).parts and _difference("t", "cpu", a, b).differing == 1
    assert not _difference("t", "cpu", a, a).parts


def test_every_call_of_a_subgraph_is_seen():
    """The steps of a recurrent network: no tensor of one call takes the place of another's."""
    net = Net()
    model = net.model(
        net("LSTM", "x", net.normal(1, 16, 4), net.normal(1, 16, 4), outputs=1, hidden_size=4), shape=(3, 1, 4)
    )  # fmt: skip
    x = np.random.default_rng(1).standard_normal((24, 1, 4)).astype(np.float32)
    module = qaccel.compile(model, calibration_data={"x": x}, bits=8)
    seen = tensors_of(module.runner, {"x": x[:3]})
    assert len({each.name for each in seen}) == len(seen) >= len([n for a in module.artefacts for n in a.layers])
