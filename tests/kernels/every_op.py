"""Every kernel of ours against the reference, in a process of its own.

What Numba compiles for, and that it compiles at all, is settled by the environment of a process.
"""

import hashlib

import numpy as np

from fastfisher.kernels import reference
from fastfisher.planning import TABLE
from tests import matrices
from tests.tolerances import unit_roundoff

__all__ = ["LIMIT", "OPS", "examine", "has_cases"]

LIMIT = "identity"  # the systems below are well conditioned
ENTRIES = {entry.function: entry for band in TABLE for entry in band.entries if not entry.vendor}
OPS = tuple(ENTRIES)

VARIANTS = ((False, False), (True, False), (False, True), (True, True))  # weights, shift
# (n, p): nothing, one, odd; past a tile, a panel, a block sum; tall, wide
SHAPES = ((0, 3), (1, 1), (3, 2), (9, 17), (300, 7), (5, 70), (270, 25), (40, 49), (7, 300))
ROWS = ((0, 3), (1, 1), (5, 16), (9, 257), (1030, 3), (7, 1040))  # for products with vectors
ORDERS = (1, 2, 7, 25, 97, 130)
SLICED_SHAPES = ((0, 3), (1, 1), (70, 49), (9, 100))  # summed over rows, or turned over columns
SMALL_ORDERS = (1, 2, 3, 4, 5, 6, 9, 20, 33)


class Data:
    """Operands of one dtype, from one stream of random numbers."""

    def __init__(self, op, dtype):
        self.dtype, self.rng = np.dtype(dtype), matrices.generator("every op", op, str(dtype))
        self.real = np.empty(0, dtype).real.dtype
        self.wide = np.result_type(dtype, np.float64)
        self.none = np.empty(0, self.real)

    def scores(self, *shape, dtype=None):
        return matrices.gaussian(shape, dtype or self.dtype, self.rng)

    def positive(self, *shape):
        return self.rng.uniform(0.5, 2, shape).astype(self.real)

    def definite(self, n):
        """Condition about 10; the diagonal is real, NaN above it must never be read."""
        g = self.scores(4 * n, n, dtype=self.wide)
        a = (g.conj().T @ g / (4 * n) + 0.25 * np.eye(n)).astype(self.dtype)
        return np.where(np.tri(n, dtype=bool), a, np.nan)

    def factor(self, n):
        a = self.definite(n)
        return np.where(np.isnan(a), np.nan, np.linalg.cholesky(np.tril(a))).astype(self.dtype)

    def sums(self, n):
        """An accumulator; what is above its diagonal is neither read nor written."""
        c = self.scores(n, n, dtype=self.wide)
        c[np.diag_indices(n)] = c.diagonal().real
        return np.where(np.tri(n, dtype=bool), c, np.nan)

    def variants(self, shapes, per="row"):
        """(a, weights, shift) of all shapes, with and without weights and shift in turn."""
        for i, (n, p) in enumerate(shapes):
            for weighted, shifted in VARIANTS if i % 2 else VARIANTS[::3]:
                weights = self.positive(n if per == "row" else p) if weighted else self.none
                shift = self.scores(p) if shifted else np.empty(0, self.dtype)
                yield self.scores(n, p), weights, shift


# What an op is called with: (arguments, which of them it writes), case after case.


def _syrk(d):
    for a, weights, shift in d.variants(SHAPES):
        yield (d.sums(a.shape[1]), a, np.sqrt(weights), shift), [0]


