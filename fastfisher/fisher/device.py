"""A dense Fisher matrix whose sums lie on a CUDA device."""

import numpy as np

from ..damping import as_damping
from ..devices import lies_on_device, require_device
from ..errors import InputError, StateError
from ..planning import dtype_name
from ..scalars import as_count
from ..solvers.cutoffs import Cutoff
from ..solvers.path import as_dampings
from .dense import DenseFisher
from .size import check_decay

__all__ = ["DeviceFisher", "OnDevice"]


class OnDevice:
    """What Fisher matrices over device arrays share: counts, batches, merging.

    A subclass sets `_held`, whose `add` and `merge` do the work, and names its twin of the host.
    """

    def __init__(self, center, kind):
        require_device()
        self.kind = None if kind is None else str(kind)
        self.n_samples = self.n_skipped = 0
        self.weight, self.decayed = 0.0, False
        self.center = bool(center)

    def update(self, G, weights=None, decay=1.0, *, nan_policy="raise"):
        """Add a batch of scores (n, p) of the device, in place; returns self.

        With nan_policy "skip", rows that are not finite are left out and counted; "raise" is the
        default.

        Raises
        ------
        InputError
            For bad operands, host arrays, or a row that is not finite; nothing was changed.
        MemoryLimitError
            Where the device has no room; nothing was changed either.
        """
        decay = check_decay(decay)
        if nan_policy not in ("raise", "skip"):
            raise InputError(
                f"nan_policy is {nan_policy!r}; on a device expected 'raise' or 'skip'"
            )
        if not lies_on_device(G):
            raise InputError(f"G lies on the host; use {self._twin}, or copy G to the device")
        n, total, bad = self._held.add(G, weights, decay, self.weight, nan_policy == "skip")
        if decay != 1:
            self.weight *= decay
            self.decayed = True
        self.n_samples += n
        self.n_skipped += bad
        self.weight += total
        return self

    def merge(self, other):
        """Add everything another one of the same kind, p, dtype and centring has seen.

        Returns self.

        Raises
        ------
        StateError
            If the two differ, or were decayed.
        """
        same = ("p", "dtype", "center")
        alike = type(other) is type(self) and all(
            getattr(self, name) == getattr(other, name) for name in same
        )
        if not alike or other is self:
            raise StateError(f"cannot merge {other!r} into {self!r}; expected the like of it")
        if self.decayed or other.decayed:
            raise StateError("cannot merge a Fisher that was decayed: decayed sums do not commute")
        self._held.merge(other._held, self.weight, other.weight)
        self.n_samples += other.n_samples
        self.n_skipped += other.n_skipped
        self.weight += other.weight
        return self

    def __repr__(self):
        label = ", center=True" if self.center else ""
        label += "" if self.kind is None else f", kind={self.kind!r}"
        dtype = None if self.dtype is None else self.dtype.name
        return (
            f"{type(self).__name__}(p={self.p}, dtype={dtype}{label}, "
            f"n_samples={self.n_samples}, weight={self.weight:g})"
        )


class DeviceFisher(OnDevice):
    """F = sum w g g' / sum w over device arrays, kept on their device as p x p sums in double.

    The verbs of `DenseFisher` for CuPy, torch CUDA and numba arrays; answers are of the kind of the
    first batch. What is missing here, and files, are those of the `DenseFisher` that `to_host`
    gives.

    Parameters
    ----------
    p : int
        Number of parameters.
    dtype : str
        float32 or float64.
    center : bool
        Subtract the weighted mean row: F is then the covariance of the scores.
    kind : str, optional
        A printed label.

    Attributes
    ----------
    n_samples, n_skipped : int
        Rows seen, and left out because they were not finite.
    weight : float
        Sum of weights, after decay.

    Raises
    ------
    InputError
        For complex dtypes, or without a CUDA device.

    Notes
    -----
    `update` waits once, for the verdict on the batch; `solve`, `factor` and `path` wait once. 8 p^2
    bytes; `update`, after the first, 8 p^2 more, `solve` 16 p^2. Cutoffs and `eigvalsh` copy F to
    the host.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.DeviceFisher(2, dtype="complex64")
    Traceback (most recent call last):
    fastfisher.errors.InputError: dtype is complex64; on a device expected float32 or float64
    """

    _twin = "DenseFisher"

    def __init__(self, p, *, dtype="float64", center=False, kind=None):
        self.dtype = np.dtype(dtype_name(dtype))
        if self.dtype.kind == "c":
            raise InputError(f"dtype is {self.dtype}; on a device expected float32 or float64")
        super().__init__(center, kind)
        from ..solvers.device.held import Held  # loads CUDA

        self.p = as_count(p, "p")
        if not self.p:
            raise InputError("p is 0; on a device there must be a parameter")
        self._held = Held(self.p, self.dtype, self.center)

    def __matmul__(self, v):
        """F v for v (p,) or (p, k)."""
        return self._held.apply(v, self.weight)

    def solve(self, b=None, *, damping):
        """Solve (F + D) x = b, as `DenseFisher.solve`; b is the mean gradient by default.

        Raises
        ------
        InputError, NotPositiveDefiniteError
            As in `fastfisher.solve`.
        """
        return self._held.solve(b, as_damping(damping), self.weight, self.n_samples)

    def factor(self, damping):
        """F + D factored for many questions: ``solve, whiten, logdet, inv_diagonal, inv_quad,
        sample``, as of `DenseFisher.factor`, answered on the device.

        Raises
        ------
        InputError
            For a cutoff: ``to_host().factor(cutoff)`` has its answers.
        NotPositiveDefiniteError
            With ``.order`` and ``.suggested_damping``.
        """
        damping = as_damping(damping)
        if isinstance(damping, Cutoff):
            raise InputError(f"{damping} has no Cholesky factor; use to_host().factor({damping})")
        return self._held.factor(damping, self.weight)

    def path(self, b, dampings):
        """What `solve` would give for each of many absolute dampings; see `DenseFisher.path`.

        p^3 flops per damping; ``x(i)`` answers on the device.
        """
        return self._held.path(b, as_dampings(dampings), self.weight)

    def matrix(self):
        """F (p, p)."""
        with self._held.working():
            return self._held.answer(self._held.matrix(self.weight))

    def diagonal(self):
        """Diagonal of F, (p,)."""
        from ..kernels.cuda import compat, squares

        with self._held.working():
            F, d = self._held.matrix(self.weight), compat.empty((self.p,), np.dtype(np.float64))
            squares.diagonal_of(d, F)
            return self._held.answer(d)

    def trace(self):
        """Trace of F; waits."""
        with self._held.working():
            return self._held.trace(self.weight)

    def eigvalsh(self):
        """Eigenvalues of F in ascending order, (p,); found on the host, where they are answered."""
        return self.to_host().eigvalsh()

    def to_host(self):
        """A `DenseFisher` of the host with the same sums: for files, eigenvalues, cutoffs.

        Copies 8 p^2 bytes.
        """
        made = DenseFisher(self.p, dtype=self.dtype, center=self.center, kind=self.kind)
        if self.weight > 0:
            made._absorbed[:], made._mean[:] = self._held.on_host(self.weight)
            made.weight = made._summed = self.weight
        made.n_samples = self.n_samples
        made.n_skipped, made.decayed = self.n_skipped, self.decayed
        return made

    @property
    def mean(self):
        """Weighted mean of the rows seen, (p,)."""
        with self._held.working():
            return self._held.answer(self._held.mean(self.weight).reshape(self.p))
