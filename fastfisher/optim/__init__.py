"""Optimizers over the core: natural gradient descent, and the first-order methods beside it."""

from .first_order import Adam, AdamState, GradientDescent
from .metric import fisher_metric
from .minimize import MinimizeResult, minimize
from .natural import NaturalGradient
from .steps import gain_ratio, kl_clip

__all__ = [
    "Adam",
    "AdamState",
    "GradientDescent",
    "MinimizeResult",
    "NaturalGradient",
    "fisher_metric",
    "gain_ratio",
    "kl_clip",
    "minimize",
]
