"""The trained networks through the reference interpreter: every integer as NumPy on the quantized graph has it."""

from pathlib import Path

import numpy as np
import pytest

from networks import data
from npu.harness import dram_image
from npu.oracle import unpack_map
from npu.test_networks import compiled, integers, quantized
from qaccel.machine.interpreter.interpreter import run
from qaccel.npu.layers import FeatureMap
from qaccel.options import BitWidths


@pytest.mark.wide
@pytest.mark.parametrize(("weight_bits", "activation_bits"), [(8, 8), (4, 8), (8, 16)])
def test_network_is_interpreted_exactly(network_path: Path, weight_bits: int, activation_bits: int) -> None:
    q = quantized(network_path, BitWidths(weight_bits, activation_bits))
    network = compiled(q, "qaccel-64")
    seen = integers(q, data.load("test", 1)["images"])
    (source,) = [value for name, value in seen.items() if name.startswith(q.model.inputs[0].name)]
    artefact = network.artefact
    dram, defined, read_only = dram_image(artefact, [source[0].astype(np.int64)])
    run(artefact.hw, artefact.program, dram, initialised=defined, read_only=read_only, seed=1)
    (slot,) = artefact.outputs
    image = dram[slot.dram_addr : slot.dram_addr + slot.dram_bytes].tobytes()
    output = unpack_map(image, FeatureMap(slot.name, *slot.shape, slot.bits, 0))
    np.testing.assert_array_equal(output, seen[network.layers[-1].name][0])
