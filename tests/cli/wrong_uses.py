"""Wrong uses of tvmc and of the Python API: what is done, the exit code, and words that the one line must have.

The files that they name are made by `files`. In a command line {so} is the module of model.onnx. A Python use gets a `Place`.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

import qaccel
import small_models
from qaccel.machine.hw import target_dir
from qaccel.metadata.read import FORMAT


@dataclass(frozen=True)
class Place:
    """What Python uses are done to: chain's ONNX model, its quantized network and its module; samples x [8, 3, 16, 16]."""

    proto: onnx.ModelProto
    network: qaccel.QuantizedNetwork
    module: qaccel.Module
    x: np.ndarray

    def compile(self, **arguments: Any) -> qaccel.Module:
        return qaccel.compile(self.proto, **arguments)


Command = tuple[str, int, tuple[str, ...]]
Q = "compile model.onnx --target=qaccel -o out.so"
D = f"{Q} --calibration-data calibration.npz"
L = "compile model.onnx -o out.tar --target"
R = "run {so} --inputs"

COMMANDS: dict[str, Command] = {
    # verbs and flags
    "no verb": ("", 2, ("VERB",)),
    "verb's typo": ("compil model.onnx", 2, ("'compil'", "did you mean 'compile'")),
    "unknown verb": ("frobnicate", 2, ("the verbs are compile",)),
    "flag's typo": (f"{Q} --calibration-dta c.npz", 2, ("--calibration-dta", "did you mean '--calibration-data'")),
    "flag's typo before what is missing": ("compile model.onnx --targt=qaccel", 2, ("--targt", "'--target'")),
    "short flag": ("run {so} -x 3", 2, ("no flag -x",)),
    "another verb's flag": (f"{Q} --repeat 3", 2, ("no flag --repeat",)),
    "abbreviation": ("run {so} --input inputs.npz", 2, ("did you mean '--inputs'",)),
    "one argument too many": ("inspect {so} {so}", 2, ("there is no place for",)),
    "no model": ("compile --target=qaccel", 2, ("MODEL",)),
    "no target": ("compile model.onnx", 2, ("--target",)),
    "no records": ("tune model.onnx --target llvm", 2, ("--output",)),
    "no value": (f"{Q} --bits", 2, ("--bits",)),
    "repeat is no number": (f"{R} inputs.npz --repeat many", 2, ("--repeat", "many")),
    "repeat 0": (f"{R} inputs.npz --repeat 0", 1, ("--repeat 0", "at least 1")),
    # flags that do nothing together
    "calibration without data": (f"{Q} --calibration mse", 1, ("--calibration mse", "add --calibration-data")),
    "input range with data": (f"{D} --input-range -1,1", 1, ("--input-range -1,1", "drop one")),
    "preprocess with an npz": (f"{D} --preprocess mean=1", 1, ("--preprocess", "drop it")),
    "preprocess without data": (f"{Q} --preprocess mean=1", 1, ("--preprocess", "add --calibration-data")),
    "passes without data": (f"{Q} --passes bias_correction", 1, ("bias_correction", "add --calibration-data")),
    "input range for floats": (f"{L} llvm --input-range 0,1", 1, ("--input-range", "add --bits")),
    "integers of floats": (f"{L} llvm --io-dtype int8", 1, ("--io-dtype", "add --bits")),
    "QDQ of floats": (f"{L} llvm --emit-qdq q.onnx", 1, ("--emit-qdq", "add --bits")),
    "report without accelerator": (f"{L} llvm --report r", 1, ("--report", "add qaccel")),
    "program without accelerator": (f"{L} llvm --emit-program p", 1, ("--emit-program", "add qaccel")),
    "assembly without accelerator": (f"{L} llvm --dump-code asm", 1, ("--dump-code asm", "add qaccel")),
    "tracker without key": (f"{R} inputs.npz --rpc-tracker localhost:9190", 1, ("belong together", "give both")),
    "8 bits out of 16": (f"{Q} --io-dtype int8", 1, ("input", "16 bits")),
    # values
    "bits 9": (f"{Q} --bits 9", 1, ("9 bits for weights", "4, 8 and 16")),
    "bits W8A5": (f"{Q} --bits W8A5", 1, ("5 bits for activations", "4, 8 and 16")),
    "bits W8A": (f"{Q} --bits W8A", 1, ("'W8A'", "use 8, W8A16")),
    "bits nonsense": (f"{Q} --bits many", 1, ("'many'", "use 8, W8A16")),
    "no such plan": (f"{Q} --bits missing.json", 1, ("'missing.json'", "No such file")),
    "plan is no JSON": (f"{Q} --bits damaged.json", 1, ("'damaged.json'", "not valid JSON")),
    "plan without a node": (f"{Q} --bits unknown.json", 1, ("'conv9'", "no such node", "did you mean")),
    "plan of another form": (f"{Q} --bits form.json", 1, ("'conv1'", '{"weight_bits": 8, "activation_bits": 8}')),
    "plan of 5 bits": (f"{Q} --bits five.json", 1, ("'conv1'", "5 bits for weights", "4, 8 and 16")),
    "auto without data": (f"{Q} --bits auto", 1, ("--bits auto", "add --calibration-data")),
    "auto for the CPU": (f"{L} llvm --bits auto --calibration-data calibration.npz", 1, ("--bits auto", "add qaccel")),
    "auto's typo": (f"{D} --bits atuo", 1, ("'atuo'", "use 8, W8A16", "auto")),
    "what to minimize": (f"{D} --bits auto --minimize cycle", 1, ("--minimize 'cycle'", "cycles, bytes, drop")),
    "minimize without auto": (f"{D} --bits 8 --minimize bytes", 1, ("--minimize bytes", "add --bits auto")),
    "cycles without auto": (f"{D} --max-cycles 5000", 1, ("--max-cycles 5000", "add --bits auto")),
    "bytes without data": (f"{Q} --max-bytes 5000", 1, ("--max-bytes 5000", "add --calibration-data")),
    "bytes for the CPU": (f"{L} llvm --calibration-data calibration.npz --max-bytes 9", 1, ("--max-bytes 9", "add qaccel")),
    "bytes that no rounding keeps": (
        f"{D} --bits 8 --max-bytes 10", 1, ("--max-bytes 10", "comes down to", "higher limit", "--bits auto")
    ),
    "bytes without rounding": (f"{D} --max-bytes 10 --passes bias_correction", 1, ("--max-bytes 10", "rounding_of_8_bits")),
    "drop without data": (f"{Q} --max-drop 1", 1, ("--max-drop 1", "add --calibration-data")),
    "drop 0": (f"{D} --bits auto --max-drop 0", 1, ("--max-drop 0", "above 0")),
    "drop is a word": (f"{D} --bits auto --max-drop some", 1, ("--max-drop 'some'", "points above 0")),
    "half a cycle": (f"{D} --bits auto --max-cycles 0.5", 1, ("--max-cycles 0.5", "whole number")),
    "cycles that no plan keeps": (f"{D} --bits auto --max-cycles 1e1", 1, ("--max-cycles 10", "nearest", "cycles", "higher limit")),
    "limits that contradict": (
        f"{D} --bits auto --max-bytes 1200 --max-drop 0.0001", 1, ("--max-drop 0.0001 and --max-bytes 1200", "nearest", "points")
    ),  # fmt: skip
    "range of one number": (f"{Q} --input-range 1", 1, ("--input-range '1'", "LO,HI")),
    "range with a colon": (f"{Q} --input-range -1:1", 1, ("'-1:1'", "LO,HI")),
    "range turned round": (f"{Q} --input-range 5,-5", 1, ("5,-5", "first below the second")),
    "method": (f"{D} --calibration mimax", 1, ("mimax", "minmax, percentile")),
    "passes": (f"{D} --passes bias_corection", 1, ("'bias_corection'", "bias_correction")),
    "type of inputs": (f"{Q} --io-dtype int4", 1, ("int4", "int8, uint8")),
    "format": (f"{Q} --model-format caffe", 1, ("caffe", "onnx, torch")),
    "code": (f"{Q} --dump-code ptx", 1, ("'ptx'", "relax, asm")),
    "shapes": (f"{Q} --input-shapes 1,3,16,16", 1, ("name:[1,3,224,224]",)),
    "shape of no input": (f"{Q} --input-shapes y:[1,3,16,16]", 1, ("'y'", "inputs are x")),
    "shape of other channels": (f"{Q} --input-shapes x:[1,5,16,16]", 1, ("'x'", "does not allow it", "conv1")),
    "value of no input": (f"{Q} --input-values sr:16000", 1, ("'sr'", "inputs are x")),
    "preprocess's key": (f"{Q} --calibration-data images --preprocess means=1", 1, ("'means=1'", "keys are mean")),
    # targets
    "kind's typo": ("compile model.onnx --target=qacel", 1, ("'qacel'", "did you mean 'qaccel'")),
    "kind": ("compile model.onnx --target=vulkan", 1, ("'vulkan'", "use qaccel, llvm")),
    "config's typo": (f"{L} 'qaccel -config=qaccel-265'", 1, ("qaccel-265", "did you mean 'qaccel-256'")),
    "config twice": (f"{L} 'qaccel -config=qaccel-64 -config=qaccel-256'", 1, ("-config", "given twice", "drop one")),
    "target's flag": (f"{L} 'llvm -mcp=skylake'", 1, ("-mcp", "did you mean 'mcpu'")),
    "CPU's typo": (f"{L} 'llvm -mcpu=haswel'", 1, ("'haswel'", "did you mean 'haswell'")),
    "CPU": (f"{L} 'llvm -mcpu=i8086'", 1, ("'i8086'", "-mcpu=native")),
    "CPU of a triple": (
        f"{L} 'llvm -mtriple=aarch64-linux-gnu -mcpu=cortex-a722'", 1, ("'cortex-a722'", "did you mean 'cortex-a72'")
    ),  # fmt: skip
    "native CPU of a triple": (f"{L} 'llvm -mtriple=aarch64-linux-gnu -mcpu=native'", 1, ("native", "name the CPU")),
    "system's typo": (f"{L} 'llvm -mtriple=aarch64-linxu-gnu'", 1, ("linxu", "did you mean 'linux'")),
    "feature": (f"{L} 'llvm -mattr=+avx22'", 1, ("'avx22'", "did you mean 'avx2'")),
    "feature without": (f"{L} 'llvm -mattr=-nonsense'", 1, ("'nonsense'", "-mattr")),
    "feature without a sign": (f"{L} 'llvm -mattr=avx2'", 1, ("avx2", "+avx2")),
    "ABI": (f"{L} 'llvm -mtriple=riscv64-linux-gnu -mabi=lp46d'", 1, ("lp46d", "one of lp64")),
    "float ABI": (f"{L} 'llvm -mfloat-abi=firm'", 1, ("firm", "soft, hard")),
    "optimisation": (f"{L} 'llvm -opt-level=9'", 1, ("-opt-level=9", "0, 1, 2, 3")),
    "config file": (f"{L} 'qaccel -config=broken.toml'", 1, ("broken.toml", "rows")),
    "config is too small": (f"{L} 'qaccel -config=tiny.toml'", 1, ("pool1", "line_buffer_bytes 1", "choose a larger")),
    # models
    "model is missing": ("compile nothing.onnx --target=qaccel", 1, ("nothing.onnx", "No such file")),
    "model is a folder": ("compile images --target=qaccel", 1, ("'images' is not a file", "give an .onnx")),
    "model is empty": ("compile empty.onnx --target=qaccel", 1, ("'empty.onnx' is empty", "give an .onnx")),
    "model is text": ("compile text.onnx --target=llvm", 1, ("text.onnx", "not an ONNX model")),
    "model is cut off": ("compile cut.onnx --target=qaccel", 1, ("cut.onnx", "truncated")),
    "output twice": ("compile twice.onnx --target=qaccel", 1, ("'y' twice", "export it with a name for each")),
    "input twice": ("compile inputs.onnx --target=qaccel", 1, ("'x'", "single static assignment")),
    "no such operator": ("compile operator.onnx --target=qaccel", 1, ("relu1", "Bernoulli")),
    "operator of another domain": ("compile domain.onnx --target=qaccel", 1, ("com.example", "standard ONNX operators")),
    "opset": ("compile opset.onnx --target=qaccel", 1, ("opset 999", "export it again")),
    # data
    "data is missing": (f"{Q} --calibration-data missing.npz", 1, ("missing.npz", "does not exist")),
    "data is damaged": (f"{Q} --calibration-data damaged.npz", 1, ("damaged.npz", "numpy.savez")),
    "data is empty": (f"{Q} --calibration-data empty.npz", 1, ("no array named 'x'", "holds nothing")),
    "data's key": (f"{Q} --calibration-data key.npz", 1, ("no array named 'x'", "'image'", "[1, 3, 16, 16]")),
    "data's shape": (f"{Q} --calibration-data shape.npz", 1, ("[4, 3, 16, 17]", "needed is [N, 3, 16, 16]")),
    "data's type": (f"{Q} --calibration-data type.npz", 1, ("<U1", "needed are numbers")),
    "data is complex": (f"{Q} --calibration-data complex.npz", 1, ("complex64", "needed are numbers")),
    "data of one name too many": (f"{Q} --calibration-data more.npz", 1, ("'z' is not an input", "expected 'x'")),
    "data has no samples": (f"{Q} --calibration-data none.npz", 1, ("no samples", "at least one")),
    "data is not finite": (f"{Q} --calibration-data nan.npz", 1, ("nan", "must be finite")),
    "no images": (f"{Q} --calibration-data folder", 1, ("'folder'", "no .jpg or .png", "give another")),
    "an image is none": (f"{Q} --calibration-data images", 1, ("not a readable image", "remove it")),
    "inputs are missing": (f"{R} missing.npz", 1, ("missing.npz", "does not exist")),
    "inputs' key": (f"{R} key.npz", 1, ("no array named 'x'", "expected 'x'")),
    "inputs' shape": (f"{R} shape.npz", 1, ("[4, 3, 16, 17]", "needed is [N, 3, 16, 16]")),
    # places
    "output's folder is missing": ("compile model.onnx --target=qaccel -o a/b/out.so", 1, ("'a/b'", "create it first")),
    "output's folder is a file": ("compile model.onnx --target=qaccel -o model.onnx/out.so", 1, ("model.onnx", "create it")),
    "output is a folder": ("compile model.onnx --target=qaccel -o folder.so", 1, ("'folder.so' is a folder", "name a file")),
    "output has another suffix": ("compile model.onnx --target=qaccel -o out.onnx", 1, ("must end in .so or .tar",)),
    "output in a folder of the system": ("compile model.onnx --target=qaccel -o /proc/out.tar", 1, ("/proc", "choose another place")),
    "output's name is too long": (f"compile model.onnx --target=qaccel -o {'x' * 300}.so", 1, ("too long", "choose")),
    "QDQ file has another suffix": (f"{Q} --emit-qdq a.txt", 1, ("--emit-qdq 'a.txt'", "must end in .onnx")),
    "report is a file": (f"{Q} --report model.onnx", 1, ("--report", "'model.onnx' is a file")),
    "program is in a file": (f"{Q} --emit-program model.onnx/deeper", 1, ("--emit-program", "'model.onnx' is a file")),
    "outputs are no npz": (f"{R} inputs.npz -o out.txt", 1, ("'out.txt'", "must end in .npz")),
    "outputs' folder is missing": (f"{R} inputs.npz -o a/out.npz", 1, ("'a'", "create it first")),
    "records are a file": ("tune model.onnx --target llvm -o model.onnx --trials 1", 1, ("is a file", "name another")),
    "records in a folder of others": ("tune model.onnx --target llvm -o images --trials 1", 1, ("other files", "give an")),
    "no records there": (f"{Q} --tuning-records folder", 1, ("'folder' holds no records", "tvmc tune")),
    # modules
    "module is missing": ("inspect missing.so", 1, ("'missing.so' does not exist", "compile one")),
    "module is a folder": ("inspect folder", 1, ("'folder' is a folder", "give the .so or .tar")),
    "module is a model": ("inspect model.onnx", 1, ("neither a .so nor a .tar",)),
    "module is empty": ("inspect empty.so", 1, ("'empty.so' is empty", "copy it again")),
    "module is text": ("inspect text.so", 1, ("'text.so' is no shared library", "give the .so")),
    "module is cut off": ("inspect cut.so", 1, ("'cut.so' is cut off at", "copy it again")),
    "module is of another machine": ("inspect arm.so", 1, ("another kind of machine", "run it there")),
    "module's program is damaged": ("run damaged.so", 1, ("damaged.so", "checksum mismatch", "compile the model again")),
    "module's container is newer": ("run container.so", 1, ("container.so", "77", "compile again")),
    "module's format is newer": ("run format.so", 1, ("format.so", "7", "compile the model again")),
    "tar is text": ("inspect text.tar", 1, ("'text.tar' is no tar archive", "copy it again")),
    "tar is cut off": ("inspect cut.tar", 1, ("'cut.tar' is no tar archive, or is damaged", "copy it again")),
    "tar holds no code": ("inspect other.tar", 1, ("'other.tar' holds no object files", "give the .tar")),
    "tar holds damaged code": ("inspect junk.tar", 1, ("'junk.tar'", "cannot be linked", "copy it again")),
    # evaluate and tune
    "analyze without data": ("analyze model.onnx", 1, ("measures on samples", "add --calibration-data")),
    "analyze bits auto": (
        "analyze model.onnx --calibration-data inputs.npz --bits auto", 1, ("chooses them", "give 8, W4A8, or a plan.json"),
    ),
    "no labels": ("evaluate {so} --data inputs.npz", 1, ("no array 'labels'", "add one integer per sample")),
    "too few labels": ("evaluate {so} --data few.npz", 1, ("3 labels for 4 samples", "give one each")),
    "labels are real": ("evaluate {so} --data real.npz", 1, ("float64", "one integer per sample")),
    "labels of other classes": ("evaluate {so} --data classes.npz", 1, ("10", "classes 0 to 9", "give data")),
    "reference is another model": (
        "evaluate {so} --data labelled.npz --reference several.onnx", 1, ("another model", "a, b", "give the file")
    ),  # fmt: skip
    "reference is no model": ("evaluate {so} --data labelled.npz --reference labelled.npz", 1, ("not an ONNX model",)),
    "two outputs of scores": ("evaluate two.so --data labelled.npz", 1, ("'y' [1, 10], 'z' [1, 10]", "one of them")),
    "trials 0": ("tune model.onnx --target llvm -o records --trials 0", 1, ("--trials 0", "at least 1")),
    "accelerator is tuned": ("tune model.onnx --target qaccel -o records", 1, ("only the CPU's part", "give llvm")),
}  # fmt: skip

