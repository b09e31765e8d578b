"""TVM's own idioms: a Relax module in, a partitioned module out, float modules quantized on the way."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import tvm

from .dialect.operators import works_on_integers
from .errors import UserError, boundary, shown
from .frontend.import_model import import_frontend_module
from .frontend.import_relax import border_of, import_relax
from .machine.hw import DEFAULT_CONFIG, HwConfig, load_config
from .npu.partition.partition import float_macs, partition
from .options import TargetOptions, options_of
from .pipeline import quantize_imported
from .qdq.forms import QUANTIZED
from .quant.io_dtype import with_ends
from .relax_tools import functions
from .stages import Stages


def partition_for_qaccel(
    mod: tvm.IRModule,
    hw: str | HwConfig = DEFAULT_CONFIG,
    *,
    calibration_data: Mapping[str, np.ndarray] | None = None,
    input_range: tuple[float, float] | None = None,
    bits: Any = None,
) -> tvm.IRModule:
    """A module with the accelerator's part of ``main`` in functions of their own, ready for ``relax.ext.qaccel``.

    A module in the quantized dialect is partitioned as it is. One with ``relax.quantize`` and ``relax.dequantize`` keeps their
    scales. A float module is quantized first, by the steps of ``tvmc compile``.

    Args:
        mod: a Relax module with a function ``main``.
        hw: the accelerator: a name, the path of a .toml, or a config.
        calibration_data: arrays by parameter name, samples along axis 0; without it activations get 16 bits.
        input_range: least and greatest value of inputs, where there is no data.
        bits: as ``--bits`` takes them.

    Returns:
        The module; the signature of ``main`` stays.

    Raises:
        UserError: no ``main``, or symbolic shapes.

    Example:
        >>> mod = qaccel.partition_for_qaccel(qaccel.quantize("model.onnx", "data.npz").quantized.mod)
        >>> sorted(var.name_hint for var in mod.get_global_vars())
        ['main', 'qaccel_0']
    """
    with boundary("partition_for_qaccel"):
        if not isinstance(mod, tvm.IRModule):
            raise UserError(
                f"partition_for_qaccel takes a tvm.IRModule, not {shown(mod)}; qaccel.compile takes ONNX models"
            )
        config = load_config(hw)
        if "main" not in {var.name_hint for var in mod.get_global_vars()} or any(
            map(works_on_integers, functions(mod))
        ):
            return partition(mod, config).mod
        model = import_relax(mod) if border_of(mod) is None else import_frontend_module(mod, QUANTIZED)
        options = options_of(
            TargetOptions(config), calibration_data=calibration_data, input_range=input_range, bits=bits
        )
        quantized = quantize_imported(model, options, Stages())
        source, _ = with_ends(quantized, options.io_dtype)
        return partition(source, config, quantized.unquantized, float_macs(model.mod)).mod
