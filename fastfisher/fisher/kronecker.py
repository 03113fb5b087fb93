"""The Kronecker Fisher: KFAC, and EKFAC where it is corrected in the eigenbases."""

import copy

import numpy as np

from ..arrays import as_real
from ..damping import FactoredTikhonov, as_damping
from ..errors import InputError, NotPositiveDefiniteError, StateError
from ..ops.layers import SLICE_BYTES
from ..passes import sums_dtype
from ..planning import plan_kronecker, require_memory
from ..slices import SLICE_FLOPS, whole_slices
from ..solvers.certificate import refine
from ..solvers.cutoffs import Cutoff
from ..solvers.ladder import allowed
from .base import Fisher
from .batches import OfLayers, check_widths
from .eigenbasis import KroneckerFactor, KroneckerSpectrum
from .factor_sums import FactorSums
from .moments import Moments
from .spectral import SpectralFactor
from .staging import Staged

__all__ = ["KroneckerFisher"]

TOKENS = ("expand", "reduce")
LEAST = 1e-140  # largest elements below which squares lose digits


class KroneckerFisher(OfLayers, Staged, Fisher):
    """F ~ blockdiag kron(E_l, A_l) with E = mean e e', A = mean a a': KFAC; or EKFAC.

    Parameters
    ----------
    widths : sequence of (d_in, d_out)
        One pair per layer, a bias counted in d_in. The parameter vector is the concatenation of
        dW.ravel() over the layers, dW of shape (d_out, d_in).
    corrected : bool
        EKFAC: the eigenvalues of a layer's block are the second moments of its scores in the
        eigenbasis U = kron(U_E, U_A), not the products of those of E and A.
    tokens : {"expand", "reduce"}
        Batches (n, t, d) by ``A = mean over n and t of a a', E = mean over n of sum_t e e'``, or by
        the mean input and the summed gradient of a sample. The same for one token.
    dtype, kind
        As in `DenseFisher`.
    center : bool
        Must be False: the centred Fisher is no Kronecker product.

    Notes
    -----
    update: n t (d_in + d_out)^2 flops a layer; state 8 (d_in^2 + d_out^2 + d_in d_out) bytes; small
    batches wait in a buffer, as in `DenseFisher`.
    The first factor or solve after an update takes the eigenbases, 9 (d_in^3 + d_out^3) flops;
    after that 4 d_in d_out (d_in + d_out) for each right-hand side. Damping is exact in the
    eigenbasis (docs/math.md P7), or split over the factors by `FactoredTikhonov` (P6). Formulas:
    docs/math.md C1-C5. With "expand" zeros that fill up a sequence count in the mean over t.

    References
    ----------
    J. Martens, R. Grosse, arXiv:1503.05671; T. George et al., arXiv:1806.03884;
    R. Eschenhagen et al., arXiv:2311.00636.

    Examples
    --------
    >>> import numpy as np, fastfisher as ff
    >>> A, E = np.array([[1.0, 2.0]]), np.array([[3.0]])
    >>> F = ff.KroneckerFisher([(2, 1)]).update([(A, E)])
    >>> F.matrix()
    array([[ 9., 18.],
           [18., 36.]])
    >>> F.solve(damping=5.0).x
    array([0.06, 0.12])
    """

    _identity = ("widths", "tokens", "corrected", *Fisher._identity)

    def __init__(
        self, widths, *, corrected=False, tokens="expand", dtype="float64", center=False, kind=None
    ):
        super().__init__(dtype=dtype, center=center, kind=kind)
        if self.center:
            raise InputError(
                "center=True: the centred Fisher is no Kronecker product; use LayeredFisher"
            )
        if tokens not in TOKENS:
            raise InputError(f"tokens is {tokens!r}; expected one of {', '.join(TOKENS)}")
        self.widths, self.tokens, self.corrected = check_widths(widths), tokens, bool(corrected)
        double = sums_dtype(self.dtype)
        words = sum(i * i + o * o + i * o for i, o in self.widths)
        if self.corrected:
            words += words
        require_memory(words * double.itemsize, f"the factors of {len(self.widths)} layers")
        self._sums = FactorSums(self.widths, double)
        self._known = None  # eigenbases and spectra of the factors as they are now
        self._moments = None  # EKFAC: second moments in bases that stay,
        self._fresh = False  # and whether the factors are still those the bases are of
        self._open_buffer()

    @property
    def p(self):
        return sum(d_in * d_out for d_in, d_out in self.widths)

    @property
    def mean(self):
        self._flush()
        return self._sums.gradient.conj() / (self.weight or 1.0)

    # Accumulation.

    def update(self, layers, weights=None, decay=1.0, *, nan_policy="raise"):
        """Add a batch of layers, in place.

        With ``corrected=True`` the first batch fixes the eigenbases and is read a second time for
        the second moments; later batches are added to the factors and, in the bases fixed so far,
        to the moments. `correct` takes new bases from all of the factors.

        Parameters
        ----------
        layers : sequence of pairs (A, E)
            Per layer inputs A (n, d_in) and output gradients E (n, d_out), or (n, t, d) with
            tokens or patches. A bias is a column of ones in A. Gradients of each sample's own
            loss: a mean over the batch divides them by n.
        weights, decay, nan_policy
            As in `DenseFisher.update`.

        Returns
        -------
        KroneckerFisher
            self.

        Raises
        ------
        InputError
            For bad operands; nothing was changed.
        """
        return super().update(layers, weights, decay, nan_policy=nan_policy)

    def correct(self, layers, weights=None, *, nan_policy="raise"):
        """EKFAC: add second moments of a batch in the eigenbases fixed so far; returns self.

        If batches were added since the bases were fixed, or they never were, they are taken from
        the factors as they are and the moments start anew. So: `update` with every batch, then
        `correct` with every batch. From here on the Fisher is corrected.

        Parameters
        ----------
        layers, weights, nan_policy
            As in `update`.

        Raises
        ------
        InputError
            For bad operands; nothing was changed.
        StateError
            Before the first update.
        """
        batch, weights = self._checked_batch(layers, weights, nan_policy)
        if not self.weight:
            raise StateError("there are no factors to correct; call update first")
        self._second_pass(batch, weights, fix=not self._fresh)
        return self

    def _second_pass(self, batch, weights, *, fix):
        self._flush()
        if fix:
            self._moments = Moments(self._eigen().bases)
            self._fresh = self.corrected = True
        step = self._slice_rows(batch)
        with whole_slices() as check:
            for lo in range(0, batch.n, step):
                part = batch.part(lo, min(lo + step, batch.n))
                self._moments.add(part, None if weights is None else weights[lo : lo + step])
                check()

    def _bound(self, index, tokens, a, e):
        for name, top in (("A", a), ("E", e)):
            if 0 < top < LEAST:
                raise InputError(
                    f"layers[{index}].{name} holds values up to {top:.3g} only, whose squares "
                    "vanish; move a power of two between A and E"
                )
        return max(a, e, tokens * a * e)

    def _slice_rows(self, batch):
        flops = sum(t * (d_in + d_out) ** 2 for t, d_in, d_out in batch.sizes)
        words = sum(t * (d_in + d_out) for t, d_in, d_out in batch.sizes)
        return max(int(min(SLICE_FLOPS // max(flops, 1), SLICE_BYTES // max(8 * words, 1))), 1)

    @property
    def _sum_bytes(self):
        return self._sums.nbytes

    def _add(self, batch, weights, total):
        super()._add(batch, weights, total)
        self._fresh = False

    def _absorb(self, batch, weights, total):
        self._sums.add(batch, weights, self.tokens)
        if self._moments is not None:
            self._moments.add(batch, weights)
        self._known = None

    def _complete(self, batch, weights):
        if self.corrected and self._moments is None and self.weight:
            self._second_pass(batch, weights, fix=True)

    def _scale(self, factor):
        self._sums.scale(factor)
        if self._moments is not None:
            self._moments.decay(factor)
        self._known = None

    def _merge(self, other):
        self._flush()
        other._flush()
        mine, theirs = self._moments, other._moments
        if mine is None and not self.weight:
            self._moments, self._fresh = copy.deepcopy(theirs), other._fresh
        elif (mine is None) != (theirs is None) or (mine and not mine.shares_bases_with(theirs)):
            raise StateError(
                "cannot merge second moments in different eigenbases: merge Fishers that were "
                "never corrected, then call correct with the batches"
            )
        elif mine is not None:
            mine.merge(theirs)
            self._fresh = False
        self._sums.merge(other._sums)
        self._summed = self.weight + other.weight
        self._known = None

    # Questions.

    def _blocks(self):
        """The factors, normalised."""
        self._flush()
        return self._sums.blocks(self.weight or 1.0)

    def _eigen(self):
        """Eigenbases and eigenvalues of the factors, taken once for each state."""
        self._flush()
        if self._known is None:
            self._known = self._blocks().eigen()
        return self._known

    @property
    def _has_moments(self):
        self._flush()
        known = self._moments is not None and self._moments.weight > 0
        if self.corrected and self.weight and not known:
            raise StateError("the factors have no second moments yet; call correct(layers)")
        return known

    def _operator(self):
        """F as `Blocks` (KFAC) or `Spectral` (EKFAC)."""
        return self._moments.spectral() if self._has_moments else self._blocks()

    def _spectrum(self):
        """F as `Spectral`."""
        return self._moments.spectral() if self._has_moments else self._eigen().spectral()

    def apply_fisher(self, v):
        """F v for rows v (k, p), in double."""
        return self._operator().apply_fisher(v)

    def __matmul__(self, v):
        return self._product(v, self.apply_fisher)

    def matrix(self):
        double = sums_dtype(self.dtype)
        require_memory(2 * self.p**2 * double.itemsize, "the matrix of F")
        F, first = np.zeros((self.p, self.p), double), 0
        for block in self._operator().matrices():
            last = first + len(block)
            F[first:last, first:last] = block
            first = last
        return self._answer(F, "F")

    def _real_diagonal(self):
        return self._operator().diagonal()

    def _top(self):
        return self._sums.top() / (self.weight or 1.0)

    def trace(self):
        return self._operator().trace()

    def eigvalsh(self):
        return self._answer(np.sort(self._spectrum().eigenvalues), "the largest eigenvalue of F")

    def factor(self, damping):
        """F + lambda I in the eigenbases (exact), or the split of `FactoredTikhonov`.

        Returns
        -------
        KroneckerFactor
            With `inv_root`, (F + D)^-1/2 b, beside the methods of every factor. For a cutoff, whose
            largest eigenvalue is that of all layers, a `SpectralFactor` with the same.

        Raises
        ------
        InputError
            For Marquardt damping, and for FactoredTikhonov of EKFAC, which has no factors.
        NotPositiveDefiniteError
            If lambda is 0 and F singular, and no `Ladder` is in force; ``.order`` counts the
            eigenvalues, layer by layer.
        """
        damping = as_damping(damping)
        if damping.needs == "diagonal":
            raise InputError("KroneckerFisher needs scalar damping: diag(F) is not diagonal there")
        if isinstance(damping, Cutoff):
            return self._cut(damping)
        operator = self._operator()
        if not isinstance(damping, FactoredTikhonov):
            lam = damping.resolve(operator.trace(), None, self.p)
            spectral = self._spectrum()
            try:
                return self._divided(spectral, operator, lam, damping)
            except NotPositiveDefiniteError:
                top = lam + float(spectral.eigenvalues.max())
                extra, cutoff = allowed(max(map(max, self.widths)), top)
                if extra:
                    return self._divided(spectral, operator, lam, damping, extra)
                if cutoff is None:
                    raise
            return self._cut(cutoff, lam)
        if self._has_moments:
            raise InputError("EKFAC has no factors to split damping over; pass Tikhonov(lam)")
        shifts = [damping.split(A, E) for E, A in operator.pairs]
        eigen, shifted = self._eigen(), operator.shifted(shifts)
        free, damped = eigen.spectral(), eigen.spectral(shifts)
        made = KroneckerFactor(free, damped, shifted, damping.lam, damping, self.dtype)
        made.added = 0.0  # the operator is damped already
        return made

    def _divided(self, spectral, operator, lam, damping, extra=0.0):
        damped = spectral.damped(lam + extra)
        return KroneckerFactor(spectral, damped, operator, lam, damping, self.dtype, extra)

    def _cut(self, cutoff, lam=0.0):
        spectrum = KroneckerSpectrum(self._spectrum(), lam)
        return SpectralFactor(self.p, spectrum, cutoff, self.dtype, added=lam)

    def _solved(self, factor, rows):
        # Eigenvectors are orthogonal up to a growing multiple of u: the residual mends that.
        def improve(x, rest):
            return x + factor.solve_rows(rest)

        x, certificate, improved = refine(
            self if isinstance(factor, SpectralFactor) else factor.operator,
            factor.added,
            factor.solve_rows(rows),
            factor.kept_rows(rows),
            factor.norm,
            improve,
            self.dtype,
        )
        return x, certificate, factor.rung + "+refinement" * improved

    def _plan(self, rhs, rung):
        sizes = [(1, d_in, d_out) for d_in, d_out in self.widths]
        return plan_kronecker(self.n_samples, sizes, rhs, self.dtype.name)

    # State.

    def _facts(self):
        return {
            "tokens": self.tokens,
            "corrected": self.corrected,
            "moment_weight": (self._moments.weight if self._moments else 0.0).hex(),
            "fresh": self._fresh,
            **super()._facts(),
        }

    def _arrays(self):
        moments = self._moments.arrays() if self._moments else {}
        return {**self._sums.arrays(), **moments, **self._staged_arrays()}

    @classmethod
    def _from_arrays(cls, header, arrays):
        count = sum(name.startswith("A") for name in arrays)
        widths = [(len(arrays[f"A{i}"]), len(arrays[f"E{i}"])) for i in range(count)]
        settings = ("tokens", "corrected", "dtype", "center", "kind")
        made = cls(widths, **{name: header[name] for name in settings})
        double = sums_dtype(made.dtype)
        made._sums = FactorSums.from_arrays(arrays, made.widths, double)
        if "M0" in arrays:
            weight = as_real(float.fromhex(header["moment_weight"]), "moment_weight")
            made._moments = Moments.from_arrays(arrays, made.widths, double, weight)
        made._fresh = bool(header["fresh"])
        return made

    def __repr__(self):
        facts = f"{len(self.widths)} layers, tokens={self.tokens!r}, corrected={self.corrected}"
        return super().__repr__().replace("(", f"({facts}, ", 1)