def _gram(d):
    for a, weight, shift in d.variants(SHAPES, per="column"):
        n, p = a.shape
        for lo, hi in ((0, p), (p // 3, p - p // 4)):
            yield (d.sums(n), a, lo, hi, weight, shift), [0]


def _mirror(d):
    for n in ORDERS:
        yield (d.sums(n),), [0]
        yield (d.sums(n), np.full((n, n), np.nan, d.dtype)), [1]


def _peaks(d):
    if d.dtype.kind == "c":
        return
    for a, weights, shift in d.variants(ROWS):
        for by_rows in (True, False):
            y = np.zeros(a.shape[1 if by_rows else 0])
            yield (y, a, by_rows, weights if by_rows else d.none, shift), [0]


def _units(d, sizes, largest):
    """Powers of two that make integers up to `largest` of numbers up to these sizes."""
    return np.exp2(np.floor(np.log2(largest / np.maximum(sizes, 1e-3)))).astype(d.dtype)


def _sliced_syrk(d, largest=127):
    if d.dtype != np.float64:  # in single precision rounding to integers may go the other way
        return
    for a, weights, shift in d.variants(SLICED_SHAPES):
        moved = np.abs(a - shift if shift.size else a)
        roots = np.sqrt(weights)
        sizes = (moved * roots[:, np.newaxis] if roots.size else moved).max(axis=0, initial=0)
        units = _units(d, sizes, largest)
        for slices, levels in ((1, 1), (2, 2), (2, 3), (3, 3))[: 3 if largest > 128 else 4]:
            yield (d.sums(a.shape[1]), a, units, slices, levels, roots, shift), [0]
        c, none, ones = _single_sums(d, a.shape[1]), np.empty(0), np.ones(a.shape[1])
        yield (c, np.round(9 * a), ones, 1, 1, none, none), [0]


def _sliced_gram(d, largest=127):
    if d.dtype != np.float64:
        return
    for a, _, shift in d.variants([shape[::-1] for shape in SLICED_SHAPES]):
        n, p = a.shape
        sizes = np.abs(a - shift if shift.size else a).max(axis=1, initial=0)
        for slices, levels, lo, hi in ((1, 1, 0, p), (2, 3, p // 3, p - p // 4)):
            yield (d.sums(n), a, lo, hi, _units(d, sizes, largest), slices, levels, shift), [0]
        yield (_single_sums(d, n), np.round(9 * a), 0, p, np.ones(n), 2, 3, np.empty(0)), [0]


def _single_sums(d, n):
    """In single precision; of integers, so that sums with others are exact."""
    return np.round(64 * d.sums(n)).astype(np.float32)


def _int7_syrk(d):
    yield from _sliced_syrk(d, 63)


def _int7_gram(d):
    yield from _sliced_gram(d, 63)


def _int16_syrk(d):
    yield from _sliced_syrk(d, 2047)


def _int16_gram(d):
    yield from _sliced_gram(d, 2047)


def _whole(d, *arrays):
    """Numbers of nine bits, whose sums of products are exact in single precision."""
    return [np.round(100 * x).astype(d.dtype) for x in arrays]


def _bf16_syrk(d):
    if d.dtype.kind == "c":
        return
    for a, weights, shift in d.variants(((0, 3), (1, 1), (70, 49), (9, 100))):
        a, shift = _whole(d, a, shift)
        roots = np.exp2(np.round(weights))
        units = np.exp2(d.rng.integers(-3, 3, a.shape[1])).astype(d.dtype)
        for slices, levels in ((1, 1), (3, 3), (2, 3)):
            yield (d.sums(a.shape[1]), a, units, slices, levels, roots, shift), [0]


def _bf16_gram(d):
    if d.dtype.kind == "c":
        return
    for a, _, shift in d.variants(((3, 0), (1, 1), (49, 70), (100, 9))):
        (a, shift), (n, p) = _whole(d, a, shift), a.shape
        units = np.exp2(d.rng.integers(-3, 3, n)).astype(d.dtype)
        for slices, levels, lo, hi in ((1, 1, 0, p), (2, 3, p // 3, p - p // 4)):
            yield (d.sums(n), a, lo, hi, units, slices, levels, shift), [0]


def _narrow(d):
    if d.dtype.kind == "c":
        return
    for n in ORDERS:
        c, out = np.nan_to_num(_single_sums(d, n)), np.zeros((n, n), np.float32)
        units = np.exp2(d.rng.integers(-9, 9, n).astype(np.float64))
        for kind in (np.float64, np.float32):
            yield (out, c.astype(kind), units), [0]


def _substitute(d):
    for n in (*ORDERS, 65, 700):
        l = d.factor(n)
        for k in (1, 3, 50):
            yield (l, d.scores(k, n)), [1]


def _matvec(d):
    for a, _, shift in d.variants(ROWS):
        for k in (1, 3):
            yield (d.scores(k, len(a), dtype=d.wide), a, d.scores(k, a.shape[1]), shift), [0]


def _rmatvec(d):
    for a, _, shift in d.variants(ROWS):
        for k in (1, 3):
            yield (d.scores(k, a.shape[1], dtype=d.wide), a, d.scores(k, len(a)), shift), [0]


_fine_rmatvec = _rmatvec


def _fvp(d):
    for a, weights, shift in d.variants(ROWS):
        for k in (1, 3):
            y = d.scores(k, a.shape[1], dtype=d.wide)
            yield (y, a, d.scores(k, a.shape[1]), weights, shift), [0]


def _wide_fvp(d):
    for (y, a, v, weights, shift), written in _fvp(Data("fvp", d.dtype)):
        yield (y, a, v.astype(d.wide), weights.astype(float), shift.astype(d.wide)), written


def _diag(d):
    for a, weights, shift in d.variants(ROWS):
        yield (d.scores(a.shape[1], dtype=np.float64), a, weights, shift), [0]


def _scan(d):
    for n, p in ROWS:
        a = d.scores(n, p)
        a[1::3, p // 2] = np.nan
        yield (np.zeros(n, bool), a), [0]


def _cholesky(d):
    for n in (*ORDERS, 250):
        yield (d.definite(n),), [0]
        yield (np.zeros((n, n), d.dtype), d.definite(n), 0.5), [0]


def _solve_lower(d):
    for n in ORDERS:
        for k, start in ((1, 0), (5, n // 2), (17, 0)):
            x = d.scores(k, n)
            x[:, :start] = 0
            yield (d.factor(n), x, start), [1]


def _solve_lower_adjoint(d):
    for n in ORDERS:
        for k in (1, 5, 17):
            yield (d.factor(n), d.scores(k, n)), [1]


def _inverse_diagonal(d):
    for n in ORDERS:
        yield (np.full(n, np.nan), d.factor(n)), [0]


def _systems(d, n, p):
    g = d.scores(n, p)
    return np.empty((n, p), d.dtype), np.full(n, 7, np.int32), g, d.positive(n)


def _batched_solve(d):
    for p in SMALL_ORDERS:
        for n in (1, 21):
            x, info, g, damping = _systems(d, n, p)
            f = np.stack([d.definite(p) for _ in range(n)])
            f[2::7, p - 1, p - 1] = -100
            g[3::7, 0] = np.inf
            yield (x, info, f, g, damping), [0, 1]


def _batched_metric_solve(d):
    for p in SMALL_ORDERS:
        for n, samples in ((1, 1), (9, 3), (2, 270))[: 3 if p in (3, 6) else 2]:
            x, info, g, damping = _systems(d, n, p)
            for weights in (d.none, d.positive(samples), d.positive(n, samples)):
                yield (x, info, d.scores(n, samples, p), weights, g, damping), [0, 1]


def _layered(d, outputs):
    for n, tokens, d_in, d_out in ((1, 1, 1, 1), (9, 1, 5, 3), (7, 3, 33, 2), (3, 70, 4, 9)):
        a, e = d.scores(n * tokens, d_in), d.scores(n * tokens, d_out)
        yield (outputs(n, d_in, d_out), a, e, tokens), [0]


def _layered_gram(d):
    return _layered(d, lambda n, d_in, d_out: d.sums(n))


def _layered_diag(d):
    return _layered(d, lambda n, d_in, d_out: d.scores(d_out, d_in, dtype=np.float64))


def _spectral_norm(d):
    for n in (1, 2, 33, 140):
        a = np.tril(d.definite(n)).astype(d.wide)
        reference.mirror(a)
        yield (a,), []
        yield (a * 1e-200,), []


def _primal_small(d):
    if d.dtype.kind == "c":
        return
    for n, p, k in ((1, 1, 1), (20, 7, 3), (9, 12, 1)):
        for weights in (d.none, d.positive(n)):
            x, report = np.empty((k, p)), np.empty(reference.HEAD + 2 * k)
            of_samples = weights is not d.none
            b = d.scores(k * (not of_samples), p, dtype=np.float64)
            coef = d.scores(k * of_samples, n, dtype=np.float64)
            shift = np.arange(p * (k > 1)) / 4.0
            given = (d.scores(n, p), weights.astype(np.float64), shift, b, coef)
            yield (x, report, *given, 0.5, 0.25), [0, 1]
            a = given[0].astype(np.float64) - (shift if shift.size else 0.0)
            formed = np.tril((a.T * (weights if of_samples else 1.0)) @ a)
            yield (x, report, *given, 0.5, 0.25, formed), [0, 1]


def _dual_small(d):
    if d.dtype.kind == "c":
        return
    for n, p, k in ((1, 1, 1), (7, 20, 3), (12, 9, 1)):
        for weights, of_samples in ((d.none, False), (d.positive(n), True)):
            x, report = np.empty((k, p)), np.empty(reference.HEAD + 2 * k)
            b = d.scores(k * (not of_samples), p, dtype=np.float64)
            coef = d.scores(k * of_samples, n, dtype=np.float64)
            shift = np.arange(p * (k > 1)) / 4.0
            given = (d.scores(n, p), weights.astype(np.float64), shift, b, coef)
            yield (x, report, *given, 0.5, 0.25, 1e-12, 8), [0, 1]
            a = given[0].astype(np.float64) - (shift if shift.size else 0.0)
            yield (x, report, *given, 0.5, 0.25, 1e-12, 8, np.tril(a @ a.T)), [0, 1]


def _block_syrk(d):
    for blocks, order, n in ((1, 1, 1), (5, 3, 300), (3, 17, 9), (70, 2, 4)):
        for weights in (d.none, d.positive(n)):
            c = np.zeros((blocks, order, order), d.wide)
            yield (c, d.scores(n, blocks * order + 3), 2, np.sqrt(weights)), [0]


def _batched_syrk(d):
    for n, count, p in ((1, 1, 1), (5, 300, 3), (3, 9, 17), (70, 4, 2)):
        for scale in (d.none, d.positive(count), d.positive(n, count)):
            yield (np.zeros((n, p, p), d.wide), d.scores(n, count, p), scale), [0]


def _block_cholesky(d):
    for p in SMALL_ORDERS:
        c = np.stack([d.definite(p) for _ in range(19)])
        c[2::7, p - 1, p - 1] = -1
        yield (c, np.full(19, 7, np.int32)), [0, 1]


def _block_solve(d):
    for p in SMALL_ORDERS:
        yield (np.stack([d.factor(p) for _ in range(19)]), d.scores(3, 19 * p)), [1]


def has_cases(op, dtype):
    """Whether an op takes scores of this dtype: rounding may differ in some, others are real."""
    return next(iter(globals()["_" + op](Data(op, dtype))), None) is not None


# Comparison ----------------------------------------------------------------------------------


def _copied(x, wide):
    if not isinstance(x, np.ndarray):
        return x
    return (
        x.astype(np.result_type(x.dtype, np.float64)) if wide and x.dtype.kind in "fc" else x.copy()
    )


def distance(x, expected, dtype):
    """Largest error over the largest element, in units of u; infinite if NaNs differ."""
    x, expected = np.asarray(x), np.asarray(expected)
    if x.shape != expected.shape or not np.array_equal(np.isnan(x), np.isnan(expected)):
        return np.inf
    if x.dtype.kind in "bi":
        return 0.0 if np.array_equal(x, expected) else np.inf
    known = ~np.isnan(expected)
    error = np.abs(x[known] - expected[known]).max(initial=0)
    size = np.abs(expected[known]).max(initial=0)
    return float(error / size / unit_roundoff(dtype)) if error else 0.0


def _compare(op, dtype, args, written, digest):
    """Error of one case; whatever is not to be written must keep its bytes."""
    mine, theirs = ([_copied(x, wide) for x in args] for wide in (False, True))
    results = [(ENTRIES[op].load()(*mine), getattr(reference, op)(*theirs))]
    if results[0][0] is None:
        results.clear()
    for i, (x, before) in enumerate(zip(mine, args, strict=True)):
        if i in written:
            results.append((x, theirs[i]))
        elif isinstance(x, np.ndarray) and x.tobytes() != before.tobytes():
            return np.inf
    for x, _ in results:
        digest.update(np.asarray(x).tobytes())
    dtype = np.result_type(dtype, np.float64) if op == "wide_fvp" else dtype
    return max(distance(x, expected, dtype) for x, expected in results)


def _examined(op, dtypes):
    worst, where, digest, cases = 0.0, "", hashlib.sha256(), 0
    for dtype in dtypes:
        for args, written in globals()["_" + op](Data(op, dtype)):
            cases += 1
            with np.errstate(all="ignore"):
                error = _compare(op, dtype, args, written, digest)
            if not error <= worst:
                shapes = [x.shape if isinstance(x, np.ndarray) else x for x in args]
                worst, where = error, f"{dtype} {shapes}"
    assert cases, f"there is no case of {op} in {dtypes}"
    return {"error": worst, "case": where, "digest": digest.hexdigest()}


def examine(ops, dtypes):
    """{op: {error, case, digest}}: the worst in units of u, where it was, and all results.

    An op that raises has an infinite error.
    """
    found = {}
    for op in ops:
        try:
            found[op] = _examined(op, dtypes)
        except Exception as problem:
            found[op] = {"error": np.inf, "case": repr(problem), "digest": None}
    return found
