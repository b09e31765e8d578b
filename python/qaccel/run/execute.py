"""A compiled module that runs: arrays by name in, arrays by name out."""

from __future__ import annotations

import re
import shutil
import struct
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tvm
from tvm.runtime.vm import VirtualMachine
from tvm.support import cc

from ..emulate.data.dataset import check_inputs
from ..errors import CompilerFault, UserError, one_line, path_of
from ..machine.artefact import Artefact
from ..machine.isa import isa
from ..machine.native import load_library
from ..metadata.read import check_metadata, read_metadata, specs
from ..model import TensorSpec
from ..schedules.features import absent
from ..schedules.threads import use_all_cores

if TYPE_CHECKING:  # TVM's runtime alone has no Relax
    from tvm import relax

ACCELERATOR_KIND = "qaccel"


@dataclass(frozen=True, eq=False)
class Runner:
    """A module with what it says of itself. ``runtime`` is TVM's module, ``vm`` its virtual machine; ``remote`` is the
    device of another process where they are, None for this one. ``fresh``: compiled in this process, from no file; else ``path``
    is its file, if that is on this machine, and ``stamp`` what tells whether it has been written again since."""

    metadata: dict[str, Any]
    runtime: Any
    vm: VirtualMachine
    remote: Any = None
    fresh: bool = False
    path: Path | None = None
    stamp: tuple[int, ...] = ()

    def __repr__(self) -> str:
        where = "this machine" if self.remote is None else "another machine"
        return f"<Runner of '{self.metadata['model'][:60]}' for '{self.metadata['target'][:60]}' on {where}>"

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        return specs(self.metadata["inputs"])

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        return specs(self.metadata["outputs"])

    def contents(self) -> bytes | None:
        """Of the file that this module came from; None where there is none, or it is another one by now."""
        try:
            return self.path.read_bytes() if self.path is not None and _stamp(self.path) == self.stamp else None
        except OSError:
            return None  # it is gone

    def run(self, inputs: Mapping[str, np.ndarray] | np.ndarray) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name.

        Axis 0 may be any multiple of the module's batch, which then runs once per batch; outputs are joined along axis 0.
        Raises UserError for a name, shape, type or value that does not fit the model.
        """
        arrays = check_inputs(inputs, self.inputs, "inputs", self.metadata.get("fixed_inputs"))
        times = {len(arrays[s.name]) // s.shape[0] for s in self.inputs if s.shape and s.shape[0]} or {1}
        pieces = []
        for k in range(times.pop()):
            batch = [
                arrays[s.name][k * s.shape[0] : (k + 1) * s.shape[0]] if s.shape else arrays[s.name]
                for s in self.inputs
            ]
            pieces.append(self._run_batch(batch))
        if not pieces:
            raise UserError("inputs hold no sample; give at least one")
        if len(pieces) == 1:
            return pieces[0]
        return {name: np.concatenate([np.atleast_1d(piece[name]) for piece in pieces]) for name in pieces[0]}

    def _run_batch(self, arrays: list[np.ndarray]) -> dict[str, np.ndarray]:
        try:
            tensors = [tvm.runtime.tensor(np.asarray(array, order="C"), self.remote) for array in arrays]
            if self.remote is None:
                result = self.vm["main"](*tensors)
            else:  # a call returns no tuple over RPC
                self.vm.set_input("main", *tensors)
                self.vm.invoke_stateful("main")
                result = self.vm.get_outputs("main")
        except (RuntimeError, ValueError, TypeError) as error:
            # What a file holds may be damaged; what was just compiled has no excuse.
            kind = CompilerFault if self.fresh else UserError
            raise kind(f"the module failed: {one_line(error)}") from error
        results = [result] if len(self.outputs) == 1 and hasattr(result, "numpy") else list(result)
        return {spec.name: value.numpy() for spec, value in zip(self.outputs, results, strict=True)}

    def artefacts(self) -> list[Artefact]:
        """The accelerator subgraphs in the module, in the order of their symbols."""
        found, queue = [], [self.runtime]
        while queue:
            module = queue.pop()
            if module.kind == ACCELERATOR_KIND:
                found.append(Artefact.from_bytes(bytes(module["get_artefact"]()), isa().version))
            queue.extend(module.imports)
        return sorted(found, key=lambda artefact: (len(artefact.symbol), artefact.symbol))


def runner(executable: relax.VMExecutable, metadata: dict[str, Any]) -> Runner:
    """A module that was just built. The .so or .tar would run the same; this links it in memory."""
    use_all_cores()
    runtime = executable.jit() if hasattr(executable, "jit") else executable.mod
    vm = VirtualMachine(runtime, tvm.cpu())
    _check_cpu(read_metadata(vm) or {}, "the module")
    return Runner(metadata, executable.mod, vm, fresh=True)


def figures(report: Mapping[str, Any]) -> str:
    """What a person wants to know of a report first: config, layers, cycles."""
    return f"{report['hw']['name'][:60]}, {len(report['layers'])} layers, {report['cycles']:,} cycles"


def check_path(path: str | Path) -> Path:
    """The path of an exported module. Raises UserError if there is no such file, or it has another suffix."""
    path = path_of(path, "module")
    if path.is_dir():
        raise UserError(f"module '{path}' is a folder; give the .so or .tar that tvmc compile wrote")
    if not path.is_file():
        raise UserError(f"module '{path}' does not exist; compile one with tvmc compile -o {path}")
    if path.suffix not in (".so", ".tar"):
        raise UserError(f"module '{path}' is neither a .so nor a .tar; give what tvmc compile wrote")
    return path


def load(path: str | Path) -> Runner:
    """An exported module. Raises UserError if it is missing, damaged, of another version or not ours."""
    path = check_path(path)
    stamp = _stamp(path)
    check = _check_library if path.suffix == ".so" else _check_archive
    check(path)
    load_library()
    use_all_cores()
    try:
        runtime = _load_runtime(path)
        vm = VirtualMachine(runtime, tvm.cpu())
    except (RuntimeError, ValueError, OSError, AttributeError) as error:
        raise UserError(f"module '{path}' cannot be loaded: {_reason(error)}") from error
    metadata = check_metadata(read_metadata(vm), str(path))
    _check_cpu(metadata, f"module '{path}'")
    return Runner(metadata, runtime, vm, path=path, stamp=stamp)


def _check_cpu(metadata: Mapping[str, Any], what: str) -> None:
    """Raises UserError where code may use what this machine's CPU does not have: it would die of an illegal instruction."""
    if missing := absent(metadata.get("cpu_features", {})):
        raise UserError(
            f"{what} was compiled for a CPU with {', '.join(missing)}, which this machine does not have; "
            "compile it for this one, or with -mcpu= for one that is like both"
        )


