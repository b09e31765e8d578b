"""Training for the accelerator's integers, with PyTorch and torchao: the extra ``qaccel[train]``."""

from .fit import fit, freeze
from .steps import LearnedStep, learn_steps

__all__ = ["LearnedStep", "fit", "freeze", "learn_steps"]
