"""Instructions of layers that only move values."""

from __future__ import annotations

from ..layers import MoveLayer
from ..plan.tiles.strided import cut, source_of, target_of
from .builder import ProgramBuilder


def emit_move(builder: ProgramBuilder, layer: MoveLayer) -> None:
    """A COPY for every part; around it a LOAD and a STORE where source or output lie in DRAM."""
    y = builder.graph.maps[layer.output]
    for piece in layer.pieces:
        x = builder.graph.maps[layer.inputs[piece.source]]
        multiplier, shift = layer.scales[piece.source]
        for part in cut(piece, builder.tiling.tile_values):
            view = builder.strided_input(piece.source, source_of(part, x))
            target = target_of(part, y)
            output = builder.strided_output(target)
            index = builder.emit(
                "COPY",
                view.writers,
                **view.fields("in"),
                **output.fields("out"),
                h=part.rows,
                w=part.pixels,
                channels=part.channels,
                multiplier=multiplier,
                shift=shift,
                in_bits=x.bits,
                in_zero_point=x.zero_point,
                out_bits=y.bits,
                out_zero_point=y.zero_point,
                clamp_lo=layer.clamp_lo,
                clamp_hi=layer.clamp_hi,
            )
            builder.finish_strided(target, output, index)
