"""Tuned records: a folder with MetaSchedule's JSON database and about.json, which says what they are for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms

from ..errors import QaccelError

ABOUT = "about.json"
WORKLOADS = "database_workload.json"
MEASURED = "database_tuning_record.json"
_IDENTITY = ("kind", "mtriple", "mcpu", "mattr")  # of a target: what decides which schedule is fast


@dataclass(frozen=True, eq=False)
class Records:
    """Measurements for one target. ``database`` finds them by workload: a function before it is scheduled."""

    folder: Path
    database: ms.database.Database

    def best(self, function: tirx.PrimFunc) -> s_tir.Schedule | None:
        """The function with the fastest schedule that was measured for it, None if none was."""
        mod = workload_of(function)
        if not self.database.has_workload(mod):
            return None
        record = self.database.query_tuning_record(mod, tvm.target.Target({"kind": "llvm"}), "main")
        if record is None:
            return None
        schedule = s_tir.Schedule(mod)
        record.trace.apply_to_schedule(schedule, remove_postproc=False)
        return schedule


def workload_of(function: tirx.PrimFunc) -> tvm.IRModule:
    """The function as the database keeps it."""
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main").without_attr("op_pattern")})


def identity(target: tvm.target.Target) -> dict[str, Any]:
    """What of a target its records must agree on."""
    values = {"kind": "llvm", **{str(key): value for key, value in target.attrs.items()}}
    return {key: _plain(values[key]) for key in _IDENTITY if key in values}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else sorted(str(each) for each in value)


def create_records(folder: Path, target: tvm.target.Target) -> Records:
    """The records in ``folder``, which is made if it is not there; a line that was cut off is dropped.

    Raises QaccelError if the folder holds records of another target or another TVM.
    """
    about = folder / ABOUT
    if about.exists():
        return open_records(folder, target)
    if folder.exists() and any(folder.iterdir()):
        raise QaccelError(f"--output '{folder}' holds other files than records; give an empty or a new folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        about.write_text(json.dumps({"tvm": tvm.__version__, "target": identity(target)}) + "\n", encoding="utf-8")
    except OSError as error:
        raise QaccelError(f"cannot write records into '{folder}': {error.strerror}") from error
    return _opened(folder)


def open_records(folder: Path, target: tvm.target.Target) -> Records:
    """Raises QaccelError if ``folder`` holds no records, damaged ones, or those of another target or TVM."""
    made_for = _about(folder)
    if made_for["tvm"] != tvm.__version__:
        raise QaccelError(
            f"records '{folder}' are of TVM {made_for['tvm']}, this is {tvm.__version__}; tune again with tvmc tune"
        )
    if made_for["target"] != identity(target):
        raise QaccelError(
            f"records '{folder}' are for {_words(made_for['target'])}, the target is {_words(identity(target))}; "
            "compile for that one or tune for this one"
        )
    return _opened(folder)


def shipped_records(target: tvm.target.Target) -> list[Records]:
    """Those that came with the package and are for this target and this TVM."""
    here = Path(__file__).resolve().parents[1]
    folders = [here / "schedules" / "records", here.parents[1] / "schedules" / "records"]
    found = []
    for folder in sorted(path.parent for place in folders if place.is_dir() for path in place.glob(f"*/{ABOUT}")):
        made_for = _about(folder)
        if made_for["tvm"] == tvm.__version__ and made_for["target"] == identity(target):
            found.append(_opened(folder))
    return found


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {"tvm": str(about["tvm"]), "target": dict(about["target"])}
    except OSError:
        raise QaccelError(f"'{folder}' holds no records; tvmc tune writes them") from None
    except (ValueError, KeyError, TypeError):
        raise QaccelError(f"records '{folder}' are damaged: {ABOUT} is not what tvmc tune writes") from None


def _words(target: dict[str, Any]) -> str:
    flags = [f"-{key}={value}" for key, value in target.items() if key != "kind"]
    return f"'{' '.join([target.get('kind', 'llvm'), *flags])}'"


def _opened(folder: Path) -> Records:
    for name in (WORKLOADS, MEASURED):
        path = folder / name
        if path.exists():
            data = path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            if whole != data:
                path.write_bytes(whole)
    try:
        database = ms.database.JSONDatabase(work_dir=str(folder), module_equality="structural")
    except (RuntimeError, ValueError, TypeError) as error:
        raise QaccelError(f"records '{folder}' are damaged: {' '.join(str(error).split())[:200]}") from error
    return Records(folder, database)
