"""Errors of fastfisher: every message says what came, what was expected and what to do."""

import numpy as np

__all__ = [
    "ConvergenceError",
    "FisherError",
    "InputError",
    "MemoryLimitError",
    "MissingDependencyError",
    "NotPositiveDefiniteError",
    "StateError",
]


class FisherError(Exception):
    """Base of all errors raised by fastfisher.

    Keyword arguments become attributes; they survive pickling and copying.
    """

    def __init__(self, message, **facts):
        super().__init__(message)
        self.__dict__.update(facts)

    def __reduce__(self):
        return type(self)._restore, (str(self), dict(self.__dict__))

    @classmethod
    def _restore(cls, message, facts):
        return cls(message, **facts)


class InputError(FisherError, ValueError):
    """An argument is of the wrong kind, shape, type or value; nothing was computed or changed."""


class NotPositiveDefiniteError(FisherError, np.linalg.LinAlgError):
    """The damped matrix has no Cholesky factor in the arithmetic used.

    Attributes
    ----------
    order : int
        1-based order of the leading minor that is not positive definite, as in LAPACK.
    rcond : float
        Estimated reciprocal condition number (1-norm); 0.0 where it could not be estimated.
    suggested_damping : float or None
        The absolute damping to *add* that would make the factorisation succeed; None if unknown.
    blocks : tuple of int
        Of a block-diagonal Fisher: indices of all blocks that failed; `order` is of the first.
    """

    order = 0
    rcond = 0.0
    suggested_damping = None
    blocks = ()


class ConvergenceError(FisherError):
    """A solver stopped short of its tolerance; ``solution`` holds what it had reached."""

    solution = None


class MemoryLimitError(FisherError, MemoryError):
    """The plan needs more memory than there is; nothing was allocated. ``plan`` says what for."""

    plan = None


class StateError(FisherError):
    """A Fisher object or a state file cannot do what was asked in the state it is in."""


class MissingDependencyError(FisherError, ImportError):
    """An optional package is missing; the message names the extra that brings it."""
