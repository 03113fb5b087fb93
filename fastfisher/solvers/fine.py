"""Sums over samples that are right where samples are alike: long ones round one way there."""

import math
from dataclasses import dataclass

import numpy as np

from ..arrays import as_scores
from ..kernels.cpu.splitting import BLOCK_ROWS
from ..passes import add_fvp, products, sums_dtype
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
SEEN, LIE = 64, 8  # samples that tell if some are alike, and how many of them are neighbours,
BY = 2  # by their products with so many solutions
SAME = 512  # units of rounding between two numbers whose sums do not round at random
REPEATED = 1 / 32  # of samples seen: fewer hide less than there is room for
LONG = 4096  # parameters whose products, summed one after another, may round to the same few


@dataclass(frozen=True)
class Fine:
    """A system whose products do not round one way; more slowly."""

    system: System

    def apply_fisher(self, rows):
        return self.system.apply_finely(rows)


def certified(system, added, x, b, norm, improve, correct):
    """`refine`, where samples are alike on by `correct`, until x is what a gate of 9 u asks for.

    Of few samples finely from the beginning, where `careful` will want it anyway.
    """
    dtype, seen = system.dtype, system
    if _has_samples(system, x) and _is_few(system) and np.isfinite(x).all():
        seen = system if _lies_apart(added, x, b, norm, 0.0) else Fine(system)
    x, certificate, improved = refine(seen, added, x, b, norm, improve, dtype, REACHED)
    if seen is system:
        seen = careful(system, added, x, b, norm, certificate)
        if seen is system:
            return x, certificate, improved
    elif certificate.backward_error <= REACHED * unit_roundoff(dtype):
        return x, certificate, improved
    x, certificate, more = refine(seen, added, x, b, norm, correct, dtype, REACHED)
    return x, certificate, improved or more


def careful(system, added, x, b, norm, certificate):
    """The system for the certificate of rows x, given that of the system itself: `Fine` where its
    sums hide more than the gate leaves room for."""
    u = unit_roundoff(system.dtype)
    error, few = certificate.backward_error, _is_few(system)
    if not (_has_samples(system, x) and math.isfinite(error)):
        return system
    clear = error <= CLEAR * u
    if clear and few:
        clear = _lies_apart(added, x, b, norm, certificate.rows)
    if few and not clear:
        return Fine(system)
    repeated = _repeated(_seen_products(system, x), u)
    if clear and not repeated:
        return system
    if not few:
        hidden = _hidden(system, system.cast(x), repeated)
        if (hidden <= ROOM * u * norm * system.total * row_norms(x)).all():
            return system
    return Fine(system)


def _has_samples(system, x):
    """True if samples are at hand, which may be alike."""
    return bool(system.explicit and system.total and x.size)


def _is_few(system):
    """True if there are so few samples that rounding at random is not averaged out either."""
    return system.n <= SAMPLED * BLOCK_ROWS


def _lies_apart(added, x, b, norm, rest):
    """True if no F x, of residuals `rest`, is nearly as large as the norm of F allows."""
    sizes = ALONG * norm * row_norms(x)
    if (row_norms(b) + np.max(added, initial=0.0) * row_norms(x) <= sizes).all():
        return True  # since F x = b - D x but for the residual
    return bool((row_norms(b - rest - added * x) <= sizes).all())


@tamed
def right_side(system, coef):
    """b = G'(w o coef) / W for rows coef (k, n), G centred where F is."""
    if not (system.explicit and system.total):
        return system.apply_adjoint(system.from_coefficients(coef))
    u = system.centred(coef)
    u = u if system.weights is None else u * system.weights
    return system.summed(system.cast(u), finely=True) / system.total


def _repeated(values, u):
    """True if in some row (k, m) more than a few numbers come again, but for their signs."""
    sizes = np.sort(np.abs(values), axis=1)
    again = sizes[:, 1:] - sizes[:, :-1] <= SAME * u * sizes[:, 1:]
    again &= sizes[:, 1:] > 0
    return bool((again.mean(axis=1) > REPEATED).any()) if again.size else False


def _seen_products(system, x):
    """T x for some samples, but for a factor that is the same for all."""
    v, parts, w = system.cast(x[:: -(-len(x) // BY)]), [], system.weights
    for lo in range(0, system.n, max(system.n // (SEEN // LIE), LIE)):
        rows = system.G.rows(lo, min(lo + LIE, system.n))
        if system.p >= LONG:
            seen = products(as_scores(rows), v, shift=system.mean)
        else:
            if system.mean is not None:
                rows = rows - system.cast(system.mean)
            # By einsum: BLAS would wake threads.
            seen = np.einsum("kj,ij->ki", v, rows)
        parts.append(seen if w is None else seen * np.sqrt(w[lo : lo + LIE]))
    return np.concatenate(parts, axis=1)


def _hidden(system, v, repeated):
    """Norms of what plain sums of products with rows v miss, from some blocks of the samples.

    `repeated`: samples come again, maybe one for a long time and then another.
    """
    apart, missed = system.n // SAMPLED, []
    for lo in range(0, SAMPLED * apart, apart):
        here = slice(lo, lo + BLOCK_ROWS)
        part = as_scores(system.G.rows(here.start, here.stop))
        w = None if system.weights is None else system.weights[here]
        plain, fine = np.zeros((2, *v.shape), sums_dtype(system.dtype))
        add_fvp(plain, part, v, weights=w, shift=system.mean)
        add_fvp(fine, part, v, weights=w, shift=system.mean, finely=True)
        missed.append(plain - fine)
    # Products of different blocks: on average those of what they have in common.
    alone = sum(row_norms(one) ** 2 for one in missed)
    common = np.sqrt(np.maximum(row_norms(sum(missed)) ** 2 - alone, 0.0))
    common /= math.sqrt(SAMPLED * (SAMPLED - 1))
    if repeated:
        common = np.maximum(common, np.sqrt(alone) / SAMPLED)
    return common * (system.n / BLOCK_ROWS)
