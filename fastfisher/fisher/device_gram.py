"""A Fisher matrix through scores that are kept on a CUDA device."""

from ..damping import as_damping
from ..errors import InputError
from ..planning import dtype_name
from .device import OnDevice
from .gram import GramFisher

__all__ = ["DeviceGramFisher"]


class DeviceGramFisher(OnDevice):
    """F through the scores themselves, kept on their device: for fewer samples than parameters.

    The verbs of `GramFisher` for CuPy, torch CUDA and numba arrays; answers are of the kind of the
    first batch. What is missing here (factors, paths, files, eigenvalues) is that of the
    `GramFisher` that `to_host` gives.

    Parameters
    ----------
    dtype : str, optional
        float32 or float64; that of the first batch by default.
    center : bool
        Subtract the weighted mean row.
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
        Without a CUDA device.

    Notes
    -----
    Keeps a copy of every batch there: n p words. solve: n^2 p + n^3 / 3 flops, 8 n^2 bytes, by the
    dual (docs/math.md D1-D8). `update` waits once, for the verdict on the batch.

    Examples
    --------
    >>> import fastfisher as ff
    >>> ff.DeviceGramFisher(dtype="complex64")
    Traceback (most recent call last):
    fastfisher.errors.InputError: dtype is complex64; on a device expected float32 or float64
    """

    _twin = "GramFisher"

    def __init__(self, *, dtype=None, center=False, kind=None):
        if dtype is not None and dtype_name(dtype).startswith("complex"):
            raise InputError(
                f"dtype is {dtype_name(dtype)}; on a device expected float32 or float64"
            )
        super().__init__(center, kind)
        from ..solvers.device.kept import Kept  # loads CUDA

        self._held = Kept(self.center, None if dtype is None else dtype_name(dtype))

    @property
    def p(self):
        """Number of parameters; None before the first batch."""
        return self._held.p

    @property
    def dtype(self):
        """What is kept and answered; that of the first batch unless it was given."""
        return self._held.dtype

    def solve(self, b=None, *, coef=None, damping):
        """Solve (F + D) x = b, or for b = G'(w o coef) / sum(w), as `GramFisher.solve`.

        Raises
        ------
        InputError, NotPositiveDefiniteError
            As in `fastfisher.solve`.
        """
        if b is not None and coef is not None:
            raise InputError("both b and coef were given; pass at most one of them")
        return self._held.solve(b, coef, as_damping(damping))

    def __matmul__(self, v):
        """F v for v (p,) or (p, k)."""
        return self._held.apply(v)

    def gram(self):
        """The normalised Gram matrix T T' (n, n), of the (centred) scores."""
        return self._held.gram()

    def matrix(self):
        """F (p, p)."""
        return self._held.matrix()

    def diagonal(self):
        """Diagonal of F, (p,)."""
        return self._held.diagonal()

    def trace(self):
        """Trace of F; waits."""
        return self._held.trace()

    @property
    def mean(self):
        """Weighted mean of the rows seen, (p,)."""
        return self._held.mean()

    def eigvalsh(self):
        """Eigenvalues of the Gram matrix, (n,) ascending; found on the host, answered there."""
        return self.to_host().eigvalsh()

    def to_host(self):
        """A `GramFisher` of the host with the same rows. Copies n p words."""
        made = GramFisher(dtype=self.dtype, center=self.center, kind=self.kind)
        if self.p is not None:
            made.update(*self._held.on_host())
        made.n_samples, made.n_skipped = self.n_samples, self.n_skipped
        made.weight, made.decayed = self.weight, self.decayed
        return made
