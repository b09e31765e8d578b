"""What a module says of itself, read where it is loaded; a machine that only runs modules needs no compiler for it."""

from __future__ import annotations

import json
from typing import Any

from ..errors import UserError
from ..machine.isa import isa
from ..model import TensorSpec
from ..version import __version__

# What a program that runs the module needs to know, and all else: a report read as JSON takes more memory than a small network.
METADATA_FUNCTION, DETAILS_FUNCTION = "qaccel_metadata", "qaccel_details"
TO_RUN = frozenset(
    ("format", "qaccel", "tvm", "isa_version", "model", "target", "inputs", "outputs", "cpu_features")
)  # the entries of the first
FORMAT = 4  # of the metadata and of how a module is called; raised when either changes


def read_metadata(vm: Any) -> dict[str, Any] | None:
    """What ``build`` was given, from TVM's virtual machine of a module; None if the module has no such function."""
    metadata = _entries(vm, METADATA_FUNCTION)
    if metadata is None:
        return None
    return metadata | (_entries(vm, DETAILS_FUNCTION) or {})  # before format 4 there were none


def _entries(vm: Any, name: str) -> dict[str, Any] | None:
    try:
        function = vm[name]
    except (AttributeError, ValueError, RuntimeError):
        return None
    return json.loads(str(function()))


def check_metadata(metadata: dict[str, Any] | None, origin: str) -> dict[str, Any]:
    """The same metadata. Raises UserError if there is none, or it is of another version; ``origin`` names the module."""
    if metadata is None:
        raise UserError(
            f"'{origin}' is a TVM module, but not one that qaccel compiled; run it with tvm.relax.VirtualMachine"
        )
    for key, ours, what in (("format", FORMAT, "module format"), ("isa_version", isa().version, "ISA version")):
        if metadata.get(key) != ours:
            raise UserError(
                f"'{origin}' was built by qaccel {metadata.get('qaccel', 'of unknown version')} with {what} {metadata.get(key)}, "
                f"this is qaccel {__version__} with {what} {ours}; compile the model again"
            )
    return metadata


def specs(entries: list[dict[str, Any]]) -> tuple[TensorSpec, ...]:
    """The inputs or outputs in metadata as specs."""
    return tuple(TensorSpec(entry["name"], tuple(entry["shape"]), entry["dtype"]) for entry in entries)
