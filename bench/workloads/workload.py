"""What a workload is, and what several of them need."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..cases import Op


@dataclass(frozen=True)
class Workload:
    """One job: what it is, its cost, its numbers, the two ways, and what is right."""

    title: str
    cost: Op
    inputs: Callable  # (normal, shape) -> operands
    ours: Callable
    peer: Callable
    truth: Callable | None = None  # on operands in double; the peer's expression by default
    gate: float = 1e5  # u, norm-wise: these answers are ill-conditioned by their inverses


def eye(p, dtype):
    """The identity of order p."""
    return np.eye(p, dtype=dtype)


def scores_and(*sizes):
    """Scores (n, p), and arrays of other shapes made from the case's shape."""

    def make(normal, shape):
        return normal(*shape[:2]), *(normal(*size(*shape)) for size in sizes)

    return make
