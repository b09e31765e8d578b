"""A network that was quantized and one that was compiled: what `quantize`, `compile` and `load` give, and what they write.

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
from .evaluate.dataset import check_inputs
from .machine.artefact import Artefact
from .machine.hw import HwConfig
from .machine.isa import decode, disassemble
from .machine.native import load_library
from .parallel import Workers
from .run import execute
from .run.files import check_file, check_folder, write_file, write_text
from .stages import progress_bar

if TYPE_CHECKING:
    from .dialect.quantized import QuantizedModel
    from .options import CompileOptions
    from .pipeline import Compiled
    from .run.compare import Difference
    from .run.evaluate import Evaluation, Samples

DUMPS = ("relax", "asm")


@dataclass(frozen=True, eq=False)
class QuantizedNetwork:
    """What `quantize` gives and `compile` takes. ``notes``: what to know about it, one line each."""

    name: str
    hw: HwConfig
    options: CompileOptions
    quantized: QuantizedModel
    seconds: Mapping[str, float]

    def __repr__(self) -> str:
        widths = sorted({str(bits) for bits in self.quantized.plan.values()})
        return f"<QuantizedNetwork '{self.name[:60]}': {len(self.plan)} layers with weights, {', '.join(widths) or 'none'}>"

    @property
    def plan(self) -> dict[str, dict[str, Any]]:
        """Bits of each layer with weights, as plan.json has them; of bits that were searched for also ``why``."""
        from .dialect.quantized import plan_entries

        return plan_entries(self.quantized)

    @property
    def notes(self) -> tuple[str, ...]:
        return self.quantized.notes

    def save_onnx(self, path: str | Path) -> None:
        """Write the quantized model as standard ONNX QDQ."""
        from .qdq.write import emit_qdq as write_qdq

        with boundary("emit QDQ"):
            check_onnx(path, "quantized model")
            write_file(path, lambda temporary: write_qdq(self.quantized, temporary), "quantized model")

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs by name in exact integers, without compiling. Takes what `Module.run` takes."""
        from .evaluate.integers import run_model
        from .quant.io_dtype import with_ends

        with boundary("run"):
            quantized, model = self.quantized, self.quantized.model
            mod, ends = with_ends(quantized, "float32")
            if ends is not None:  # those of the model are integers
                types = zip(model.inputs, ends.input_types, strict=True)
                model = replace(model, inputs=tuple(replace(spec, dtype=dtype) for spec, dtype in types))
                quantized = replace(quantized, mod=mod, model=model)
            return run_model(quantized, check_inputs(inputs, model.inputs, "inputs", model.fixed))


