"""Tuned records: a folder with MetaSchedule's JSON database and about.json, which says what they are for."""

from __future__ import annotations

import fcntl
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import tvm
from tvm import s_tir, tirx
from tvm.s_tir import meta_schedule as ms
from tvm_ffi import structural_hash

from ..errors import UserError

ABOUT = "about.json"
WORKLOADS = "database_workload.json"
MEASURED = "database_tuning_record.json"
BEST = "best.json"
LOCK = ".lock"
PLAN = "qaccel_plan"  # annotation of a main block: what was chosen for it
FAILED_SECONDS = 1e9  # of a candidate that could not be measured
_IDENTITY = ("kind", "mtriple", "mcpu", "mattr")  # of a target: what decides which schedule is fast


@dataclass(frozen=True, eq=False)
class Records:
    """Measurements for one target. ``best``: by workload, a function before it is scheduled, the fastest plan as text.

    ``database`` holds all that was measured; None for records that come with the package, which have the best alone.
    """

    folder: Path
    best: Mapping[str, str]
    database: ms.database.Database | None
    lock: Any = None  # held while measurements are added

    def __repr__(self) -> str:
        return f"<Records of {len(self.best)} functions in '{str(self.folder)[-120:]}'>"

    def plan(self, function: tirx.PrimFunc) -> str | None:
        """The fastest plan that was measured for the function, None if none was."""
        return self.best.get(key_of(workload_of(function)))


def key_of(workload: tvm.IRModule) -> str:
    """What a workload is found by."""
    return f"{structural_hash(workload) & (1 << 64) - 1:016x}"


def plan_of(trace: s_tir.schedule.Trace) -> str:
    """The plan that a schedule was made by, empty if by none."""
    for instruction in trace.insts:
        if instruction.kind.name == "Annotate" and str(instruction.attrs[0]) == PLAN:
            return str(instruction.inputs[1])
    return ""


def write_best(folder: Path, plans: Mapping[str, str | None]) -> None:
    """Adds the fastest plans by key of their workload to best.json; None takes out what is no better than the rule's own.

    With about.json beside it that is all that has to be shipped.
    """
    path = folder / BEST
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    best = {key: plan for key, plan in {**known, **plans}.items() if plan is not None}
    path.write_text(json.dumps(best, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def _best_of(database: ms.database.Database) -> dict[str, str]:
    fastest: dict[str, tuple[float, str]] = {}
    for record in database.get_all_tuning_records():
        plan = plan_of(record.trace)
        if plan and record.run_secs and float(record.run_secs[0]) < FAILED_SECONDS:
            key, found = key_of(record.workload.mod), (float(record.run_secs[0]), plan)
            fastest[key] = min(fastest.get(key, found), found)
    return {key: plan for key, (_, plan) in fastest.items()}


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
    """The records in ``folder``, to add to; it is made if it is not there, and what was half-written is dropped.

    Raises UserError if the folder holds records of another target or another TVM, or another process adds to it.
    """
    about = folder / ABOUT
    if not about.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--output '{folder}' holds other files than records; give an empty or a new folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about.write_text(json.dumps({"tvm": tvm.__version__, "target": identity(target)}) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write records into '{folder}': {error.strerror}") from error
    lock = _locked(folder)
    return replace(open_records(folder, target), lock=lock)


def _locked(folder: Path) -> IO[str]:
    try:
        lock = (folder / LOCK).open("w", encoding="utf-8")
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise UserError(f"records '{folder}' are being added to by another tvmc tune; wait for it") from None
    return lock


def open_records(folder: Path, target: tvm.target.Target) -> Records:
    """Raises UserError if ``folder`` holds no records, damaged ones, or those of another target or TVM."""
    made_for = _about(folder)
    if made_for["tvm"] != tvm.__version__:
        raise UserError(
            f"records '{folder}' are of TVM {made_for['tvm']}, this is {tvm.__version__}; tune again with tvmc tune"
        )
    if made_for["target"] != identity(target):
        raise UserError(
            f"records '{folder}' are for {_words(made_for['target'])}, the target is {_words(identity(target))}; "
            "compile for that one or tune for this one"
        )
    return _opened(folder)


def records_for(folder: Path | None, target: tvm.target.Target) -> list[Records]:
    """The records in ``folder``, if one is given, then those that come with the package; errors as `open_records`."""
    own = [open_records(folder, target)] if folder is not None else []
    return own + shipped_records(target)


def shipped_records(target: tvm.target.Target) -> list[Records]:
    """Those that came with the package and are for this target and this TVM."""
    shipped = Path(__file__).resolve().parent / "records"
    found = []
    for folder in sorted(path.parent for path in shipped.glob(f"*/{ABOUT}")):
        made_for = _about(folder)
        if made_for["tvm"] == tvm.__version__ and made_for["target"] == identity(target):
            found.append(_opened(folder))
    return found


def _about(folder: Path) -> dict[str, Any]:
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        return {"tvm": str(about["tvm"]), "target": dict(about["target"])}
    except OSError:
        raise UserError(f"'{folder}' holds no records; tvmc tune writes them") from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"records '{folder}' are damaged: {ABOUT} is not what tvmc tune writes") from None


def _words(target: dict[str, Any]) -> str:
    flags = [f"-{key}={value}" for key, value in target.items() if key != "kind"]
    return f"'{' '.join([target.get('kind', 'llvm'), *flags])}'"


def _opened(folder: Path) -> Records:
    if (folder / BEST).exists() and not (folder / MEASURED).exists():
        return Records(folder, json.loads((folder / BEST).read_text(encoding="utf-8")), None)
    _mend(folder)
    try:
        database = ms.database.JSONDatabase(work_dir=str(folder), module_equality="structural")
    except (RuntimeError, ValueError, TypeError) as error:
        raise UserError(f"records '{folder}' are damaged: {' '.join(str(error).split())[:200]}") from error
    return Records(folder, _best_of(database), database)


def _mend(folder: Path) -> None:
    """Takes out what a tune that was killed left half-written: TVM dies of such a line, or of what refers to it."""
    workloads, measured = (_lines(folder / name) for name in (WORKLOADS, MEASURED))
    whole = next((k for k, (_, value) in enumerate(workloads) if value is None), len(workloads))
    good = [
        text for text, value in measured
        if isinstance(value, list) and len(value) == 2 and isinstance(value[0], int) and value[0] < whole
    ]  # fmt: skip
    for name, before, kept in (
        (WORKLOADS, len(workloads), [text for text, _ in workloads[:whole]]), (MEASURED, len(measured), good),
    ):  # fmt: skip
        if len(kept) != before:
            (folder / name).write_text("".join(f"{text}\n" for text in kept), encoding="utf-8")


def _lines(path: Path) -> list[tuple[str, Any]]:
    """The lines of a file and what they say; None for one that is no JSON. A last line without its end counts as none."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [(line, _parsed(line)) for line in lines] + ([(rest, None)] if rest else [])


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
