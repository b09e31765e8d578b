"""Training for the accelerator: a quantizer for PyTorch's PT2E that rounds where the compiler does, and a loop that trains for it.

Needs the extra ``qaccel[train]``: torch and torchao. On a machine without a GPU the CPU builds of torch are enough and far smaller;
install one first, as PyTorch's own installation page says for your platform, then ``pip install qaccel[train]``, which keeps it.
"""

try:
    import torch as _torch  # noqa: F401
    import torchao.quantization.pt2e.quantize_pt2e as _pt2e  # noqa: F401
except ImportError as error:
    raise ImportError("qaccel.train needs torch and torchao; pip install qaccel[train]") from error

from .fit import fit as fit
from .fit import freeze as freeze
from .quantizer import QaccelQuantizer as QaccelQuantizer
from .steps import LearnedStep as LearnedStep
from .steps import learn_steps as learn_steps

__all__ = ["LearnedStep", "QaccelQuantizer", "fit", "freeze", "learn_steps"]
