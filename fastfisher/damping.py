"""Damping as small value objects: what is added to the Fisher matrix before it is solved with.

A float means `Tikhonov`. Damping is never chosen silently: there is no default.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from .arrays import as_real
from .errors import InputError
from .scalars import as_number

__all__ = [
    "Damping",
    "FactoredTikhonov",
    "LevenbergMarquardt",
    "Marquardt",
    "Relative",
    "Tikhonov",
    "as_damping",
]


class Damping(ABC):
    """Base of the damping objects.

    ``resolve(trace, diagonal, p)`` returns what is added to F: a number lambda for lambda I, or a
    vector (p,) for a diagonal. ``needs`` says what it looks at: "", "trace" or "diagonal".
    """

    needs = ""

    @abstractmethod
    def resolve(self, trace, diagonal, p):
        """What is added to F, given its trace and diagonal."""

    @abstractmethod
    def scaled(self, scale):
        """The damping that does the same to scores multiplied by `scale`."""

    @property
    @abstractmethod
    def is_zero(self):
        """True if nothing at all is added."""


def _check(damping, **numbers):
    for name, value in numbers.items():
        object.__setattr__(damping, name, as_real(value, f"{type(damping).__name__}({name}=)"))


@dataclass(frozen=True)
class Tikhonov(Damping):
    """F + lam I.

    Parameters
    ----------
    lam : float
        Absolute damping, >= 0, in the units of F.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.Tikhonov(1e-3)
    Tikhonov(lam=0.001)
    """

    lam: float

    def __post_init__(self):
        _check(self, lam=self.lam)

    def resolve(self, trace, diagonal, p):
        return self.lam

    def scaled(self, scale):
        return Tikhonov(self.lam * scale * scale)

    @property
    def is_zero(self):
        return self.lam == 0


@dataclass(frozen=True)
class Relative(Damping):
    """F + lambda I with lambda = c trace(F) / p, a share of the mean eigenvalue.

    Scaling the scores scales the step by the inverse: docs/math.md P2.

    Parameters
    ----------
    c : float
        Share of the mean eigenvalue, >= 0.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.Relative(0.01).resolve(200.0, None, 10)
    0.2
    """

    c: float
    needs = "trace"

    def __post_init__(self):
        _check(self, c=self.c)

    def resolve(self, trace, diagonal, p):
        return self.c * (float(trace) / max(p, 1))

    def scaled(self, scale):
        return self

    @property
    def is_zero(self):
        return self.c == 0


@dataclass(frozen=True)
class Marquardt(Damping):
    """F + c diag(F) + shift I; invariant under rescaling of the parameters while shift is 0.

    In stochastic reconfiguration c and shift are called diag_scale and diag_shift; docs/math.md P3.

    Parameters
    ----------
    c : float
        Share of the diagonal, >= 0.
    shift : float
        Absolute floor, >= 0: a parameter whose scores are all zero needs one.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.Marquardt(0.5, shift=1.0).resolve(None, np.array([2.0, 0.0]), 2)
    array([2., 1.])
    """

    c: float
    shift: float = 0.0
    needs = "diagonal"

    def __post_init__(self):
        _check(self, c=self.c, shift=self.shift)

    def resolve(self, trace, diagonal, p):
        return self.c * np.asarray(diagonal, dtype=np.float64) + self.shift

    def scaled(self, scale):
        return Marquardt(self.c, shift=self.shift * scale * scale)

    @property
    def is_zero(self):
        return self.c == 0 and self.shift == 0


@dataclass(frozen=True)
class FactoredTikhonov(Damping):
    """(E + sqrt(lam) / pi I) kron (A + pi sqrt(lam) I) per layer, for `KroneckerFisher` only.

    Exceeds E kron A + lam I by a positive semidefinite matrix, so steps are never longer; pi, by
    the mean eigenvalues of A and E, makes the trace of the excess smallest. docs/math.md P6.

    Parameters
    ----------
    lam : float
        Absolute damping, >= 0, in the units of F.

    References
    ----------
    J. Martens, R. Grosse, Optimizing neural networks with Kronecker-factored approximate
    curvature, arXiv:1503.05671, section 6.3.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> ff.FactoredTikhonov(0.01).split(np.diag([4.0, 4.0]), np.eye(3))
    (0.2, 0.05)
    """

    lam: float

    def __post_init__(self):
        _check(self, lam=self.lam)

    def split(self, A, E):
        """What is added to the diagonals of A and of E."""
        means = [float(np.mean(x.diagonal().real)) for x in (A, E)]
        ratio = np.sqrt(means[0] / means[1]) if min(means) > 0 else 1.0
        root = float(np.sqrt(self.lam))
        return root * float(ratio), root / float(ratio)

    def resolve(self, trace, diagonal, p):
        raise InputError(
            "FactoredTikhonov damps the factors of a KroneckerFisher; pass Tikhonov(lam) here"
        )

    def scaled(self, scale):
        return FactoredTikhonov(self.lam * scale * scale)

    @property
    def is_zero(self):
        return self.lam == 0


@dataclass(frozen=True)
class LevenbergMarquardt(Damping):
    """F + lam I, where lam follows the gain ratio rho of the last step; docs/math.md P5.

    ``step(rho)`` returns the next object: rho > high shrinks lam, rho < low (or NaN) raises it.

    Parameters
    ----------
    lam : float
        Absolute damping, >= 0.
    shrink, grow : float
        Factors, 0 < shrink <= 1 <= grow.
    low, high : float
        Thresholds on the gain ratio, low <= high.
    least, most : float
        Bounds of lam.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.LevenbergMarquardt(3.0).step(0.9).lam
    2.0
    """

    lam: float
    shrink: float = 2 / 3
    grow: float = 3 / 2
    low: float = 0.25
    high: float = 0.75
    least: float = 0.0
    most: float = float("inf")

    def __post_init__(self):
        _check(self, lam=self.lam)
        if not 0 < self.shrink <= 1 <= self.grow:
            raise InputError(
                f"shrink is {self.shrink}, grow {self.grow}; expected 0 < shrink <= 1 <= grow"
            )
        if not self.low <= self.high:
            raise InputError(f"low is {self.low}, high {self.high}; expected low <= high")
        if not 0 <= self.least <= self.most:
            raise InputError(
                f"least is {self.least}, most {self.most}; expected 0 <= least <= most"
            )

    def resolve(self, trace, diagonal, p):
        return self.lam

    def scaled(self, scale):
        return Tikhonov(self.lam * scale * scale)

    @property
    def is_zero(self):
        return self.lam == 0

    def step(self, rho):
        """The damping after a step whose gain ratio was `rho`."""
        rho = as_number(rho, "rho")
        if rho > self.high:
            lam = self.lam * self.shrink
        elif rho >= self.low:
            lam = self.lam
        else:
            lam = self.lam * self.grow
        return replace(self, lam=min(max(lam, self.least), self.most))


def as_damping(damping):
    """Check `damping=`: a damping object, or a number meaning Tikhonov."""
    if type(damping) is float:  # asking an abstract class takes longer than all the rest
        return Tikhonov(as_real(damping, "damping"))
    if isinstance(damping, Damping):
        return damping
    if damping is None:
        raise InputError(
            "damping is None; pass a number >= 0 or a damping object: there is no default"
        )
    return Tikhonov(as_real(damping, "damping"))
