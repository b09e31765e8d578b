"""A compiled module on another machine: found through TVM's RPC tracker, uploaded, run there."""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Any

from tvm import rpc
from tvm.runtime.vm import VirtualMachine

from ..errors import UserError, one_line, shown
from ..metadata.read import check_metadata, read_metadata
from .execute import Runner, check_path

TRACKER_SECONDS = 10.0  # for each answer of the tracker; a server that is in use is asked for five times


def load_remote(path: str | Path, tracker: str, key: str) -> Runner:
    """The module on a server of ``key`` that the tracker at ``tracker`` (HOST:PORT) gives out.

    Raises UserError if the module is missing or damaged, nothing answers there, the tracker has no server of that key
    or none becomes free, or the server cannot load the module.
    """
    path = check_path(path)
    session = _session(tracker, key)
    try:
        session.upload(str(path.resolve()))
        module = session.load_module(path.name)
        vm = VirtualMachine(module, session.cpu(0))
        metadata = check_metadata(read_metadata(vm), str(path))
    except (RuntimeError, ValueError, OSError, AttributeError) as error:
        raise UserError(
            f"the RPC server of key '{key}' cannot load '{path}': {one_line(error)}; it needs this qaccel and TVM installed"
        ) from error
    return Runner(metadata, module, vm, session.cpu(0))


def _session(tracker: str, key: str) -> Any:
    host, port = _address(tracker)
    before = socket.getdefaulttimeout()
    logging.disable(logging.WARNING)  # TVM's client logs each try
    try:
        socket.create_connection((host, port), TRACKER_SECONDS).close()
        socket.setdefaulttimeout(TRACKER_SECONDS)
        client = rpc.connect_tracker(host, port)
        keys = sorted({str(entry["key"]).removeprefix("server:") for entry in client.summary()["server_info"]})
        if key not in keys:
            known = ", ".join(f"'{each}'" for each in keys) or "none"
            raise UserError(
                f"--rpc-key '{key}': the tracker at {tracker} has no server of that key; it has {known}: start one with "
                f"python -m tvm.exec.rpc_server --tracker {tracker} --key {key}"
            )
        return client.request(key)
    except (OSError, RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--rpc-tracker {tracker}: {_reason(error)}; start a tracker with python -m tvm.exec.rpc_tracker --host HOST "
            "--port PORT, or wait until its servers are free"
        ) from error
    finally:
        socket.setdefaulttimeout(before)
        logging.disable(logging.NOTSET)


def _reason(error: BaseException) -> str:
    if isinstance(error, OSError):
        return f"nothing answers there ({error.strerror or error})"
    return f"what answers there is no tracker that has a free server ({one_line(error)})"


def _address(text: Any) -> tuple[str, int]:
    if not isinstance(text, str):
        raise UserError(f"--rpc-tracker must be a text, HOST:PORT; it is {shown(text)}")
    host, separator, port = text.rpartition(":")
    if not separator or not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UserError(f"--rpc-tracker '{text}' is not HOST:PORT, such as 127.0.0.1:9190")
    return host, int(port)
