"""Matrices that find bugs: score matrices G with known facts, named as SLATE does.

``geo_small_zerocol3`` is a geometric spectrum, scaled far down, with column 3 set to zero: the
name in a failing test id says what happened. Every generator checks what it claims (rank,
condition number) before it hands the matrix out; seeds are fixed by name, sizes and dtype.
"""

import itertools
import math
import tempfile
import zlib
from dataclasses import dataclass, field, replace

import numpy as np

from tests.tolerances import unit_roundoff

DTYPES = tuple(np.dtype(t) for t in ("float32", "float64", "complex64", "complex128"))
SPECTRA = ("flat", "arith", "geo", "logrand", "cluster0", "cluster1", "halves", "power")
SIZES = (0, 1, 2, 3, 5, 10, 50)


@dataclass(frozen=True)
class Scores:
    """Per-sample scores and what is known about F = G' diag(w) G / sum(w)."""

    name: str
    G: np.ndarray = field(repr=False)
    weights: np.ndarray | None = field(default=None, repr=False)
    rank: int | None = None  # of F
    cond: float | None = None  # lambda_max / lambda_min of F, infinite where singular
    order: int | None = None  # 0: the undamped Cholesky succeeds; k: it must stop at pivot k

    def __str__(self):
        return f"{self.name}-{'x'.join(map(str, self.G.shape))}-{self.G.dtype.str[1:]}"


def generator(*key):
    """A random generator whose stream depends on the key and on nothing else."""
    return np.random.default_rng(zlib.crc32(repr(key).encode()))


def is_single(dtype):
    return np.finfo(dtype).bits == 32


def far(dtype):
    """The power of two of ``small`` and ``large``: 2^498 is about 1e150, 2^60 about 1e18."""
    return 60 if is_single(dtype) else 498


def gaussian(shape, dtype, rng):
    x = rng.standard_normal(shape)
    if np.dtype(dtype).kind == "c":
        x = (x + 1j * rng.standard_normal(shape)) / math.sqrt(2)
    return x.astype(dtype)


def orthonormal(rows, columns, dtype, rng):
    wide = np.complex128 if np.dtype(dtype).kind == "c" else np.float64
    return np.linalg.qr(gaussian((rows, columns), wide, rng))[0]


def eigenvalues(kind, k, cond, rng=None):
    """k eigenvalues in [1/cond, 1], largest first unless the kind ends in ``_reversed``."""
    if kind.endswith("_reversed"):
        return eigenvalues(kind.removesuffix("_reversed"), k, cond, rng)[::-1]
    t = np.linspace(0, 1, k) if k > 1 else np.zeros(k)
    if kind == "logrand":
        inner = np.sort((rng or generator(k)).uniform(0, 1, max(k - 2, 0)))
        t = np.concatenate([t[:1], inner, t[1:][-1:]])
    values = {
        "flat": lambda: np.ones(k),
        "arith": lambda: 1 - t * (1 - 1 / cond),
        "geo": lambda: cond**-t,
        "logrand": lambda: cond**-t,
        "cluster0": lambda: np.where(t > 0, 1 / cond, 1.0),
        "cluster1": lambda: np.where(t == 1, 1 / cond, 1.0),
        "halves": lambda: np.where(t > 0.5, 1 / cond, 1.0),
        "power": lambda: 1.0 / np.arange(1, k + 1),
    }
    return values[kind]()


def from_spectrum(n, p, lam, dtype, rng, rotate=True):
    """G = sqrt(n) U diag(sqrt(lam)) V', so that G'G/n has the eigenvalues lam."""
    U = orthonormal(n, len(lam), dtype, rng)
    V = orthonormal(p, len(lam), dtype, rng) if rotate else np.eye(p, len(lam))
    return (math.sqrt(n) * (U * np.sqrt(lam)) @ V.conj().T).astype(dtype)


def scores(n, p, dtype="float64", *, seed=0, spectrum="geo", cond=1e4):
    """A plain (n, p) score matrix; the nonzero eigenvalues of G'G/n follow the spectrum."""
    rng = generator("scores", n, p, np.dtype(dtype).name, seed, spectrum, cond)
    if min(n, p) == 0:
        return np.zeros((n, p), dtype)
    return from_spectrum(n, p, eigenvalues(spectrum, min(n, p), cond, rng), dtype, rng)


def weights(n, dtype="float64", *, seed=0):
    """Positive weights over a factor of 100, with a zero among them where n > 2."""
    w = 10.0 ** generator("weights", n, seed).uniform(-1, 1, n)
    w[2::7] = 0
    return w.astype(np.zeros(0, dtype).real.dtype)


def measured(G, w=None):
    """(rank, cond) of G' diag(w) G from the singular values of the scaled rows."""
    wide = G.astype(np.complex128 if G.dtype.kind == "c" else np.float64)
    rows = wide if w is None else np.sqrt(np.asarray(w, np.float64))[:, None] * wide
    rows = rows / (np.max(np.abs(rows), initial=0.0) or 1.0)
    if rows.size == 0:
        return 0, 1.0
    s = np.linalg.svd(rows, compute_uv=False)
    rank = int(np.sum(s > max(G.shape) * 2 * unit_roundoff(G.dtype) * s[0]))
    singular = rank < G.shape[1]
    return rank, math.inf if singular else float((s[0] / s[-1]) ** 2)


