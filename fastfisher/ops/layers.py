"""Scores of layered models, kept as their factors: sample n of a layer is sum_t kron(e_nt, a_nt).

`Layers` has the face of `arrays.Scores`, so every pass over scores runs on explicit slices of it;
the passes below know the structure and form nothing.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from ..arrays import Scores, as_array, computing_dtype, contiguous
from ..errors import InputError
from ..kernels.cpu.splitting import SLICE_BYTES
from ..passes import add_gram as add_explicit_gram
from ..passes import add_rmatvec, bad_rows, products, sums_dtype
from ..planning import choose
from ..slices import slices
from .products import mirror

__all__ = [
    "Layers",
    "add_adjoint",
    "add_layer_moments",
    "add_layered_gram",
    "as_layers",
    "center_gram",
    "layered_products",
    "read_layer",
    "scan_layers",
]


@dataclass(frozen=True)
class Layers:
    """Per layer A (n, t, d_in) and E (n, t, d_out), C-ordered, all of one dtype.

    What is read is ``scale`` times the scores, with the samples `skipped` (sorted) as zeros.
    """

    pairs: tuple
    dtype: np.dtype
    origin: object = None
    scale: float = 1.0
    skipped: tuple = ()

    @property
    def n(self):
        return len(self.pairs[0][0]) if self.pairs else 0

    @property
    def sizes(self):
        """(t, d_in, d_out) of each layer."""
        return tuple((a.shape[1], a.shape[2], e.shape[2]) for a, e in self.pairs)

    @property
    def spans(self):
        """(first, last) parameter of each layer."""
        ends = np.cumsum([0, *(d_in * d_out for _, d_in, d_out in self.sizes)]).tolist()
        return list(pairwise(ends))

    @property
    def shape(self):
        return self.n, sum(d_in * d_out for _, d_in, d_out in self.sizes)

    @property
    def direct(self):
        """Kernels over explicit scores never read the factors."""
        return False

    @property
    def stored(self):
        """Explicit scores are made in the dtype they are computed in."""
        return self.dtype

    @property
    def slice_rows(self):
        """Samples per slice of explicit scores."""
        return max(SLICE_BYTES // max(self.shape[1] * self.dtype.itemsize, 1), 1)

    @property
    def slice_columns(self):
        return max(SLICE_BYTES // max(self.n * self.dtype.itemsize, 1), 1)

    def part(self, lo, hi):
        """The layers of samples lo..hi; nothing is copied."""
        skipped = tuple(row - lo for row in self.skipped if lo <= row < hi)
        pairs = tuple((a[lo:hi], e[lo:hi]) for a, e in self.pairs)
        return Layers(pairs, self.dtype, self.origin, self.scale, skipped)

    def factors(self, index, lo=0, hi=None):
        """A and E of one layer for samples lo..hi: views where nothing has to be changed."""
        hi = self.n if hi is None else hi
        rows = [row - lo for row in self.skipped if lo <= row < hi]
        # Half of the power of two on each factor, so that neither leaves the range first.
        exponent = round(math.log2(self.scale))
        shares = (exponent // 2, exponent - exponent // 2)
        blocks = []
        for x, share in zip(self.pairs[index], shares, strict=True):
            block = x[lo:hi]
            if rows or share:
                block = np.array(block)
                block[rows] = 0
                block *= block.real.dtype.type(2.0**share)
            blocks.append(block)
        return blocks

    def rows(self, lo, hi, *, halves=False):
        """Explicit scores of samples lo..hi; `halves` as in `Scores`: there are none."""
        out = np.empty((hi - lo, self.shape[1]), self.dtype)
        for index, (first, last) in enumerate(self.spans):
            out[:, first:last] = _explicit(*self.factors(index, lo, hi))
        return out

    def columns(self, lo, hi, *, halves=False):
        """Columns lo..hi of the explicit scores."""
        out = np.empty((self.n, hi - lo), self.dtype)
        for index, (first, last) in enumerate(self.spans):
            a, b = max(lo, first), min(hi, last)
            if a < b:
                out[:, a - lo : b - lo] = _columns(*self.factors(index), a - first, b - first)
        return out


def _explicit(a, e):
    """sum_t kron(e_nt, a_nt): (n, d_out d_in)."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.matmul(e.transpose(0, 2, 1), a).reshape(len(a), e.shape[2] * a.shape[2])


def _columns(a, e, lo, hi):
    """Columns lo..hi of `_explicit`: a piece of an output, whole outputs, a piece."""
    width = a.shape[2]
    pieces = []
    while lo < hi:
        output, start = divmod(lo, width)
        whole = (hi - lo) // width if start == 0 else 0
        stop = lo + whole * width if whole else min(hi, (output + 1) * width)
        inputs = slice(None) if whole else slice(start, start + stop - lo)
        pieces.append(_explicit(a[:, :, inputs], e[:, :, output : output + max(whole, 1)]))
        lo = stop
    return pieces[0] if len(pieces) == 1 else np.concatenate(pieces, axis=1)


def as_layers(layers, name="layers"):
    """Check a sequence of pairs (A, E) and bring it to one dtype."""
    try:
        given = list(layers)
    except TypeError as error:
        raise InputError(f"{name} is {type(layers).__name__}; expected pairs (A, E)") from error
    pairs = [read_layer(index, pair) for index, pair in enumerate(given)]
    if not pairs:
        raise InputError(f"{name} is empty; expected at least one pair (A, E)")
    counts = {len(a) for a, _ in pairs}
    if len(counts) != 1:
        raise InputError(f"{name} have {sorted(counts)} samples; expected the same n in all")
    dtype = np.result_type(*(x.dtype for pair in pairs for x in pair))
    cast = tuple(tuple(x.astype(dtype, copy=False) for x in pair) for pair in pairs)
    return Layers(cast, dtype, given[0][0])