def _stamp(path: Path) -> tuple[int, ...]:
    """What is another after a file was written again."""
    status = path.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns


_COPY_AGAIN = "copy it again, or compile it again"
# The 64-bit ELF header: magic, class 2, little-endian; e_machine at 18, e_shoff at 40, e_shentsize and e_shnum at 58.
_ELF64 = b"\x7fELF\x02\x01"
_ELF64_HEADER_BYTES, _MACHINE_AT, _SECTIONS_AT, _SECTION_SIZES_AT = 64, 18, 40, 58


def _check_library(path: Path) -> None:
    """Raises UserError for what is no library of this machine, and for one that is cut off, of which the system's loader dies.

    Its section table is the file's end.
    """
    with path.open("rb") as file:
        header = file.read(_ELF64_HEADER_BYTES)
    if not header:
        raise UserError(f"module '{path}' is empty; {_COPY_AGAIN}")
    if sys.platform != "linux":
        return  # libraries of other systems: their loaders say so
    if not header.startswith(_ELF64):
        raise UserError(f"module '{path}' is no shared library; give the .so or .tar that tvmc compile wrote")
    if len(header) == _ELF64_HEADER_BYTES:
        (sections,) = struct.unpack_from("<Q", header, _SECTIONS_AT)
        entry_bytes, entries = struct.unpack_from("<HH", header, _SECTION_SIZES_AT)
        if path.stat().st_size >= sections + entry_bytes * entries:
            return _check_machine(path, header)
    raise UserError(f"module '{path}' is cut off at {path.stat().st_size} bytes; {_COPY_AGAIN}")


def _check_machine(path: Path, header: bytes) -> None:
    """Raises UserError for a library of another kind of machine than this Python's."""
    with open(sys.executable, "rb") as file:
        ours = file.read(_ELF64_HEADER_BYTES)
    kind = slice(_MACHINE_AT, _MACHINE_AT + 2)
    if ours.startswith(_ELF64) and header[kind] != ours[kind]:
        raise UserError(
            f"module '{path}' was compiled for another kind of machine; run it there, or compile it without -mtriple"
        )


def _check_archive(path: Path) -> None:
    """Raises UserError for what is no tarball of object files, or is damaged."""
    try:
        with tarfile.open(path) as archive:
            objects = [member for member in archive if member.isfile() and member.name.endswith(".o")]
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise UserError(f"module '{path}' is no tar archive, or is damaged; {_COPY_AGAIN}") from error
    if not cc.get_cc():
        raise UserError(
            f"module '{path}' is linked when it is loaded, and there is no g++ or clang++; compile it to a .so"
        )
    if not objects:
        raise UserError(f"module '{path}' holds no object files; give the .tar that tvmc compile wrote")


def _reason(error: BaseException) -> str:
    """What our own loader said, or the system's; of the C++ compiler and of TVM's own checks only what it means."""
    ours = re.search(r"accelerator subgraph\b.*", str(error))
    if ours is not None:
        return ours[0]
    loader = re.search(r"Failed to load dynamic shared library \S+ (.*)", str(error))
    if loader is not None:
        return f"{loader[1].split(': ', 1)[-1].strip()}; {_COPY_AGAIN}"
    linked = re.search(r"\berror: |cannot find|file format", str(error))
    what = "its object files cannot be linked on this machine" if linked else "its contents are damaged"
    return f"{what}; {_COPY_AGAIN}"


def _load_runtime(path: Path) -> Any:
    """TVM's module of a file, from a copy of its own that is gone afterwards.

    The system's loader knows a library by its path: one that was written again would stay the old one in this process. From a
    .tar TVM links a .so beside it, which is no place for that. Raises UserError where there is no room for it.
    """
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="qaccel-"))
            copy = shutil.copy(path, folder)
        except OSError as error:
            raise UserError(
                f"module '{path}' needs a copy in the folder for temporary files: {error.strerror}; make room there, or name "
                "another in TMPDIR"
            ) from error
        return tvm.runtime.load_module(str(copy))