def claimed(problem, within=1.05):
    """The problem, after its rank and condition number were measured."""
    rank, cond = measured(problem.G, problem.weights)
    assert problem.rank is None or rank == problem.rank, f"{problem}: rank {rank}"
    if problem.cond is not None:
        same = math.isinf(cond) and math.isinf(problem.cond)
        assert same or 1 / within <= cond / problem.cond <= within, f"{problem}: cond {cond}"
    return problem


# Score matrices ------------------------------------------------------------------------------


def named(name, n, p, dtype="float64", *, cond=1e4):
    """A spectrum followed by modifiers, applied in the order written.

    ``_reversed`` eigenvalues ascending; ``_aligned`` V = I; ``_graded`` columns scaled by powers
    of two from 1 to about 1e-12 (1e-5 in single); ``_zerocolN`` column N zero; ``_small``,
    ``_large`` rows scaled so that F is near, ``_ufl``, ``_ofl`` so that F is beyond the range.
    """
    kind, *modifiers = name.split("_")
    rng = generator(name, n, p, np.dtype(dtype).name)
    u, exponent = unit_roundoff(dtype), far(dtype)
    lam = eigenvalues(kind, min(n, p), cond, rng)
    lam = lam[::-1] if "reversed" in modifiers else lam
    G = from_spectrum(n, p, lam, dtype, rng, rotate="aligned" not in modifiers)
    full = n >= p
    kappa = lam.max() / lam.min() if full else math.inf
    rank, order = min(n, p), 0 if full and p * kappa * u < 0.1 else None
    beyond = (-15, 5) if is_single(dtype) else (-40, 14)
    powers = {"small": -exponent, "large": exponent}
    powers |= {"ufl": -exponent + beyond[0], "ofl": exponent + beyond[1]}
    for modifier in modifiers:
        if modifier in powers:
            G = G * np.asarray(2.0, G.real.dtype) ** powers[modifier]
            order = None if modifier in ("ufl", "ofl") else order
        elif modifier == "graded":
            span = 16 if is_single(dtype) else 40
            exponents = np.round(np.linspace(0, span, p)).astype(int)
            G, kappa, rank = (G * 2.0**-exponents).astype(dtype), None, None
        elif modifier.startswith("zerocol"):
            column = int(modifier.removeprefix("zerocol"))
            G[:, column] = 0
            rank = None if rank is None else min(n, p - 1)
            kappa, order = math.inf, column + 1 if order == 0 else None
        elif modifier not in ("reversed", "aligned"):
            raise ValueError(f"unknown modifier {modifier!r} in {name!r}")
    return claimed(Scores(name, G, None, rank, kappa, order))