def read_layer(index, pair):
    """A and E of one layer as (n, t, d), each in the dtype it is computed in."""
    try:
        first, second = pair
    except (TypeError, ValueError) as error:
        raise InputError(f"layers[{index}] is no pair (A, E)") from error
    operands = []
    for name, x in (("A", first), ("E", second)):
        a = as_array(x, f"layers[{index}].{name}")
        dtype = computing_dtype(a.dtype, f"layers[{index}].{name}")
        if a.ndim not in (2, 3):
            raise InputError(
                f"layers[{index}].{name} has shape {a.shape}; expected (n, d) or (n, t, d)"
            )
        operands.append(contiguous(a if a.ndim == 3 else a[:, np.newaxis], dtype))
    a, e = operands
    if a.shape[:2] != e.shape[:2]:
        raise InputError(
            f"layers[{index}] has A {np.shape(first)} and E {np.shape(second)}; expected the same "
            "samples (and tokens) in both"
        )
    return a, e


def scan_layers(layers):
    """Mask (n,) of samples with NaN or Inf in a factor; per layer the largest |A| and |E|."""
    bad, tops = np.zeros(layers.n, bool), []
    for pair in layers.pairs:
        tops.append([])
        for x in pair:
            here, largest = bad_rows(Scores(x.reshape(len(x), x[:1].size), layers.dtype))
            bad |= here
            tops[-1].append(largest)
    return bad, tops


def _steps(layers, per_sample, op):
    """Slices of samples whose temporaries, `per_sample` numbers, stay small."""
    return slices(layers.n, max(SLICE_BYTES // max(8 * per_sample, 1), 1), op)


def layered_products(layers, v):
    """G v for rows v (k, p): (k, n) in double, sum_t e_nt V a_nt per layer."""
    y = np.zeros((len(v), layers.n), sums_dtype(layers.dtype))
    spans = layers.spans
    for index, (t, d_in, d_out) in enumerate(layers.sizes):
        first, last = spans[index]
        for lo, hi in _steps(layers, t * (d_in + d_out), "matvec"):
            a, e = (x.reshape((hi - lo) * t, x.shape[2]) for x in layers.factors(index, lo, hi))
            inputs = Scores(a, layers.dtype)
            for c in range(len(v)):
                seen = products(inputs, v[c, first:last].reshape(d_out, d_in))
                seen = np.einsum("os,so->s", seen, e)
                y[c, lo:hi] += seen.reshape(hi - lo, t).sum(axis=1)
    return y


def add_adjoint(y, layers, u):
    """y (k, p) += G'u for rows u (k, n), E' diag(u) A per layer; y is double."""
    spans = layers.spans
    for index, (t, d_in, d_out) in enumerate(layers.sizes):
        first, last = spans[index]
        for lo, hi in _steps(layers, t * (d_in + d_out), "rmatvec"):
            a, e = (x.reshape((hi - lo) * t, x.shape[2]) for x in layers.factors(index, lo, hi))
            inputs = Scores(a, layers.dtype)
            outputs = np.ascontiguousarray(e.conj().T if e.dtype.kind == "c" else e.T)
            for c in range(len(u)):
                weighted = (outputs * np.repeat(u[c, lo:hi], t)).astype(layers.dtype, copy=False)
                add_rmatvec(y[c, first:last].reshape(d_out, d_in), inputs, weighted)


def add_layered_gram(c, a, e):
    """Lower triangle of c += the Gram matrix of one layer (n, t, d); c is double."""
    n, t, d_in = a.shape
    d_out = e.shape[2]
    if n == 0:
        return
    if t * t * (d_in + d_out) < d_in * d_out or t <= 1:
        kernel = choose("layered_gram", n * t, a.dtype).load()
        kernel(c, a.reshape(n * t, d_in), e.reshape(n * t, d_out), t)
        return
    # Many tokens: scores of a few outputs at a time are cheaper than all token pairs.
    step = max(1, SLICE_BYTES // max(n * d_in * a.itemsize, 1))
    for o in range(0, d_out, step):
        add_explicit_gram(c, Scores(_explicit(a, e[:, :, o : o + step]), a.dtype))


def add_layer_moments(sums, a, e):
    """sums (d_out, d_in) += sum_n |sum_t e_nt a_nt'|^2 for one layer; sums are double."""
    n, t, d_in = a.shape
    step = max(1, SLICE_BYTES // max(t * (d_in + len(sums)) * a.itemsize, 1))
    kernel = choose("layered_diag", t, a.dtype).load()
    for lo, hi in slices(n, step, "layered_diag"):
        kernel(sums, *(np.ascontiguousarray(x[lo:hi]).reshape(-1, x.shape[2]) for x in (a, e)), t)


def center_gram(c, shares):
    """Both triangles of the Gram matrix of centred rows, from the lower one of raw rows, in place.

    `shares` (n,) are weights of sum 1. docs/math.md D5.
    """
    mirror(c)
    with np.errstate(invalid="ignore", over="ignore"):
        seen = c @ shares
        c -= seen[:, np.newaxis]
        c -= seen.conj()
        c += (shares @ seen).real
