"""Optimizers over the core: natural gradient descent, and the first-order methods beside it."""

from .first_order import Adam, AdamState, GradientDescent
from .metric import fisher_metric
from .minimize import MinimizeResult, minimize
from .momentum import HeavyBall, ModelMomentum, SpringMomentum
from .natural import NaturalGradient
from .power import inverse_power
from .spring import spring
from .steps import gain_ratio, kl_clip, kl_steepest, norm_clip, two_steps
from .structures import structured_metric

__all__ = [
    "Adam",
    "AdamState",
    "GradientDescent",
    "HeavyBall",
    "MinimizeResult",
    "ModelMomentum",
    "NaturalGradient",
    "SpringMomentum",
    "fisher_metric",
    "gain_ratio",
    "inverse_power",
    "kl_clip",
    "kl_steepest",
    "minimize",
    "norm_clip",
    "spring",
    "structured_metric",
    "two_steps",
]
