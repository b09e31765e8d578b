"""`tvmc run --rpc-tracker --rpc-key`: TVM's own tracker and server in other processes, which find the backend by themselves."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import qaccel
import small_models
from processes import environment
from qaccel.cli.main import main
from qaccel.errors import QaccelError
from qaccel.run.remote import load_remote

KEY = "board"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def tracker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a tracker with one server of KEY."""
    folder = tmp_path_factory.mktemp("server")
    port, server_port = free_port(), free_port()
    python, address = [sys.executable, "-m"], f"127.0.0.1:{port}"
    commands = [
        [*python, "tvm.exec.rpc_tracker", "--host", "127.0.0.1", "--port", str(port), "--port-end", str(port + 1)],
        [
            *python, "tvm.exec.rpc_server", "--host", "127.0.0.1", "--port", str(server_port),
            "--port-end", str(server_port + 9), "--tracker", address, "--key", KEY,
        ],
    ]  # fmt: skip
    started = []
    try:
        for command in commands:
            started.append(
                subprocess.Popen(
                    command, cwd=folder, env=environment(folder), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )
        wait_for_server(address)
        yield address
    finally:
        for process in started:
            process.terminate()
        for process in started:
            process.wait(30)


def wait_for_server(address: str) -> None:
    from tvm import rpc

    host, port = address.split(":")
    for _ in range(300):
        try:
            socket.create_connection((host, int(port)), 1).close()
            if rpc.connect_tracker(host, int(port)).summary()["server_info"]:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("no server within 30 s")


@pytest.mark.wide
@pytest.mark.parametrize("suffix", ["so", "tar"])
def test_run_gives_what_this_machine_gives(tracker: str, tmp_path: Path, suffix: str, capfd):
    model = small_models.interrupted()  # two subgraphs with the CPU between them
    samples = small_models.samples(model, 3)
    path = qaccel.compile(model, calibration_data=samples).export_library(tmp_path / f"module.{suffix}")
    np.savez(tmp_path / "in.npz", **samples)
    arguments = ["run", str(path), "--inputs", str(tmp_path / "in.npz"), "--print-time"]
    assert main([*arguments, "--outputs", str(tmp_path / "here.npz")]) == 0
    capfd.readouterr()
    there = ["--outputs", str(tmp_path / "there.npz"), "--rpc-tracker", tracker, "--rpc-key", KEY]
    assert main([*arguments, *there]) == 0
    out, err = capfd.readouterr()
    assert f"on '{KEY}', transfers included" in out and err == ""
    here, remote = np.load(tmp_path / "here.npz"), np.load(tmp_path / "there.npz")
    assert here.files == remote.files
    assert all(np.array_equal(here[name], remote[name]) for name in here.files)


@pytest.mark.wide
def test_errors_are_one_line(tracker: str, tmp_path: Path, capfd):
    path = tmp_path / "module.so"
    path.write_bytes(b"no library")
    for address, key, text in (
        (tracker, "nobody", f"no server of that key; it has '{KEY}'"),
        (f"127.0.0.1:{free_port()}", KEY, "nothing answers there"),
        ("somewhere", KEY, "is not HOST:PORT"),
        (tracker, KEY, "cannot load"),
    ):
        with pytest.raises(QaccelError, match=text) as caught:
            load_remote(path, address, key)
        assert "\n" not in str(caught.value)
    assert main(["run", str(path), "--inputs", "in.npz", "--rpc-key", KEY]) == 1
    assert "belong together" in capfd.readouterr().err
