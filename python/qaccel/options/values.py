"""What the user can choose, as frozen values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError, shown
from ..machine.hw import DEFAULT_CONFIG, HwConfig
from ..machine.isa import isa
from .limits import Limits, check_choice
from .schedule import Schedule

WIDTHS = isa().widths
MODEL_FORMATS = ("onnx", "torch", "tflite")
IO_DTYPES = ("float32", "int8", "uint8")
MODULE_SUFFIXES = (".so", ".tar")
SESSION_SECONDS = 60  # after which tuning gives a server up that does not answer
EFFORTS = ("fast", "default", "best")  # how long the quantizer may work
CALIBRATION_METHODS = ("minmax", "percentile", "entropy", "mse")  # the first where none is asked for
# Without data, weights need none and 16-bit activations forgive loose ranges.
GUESSED_INPUT_RANGE = (-1.0, 1.0)
LARGEST_FLOAT = (2 - 2.0**-23) * 2.0**127  # of float32


@dataclass(frozen=True)
class BitWidths:
    """Weight and activation bits of one layer, each 4, 8 or 16."""

    weight_bits: int
    activation_bits: int

    def __post_init__(self) -> None:
        for name, value in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            if value not in WIDTHS:
                raise UserError(f"{name} is {value!r}; the machine has 4, 8 and 16")

    def __str__(self) -> str:
        return f"W{self.weight_bits}A{self.activation_bits}"


Bits = BitWidths | Mapping[str, BitWidths]
# An .npz, a folder of images, arrays by input name, the array of the only input, or an iterable of such samples.
Data = str | Path | Mapping[str, np.ndarray] | np.ndarray | Iterable[Any]
DEFAULT_BITS = BitWidths(8, 8)
BITS_WITHOUT_DATA = BitWidths(8, 16)


@dataclass(frozen=True)
class TargetOptions:
    """``config``: the accelerator's, by name, path or value; None for the CPU alone. ``host``: flags of TVM's llvm target."""

    config: str | HwConfig | None = DEFAULT_CONFIG
    host: tuple[tuple[str, Any], ...] = ()

    @property
    def mtriple(self) -> str | None:
        """The triple to cross-compile the host part for."""
        return dict(self.host).get("mtriple")

    def __str__(self) -> str:
        flags = " ".join(f"-{k}={','.join(v) if isinstance(v, tuple) else v}" for k, v in self.host)
        host = f"llvm {flags}".strip()
        return host if self.config is None else f"qaccel -config={name_of_config(self.config)}, {host}"


@dataclass(frozen=True)
class CompileOptions:
    """Everything that decides what a module contains. Defaults are those of ``tvmc compile``.

    ``calibration_data``: path of an .npz or an image folder, or arrays by input name; None takes synthetic inputs within
    ``input_range``. ``calibration`` None: minmax. ``bits`` None: 8 with data, W8A16 without. ``auto``: bits are searched for within
    ``limits``, of which ``max_drop`` judges bits that are given, too, and ``max_bytes`` makes their rounding pay for bits.
    ``model_format`` None: by suffix.
    ``passes``: names of the quantizer's that may run; None for those that ``effort`` takes, None being "default".
    ``requantize``: what came quantized is taken as float.

    Raises UserError for a value that is none, and for what does nothing beside the rest: a method without data, a range with data.
    """

    target: TargetOptions = TargetOptions()
    input_shapes: Mapping[str, tuple[int, ...]] | None = None
    input_values: Mapping[str, Any] | None = None  # what inputs are fixed to: numbers, or arrays of them
    calibration_data: Data | None = None
    preprocess: str | None = None
    calibration: str | None = None
    input_range: tuple[float, float] | None = None
    bits: Bits | None = None
    io_dtype: str = "float32"
    model_format: str | None = None
    tuning_records: Path | None = None
    schedule: Schedule | None = None
    passes: tuple[str, ...] | None = None
    effort: str | None = None
    requantize: bool = False
    auto: bool = False
    limits: Limits = Limits()
    synthetic_samples: int = field(default=16, repr=False)

    def __post_init__(self) -> None:
        if self.calibration is not None:
            check_choice("--calibration", self.calibration, CALIBRATION_METHODS)
            if self.calibration_data is None:
                raise UserError(
                    f"--calibration {self.calibration} measures samples; add --calibration-data, or drop it"
                )
        if self.effort is not None:
            check_choice("--effort", self.effort, EFFORTS)
            if self.passes is not None:
                raise UserError(f"--effort {self.effort} chooses among the passes, and --passes names them; drop one")
        check_choice("--io-dtype", self.io_dtype, IO_DTYPES)
        if self.model_format is not None:
            check_choice("--model-format", self.model_format, MODEL_FORMATS)
        if self.input_range is not None:
            lo, hi = self.input_range
            if not -LARGEST_FLOAT < lo < hi < LARGEST_FLOAT:
                raise UserError(
                    f"--input-range {lo:g},{hi:g}: both ends must be finite float32 and the first below the second"
                )
            if self.calibration_data is not None:
                raise UserError(f"--input-range {lo:g},{hi:g} takes the place of --calibration-data; drop one of them")
        if self.schedule is not None and self.target.config is None:
            raise UserError(f"--schedule is the accelerator's plan, and --target '{self.target}' has none; add qaccel")
        if self.schedule is not None and self.auto:
            raise UserError(
                "--schedule is for given bits, and --bits auto tries many; give the plan.json that it chose, or drop one"
            )
        self._check_limits()

    def _check_limits(self) -> None:
        if self.auto and self.calibration_data is None:
            raise UserError(
                "--bits auto measures on samples what each width loses; add --calibration-data, or give bits"
            )
        if self.auto and self.target.config is None:
            raise UserError(
                f"--bits auto weighs the accelerator's cycles and bytes, and --target '{self.target}' has none; add qaccel"
            )
        limits = self.limits
        for flag, given in (("--minimize", limits.minimize), ("--max-cycles", limits.max_cycles)):
            if given is not None and not self.auto:
                raise UserError(f"{flag} {given} is for bits that the compiler chooses; add --bits auto")
        if limits.max_bytes is not None and (self.calibration_data is None or self.target.config is None):
            missing = "--calibration-data" if self.calibration_data is None else "qaccel to --target"
            raise UserError(
                f"--max-bytes {limits.max_bytes} is kept by rounding that learns from samples what the accelerator's bits are "
                f"worth; add {missing}"
            )
        if limits.max_drop is not None and self.calibration_data is None:
            raise UserError(f"--max-drop {limits.max_drop:g} is judged on samples; add --calibration-data")

    @property
    def quantizes(self) -> bool:
        """Whether the network will run in integers: on the accelerator always, on the CPU alone where bits or data ask for it."""
        given = self.bits is not None or self.auto or self.calibration_data is not None
        return self.target.config is not None or given

    def __repr__(self) -> str:
        given = [each.name for each in fields(self)[1:] if each.repr and getattr(self, each.name) is not each.default]
        return f"<CompileOptions {self.target}; {', '.join(given) or 'nothing'} given>"


def name_of_config(config: str | HwConfig) -> str:
    """An accelerator's config as a user knows it."""
    return config.name if isinstance(config, HwConfig) else config if isinstance(config, str) else shown(config)