@dataclass(frozen=True, eq=False)
class Module:
    """A network that was compiled, or loaded from a file. ``written``: the files and folders that `compile` wrote."""

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

    @property
    def report(self) -> dict[str, Any]:
        """``report.json`` as a dictionary. Raises UserError for a module that was compiled for the CPU alone."""
        report = self.metadata["report"] if self.compiled is None else self.compiled.report
        if report is None:
            raise UserError("the module was compiled for the CPU alone; there is no report of the accelerator")
        return report

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

    def code(self, kind: str) -> str:
        """The network as text: "asm", the accelerator's programs; "relax", what both halves were compiled from.

        Raises UserError for another kind, and for "relax" of a module that was loaded from a file, which has none.
        """
        dumps_of((kind,))
        if kind == "asm":
            programs = ((each.symbol, disassemble(decode(each.program), each.layers)) for each in self.artefacts)
            return "\n".join(f"# {symbol}\n{text}" for symbol, text in programs)
        if self.compiled is None:
            raise UserError(
                "a module that was loaded from a file has no Relax; compile it again with --dump-code relax"
            )
        compiled = self.compiled
        quantized = compiled.model.mod if compiled.quantized is None else compiled.quantized.mod
        mod = quantized if compiled.partitioned is None else compiled.partitioned.mod
        return mod.script(show_meta=False)

    def run(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray | str | Path, *, preprocess: str | None = None
    ) -> dict[str, np.ndarray]:
        """Outputs by name for inputs by name, or for the array of the only input; see `execute.Runner.run`.

        ``inputs`` may be the path of an .npz or of a folder of images, which are prepared as the calibration images were, or as
        ``preprocess`` says.
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
        """Accuracy on labelled data, and agreement with the float model ``reference``.

        A module that was loaded from a file runs in ``jobs`` processes, by default one for each core where there is enough to do,
        or on the workers of the Dask cluster at ``cluster`` ("tcp://host:port"); the result is the same.

        ``data``: an .npz of arrays by input name and ``labels``, or a folder with a folder of images for each class, see
        `run.images.labelled_images`; ``preprocess``: how images are prepared (default: as the calibration images were).
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
        """Write what every layer makes of the first batch of ``inputs``: tensors.npz, and tensors.json with their meaning.

        Integers are NHWC. Raises UserError for inputs that do not fit, and for a folder that cannot be written.
        """
        check_compiler()
        from .run.compare import one_batch, write_tensors

        with boundary("run"):
            return write_tensors(folder, self.runner, one_batch(self.runner, inputs))

    def compare(
        self, inputs: Mapping[str, np.ndarray] | np.ndarray, reference: Module | str | Path
    ) -> tuple[Difference, ...]:
        """Tensor by tensor against another module (a `Module`, a .so or .tar) or the float model (.onnx), on the first batch.

        `run.compare.first_parting` names the first tensor in which they part. Raises UserError for a reference with other inputs.
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
        """What runs where, one line for each layer: `report.offloads.offloads_text`. Raises UserError as `report`."""
        from .report.offloads import offloads_text

        return offloads_text(self.report)

    def export_library(self, path: str | Path, cross_compiler: str | None = None) -> Path:
        """Write the module as .so or .tar. ``cross_compiler``: what links a .so, with its flags, where the default does not fit.

        Raises UserError if it was loaded from one, or the path cannot be written.
        """
        from .export import export_library

        if self.compiled is None:
            raise UserError("this module was loaded from a file; copy that file")
        with boundary("export"):
            return export_library(self.compiled.executable, path, self.compiled.options.target.mtriple, cross_compiler)


@dataclass(frozen=True)
class Places:
    """What `compile` is to write, and where; everything that can be wrong with the places is found before the work."""

    output: str | Path | None
    dump_code: tuple[str, ...]
    emit_qdq: str | Path | None
    emit_program: str | Path | None
    report: str | Path | None
    dump_offloads: str | Path | None
    cross_compiler: str | None

    def check(self, options: CompileOptions, quantized: bool) -> None:
        """Raises UserError for a place that cannot be written, and for files that this target has not."""
        from .export import check_output_path

        if self.output is not None:
            check_output_path(self.output, options.target.mtriple, self.cross_compiler)
        elif self.cross_compiler is not None:
            raise UserError("--cross-compiler links the module's file; give its output")
        elif self.dump_code:
            raise UserError("--dump-code is written beside the module; give its output, or take Module.code")
        if "asm" in self.dump_code and options.target.config is None:
            raise UserError(
                f"--dump-code asm is the accelerator's, and --target '{options.target}' has none; add qaccel"
            )
        if self.emit_qdq is not None:
            check_onnx(self.emit_qdq, "--emit-qdq")
            if not quantized:
                raise UserError("--emit-qdq is for a quantized model; add --bits or --calibration-data")
        accelerator_only = (
            ("--emit-program", self.emit_program, check_folder),
            ("--report", self.report, check_folder),
            ("--dump-offloads", self.dump_offloads, check_file),
        )
        for flag, place, check in accelerator_only:
            if place is not None:
                check(place, flag)
                if options.target.config is None:
                    raise UserError(
                        f"{flag} needs the accelerator, and --target '{options.target}' has none; add qaccel"
                    )

    def write(self, module: Module) -> tuple[Path, ...]:
        """Write it all; gives the paths."""
        from .qdq.write import emit_qdq as write_qdq
        from .report.folder import write_report
        from .run.replay.package import write_program

        compiled, written = module.compiled, []
        assert compiled is not None
        if self.output is not None:
            written.append(module.export_library(self.output, self.cross_compiler))
        if self.emit_qdq is not None and compiled.quantized is not None:
            quantized = compiled.quantized
            written.append(write_file(self.emit_qdq, lambda path: write_qdq(quantized, path), "--emit-qdq"))
        if self.emit_program is not None:
            written.append(write_program(self.emit_program, module.artefacts, compiled.golden_inputs()))
        if self.report is not None and compiled.report is not None:
            written.append(write_report(self.report, compiled.report, compiled.timeline(), compiled.compile_seconds))
        if self.dump_offloads is not None:
            written.append(write_text(self.dump_offloads, module.offloads(), "--dump-offloads"))
        for kind in self.dump_code:
            written.append(write_text(f"{self.output}.{kind}", module.code(kind), "dump"))
        return tuple(written)


def load(path: str | Path, *, rpc_tracker: str | None = None, rpc_key: str | None = None) -> Module:
    """A module that was exported, here or on a server of ``rpc_key`` that TVM's tracker at ``rpc_tracker`` gives out.

    Imports nothing of the compiler, so it works with TVM's runtime alone (``TVM_USE_RUNTIME_LIB=1`` in the environment). Raises
    UserError if the module is missing, damaged or of another version, or no such server answers.
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


def check_onnx(path: str | Path, what: str) -> None:
    """Raises UserError for a place that cannot be written, or whose name does not say what lies there."""
    if check_file(path, what).suffix != ".onnx":
        raise UserError(f"{what} '{path}' must end in .onnx")