def lapack_scores(kind, n, p, dtype="float64"):
    """LAPACK's nine test types as scores: F = G'G/n has the type's condition number."""
    worst = 0.1 / (2 * unit_roundoff(dtype))
    column = {3: 0, 4: p - 1, 5: p // 2}.get(kind)
    name = {1: "arith_aligned", 8: "geo_small", 9: "geo_large"}.get(kind, "geo")
    if column is not None:
        name += f"_zerocol{column}"
    problem = named(name, n, p, dtype, cond={6: math.sqrt(worst), 7: worst}.get(kind, 2.0))
    return replace(problem, name=f"lapack{kind}")


def few_samples(n, p, dtype="float64"):
    """n < p Gaussian rows: F has rank n; its Cholesky may stop at n + 1 or a little later."""
    G = gaussian((n, p), dtype, generator("few", n, p, str(dtype)))
    return claimed(Scores("few_samples", G, None, min(n, p), math.inf if n < p else None))


def duplicated(n, p, dtype="float64", *, copies=3):
    """(rows repeated, the same rows once with integer weights): one F, two ways (F8)."""
    G = gaussian((n, p), dtype, generator("duplicated", n, p, str(dtype)))
    counts = 1 + np.arange(n) % copies
    rank = min(n, p)
    repeated = claimed(Scores("duplicated", np.repeat(G, counts, axis=0), None, rank))
    return repeated, claimed(Scores("counted", G, counts.astype(G.real.dtype), rank))


def constant_column(n, p, dtype="float64", *, value=1e8):
    """The last column is constant: its centred variance is exactly zero."""
    G = gaussian((n, p), dtype, generator("constant", n, p, str(dtype)))
    G[:, -1] = value
    return Scores("constant_column", G)


def mean_over_std(n, p, dtype="float64"):
    """Mean 1e8 (1e4 in single) and spread 1: raw moments lose the covariance."""
    shift = 1e4 if is_single(dtype) else 1e8
    G = shift + gaussian((n, p), dtype, generator("mean", n, p, str(dtype)))
    return Scores("mean_over_std", G.astype(dtype))


def mixed_columns(n, p, dtype="float64"):
    """Columns that alternate between huge and tiny, 1e+-75 (1e+-9 in single)."""
    exponent = far(dtype) // 2
    G = gaussian((n, p), dtype, generator("mixed", n, p, str(dtype)))
    signs = np.where(np.arange(p) % 2, -exponent, exponent)
    return Scores("mixed_columns", (G * 2.0 ** signs.astype(float)).astype(dtype))


def denormals(n, p, dtype="float64"):
    """Entries that are small multiples of the smallest positive number."""
    tiny = np.finfo(dtype).smallest_subnormal
    steps = generator("denormals", n, p).integers(1, 1000, (n, p))
    G = (steps * tiny).astype(dtype)
    assert np.all(G != 0) and np.all(np.abs(G) < np.finfo(dtype).smallest_normal)
    return Scores("denormals", G)


def ones(n, p, dtype="float32"):
    """F sums to exactly n where the accumulation is sound; a naive float32 sum stalls at 2^24."""
    return Scores("ones", np.ones((n, p), dtype), None, min(n, p, 1))


def cauchy(n, p, dtype="float64"):
    """Heavy tails: single rows dominate the sum."""
    G = generator("cauchy", n, p).standard_cauchy((n, p))
    assert n * p < 100 or np.max(np.abs(G)) > 30 * np.median(np.abs(G))
    return Scores("cauchy", G.astype(dtype))


def collinear(n, p, dtype="float64", *, group=3):
    """Each group of columns holds one direction, scaled by powers of two."""
    groups = -(-p // group)
    base = gaussian((n, groups), dtype, generator("collinear", n, p, str(dtype)))
    G = np.repeat(base, group, axis=1)[:, :p] * 2.0 ** (np.arange(p) % group)
    rank = min(n, groups)
    return claimed(Scores("collinear", G.astype(dtype), None, rank, math.inf if rank < p else None))


def one_heavy_row(n, p, dtype="float64"):
    """All the weight on row n // 2: F is the outer product of that row."""
    G = gaussian((n, p), dtype, generator("heavy", n, p, str(dtype)))
    w = np.zeros(n, G.real.dtype)
    w[n // 2] = 2.5
    return claimed(Scores("one_heavy_row", G, w, 1, math.inf if p > 1 else 1.0))


def one_sample(p, dtype="float64"):
    G = gaussian((1, p), dtype, generator("one", p, str(dtype)))
    return claimed(Scores("one_sample", G, None, 1, math.inf if p > 1 else 1.0))


def catalogue(n, p, dtype="float64"):
    """Every family of scores at one size, n > p >= 4, so that full rank is possible."""
    assert n > p >= 4, f"the catalogue needs n > p >= 4, got {n} x {p}"
    zeros = [f"geo_zerocol{j}" for j in (0, p // 2, p - 1)]
    scaled = [f"geo_{m}" for m in ("small", "large", "graded", "reversed_aligned")]
    yield from (named(name, n, p, dtype) for name in [*SPECTRA, *zeros, *scaled])
    yield named("geo_small_zerocol3", n, p, dtype)
    yield from (lapack_scores(kind, n, p, dtype) for kind in range(1, 10))
    yield from duplicated(n, p, dtype)
    families = (constant_column, mean_over_std, mixed_columns, denormals, ones, cauchy, collinear)
    yield from (family(n, p, dtype) for family in families)
    yield one_heavy_row(n, p, dtype)
    yield few_samples(p // 2, p, dtype)
    yield one_sample(p, dtype)


# Memory layouts ------------------------------------------------------------------------------


def layouts(a):
    """(name, array) pairs, all with the values of a (n, p) and each stored differently."""
    a = np.ascontiguousarray(a)
    n, p = a.shape
    yield "C", a.copy()
    yield "F", np.asfortranarray(a)
    yield "strided", _placed(a, np.zeros((2 * n, 3 * p), a.dtype)[::2, ::3])
    yield "negative", _placed(a, np.zeros((n, p), a.dtype)[::-1, ::-1])
    yield "sliced_columns", _placed(a, np.zeros((n, p + 5), a.dtype)[:, 2 : p + 2])
    yield "big_endian", a.astype(a.dtype.newbyteorder(">"))
    raw = np.zeros(a.nbytes + 1, np.uint8)[1:]
    yield "unaligned", _placed(a, raw.view(a.dtype).reshape(a.shape))
    frozen = a.copy()
    frozen.flags.writeable = False
    yield "read_only", frozen
    if n and np.all(a == a[:1]):
        yield "broadcast_rows", np.broadcast_to(a[0], a.shape)
    if p and np.all(a == a[:, :1]):
        yield "broadcast_columns", np.broadcast_to(a[:, :1], a.shape)
    if a.size:
        with tempfile.TemporaryFile() as file:
            mapped = np.memmap(file, a.dtype, "w+", shape=a.shape)
        mapped[...] = a
        yield "memmap", mapped


def _placed(a, target):
    target[...] = a
    return target


def edges(block, *, upto=None):
    """Sizes around multiples of a block: b - 1, b, b + 1 and 2b - 1, 2b, 2b + 1."""
    around = (m * block + d for m, d in itertools.product((1, 2), (-1, 0, 1)))
    return [size for size in around if upto is None or size <= upto]
