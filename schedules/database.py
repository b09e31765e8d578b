"""Tuned records: which plan was measured to be the fastest for each function, kept in a folder for one target.

Such a folder holds about.json (TVM's version and the target), MetaSchedule's database of all measurements, and best.json (the
fastest plans alone). Records that come with the package consist of about.json and best.json.
"""

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
PLAN = "qaccel_plan"  # the annotation of a main block with the plan, as text, by which it was scheduled
FAILED_SECONDS = 1e9  # stored for a candidate that could not be measured
_IDENTITY = ("kind", "mtriple", "mcpu", "mattr")  # the attributes of a target that decide which schedule is fast


@dataclass(frozen=True, eq=False)
class Records:
    """The records of one folder.

    ``best``: the fastest plan, as text, by the key of a workload; a workload is a function before it is scheduled.
    ``database``: all measurements; None for records that come with the package.
    """

    folder: Path
    best: Mapping[str, str]
    database: ms.database.Database | None
    lock: Any = None  # the locked file that keeps other processes from adding measurements

    def __repr__(self) -> str:
        return f"<Records of {len(self.best)} functions in '{str(self.folder)[-120:]}'>"

    def plan(self, function: tirx.PrimFunc) -> str | None:
        """The fastest measured plan for the function, None if it was never measured."""
        return self.best.get(key_of(workload_of(function)))


def key_of(workload: tvm.IRModule) -> str:
    """The key by which a workload is found: 16 hexadecimal digits of its structural hash."""
    return f"{structural_hash(workload) & (1 << 64) - 1:016x}"


def plan_of(trace: s_tir.schedule.Trace) -> str:
    """The plan by which a schedule was made, as text; empty if it was made without one."""
    for instruction in trace.insts:
        if instruction.kind.name == "Annotate" and str(instruction.attrs[0]) == PLAN:
            return str(instruction.inputs[1])
    return ""


def write_best(folder: Path, plans: Mapping[str, str | None]) -> None:
    """Adds plans to best.json, by the keys of their workloads.

    None removes a workload: its default plan is as fast as any.
    """
    path = folder / BEST
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    best = {key: plan for key, plan in {**known, **plans}.items() if plan is not None}
    path.write_text(json.dumps(best, indent=0, sort_keys=True) + "\n", encoding="utf-8")


def _best_of(database: ms.database.Database) -> dict[str, str]:
    """The fastest plan of each workload in the database, by its key."""
    fastest: dict[str, tuple[float, str]] = {}
    for record in database.get_all_tuning_records():
        plan = plan_of(record.trace)
        if plan and record.run_secs and float(record.run_secs[0]) < FAILED_SECONDS:
            key, found = key_of(record.workload.mod), (float(record.run_secs[0]), plan)
            fastest[key] = min(fastest.get(key, found), found)
    return {key: plan for key, (_, plan) in fastest.items()}


def workload_of(function: tirx.PrimFunc) -> tvm.IRModule:
    """The function in the form in which the database keeps it."""
    return tvm.IRModule({"main": function.with_attr("global_symbol", "main").without_attr("op_pattern")})


def identity(target: tvm.target.Target) -> dict[str, Any]:
    """The attributes of a target that must be the same for its records to be of use."""
    values = {"kind": "llvm", **{str(key): value for key, value in target.attrs.items()}}
    return {key: _plain(values[key]) for key in _IDENTITY if key in values}


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, str) else sorted(str(each) for each in value)


def create_records(folder: Path, target: tvm.target.Target) -> Records:
    """Opens the records in ``folder`` to add measurements, and creates the folder if there is none.

    Lines that an earlier process left unfinished are dropped. Raises UserError if the folder cannot be written, holds other
    files, holds records of another target or of another TVM, or is in use by another process.
    """
    about = folder / ABOUT
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output '{folder}' is a file, and records are a folder; name another place")
    if not about.exists():
        if folder.exists() and any(folder.iterdir()):
            raise UserError(f"--output '{folder}' holds other files than records; give an empty or a new folder")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            about.write_text(json.dumps({"tvm": tvm.__version__, "target": identity(target)}) + "\n", encoding="utf-8")
        except OSError as error:
            raise UserError(f"cannot write records into '{folder}': {error.strerror}; name another folder") from error
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
    """Opens the records in ``folder`` to read them.

    Raises UserError if it holds no records, damaged records, or records of another target or of another TVM.
    """
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


def add_measured(records: Records, earlier: Records) -> None:
    """Adds the measurements of ``earlier`` that ``records`` have not. Raises UserError where ``earlier`` holds none."""
    if earlier.database is None:
        raise UserError(f"records '{earlier.folder}' hold the fastest plans alone; give a folder that tvmc tune wrote")
    assert records.database is not None
    known = {_measured_key(record) for record in records.database.get_all_tuning_records()}
    for record in earlier.database.get_all_tuning_records():
        if _measured_key(record) not in known:
            workload = records.database.commit_workload(record.workload.mod)
            records.database.commit_tuning_record(
                ms.database.TuningRecord(record.trace, workload, record.run_secs, record.target, record.args_info)
            )


def _measured_key(record: ms.database.TuningRecord) -> tuple[str, str]:
    return key_of(record.workload.mod), plan_of(record.trace)


def records_for(folder: Path | None, target: tvm.target.Target) -> list[Records]:
    """The records in ``folder``, if one is given, then those that come with the package; errors as `open_records`."""
    own = [open_records(folder, target)] if folder is not None else []
    return own + shipped_records(target)


def shipped_records(target: tvm.target.Target) -> list[Records]:
    """The records that came with the package for this target and this TVM."""
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
    """A target as a user writes it."""
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
    """Removes the lines that a killed tvmc tune left unfinished, and the measurements that refer to a removed workload.

    TVM's reader ends the process at such a line.
    """
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
    """The lines of a file as (text, parsed JSON); None in place of the JSON if a line cannot be parsed or lacks its newline."""
    if not path.exists():
        return []
    *lines, rest = path.read_text(encoding="utf-8", errors="replace").split("\n")
    return [(line, _parsed(line)) for line in lines] + ([(rest, None)] if rest else [])


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
