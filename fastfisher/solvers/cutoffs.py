"""Damping by eigenvalues: directions that the scores hardly determine are left out or faded.

Unlike the objects of damping.py these add nothing to F; they say what its inverse is replaced by.
"""

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from ..damping import Damping, as_real
from ..errors import InputError

__all__ = ["Cutoff", "HardCutoff", "SNRCutoff", "SoftCutoff"]


class Cutoff(Damping):
    """Base: ``gains`` answers what 1/e is replaced by, for each eigenvalue e of F."""

    needs = "spectrum"
    per_sample = False  # True if `gains` looks at the coefficients of the samples

    @abstractmethod
    def gains(self, eigenvalues, largest, floor, noise=None):
        """Replacement of 1/e for eigenvalues (m,): 0 where a direction is cut.

        `floor` is the share of the largest below which an eigenvalue is rounding; `noise` the
        signal-to-noise ratios (k, m) of the modes, for a cutoff that looks at samples.
        """

    def threshold(self, largest, floor):
        """The eigenvalue at which the cutoff lies."""
        return max(self.rtol, floor) * largest

    def resolve(self, trace, diagonal, p):
        raise InputError(
            f"{self} replaces the inverse of F by its eigenvalues, and needs a dense or a Gram "
            "matrix: use solve with method 'auto', 'primal' or 'dual', or a Fisher object"
        )

    def scaled(self, scale):
        return self

    @property
    def is_zero(self):
        return False

    def _check(self):
        for name in self.__dataclass_fields__:
            value = as_real(getattr(self, name), f"{type(self).__name__}({name}=)")
            object.__setattr__(self, name, value)
        if not self.rtol < 1:
            raise InputError(f"{type(self).__name__}(rtol={self.rtol}) keeps nothing; expected < 1")


def _inverse(eigenvalues, kept):
    return np.divide(1.0, eigenvalues, out=np.zeros_like(eigenvalues), where=kept)


@dataclass(frozen=True)
class HardCutoff(Cutoff):
    """1/e for eigenvalues e > rtol e_max, 0 for the others: the truncated pseudo-inverse.

    Parameters
    ----------
    rtol : float
        Share of the largest eigenvalue, 0 <= rtol < 1. Eigenvalues below 16 n u e_max are
        rounding and always cut (n the order of the matrix, u the unit roundoff of double).

    Notes
    -----
    docs/math.md P8. ``Solution.damping`` is the absolute cutoff, ``.rank`` what was kept and
    ``.residual`` that of the right-hand side without the directions cut.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.array([[2.0, 0.0], [0.0, 1e-6]])
    >>> ff.solve(G, np.ones(2), damping=ff.HardCutoff(1e-8)).x
    array([0.5, 0. ])
    """

    rtol: float

    def __post_init__(self):
        self._check()

    def gains(self, eigenvalues, largest, floor, noise=None):
        return _inverse(eigenvalues, eigenvalues > self.threshold(largest, floor))


@dataclass(frozen=True)
class SoftCutoff(Cutoff):
    """1 / (e (1 + (rtol e_max / e)^6)): fades directions out around e = rtol e_max.

    Parameters
    ----------
    rtol : float
        Where the factor is 1/2, as a share of the largest eigenvalue; 0 <= rtol < 1.

    Notes
    -----
    docs/math.md P8. Smooth where `HardCutoff` jumps, as wanted in time evolution. ``.rank`` counts
    the directions that are not rounding.

    References
    ----------
    M. Schmitt, M. Heyl, Quantum many-body dynamics in two dimensions with artificial neural
    networks, 2020, arXiv:1912.08828.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.array([[2.0, 0.0], [0.0, 0.2]])
    >>> ff.solve(G, np.ones(2), damping=ff.SoftCutoff(0.01)).x.round(9)
    array([ 0.5, 25. ])
    """

    rtol: float

    def __post_init__(self):
        self._check()

    def threshold(self, largest, floor):
        return self.rtol * largest

    def gains(self, eigenvalues, largest, floor, noise=None):
        inverse = _inverse(eigenvalues, eigenvalues > floor * largest)
        # In a form that cannot overflow: 1 / (1 + (rtol e_max / e)^6).
        ratio = np.minimum(self.rtol * largest * inverse, 1e50)
        return inverse / (1 + ratio**6)


@dataclass(frozen=True)
class SNRCutoff(Cutoff):
    """1/e for eigenmodes whose share of b = G'(w o coef)/sum(w) stands out of its noise.

    With q_i = conj(G_i v) coef_i, whose weighted mean over samples is the component v'b, a mode v
    is kept if ``|mean q| sqrt(n) / std(q) > snr`` and e > rtol e_max. For weights,
    n = sum(w)^2 / sum(w^2).

    Parameters
    ----------
    snr : float
        Signal-to-noise ratio, >= 0; 0 leaves all modes in.
    rtol : float
        As in `HardCutoff`.

    Notes
    -----
    Needs ``coef``, and with centred scores coefficients whose weighted mean is zero, as the local
    energies of a variational Monte-Carlo step. docs/math.md P8.

    References
    ----------
    M. Schmitt, M. Heyl, 2020, arXiv:1912.08828.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> G = np.array([[1.0, 1.0], [1.0, -1.0], [1.0, 1.0], [1.0, -1.0]])
    >>> coef = np.array([1.0, 1.0, 1.2, 0.8])   # a clear mean, a faint difference
    >>> ff.solve(G, coef=coef, damping=ff.SNRCutoff(3.0)).x
    array([1., 0.])
    """

    snr: float
    rtol: float = 0.0
    per_sample = True

    def __post_init__(self):
        self._check()

    def gains(self, eigenvalues, largest, floor, noise=None):
        if noise is None:
            raise InputError(
                f"{self} looks at single samples: pass coef= (b = G'(w o coef)/sum(w)) to solve or "
                "GramFisher.solve"
            )
        inverse = _inverse(eigenvalues, eigenvalues > self.threshold(largest, floor))
        return np.where(noise > self.snr, inverse, 0.0)
