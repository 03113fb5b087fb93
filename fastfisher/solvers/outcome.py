"""What a route hands back before it is dressed as a Solution."""

from dataclasses import dataclass

import numpy as np

from .certificate import Certificate
from .system import System

__all__ = ["Outcome"]


@dataclass(frozen=True)
class Outcome:
    """Rows x (k, p) of the (possibly rescaled) system, their certificate, how they came about."""

    system: System
    x: np.ndarray
    certificate: Certificate
    status: str
    added: object
    statuses: tuple | None = None  # of each right-hand side, where a route has its own rule
    iterations: int = 0
    rung: str = "cholesky"
    cancellation: float | None = None
    rank: int | None = None
    rcond: float | None = None
    smallest_pivot: float | None = None
    escalation: float = 0.0
    slices: int | None = None
    rough_error: float | None = None
