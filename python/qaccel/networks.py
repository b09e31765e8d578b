"""A network that was compiled: what `compile` and `load` give.

A module that was loaded runs where there is no compiler, so what only compiles or compares is imported where it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import UserError, boundary, check_compiler, path_of, shown
from .machine.artefact import Artefact
from .machine.isa import decode, disassemble
from .machine.native import load_library
from .parallel import Workers
from .run import execute
from .stages import progress_bar

if TYPE_CHECKING:
    from .options import Schedule
    from .pipeline import Compiled
    from .report.record.schema import Report
    from .run.compare import Difference
    from .run.evaluate import Evaluation, Samples

DUMPS = ("relax", "asm")


@dataclass(frozen=True, eq=False)
class Module:
    """A network that was compiled, or loaded from a file. ``written``: the files and folders that `compile` wrote.

    Example:
        >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
        >>> _ = m.export_library("module.so")
        >>> y = qaccel.load("module.so").run({"x": np.zeros((2, 3, 16, 16), np.float32)})["y"]
        >>> y.shape
        (2, 10)
    """

    compiled: Compiled | None = None
    loaded: execute.Runner | None = None
    written: tuple[Path, ...] = ()

    def __repr__(self) -> str:
        report = self.metadata["report"] if self.compiled is None else self.compiled.report
        name, target = self.metadata["model"][:60], self.metadata["target"][:60]
        return f"<Module '{name}': {target if report is None else execute.figures(report)}>"

    @cached_property
    def runner(self) -> execute.Runner:
        """What runs it. Raises UserError if it was compiled for another kind of machine."""
        if self.compiled is None:
            assert self.loaded is not None
            return self.loaded
        if self.compiled.options.target.mtriple is not None:
            raise UserError(f"the module is for {self.compiled.options.target.mtriple}; export it and run it there")
        with boundary("load"):
            return execute.runner(self.compiled.executable, self.compiled.metadata)

    @cached_property
    def report(self) -> Report:
        """What the accelerator does with its time, memory and weights: ``report.layers[3].cycles``, or as report.json has it.

        Raises:
            UserError: the module was compiled for the CPU alone, or what a file says of itself is damaged.

        Example:
            >>> report = qaccel.compile("model.onnx", calibration_data="data.npz").report
            >>> report.layers[1].cycles == report["layers"][1]["cycles"] < report.cycles
            True
        """
        report = self.metadata["report"] if self.compiled is None else self.compiled.report
        if report is None:
            raise UserError("the module was compiled for the CPU alone; there is no report of the accelerator")
        from .report.record.schema import Misfit, Report, report_of

        try:
            return report if isinstance(report, Report) else report_of(report)
        except Misfit as error:
            raise UserError(f"the module is damaged: its report {error}; compile it again") from error

    def timeline(self) -> dict[str, Any]:
        """When each instruction and each layer ran, with counters of SRAM and DRAM: what timeline.json has, for Perfetto.

        Returns:
            Chrome's trace format; times in microseconds at the config's clock, cycles among each event's ``args``.

        Raises:
            UserError: the module was loaded from a file, or compiled for the CPU alone.

        Example:
            >>> events = qaccel.compile("model.onnx", calibration_data="data.npz").timeline()["traceEvents"]
            >>> sorted({event["ph"] for event in events})
            ['C', 'M', 'X']
        """
        return self._traced().timeline()

    def write_report(self, folder: str | Path) -> Path:
        """Write report.html, report.json, layers.csv, timeline.json and compile_seconds.json, all or none of them.

        Args:
            folder: made where it does not exist.

        Returns:
            The folder.

        Raises:
            UserError: it cannot be written, the module was loaded from a file, or compiled for the CPU alone.

        Example:
            >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
            >>> sorted(path.name for path in m.write_report("report").iterdir())
            ['compile_seconds.json', 'layers.csv', 'report.html', 'report.json', 'timeline.json']
        """
        from .report.folder import write_report

        compiled = self._traced()
        with boundary("report"):
            return write_report(folder, self.report, compiled.timeline(), compiled.compile_seconds)

    def _traced(self) -> Compiled:
        """Raises UserError where no program was traced."""
        _ = self.report
        if self.compiled is None:
            raise UserError(
                "a module that was loaded from a file knows no times of instructions; compile it again with --report DIR"
            )
        return self.compiled

    def disassemble(self) -> str:
        """The accelerator's programs as text, one instruction a line, each layer under its name.

        Returns:
            Empty for a module without an accelerator's program.

        Example:
            >>> print(qaccel.compile("model.onnx", calibration_data="data.npz").disassemble().splitlines()[0])
            # qaccel_0
        """
        programs = ((each.symbol, disassemble(decode(each.program), each.layers)) for each in self.artefacts)
        return "\n".join(f"# {symbol}\n{text}" for symbol, text in programs)

    @property
    def metadata(self) -> dict[str, Any]:
        """Model, target, versions, inputs and outputs."""
        return self.runner.metadata if self.compiled is None else self.compiled.metadata

    @property
    def notes(self) -> tuple[str, ...]:
        """What to know about the compilation, one line each."""
        return () if self.compiled is None else self.compiled.notes

    @property
    def compile_seconds(self) -> dict[str, float]:
        """Seconds that each stage of the compilation took, in order; empty for a module that was loaded."""
        return {} if self.compiled is None else dict(self.compiled.compile_seconds)

    @property
    def artefacts(self) -> list[Artefact]:
        """The accelerator's programs with their constants and memory maps, one per subgraph."""
        if self.compiled is None:
            return self.runner.artefacts()
        return [each.compiled.artefact for each in self.compiled.subgraphs]

    @property
    def schedule(self) -> Schedule:
        """The accelerator's plan, as `compile` takes it. Raises UserError for a module that was loaded from a file."""
        if self.compiled is None or self.compiled.hw is None:
            raise UserError(
                "a schedule is of a module that was compiled for the accelerator just now; compile it again"
            )
        return self.compiled.schedule()

    def code(self, kind: str) -> str:
        """The network as text.

        Args:
            kind: "asm", as `disassemble`; "relax", what both halves were compiled from.

        Raises:
            UserError: another kind, or "relax" of a module that was loaded from a file, which has none.
        """
        dumps_of((kind,))
        if kind == "asm":
            return self.disassemble()
        if self.compiled is None:
            raise UserError("a module from a file has no Relax; compile it again with --dump-code relax")
        compiled = self.compiled
        quantized = compiled.model.mod if compiled.quantized is None else compiled.quantized.mod
        mod = quantized if compiled.partitioned is None else compiled.partitioned.mod
        return mod.script(show_meta=False)

    def run(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray | str | Path, *, preprocess: str | None = None
    ) -> dict[str, np.ndarray]:
        """Run the module.

        Args:
            inputs: arrays by input name, the array of the only input, or the path of an .npz or of a folder of images. Axis 0 may
                be any multiple of the module's batch, which then runs once per batch.
            preprocess: how images are prepared; as the calibration images were, unless given.

        Returns:
            Outputs by name, joined along axis 0.

        Raises:
            UserError: a name, shape, type or value that does not fit the model.

        Example:
            >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
            >>> m.run("data.npz")["y"].shape
            (8, 10)
        """
        with boundary("run"):
            if isinstance(inputs, str | os.PathLike):
                from .run.images import read_inputs

                inputs = read_inputs(self.runner, inputs, preprocess, "inputs")[0]
            elif preprocess is not None:
                raise UserError("preprocess describes a folder of images, and inputs are arrays; drop one of them")
            return self.runner.run(inputs)

    def evaluate(
        self,
        data: str | Path,
        reference: str | Path | None = None,
        *,
        preprocess: str | None = None,
        jobs: int | None = None,
        cluster: str | None = None,
        progress: bool = False,
    ) -> Evaluation:
        """Accuracy on labelled data, and agreement with the float model.

        Args:
            data: an .npz of arrays by input name and ``labels``, or a folder with a folder of images for each class, whose names
                are the classes' numbers, or as many as there are classes, taken in alphabetical order.
            reference: the float model, an .onnx.
            preprocess: how images are prepared; as the calibration images were, unless given.
            jobs: processes in which a module that was loaded from a file runs; one for each core, unless given, where there is
                enough to do.
            cluster: the Dask cluster on whose workers it runs instead, "tcp://host:port". The result is the same.
            progress: a bar, if standard error is a terminal.

        Returns:
            Shares from 0 to 1: ``top1``, ``top5``, ``reference_top1``, ``agreement``; None for what there is not.

        Raises:
            UserError: data that does not fit, or a module without one output of class scores.

        Example:
            >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
            >>> m.evaluate("labelled.npz", "model.onnx").samples
            8
        """
        check_compiler()
        from .run.evaluate import evaluate, load_labelled
        from .run.images import check_no_preprocess, labelled_images

        with boundary("evaluate"):
            workers = Workers(jobs, cluster)
            samples: Mapping[str, Samples]
            notes: tuple[str, ...] = ()
            if path_of(data, "the data").is_dir():
                samples, labels, notes = labelled_images(self.runner, data, preprocess)
            else:
                check_no_preprocess(data, preprocess)
                samples, labels = load_labelled(data, self.runner.inputs, self.metadata.get("fixed_inputs"))
            with progress_bar("evaluating", len(labels), progress) as advance:
                return replace(evaluate(self.runner, samples, labels, reference, advance, workers), notes=notes)

    def dump_tensors(self, inputs: Mapping[str, np.ndarray] | np.ndarray, folder: str | Path) -> Path:
        """Write what every layer makes of the first batch of ``inputs``.

        Args:
            inputs: as `run`, arrays only.
            folder: gets tensors.npz, whose integers are NHWC, and tensors.json, their order and meaning.

        Returns:
            The folder.

        Raises:
            UserError: inputs do not fit, or the folder cannot be written.

        Example:
            >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
            >>> sorted(path.name for path in m.dump_tensors(np.zeros((1, 3, 16, 16), np.float32), "tensors").iterdir())
            ['tensors.json', 'tensors.npz']
        """
        check_compiler()
        from .run.compare import one_batch, write_tensors

        with boundary("run"):
            return write_tensors(folder, self.runner, one_batch(self.runner, inputs))

    def compare(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray, reference: Module | str | Path
    ) -> tuple[Difference, ...]:
        """Tensor by tensor against another module or the float model, on the first batch.

        Args:
            inputs: as `run`, arrays only.
            reference: a `Module`, a .so or .tar, or the float model, an .onnx.

        Returns:
            One for each tensor that both have, in the module's order; ``parts`` where the two differ.

        Raises:
            UserError: a reference with other inputs or outputs.

        Example:
            >>> m = qaccel.compile("model.onnx", calibration_data="data.npz")
            >>> [each.name for each in m.compare(np.zeros((1, 3, 16, 16), np.float32), m) if each.parts]
            []
        """
        check_compiler()
        from .run.compare import compare_modules, compare_with_float, one_batch
        from .run.evaluate import float_reference

        with boundary("run"):
            batch = one_batch(self.runner, inputs)
            if isinstance(reference, str | os.PathLike) and path_of(reference, "--reference").suffix == ".onnx":
                return compare_with_float(self.runner, float_reference(reference, self.runner), batch)
            other = reference.runner if isinstance(reference, Module) else execute.load(reference)
            return compare_modules(self.runner, other, batch)

    def offloads(self) -> str:
        """What runs where, one line for each layer, tab-separated. Raises UserError as `report`."""
        from .report.offloads import offloads_text

        return offloads_text(self.report)

    def export_library(self, path: str | Path, cross_compiler: str | None = None) -> Path:
        """Write the module.

        Args:
            path: a .so, or a .tar of object files that is linked where it is loaded.
            cross_compiler: what links a .so, with its flags, where the default does not fit.

        Returns:
            The path.

        Raises:
            UserError: the module was loaded from a file, or the path cannot be written.

        Example:
            >>> str(qaccel.compile("model.onnx", calibration_data="data.npz").export_library("other.tar"))
            'other.tar'
        """
        from .export import export_library

        if self.compiled is None:
            raise UserError("this module was loaded from a file; copy that file")
        with boundary("export"):
            return export_library(self.compiled.executable, path, self.compiled.options.target.mtriple, cross_compiler)


