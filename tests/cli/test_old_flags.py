"""Flags of TVM's tvmc (as of 0.19, its last): each kept or refused with what replaces it, as docs/tvmc_flags.md says."""

import re
from pathlib import Path

import numpy as np
import onnx
import pytest

import qaccel
import small_models
from qaccel.cli.main import build_parser, main

PAGE = Path(__file__).resolve().parents[2] / "docs" / "tvmc_flags.md"
# By verb, from the parsers of TVM 0.19's python/tvm/driver/tvmc.
OLD = {
    "compile": "--cross-compiler --cross-compiler-options --desired-layout --desired-layout-ops --disabled-pass --dump-code "
    "--dump-offloads --executor --executor-graph-link-params --executor-aot-interface-api --experimental-tvm-extension "
    "--input-shapes --mixed-precision --mixed-precision-ops --mixed-precision-calculation-type --mixed-precision-acc-type "
    "--model-format --module-name -o --output -f --output-format -O --opt-level --pass-config --print-ir-after "
    "--print-ir-before --print-pass-times --runtime --runtime-cpp-system-lib --target --target-llvm-mcpu "
    "--target-llvm-mattr --tuning-records --use-vm -v --workspace-pools --workspace-pools-size-bytes --config",
    "run": "--device --end-to-end --fill-mode -i --inputs -o --outputs --print-time --print-top --profile --repeat --number "
    "--rpc-key --rpc-tracker --benchmark --options --project-dir --list-options -v --config",
    "tune": "--early-stopping --min-repeat-ms --model-format --number -o --output --parallel --repeat --rpc-key --rpc-tracker "
    "--target --target-host --timeout --trials --tuner --tuning-records --desired-layout --enable-autoscheduler "
    "--input-shapes --tasks --cache-line-bytes --num-cores --vector-unit-bytes --max-shared-memory-per-block "
    "--max-local-memory-per-block --max-threads-per-block --max-vthread-extent --warp-size --include-simple-tasks "
    "--log-estimated-latency --hardware-hints -v --config",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    proto = small_models.chain()
    onnx.save(proto, tmp_path / "model.onnx")
    np.savez(tmp_path / "calibration.npz", **small_models.samples(proto))
    np.savez(tmp_path / "inputs.npz", **small_models.samples(proto, 3))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    proto = small_models.chain()
    path = tmp_path_factory.mktemp("old_flags") / "module.so"
    qaccel.compile(proto, calibration_data=small_models.samples(proto), output=path)
    return path


def tvmc(capfd: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    capfd.readouterr()
    try:
        code = main(list(arguments))
    except SystemExit as stop:
        code = int(stop.code or 0)
    return code, *capfd.readouterr()


def kept(verb: str, flag: str) -> bool:
    actions = build_parser()._subparsers._group_actions[0].choices[verb]._option_string_actions
    return flag in actions


@pytest.mark.parametrize(("verb", "flag"), [(verb, flag) for verb, flags in OLD.items() for flag in flags.split()])
def test_every_old_flag_is_kept_or_refused_with_a_way_out(verb: str, flag: str, capfd: pytest.CaptureFixture[str]):
    if kept(verb, flag):
        return
    code, out, err = tvmc(capfd, verb, "model.onnx", f"{flag}=1" if flag.startswith("--") else flag, "--target=llvm")
    line = err.splitlines()[-1]
    assert (code, out) == (2, "")
    assert f"{flag} of TVM's tvmc is gone: " in line
    assert re.search(r"drop it|give|use|stand in|write the flags|leave it out", line), line


def test_the_page_says_of_each_flag_what_the_parser_does():
    said: dict[tuple[str, str], str] = {}
    for row in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in row.split(" | ")] if row.startswith("| ") else []
        if len(cells) == 4 and cells[2] in ("kept", "gone"):
            verbs = OLD if cells[0] == "| all" else cells[0].removeprefix("| ").split(", ")
            said |= {(verb, flag): cells[2] for verb in verbs for flag in re.findall(r"`(-[\w-]+)`", cells[1])}
    assert len(said) > 60
    for (verb, flag), word in said.items():
        assert kept(verb, flag) == (word == "kept"), (verb, flag)
    families = (
        "--executor-",
        "--runtime-",
        "--target-llvm",
        "--workspace-pools-",
        "--mixed-precision-",
        "--max-",
        "--warp",
    )
    for verb, flags in OLD.items():
        for flag in flags.split():
            assert (verb, flag) in said or flag.startswith(families), (verb, flag)


def test_verbose_before_the_verb(folder: Path, capfd: pytest.CaptureFixture[str]):
    for words in (("-v", "compile"), ("compile", "-v")):
        code, out, err = tvmc(capfd, *words, "model.onnx", "--target=llvm", "-o", "m.tar")
        assert code == 0 and "schedule: " in out and "qaccel.stages: " in err


def test_output_formats(folder: Path, capfd: pytest.CaptureFixture[str]):
    assert tvmc(capfd, "compile", "model.onnx", "--target=llvm", "-f", "tar")[0] == 0
    assert (folder / "module.tar").stat().st_size > 0
    for words, says in (
        (("-f", "mlf"), "Model Library Format"),
        (("-f", "elf"), "use so or tar"),
        (("-f", "tar", "-o", "a.so"), "does not end in .tar"),
        (("--cross-compiler", "no-such-compiler", "-o", "a.so"), "is not installed"),
        (("--cross-compiler", "g++", "-o", "a.tar"), "links a .so"),
        (("--cross-compiler-options=-s", "-o", "a.so"), "give one"),
        (("--dump-offloads", "-", "-o", "a.so"), "add qaccel"),
    ):
        code, _, err = tvmc(capfd, "compile", "model.onnx", "--target=llvm", *words)
        assert code == 1 and says in err, (words, err)
    assert {path.name for path in folder.iterdir()} == {"model.onnx", "calibration.npz", "inputs.npz", "module.tar"}


def test_a_cross_compiler_links_with_its_flags(folder: Path, capfd: pytest.CaptureFixture[str]):
    wrapper = folder / "linker"
    wrapper.write_text('#!/bin/sh\necho "$@" >> linked\nexec g++ "$@"\n')
    wrapper.chmod(0o755)
    code, _, err = tvmc(
        capfd, "compile", "model.onnx", "--target=llvm", "-o", "m.so", "--cross-compiler", "./linker",
        "--cross-compiler-options=-Wl,--build-id=none -s",
    )  # fmt: skip
    assert code == 0, err
    assert "-Wl,--build-id=none -s" in (folder / "linked").read_text()
    assert tvmc(capfd, "run", "m.so")[0] == 0


def test_dump_offloads_names_every_layer(folder: Path, capfd: pytest.CaptureFixture[str]):
    onnx.save(small_models.interrupted(), folder / "interrupted.onnx")
    code, out, err = tvmc(
        capfd, "compile", "interrupted.onnx", "--target=qaccel", "-o", "m.tar", "--dump-offloads", "offloads.tsv"
    )  # fmt: skip
    assert code == 0 and "written: m.tar, offloads.tsv" in out, err
    report = qaccel.load(folder / "m.tar").report
    rows = [line.split("\t") for line in (folder / "offloads.tsv").read_text().splitlines()]
    names = [[layer["name"], *([layer["post"]["name"]] if layer["post"] else [])] for layer in report["layers"]]
    assert [row[1] for row in rows if row[0] == "accelerator"] == sum(names, [])
    assert [row[1:3] for row in rows if row[0] == "CPU"] == [[each["name"], each["op"]] for each in report["fallback"]]
    assert report["fallback"]


def test_values_for_passes(folder: Path, capfd: pytest.CaptureFixture[str]):
    base = ("compile", "model.onnx", "--target=llvm", "-o", "m.tar")
    assert tvmc(capfd, *base)[0] == 0
    plain = (folder / "m.tar").read_bytes()
    assert tvmc(capfd, *base, "--pass-config", "tirx.disable_vectorize=1")[0] == 0
    assert (folder / "m.tar").read_bytes() != plain
    for given, says in (
        ("tirx.disable_vectorise=1", "did you mean 'tirx.disable_vectorize'"),
        ("tirx.disable_vectorize=7", "must be 0, 1, true or false"),
        ("tirx.vtcm_capacity=much", "must be a whole number"),
        ("tirx.add_lower_pass=x", "must be JSON"),
        ("tirx.disable_vectorize", "must have the form NAME=VALUE"),
    ):
        code, _, err = tvmc(capfd, *base, "--pass-config", given)
        assert code == 1 and says in err, err


def test_passes_left_out_and_their_times(folder: Path, capfd: pytest.CaptureFixture[str]):
    base = ("compile", "model.onnx", "--target=llvm", "-o", "m.tar", "--print-pass-times")
    code, out, _ = tvmc(capfd, *base)
    assert code == 0 and "FuseOps: " in out and re.search(r"^link +\d+\.\d\d s$", out, re.M)
    code, out, _ = tvmc(capfd, *base, "--disabled-pass", "StaticPlanBlockMemory,NoSuchPass")
    assert code == 0 and "StaticPlanBlockMemory: " not in out
    assert "warning: --disabled-pass NoSuchPass: no pass of that name came up" in out
    assert "warning: --disabled-pass StaticPlanBlockMemory" not in out


def test_fill_modes(module: Path, folder: Path, capfd: pytest.CaptureFixture[str]):
    for mode in ("zeros", "ones"):
        code, out, _ = tvmc(capfd, "run", str(module), "--fill-mode", mode, "-o", f"{mode}.npz")
        assert code == 0 and f"x filled with {mode}" in out
        spec = qaccel.load(module).metadata["inputs"][0]
        x = np.full(spec["shape"], mode == "ones", spec["dtype"])
        np.testing.assert_array_equal(np.load(folder / f"{mode}.npz")["y"], qaccel.load(module).run(x)["y"])
    assert "did you mean 'zeros'" in tvmc(capfd, "run", str(module), "--fill-mode", "zeroes")[2]
    assert "use cpu" in tvmc(capfd, "run", str(module), "--device", "cuda")[2]


def test_the_largest_values_and_where_they_are(module: Path, folder: Path, capfd: pytest.CaptureFixture[str]):
    code, out, _ = tvmc(
        capfd, "run", str(module), "-i", "inputs.npz", "-o", "o.npz", "--print-top", "2", "--print-time", "--repeat", "2",
        "--number", "3",
    )  # fmt: skip
    outputs = np.load(folder / "o.npz")["y"]
    lines = [line for line in out.splitlines() if "top 2 of sample" in line]
    assert code == 0 and len(lines) == len(outputs) == 3 and "6 runs" in out
    for line, row in zip(lines, outputs, strict=True):
        places = [int(place) for place in re.findall(r"(\d+): ", line.split("sample ", 1)[1].split(": ", 1)[1])]
        assert places == list(np.argsort(-row, kind="stable")[:2])


TUNE = ("tune", "model.onnx", "--target=llvm", "--trials", "4", "-o")


@pytest.mark.wide
def test_tuning_chosen_tasks_with_earlier_records(folder: Path, capfd: pytest.CaptureFixture[str]):
    code, out, _ = tvmc(capfd, *TUNE, "unused", "--tasks", "list")
    tasks = out.splitlines()
    assert code == 0 and len(tasks) > 1 and not (folder / "unused").exists()
    code, out, err = tvmc(capfd, *TUNE, "first", "--tasks", "0")
    assert code == 0 and out.startswith("4 measurements of 1 functions"), err
    code, out, err = tvmc(capfd, *TUNE, "second", "--tasks", "0", "--tuning-records", "first")
    assert code == 0 and out.startswith("4 measurements of 1 functions"), err
    assert (folder / "second" / "database_tuning_record.json").read_text().count("\n") >= 4
    code, out, _ = tvmc(
        capfd,
        "tune",
        "model.onnx",
        "--target=llvm",
        "--trials",
        "400",
        "-o",
        "first",
        "--tasks",
        "0",
        "--early-stopping",
        "1",
    )
    assert code == 0 and int(out.split()[0]) < 400
    for words, says in (
        (("--tasks", "99"), "there are tasks 0 to"),
        (("--tasks", "x"), "must be all, list, or positions"),
        (("--early-stopping", "0"), "at least 1"),
        (("--parallel", "2"), "is for servers of a tracker"),
        (("--timeout", "2"), "is for servers of a tracker"),
        (("--tuning-records", "nowhere"), "holds no records"),
    ):
        code, _, err = tvmc(capfd, *TUNE, "first", *words)
        assert code == 1 and says in err, err