PYTHON: dict[str, tuple[Callable[[Place], object], tuple[str, ...]]] = {
    "load nothing": (lambda p: qaccel.load(None), ("module must be a path", "None")),
    "load a number": (lambda p: qaccel.load(5), ("module must be a path", "5")),
    "tracker is a number": (lambda p: qaccel.load("module.so", rpc_tracker=5, rpc_key="k"), ("HOST:PORT", "5")),
    "export to nothing": (lambda p: p.module.export_library(None), ("output must be a path", "None")),
    "compile nothing": (lambda p: qaccel.compile(None), ("model must be", "None")),
    "compile an array": (lambda p: qaccel.compile(p.x), ("model must be", "a float32 array [8, 3, 16, 16]")),
    "bits as an array": (lambda p: p.compile(bits=p.x), ("float32 array", "use 8, W8A16")),
    "bits as true": (lambda p: p.compile(bits=True), ("True", "use 8, W8A16")),
    "drop as true": (lambda p: p.compile(calibration_data=p.x, max_drop=True), ("--max-drop True", "points above 0")),
    "drop as a text": (lambda p: p.compile(calibration_data=p.x, max_drop="1"), ("--max-drop '1'", "points above 0")),
    "drop as no number": (lambda p: p.compile(calibration_data=p.x, max_drop=np.nan), ("--max-drop nan", "points above 0")),
    "cycles as a text": (
        lambda p: p.compile(calibration_data=p.x, bits="auto", max_cycles="9"), ("--max-cycles '9'", "whole number")
    ),
    "bytes as true": (lambda p: p.compile(calibration_data=p.x, max_bytes=True), ("--max-bytes True", "whole number")),
    "widths as texts": (lambda p: p.compile(bits=("8", "16")), ("('8', '16')", "use 8, W8A16")),
    "range of texts": (lambda p: p.compile(input_range=("-1", "1")), ("--input-range ('-1', '1')", "two numbers")),
    "range of truths": (lambda p: p.compile(input_range=(False, True)), ("--input-range (False, True)", "two numbers")),
    "range of no numbers": (lambda p: p.compile(input_range=(np.nan, 1.0)), ("--input-range nan,1", "finite")),
    "requantize as a text": (lambda p: p.compile(requantize="no"), ("--requantize must be True or False", "'no'")),
    "SRAM as a text": (lambda p: qaccel.explore(p.proto, least_sram="1"), ("--least-sram '1'", "per cent")),
    "SRAM as no number": (lambda p: qaccel.explore(p.proto, least_sram=np.nan), ("--least-sram nan", "per cent")),
    "limits of a quantized network": (lambda p: qaccel.compile(p.network, max_drop=1), ("quantized already",)),
    "plan by widths": (lambda p: p.compile(bits={"conv1": (8, 8)}), ("(8, 8)", "weight_bits")),
    "plan of an array": (
        lambda p: p.compile(bits={"conv1": {"weight_bits": p.x, "activation_bits": 8}}), ("float32 array", "4, 8 and 16")
    ),
    "config as an array": (lambda p: p.compile(hw=p.x), ("float32 array", "use one of")),
    "config is given twice": (lambda p: p.compile(hw="qaccel-64", target="qaccel -config=qaccel-64"), ("drop one",)),
    "config without accelerator": (lambda p: p.compile(hw="qaccel-64", target="llvm"), ("drop hw",)),
    "target is a list": (lambda p: p.compile(target=["qaccel"]), ("--target must be a text",)),
    "data is a number": (lambda p: p.compile(calibration_data=5), ("arrays by input name, not 5", "expected 'x'")),
    "data is a list of numbers": (lambda p: p.compile(calibration_data=[1, 2]), ("sample 0", "not 1", "expected 'x'")),
    "data of no sample": (lambda p: p.compile(calibration_data=[]), ("no sample", "give at least one")),
    "a feed of another name": (lambda p: p.compile(calibration_data=[{"x": p.x}, {"y": p.x}]), ("sample 1", "named 'x'")),
    "a feed of another shape": (lambda p: p.compile(calibration_data=(e[:, :8] for e in p.x)), ("sample 0", "needed is")),
    "data of no array": (lambda p: p.compile(calibration_data={"x": None}), ("'x' is no array", "needed are numbers")),
    "data of ragged lists": (lambda p: p.compile(calibration_data={"x": [[1], [1, 2]]}), ("'x'", "give numbers")),
    "range is an array": (lambda p: p.compile(input_range=p.x), ("--input-range a float32 array", "LO,HI")),
    "shape is a letter": (lambda p: p.compile(input_shapes={"x": "a"}), ("'x' must be a tuple", "'a'")),
    "shape is a number": (lambda p: p.compile(input_shapes={"x": 5}), ("'x' must be a tuple", "5")),
    "shape has a fraction": (lambda p: p.compile(input_shapes={"x": (1, 3, 16.5, 16)}), ("whole numbers", "16.5")),
    "shapes are one shape": (lambda p: p.compile(input_shapes=[1, 3, 16, 16]), ("shapes by input name",)),
    "values are a number": (lambda p: p.compile(input_values=5), ("values by input name", "5")),
    "passes are a number": (lambda p: p.compile(passes=5), ("--passes must be names", "5")),
    "records are a number": (lambda p: p.compile(tuning_records=5), ("--tuning-records must be a path",)),
    "preprocess is a number": (lambda p: p.compile(preprocess=5), ("--preprocess must be a text",)),
    "type is NumPy's": (lambda p: p.compile(io_dtype=np.int8), ("--io-dtype", "float32, int8, uint8")),
    "code is a number": (lambda p: p.compile(output="out.so", dump_code=5), ("--dump-code 5", "relax, asm")),
    "code beside nothing": (lambda p: p.compile(dump_code="asm"), ("give its output",)),
    "report is a number": (lambda p: p.compile(report=5), ("--report must be a path",)),
    "quantized already": (lambda p: qaccel.compile(p.network, calibration="mse"), ("quantized already", "qaccel.quantize")),
    "QDQ file of another suffix": (lambda p: p.network.save_onnx("q.txt"), ("'q.txt'", "must end in .onnx")),
    "run nothing": (lambda p: p.module.run(None), ("not None", "expected 'x' [1, 3, 16, 16]")),
    "run a list": (lambda p: p.module.run([p.x]), ("not a list of 1", "expected 'x' [1, 3, 16, 16]")),
    "run another shape": (lambda p: p.module.run(p.x[:, :1]), ("[8, 1, 16, 16]", "needed is [N, 3, 16, 16]")),
    "run one input too many": (lambda p: p.module.run({"x": p.x, "y": p.x}), ("'y' is not an input", "expected 'x'")),
    "run the network on letters": (lambda p: p.network.run({"x": "a"}), ("<U1", "needed are numbers")),
    "evaluate a number": (lambda p: p.module.evaluate(5), ("must be a path", "5")),
    "code of another kind": (lambda p: p.module.code("ptx"), ("'ptx'", "relax, asm")),
    "partition an ONNX model": (lambda p: qaccel.partition_for_qaccel(p.proto), ("tvm.IRModule", "qaccel.compile takes")),
}  # fmt: skip


