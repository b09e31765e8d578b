import json
from pathlib import Path

import pytest

from qaccel.errors import QaccelError, UserError
from qaccel.machine.hw import DEFAULT_CONFIG, load_config
from qaccel.options import (
    BitWidths,
    CompileOptions,
    TargetOptions,
    bits_of,
    options_of,
    parse_bits,
    parse_input_shapes,
    parse_target,
)


@pytest.mark.parametrize(
    ("text", "config", "host"),
    [
        ("qaccel", DEFAULT_CONFIG, {}),
        ("llvm", None, {}),
        ("qaccel -config=qaccel-1024, llvm -mcpu=native", "qaccel-1024", {"mcpu": "native"}),
        ("llvm -mcpu=skylake,qaccel", DEFAULT_CONFIG, {"mcpu": "skylake"}),
        ("qaccel --config=my.toml", "my.toml", {}),
        ("llvm -mattr=+avx2,+fma -num-cores=4, qaccel", DEFAULT_CONFIG, {"mattr": ("+avx2", "+fma"), "num-cores": 4}),
        ("llvm -mtriple=aarch64-linux-gnu", None, {"mtriple": "aarch64-linux-gnu"}),
    ],
)
def test_target(text: str, config: str | None, host: dict):
    target = parse_target(text)
    assert target.config == config
    assert dict(target.host) == host
    assert parse_target(str(target)) == target


def test_target_with_a_config_by_value_prints_its_name():
    assert str(TargetOptions(load_config("qaccel-64"))) == "qaccel -config=qaccel-64, llvm"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "unknown kind ''"),
        ("cuda", "unknown kind 'cuda'"),
        ("qaccel, cuda", "unknown kind 'cuda'"),
        ("qaccel, qaccel", "twice"),
        ("qaccel -mcpu=native", "qaccel has no flag -mcpu"),
        ("qaccel -config", "-name=value"),
        ("qaccel -config=", "-name=value"),
        ("llvm -config=qaccel-64", "llvm has no flag -config"),
        ("llvm -num-cores=many", "whole number"),
        ("qaccel -config=a -config=b", "-config of qaccel is given twice"),
        ("llvm -mcpu=a -mcpu=a", "-mcpu of llvm is given twice"),
    ],
)
def test_bad_target(text: str, says: str):
    with pytest.raises(QaccelError, match=says):
        parse_target(text)


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("x:[1,3,224,224]", {"x": (1, 3, 224, 224)}),
        ("x:[1,3] y:[2]", {"x": (1, 3), "y": (2,)}),
        (" x : [ 1 , 3 ] , y:[2];", {"x": (1, 3), "y": (2,)}),
        ("input:0:[4]", {"input:0": (4,)}),
        ("a/b.c:[]", {"a/b.c": ()}),
    ],
)
def test_input_shapes(text: str, shapes: dict):
    assert parse_input_shapes(text) == shapes


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("1,3,224,224", "must have the form"),
        ("x:1,3", "must have the form"),
        ("x:[1,3] y", "must have the form"),
        ("x:[1,-3]", "positive whole number"),
        ("x:[1,0]", "positive whole number"),
        ("x:[N,3]", "positive whole number"),
        ("x:[1] x:[2]", "twice"),
    ],
)
def test_bad_input_shapes(text: str, says: str):
    with pytest.raises(QaccelError, match=says):
        parse_input_shapes(text)


def test_input_range():
    for given in ("-1,2.5", (-1, 2.5), [-1.0, 2.5]):
        assert options_of(TargetOptions(), input_range=given).input_range == (-1.0, 2.5)