def load(path: str | Path, *, rpc_tracker: str | None = None, rpc_key: str | None = None) -> Module:
    """A module that was exported.

    Nothing of the compiler is imported, so it works with TVM's runtime alone (``TVM_USE_RUNTIME_LIB=1`` in the environment).

    Args:
        path: the .so or .tar.
        rpc_tracker: HOST:PORT of TVM's tracker; the module then runs on a server of ``rpc_key`` that it gives out.
        rpc_key: what kind of server.

    Raises:
        UserError: the file is missing, damaged or of another version, or no such server answers.

    Example:
        >>> _ = qaccel.compile("model.onnx", calibration_data="data.npz", output="m.so")
        >>> qaccel.load("m.so").report.model
        'model'
    """
    with boundary("load"):
        if (rpc_tracker is None) != (rpc_key is None):
            raise UserError("--rpc-tracker and --rpc-key belong together: give both, or neither to run on this machine")
        if rpc_tracker is not None and rpc_key is not None:
            from .run.remote import load_remote

            return Module(loaded=load_remote(path, rpc_tracker, rpc_key))
        load_library()
        return Module(loaded=execute.load(path))


def dumps_of(kinds: str | Sequence[str]) -> tuple[str, ...]:
    """Kinds of code, "relax,asm" or a list. Raises UserError for one that there is not."""
    given = [kind.strip() for kind in kinds.split(",")] if isinstance(kinds, str) else kinds
    for kind in given if isinstance(given, list | tuple) else (given,):
        if not isinstance(kind, str) or kind not in DUMPS:
            raise UserError(f"--dump-code {shown(kind)} is unknown; it knows {', '.join(DUMPS)}")
    return tuple(given)