def files(folder: Path) -> Path:
    """Writes what the uses name; returns the module of model.onnx."""
    model, x = small_models.chain(), small_models.samples(small_models.chain(), 4)["x"]
    onnx.save(model, folder / "model.onnx")
    onnx.save(small_models.several(), folder / "several.onnx")
    (folder / "folder").mkdir()
    (folder / "folder.so").mkdir()
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(b"no picture")
    _models(folder, model)
    plan, config = {"weight_bits": 8, "activation_bits": 8}, (target_dir() / "configs" / "qaccel-64.toml").read_text()
    for name, text in {
        "damaged.json": "{", "unknown.json": json.dumps({"conv9": plan}), "form.json": '{"conv1": 8}',
        "five.json": json.dumps({"conv1": {**plan, "weight_bits": 5}}),
        "broken.toml": config.replace("rows = 8", "rows = 7"),
        "tiny.toml": re.sub(r"(?m)^line_buffer_bytes = \d+", "line_buffer_bytes = 1", config),
    }.items():  # fmt: skip
        (folder / name).write_text(text)
    for name, arrays in {
        "calibration": {"x": x}, "inputs": {"x": x[:1]}, "labelled": {"x": x, "labels": np.arange(4)}, "empty": {},
        "key": {"image": x}, "shape": {"x": np.zeros((4, 3, 16, 17), np.float32)}, "type": {"x": np.full(x.shape, "a")},
        "complex": {"x": x.astype(np.complex64)}, "more": {"x": x, "z": x}, "none": {"x": x[:0]}, "nan": {"x": x * np.nan}, "few": {"x": x, "labels": np.arange(3)},
        "real": {"x": x, "labels": np.zeros(4)}, "classes": {"x": x, "labels": np.full(4, 10)},
    }.items():  # fmt: skip
        np.savez(folder / f"{name}.npz", **arrays)
    (folder / "damaged.npz").write_bytes(b"PK\x03\x04 but no more")
    qaccel.compile(model, output=folder / "module.so")
    qaccel.compile(model, target="llvm", output=folder / "module.tar")
    scores = onnx.load(folder / "model.onnx")
    scores.graph.node.append(helper.make_node("Neg", ["y"], ["z"], "negated"))
    scores.graph.output.append(helper.make_tensor_value_info("z", onnx.TensorProto.FLOAT, [1, 10]))
    qaccel.compile(scores, target="llvm", output=folder / "two.so")
    _modules(folder)
    return folder / "module.so"


