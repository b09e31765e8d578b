"""Calibrated ranges kept by content, so that trying other bits does not measure again.

An entry is a JSON file named after the hash of model, samples and method. What cannot be read is measured again and
written anew; what cannot be written is not kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import math
import os
import tempfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import tvm

from ...model import Model
from .channels import Channels
from .ranges import Cut, Ranges

log = logging.getLogger(__name__)
FORMAT = 7  # of the entries, and of how ranges are measured: raise it when either changes
MOST_ENTRIES = 200


def folder() -> Path:
    """QACCEL_CACHE, or qaccel in the user's cache folder."""
    given = os.environ.get("QACCEL_CACHE")
    if given:
        return Path(given)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "qaccel"


def key_of(model: Model, data: Mapping[str, np.ndarray], method: str) -> str:
    """Hash of everything that ranges depend on."""
    digest = hashlib.sha256(f"{FORMAT} {method}".encode())
    digest.update(repr(model.inputs).encode())
    digest.update(tvm.ir.save_json(model.mod).encode())  # weights and the names of nodes are in it
    for name in sorted(data):
        array = np.ascontiguousarray(data[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(memoryview(array).cast("B") if array.size else b"")
    return digest.hexdigest()


def load(key: str) -> Ranges | None:
    """The ranges under a key; None where there are none, or the entry is damaged."""
    entry = load_entry(key)
    try:
        values = {str(name): (float(lo), float(hi)) for name, (lo, hi) in entry["values"].items()}
        means = {str(name): np.array(each, np.float64) for name, each in entry["means"].items()}
        channels = {
            str(name): Channels(*(np.array(row, np.float64) for row in each))
            for name, each in entry["channels"].items()
        }
        cuts = {str(name): Cut(*map(float, each)) for name, each in entry["cuts"].items()}
        headroom, samples = float(entry["headroom"]), int(entry["samples"])
        ranges = Ranges(values, str(entry["method"]), samples, means, headroom, cuts, channels=channels)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    if not ranges.headroom >= 1:
        return None
    if not all(each.ndim == 1 and np.isfinite(each).all() for each in means.values()):
        return None
    if not all(each.is_sound for each in channels.values()):
        return None
    if not all(math.isfinite(lo) and math.isfinite(hi) and lo <= 0 <= hi for lo, hi in values.values()):
        return None
    return ranges


def load_entry(key: str) -> Any:
    """The JSON value under a key; None where there is none that can be read."""
    path = folder() / f"{key}.json"
    try:
        entry = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    log.info("what is asked of the same model and samples is known: %s", path)
    with contextlib.suppress(OSError):
        os.utime(path)  # the least recently used entries go first
    return entry


def store(key: str, ranges: Ranges) -> None:
    """Keeps ranges under a key."""
    entry = {
        "values": {k: list(v) for k, v in ranges.values.items()},
        "method": ranges.method,
        "samples": ranges.samples,
        "headroom": ranges.headroom,
        "means": {k: v.tolist() for k, v in ranges.means.items()},
        "channels": {k: [getattr(v, f.name).tolist() for f in fields(v)] for k, v in ranges.channels.items()},
        "cuts": {k: [v.share, v.least, v.most] for k, v in ranges.cuts.items()},
    }
    store_entry(key, entry)


def store_entry(key: str, entry: Any) -> None:
    """Keeps a JSON value under a key; the oldest entries make room."""
    with contextlib.suppress(OSError):
        folder().mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=folder(), suffix=".tmp")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(entry, file)
            os.replace(name, folder() / f"{key}.json")
        except OSError:
            with contextlib.suppress(OSError):
                os.unlink(name)
            raise
        entries = sorted(folder().glob("*.json"), key=lambda path: path.stat().st_mtime)
        for path in entries[:-MOST_ENTRIES]:
            path.unlink(missing_ok=True)
