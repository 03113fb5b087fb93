"""Optimizers over the core: natural gradient descent, and the first-order methods beside it."""

from .first_order import Adam, AdamState, GradientDescent
from .metric import fisher_metric
from .minimize import MinimizeResult, minimize
from .natural import NaturalGradient
from .spring import spring
from .steps import gain_ratio, kl_clip, norm_clip, two_steps

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
    "norm_clip",
    "spring",
    "two_steps",
]