def _models(folder: Path, model: onnx.ModelProto) -> None:
    """Damaged models."""
    (folder / "empty.onnx").write_bytes(b"")
    (folder / "text.onnx").write_bytes(b"hello, this is no model")
    (folder / "cut.onnx").write_bytes(model.SerializeToString()[:3000])
    twice, inputs, operator, domain, opset = (onnx.load(folder / "model.onnx") for _ in range(5))
    twice.graph.output.append(twice.graph.output[0])
    inputs.graph.input.append(inputs.graph.input[0])
    operator.graph.node[1].op_type = "Bernoulli"
    domain.graph.node[1].domain = "com.example"
    domain.opset_import.append(helper.make_opsetid("com.example", 1))
    opset.opset_import[0].version = 999
    protos = {"twice": twice, "inputs": inputs, "operator": operator, "domain": domain, "opset": opset}
    for name, proto in protos.items():
        onnx.save(proto, folder / f"{name}.onnx")


def _modules(folder: Path) -> None:
    """Damaged modules."""
    module, archive = (folder / "module.so").read_bytes(), (folder / "module.tar").read_bytes()
    at, version = module.index(b"QACC"), f'{{"format": {FORMAT},'.encode()
    assert module.count(version) == 1

    def changed(place: int, value: int) -> bytes:
        return module[:place] + bytes([value]) + module[place + 1 :]

    for name, data in {
        "empty.so": b"", "text.so": b"no library", "cut.so": module[: len(module) // 2], "arm.so": changed(18, 40),
        "damaged.so": changed(at + 1000, module[at + 1000] ^ 0x40), "container.so": changed(at + 4, 77),
        "format.so": module.replace(version, b'{"format": 7,'), "text.tar": b"no archive", "cut.tar": archive[: len(archive) // 2],
        "zip.tar": gzip.compress(b"no archive"),
    }.items():  # fmt: skip
        (folder / name).write_bytes(data)
    for name, member in {"other.tar": "readme.txt", "junk.tar": "lib.o"}.items():
        with tarfile.open(folder / name, "w:gz") as tar:
            info = tarfile.TarInfo(member)
            info.size = 20
            tar.addfile(info, io.BytesIO(b"this is no code, no."))
