"""What a compilation writes, and where: everything that can be wrong with the places is found before the work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .errors import UserError
from .export import check_output_path
from .networks import Module
from .options import CompileOptions
from .qdq.write import emit_qdq as write_qdq
from .quantized_network import check_onnx
from .run.files import check_file, check_folder, write_file, write_text
from .run.replay.package import write_program


@dataclass(frozen=True)
class Places:
    """What `compile` is to write, and where."""

    output: str | Path | None
    dump_code: tuple[str, ...]
    emit_qdq: str | Path | None
    emit_program: str | Path | None
    emit_schedule: str | Path | None
    report: str | Path | None
    dump_offloads: str | Path | None
    cross_compiler: str | None

    def check(self, options: CompileOptions, quantized: bool) -> None:
        """Raises UserError for a place that cannot be written, and for files that this target has not."""
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
            ("--emit-schedule", self.emit_schedule, check_file),
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
        compiled, written = module.compiled, []
        assert compiled is not None
        if self.output is not None:
            written.append(module.export_library(self.output, self.cross_compiler))
        if self.emit_qdq is not None and compiled.quantized is not None:
            quantized = compiled.quantized
            written.append(write_file(self.emit_qdq, lambda path: write_qdq(quantized, path), "--emit-qdq"))
        if self.emit_program is not None:
            written.append(write_program(self.emit_program, module.artefacts, compiled.golden_inputs()))
        if self.emit_schedule is not None:
            written.append(write_text(self.emit_schedule, module.schedule.to_json(), "--emit-schedule"))
        if self.report is not None and compiled.report is not None:
            written.append(module.write_report(self.report))
        if self.dump_offloads is not None:
            written.append(write_text(self.dump_offloads, module.offloads(), "--dump-offloads"))
        for kind in self.dump_code:
            written.append(write_text(f"{self.output}.{kind}", module.code(kind), "dump"))
        return tuple(written)
