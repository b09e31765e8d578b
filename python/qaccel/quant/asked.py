"""What is asked of bits and passes, against what a model has."""

from __future__ import annotations

from ..errors import UserError
from ..model import Model
from ..options import BitWidths, CompileOptions
from .passes import chosen_passes


def check_passes(options: CompileOptions) -> None:
    """Raises UserError for an unknown pass, and where none pays for bits that are to be fewer."""
    paying = [each.name for each in chosen_passes(options.passes, options.effort, paid=True) if each.pays]
    if options.limits.max_bytes is not None and not options.auto and not paying:
        raise UserError(
            f"--max-bytes {options.limits.max_bytes} is kept by rounding that pays for bits, and --passes names none; add "
            "rounding_of_8_bits"
        )


def check_bits(model: Model, options: CompileOptions) -> None:
    """Raises UserError where bits are asked for that a model which came quantized does not have."""
    given, bits = model.given, options.bits
    if given is not None and given.activations and options.auto:
        raise UserError("--bits auto: the model came quantized and keeps its own bits; add --requantize")
    if given is not None and given.activations and options.limits.max_bytes is not None:
        raise UserError("--max-bytes: the model came quantized and keeps its own integers; add --requantize")
    if given is None or bits is None:
        return
    way_out = "leave --bits out, or add --requantize, which takes it as a float model"
    if given.activations:
        raise UserError(f"--bits: the model came quantized and keeps its own bits, scales and zero points; {way_out}")
    for node, weights in given.weights.items():
        wanted = bits if isinstance(bits, BitWidths) else bits.get(node)
        if wanted is not None and wanted.weight_bits != weights.bits:
            raise UserError(f"--bits {wanted}: the weights of node '{node}' came in {weights.bits} bits; {way_out}")