@pytest.mark.parametrize("given", ["", "1", "1,2,3", "a,b", "2,1", "1,1", "0,inf", "nan,1", (2, 1), (1,), 5, ("a", 1)])
def test_bad_input_range(given):
    with pytest.raises(UserError, match="--input-range"):
        options_of(TargetOptions(), input_range=given)


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        ("calibration", "magic", "--calibration magic is unknown; choose one of minmax"),
        ("io_dtype", "int4", "--io-dtype int4 is unknown"),
        ("model_format", "caffe", "--model-format caffe is unknown"),
        ("input_range", (1.0, 1.0), "--input-range 1,1"),
    ],
)
def test_options_are_checked_where_they_are_made(field: str, value, says: str):
    with pytest.raises(UserError, match=says):
        CompileOptions(**{field: value})


def test_strings_of_the_command_line_and_values_of_python_give_the_same_options():
    strings = options_of(
        parse_target("llvm"), input_shapes="x:[1,3]", input_range="0,1", bits="W4A8", tuning_records="r"
    )
    values = options_of(
        parse_target("llvm"), input_shapes={"x": (1, 3)}, input_range=(0, 1), bits=(4, 8), tuning_records=Path("r")
    )
    assert strings == values


@pytest.mark.parametrize("given", [8, "8", "W8A8", (8, 8), BitWidths(8, 8)])
def test_bits_of_any_form(given):
    assert bits_of(given) == BitWidths(8, 8)


def test_hw_fills_in_what_the_target_leaves_open():
    assert parse_target("qaccel", "qaccel-64").config == "qaccel-64"
    assert parse_target("llvm -mcpu=skylake, qaccel", "qaccel-64").config == "qaccel-64"
    assert parse_target("qaccel", None, "qaccel-1024").config == "qaccel-1024"
    assert parse_target("qaccel -config=qaccel-64", None, "qaccel-1024").config == "qaccel-64"
    assert parse_target("llvm", None, "qaccel-1024").config is None
    with pytest.raises(UserError, match="given twice"):
        parse_target("qaccel -config=qaccel-64", "qaccel-64")
    for target in ("llvm", "llvm -mcpu=native"):
        with pytest.raises(UserError, match="is the CPU alone"):
            parse_target(target, load_config("qaccel-64"))


@pytest.mark.parametrize(
    ("text", "bits"), [("8", (8, 8)), ("16", (16, 16)), ("W4A8", (4, 8)), ("w8a16", (8, 16)), ("W16A4", (16, 4))]
)
def test_bits(text: str, bits: tuple[int, int]):
    assert parse_bits(text) == BitWidths(*bits)


def test_plan(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"conv1": {"weight_bits": 4, "activation_bits": 8}}))
    assert parse_bits(str(path)) == {"conv1": BitWidths(4, 8)}


@pytest.mark.parametrize(
    ("contents", "says"),
    [
        ("{", "not valid JSON"),
        (
            '{"a": {"weight_bits": 8, "activation_bits": 8}, "a": {"weight_bits": 4, "activation_bits": 8}}',
            "has 'a' twice",
        ),
        ('{"a": {"weight_bits": 8, "activation_bits": 8, "weight_bits": 4}}', "has 'weight_bits' twice"),
        ("[1]", "object of node names"),
        ('{"a": 8}', "must be"),
        ('{"a": {"weight_bits": 8}}', "must be"),
        ('{"a": {"weight_bits": 8, "activation_bits": 8, "x": 1}}', "must be"),
        ('{"a": {"weight_bits": 5, "activation_bits": 8}}', "5 bits for weights"),
        ('{"a": {"weight_bits": 8, "activation_bits": true}}', "True bits for activations"),
        ('{"a": {"weight_bits": 8, "activation_bits": [8]}}', r"\[8\] bits for activations"),
    ],
)
def test_bad_plan(tmp_path, contents: str, says: str):
    path = tmp_path / "plan.json"
    path.write_text(contents)
    with pytest.raises(QaccelError, match=says):
        parse_bits(str(path))


@pytest.mark.parametrize("text", ["", "7", "W8", "A8", "auto", "W4A5", "missing.json"])
def test_bad_bits(text: str):
    with pytest.raises(QaccelError):
        parse_bits(text)
