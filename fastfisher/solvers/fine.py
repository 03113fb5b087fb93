"""Sums over samples that are right where samples are alike: long ones round one way there."""

import math
from dataclasses import dataclass

import numpy as np

from ..arrays import as_scores
from ..kernels.cpu.splitting import BLOCK_ROWS
from ..pairs import fine_fvp, fine_rmatvec
from ..passes import add_fvp, add_rmatvec
from .certificate import refine, row_norms
from .ranges import tamed, unit_roundoff
from .system import System

__all__ = ["GATE", "REACHED", "careful", "certified", "right_side"]

GATE = 9  # backward error, in u, of an answer in full precision: 1e-15 in double
ROOM = 2  # of it, that products may hide
REACHED = 6  # up to which x is improved, by what products show
CLEAR = 3  # shown of x: what sums of numbers that are not alike hide leaves it below the gate
ALONG = 0.5  # of the norm: a product F x of which sums over few samples hide as much as that
SAMPLED = 4  # blocks of samples that are looked at for how they round
SEEN, LIE = 64, 8  # samples that tell if some are alike, and how many of them are neighbours
SAME = 512  # units of rounding between two numbers whose sums do not round at random
REPEATED = 1 / 32  # of samples seen: fewer hide less than there is room for


@dataclass(frozen=True)
class Fine:
    """A system whose products do not round one way; more slowly."""

    system: System

    def apply_fisher(self, rows):
        return self.system.apply_finely(rows)


def certified(system, added, x, b, norm, improve, correct):
    """`refine`, where samples are alike on by `correct`, until x is what a gate of 9 u asks for."""
    dtype = system.dtype
    x, certificate, improved = refine(system, added, x, b, norm, improve, dtype, REACHED)
    seen = careful(system, added, x, b, norm, certificate)
    if seen is system:
        return x, certificate, improved
    x, certificate, more = refine(seen, added, x, b, norm, correct, dtype, REACHED)
    return x, certificate, improved or more


def careful(system, added, x, b, norm, certificate):
    """The system for the certificate of rows x, given that of the system itself: `Fine` where its
    sums hide more than the gate leaves room for."""
    u = unit_roundoff(system.dtype)
    error, few = certificate.backward_error, system.n <= SAMPLED * BLOCK_ROWS
    if not (system.explicit and system.total and x.size and math.isfinite(error)):
        return system
    clear = error <= CLEAR * u
    if clear and few:  # rounding at random is not averaged out either
        fitted = row_norms(b - certificate.rows - added * x)
        clear = (fitted <= ALONG * norm * row_norms(x)).all()
    repeated = _repeated(_seen_products(system, x), u)
    if clear and not repeated:
        return system
    if not few:

        def missed(part, w, _):
            return _missed(add_fvp, fine_fvp, part, system.cast(x), weights=w, shift=system.mean)

        hidden, _ = _hidden(system, missed, repeated)
        if (hidden <= ROOM * u * norm * system.total * row_norms(x)).all():
            return system
    return Fine(system)


@tamed
def right_side(system, coef):
    """b = G'(w o coef) / W for rows coef (k, n), G centred where F is."""
    if not (system.explicit and system.total):
        return system.apply_adjoint(system.from_coefficients(coef))
    u = system.centred(coef)
    u = system.cast(u if system.weights is None else u * system.weights)
    return system.summed(u, finely=_sums_alike(system, u)) / system.total


def _sums_alike(system, u):
    """True where sums (G - mean)'u for rows u may round one way."""
    n, roundoff = system.n, unit_roundoff(system.dtype)
    if n <= LIE or not _repeated(u[:, :: max(n // SEEN, 1)], roundoff):
        return False
    if not _scores_alike(system, roundoff):
        return False
    if n <= SAMPLED * BLOCK_ROWS:
        return True

    def missed(part, _, rows):
        own = np.ascontiguousarray(u[:, rows])
        return _missed(add_rmatvec, fine_rmatvec, part, own, shift=system.mean)

    hidden, sizes = _hidden(system, missed, True)
    return not (hidden <= roundoff * sizes).all()


def _scores_alike(system, u):
    """True if samples, or most of what is in them, come again."""
    if _repeated(_seen_products(system, np.cos(np.arange(system.p))[np.newaxis]), u):
        return True
    again = total = 0.0
    for lo in range(0, system.n - 1, max(system.n // LIE, 2)):
        one, other = np.abs(system.G.rows(lo, lo + 2))
        squares = np.square(other)
        again += squares[np.abs(other - one) <= SAME * u * other].sum(dtype=float)
        total += squares.sum(dtype=float)
    return again > REPEATED * total


def _repeated(values, u):
    """True if in some row (k, m) more than a few numbers come again, but for their signs."""
    sizes = np.sort(np.abs(values), axis=1)
    again = sizes[:, 1:] - sizes[:, :-1] <= SAME * u * sizes[:, 1:]
    again &= sizes[:, 1:] > 0
    return bool((again.mean(axis=1) > REPEATED).any()) if again.size else False


def _seen_products(system, x):
    """T x for some samples, but for a factor that is the same for all."""
    v, parts, w = system.cast(x), [], system.weights
    for lo in range(0, system.n, max(system.n // (SEEN // LIE), LIE)):
        rows = system.G.rows(lo, min(lo + LIE, system.n))
        if system.mean is not None:
            rows = rows - system.cast(system.mean)
        # By einsum: BLAS would wake threads.
        seen = np.einsum("kj,ij->ki", v, rows)
        parts.append(seen if w is None else seen * np.sqrt(w[lo : lo + LIE]))
    return np.concatenate(parts, axis=1)


def _missed(add, fine, part, v, **how):
    """What plain sums over a block of scores miss, and what they are."""
    found = fine(part, v, **how)
    plain = np.zeros_like(found)
    add(plain, part, v, **how)
    return plain - found, found


def _hidden(system, missed, repeated):
    """Norms of what plain sums over all samples miss, and of those sums, from some blocks.

    `repeated`: samples come again, maybe one for a long time and then another.
    """
    apart, found = system.n // SAMPLED, []
    for lo in range(0, SAMPLED * apart, apart):
        here = slice(lo, lo + BLOCK_ROWS)
        w = None if system.weights is None else system.weights[here]
        found.append(missed(as_scores(system.G.rows(lo, lo + BLOCK_ROWS)), w, here))
    # Products of different blocks: on average those of what they have in common.
    parts = [one for one, _ in found]
    alone = sum(row_norms(one) ** 2 for one in parts)
    common = np.sqrt(np.maximum(row_norms(sum(parts)) ** 2 - alone, 0.0))
    times = system.n / BLOCK_ROWS
    common /= math.sqrt(SAMPLED * (SAMPLED - 1))
    if repeated:
        common = np.maximum(common, np.sqrt(alone) / SAMPLED)
    sizes = row_norms(sum(sums for _, sums in found)) * (times / SAMPLED)
    return common * times, sizes
