"""Checks of the CUDA products in the simulator: what the cases of every op do not reach.

Tensor cores on tiles of one warp and of two, half precision, sums that are cut, wide rows. To be
run in a process of its own, as simulated.py.
"""

import contextlib
from unittest import mock

import numpy as np

from fastfisher.kernels import reference
from tests import matrices
from tests.tolerances import unit_roundoff

__all__ = ["CHECKS", "run"]

REAL = ("float64", "float32")


def _modules():
    from fastfisher.kernels.cuda import fragments, layered, matvec, moments, rank_k, syrk, tilings
    from fastfisher.kernels.cuda.gram import gram

    class Modules:
        pass

    for module in (fragments, layered, matvec, moments, rank_k, syrk, tilings):
        setattr(Modules, module.__name__.split(".")[-1], module)
    Modules.gram = staticmethod(gram)
    return Modules


def _device(x):
    from numba import cuda

    return cuda.to_device(x) if isinstance(x, np.ndarray) else x


def _run(kernel, out, *args):
    """What a kernel leaves in `out`, which it got as it is here."""
    there = _device(out.copy())
    kernel(there, *map(_device, args))
    return there.copy_to_host()


@contextlib.contextmanager
def _tiled(*tiling, **more):
    """Products by this tiling."""
    m = _modules()
    tiling = m.tilings.Tiling(*tiling, **more)
    with (
        mock.patch.object(m.rank_k, "tiling_of", lambda *a, **k: tiling),
        mock.patch.object(m.layered, "tiny_tiling", lambda: tiling),
    ):
        yield m


def _scores(*shape, dtype, seed="scores"):
    rng = matrices.generator(seed, *shape, str(dtype))
    return matrices.gaussian(shape, np.dtype(dtype), rng)


def _none(dtype):
    return np.empty(0, dtype)


def _rank_k_error(m, n, p, dtype, *, weighted=False, by_rows=True):
    """Largest error of syrk or gram in u |A|'|A|; infinite if an upper triangle is written."""
    a = _scores(n, p, dtype=dtype)
    order, length = (p, n) if by_rows else (n, p)
    rng = matrices.generator("factors", n, p)
    factors = rng.uniform(0.5, 2, length).astype(dtype) if weighted else _none(dtype)
    shift = _scores(p, dtype=dtype, seed="shift") if weighted else _none(dtype)
    start = rng.standard_normal((order, order))
    if by_rows:
        mine = _run(m.syrk.syrk, start, a, factors, shift)
        rows = (a.astype(float) - (shift if weighted else 0)).T * (factors if weighted else 1)
    else:
        mine = _run(m.gram, start, a, 0, p, factors, shift)
        rows = (a.astype(float) - (shift if weighted else 0)) * np.sqrt(factors if weighted else 1)
    exact, bound = rows @ rows.T + start, np.abs(rows) @ np.abs(rows).T + np.abs(start)
    if not np.array_equal(np.triu(mine, 1), np.triu(start, 1)):
        return np.inf
    return float(np.max(np.tril(np.abs(mine - exact)) / bound) / unit_roundoff(dtype))


def _tensor(dtype, instruction, by_rows, *, warps=1, weighted=False):
    m, n, _ = instruction
    with _tiled(m * warps, n, 8, m, n, instruction, 16) as modules:
        shape = (19, n + 3) if by_rows else (n + 3, 19)
        return _rank_k_error(modules, *shape, dtype, weighted=weighted, by_rows=by_rows)


def tensor_cores_m8n8k4():
    return max(_tensor("float64", (8, 8, 4), rows) for rows in (True, False))


def tensor_cores_m16n8k8():
    return max(_tensor("float64", (16, 8, 8), rows, weighted=True) for rows in (True, False))


def tensor_cores_of_two_warps():
    return _tensor("float64", (8, 8, 4), True, warps=2)


def three_products_of_tf32():
    errors = (_tensor("float32", (16, 8, 8), rows, weighted=rows) for rows in (True, False))
    return max(errors)


def one_product_of_tf32():
    """The control: 2^13 times the roundoff are lost without the other two products."""
    m = _modules()
    made = m.fragments._tensor

    def first_only(tiling, dtype, exact, *strides):
        return made(tiling, dtype, True, *strides)

    m.rank_k.engine.cache_clear(), m.rank_k._kernels.cache_clear()
    with mock.patch.object(m.fragments, "_tensor", first_only):
        error = _tensor("float32", (16, 8, 8), True)
    m.rank_k.engine.cache_clear(), m.rank_k._kernels.cache_clear()
    return error


def half_precision_has_the_bits_of_float32():
    """Of syrk, gram, fvp, matvec, diag and layered_gram, on tensor cores and without."""
    from fastfisher.kernels.cuda.diag import diag, scan

    m, wrong = _modules(), 0
    for p in (6, 7):  # copied in pairs, and one by one
        wide = _scores(5, p, dtype="float32")
        halves = wide.astype(np.float16)
        bits = (wide.view(np.uint32) >> 16).astype(np.uint16)
        none, sums = _none("float32"), np.zeros((p, p))
        for stored, same in ((halves, halves.astype("f4")), (bits, bits.astype("u4") << 16)):
            same = same.view("f4")
            v, u = _scores(1, p, dtype="float32"), _scores(1, 5, dtype="float32")
            scale = np.abs(u[0])
            calls = [
                (m.syrk.syrk, sums, (none, none)),
                (m.syrk.syrk, sums, (scale, v[0])),
                (m.gram, np.zeros((5, 5)), (0, p, none, none)),
                (m.matvec.matvec, np.zeros((1, 5)), (v, none)),
                (m.matvec.fvp, np.zeros((1, p)), (v, scale, none)),
                (diag, np.zeros(p), (none, v[0])),
                (scan, np.ones(5, bool), ()),
            ]
            for kernel, out, rest in calls:
                mine, theirs = (_run(kernel, out, a, *rest) for a in (stored, same))
                wrong += not np.array_equal(mine, theirs)
            e = _scores(5, 3, dtype="float32").astype(np.float16)
            if stored is halves:
                mine = _run(m.layered.layered_gram, np.zeros((5, 5)), stored, e, 1)
                theirs = _run(m.layered.layered_gram, np.zeros((5, 5)), same, e.astype("f4"), 1)
                wrong += not np.array_equal(mine, theirs)
    with _tiled(16, 8, 16, 16, 8, (16, 8, 8), 16) as m:
        for rest in ((none, none), (scale, v[0])):
            mine, theirs = (_run(m.syrk.syrk, sums, a, *rest) for a in (stored, same))
            wrong += not np.array_equal(mine, theirs)
    return float(wrong)


def sums_that_are_cut():
    """Into shares, which are added in order, and within a share."""
    m, worst = _modules(), 0.0
    with mock.patch.multiple(m.rank_k, SUM=24):
        for least in (32, 4096):
            with mock.patch.multiple(m.tilings, LEAST=least):
                for dtype in REAL:
                    worst = max(worst, _rank_k_error(m, 77, 5, dtype))
    return worst


def the_same_bits_again():
    m = _modules()
    a, none = _scores(40, 9, dtype="float32"), _none("float32")
    with mock.patch.multiple(m.tilings, LEAST=8):
        mine, again = (_run(m.syrk.syrk, np.zeros((9, 9)), a, none, none) for _ in range(2))
    return float(not np.array_equal(mine, again))


def updates_inside_larger_arrays():
    """The trailing update of a factorisation: c -= a a' with both in one matrix."""
    m, worst = _modules(), 0.0
    for dtype in REAL:
        whole = _scores(14, 14, dtype=dtype)
        mine = _device(whole.reshape(-1).copy())
        m.rank_k.update(mine, 5 * 14 + 5, 14, mine, 5 * 14 + 2, 14, 9, 3)
        expected, a = whole.astype(float), whole[5:, 2:5].astype(float)
        bound = np.abs(expected[5:, 5:]) + np.abs(a) @ np.abs(a).T
        expected[5:, 5:] -= np.tril(a @ a.T)
        error = np.abs(mine.copy_to_host().reshape(14, 14) - expected)
        if np.any(error[:5]) or np.any(error[:, :5]):
            return np.inf
        worst = max(worst, float(np.max(error[5:, 5:] / bound) / unit_roundoff(dtype)))
    return worst


def wide_and_long():
    """fvp of rows that no team can hold, matvec of rows that are cut, folds of several levels."""
    m, worst = _modules(), 0.0
    for dtype in REAL:
        for n, p, k in ((2, 70, 1), (37, 2, 3)):
            a, v, u = (_scores(*s, dtype=dtype) for s in ((n, p), (k, p), (k, n)))
            w, none = np.abs(u[0]), _none(dtype)
            for kernel, ref, args, out in (
                (m.matvec.fvp, reference.fvp, (a, v, w, v[0]), np.ones((k, p))),
                (m.matvec.matvec, reference.matvec, (a, v, v[0]), np.ones((k, n))),
                (m.matvec.rmatvec, reference.rmatvec, (a, u, none), np.ones((k, p))),
            ):
                expected = out.copy()
                ref(expected, *(x.astype(float) for x in args))
                error = np.abs(_run(kernel, out, *args) - expected).max() / np.abs(expected).max()
                worst = max(worst, float(error / unit_roundoff(dtype)))
    return worst


def tokens():
    """Layered Gram: samples of several tokens, fewer and more than a tile has rows."""
    worst = 0.0
    for tiling in (None, (8, 8, 8, 8, 8, (8, 8, 4))):
        context = _tiled(*tiling) if tiling else contextlib.nullcontext(_modules())
        with context as m:
            for dtype in REAL[: 1 if tiling else 2]:
                for n, count, d_in, d_out in ((9, 1, 3, 2), (4, 3, 9, 2), (2, 9, 2, 3)):
                    a = _scores(n * count, d_in, dtype=dtype)
                    e = _scores(n * count, d_out, dtype=dtype)
                    start = np.full((n, n), 2.0**20)
                    mine = _run(m.layered.layered_gram, start, a, e, count) - start
                    exact, bound = np.zeros((2, n, n))
                    reference.layered_gram(exact, a, e, count)
                    reference.layered_gram(bound, np.abs(a), np.abs(e), count)
                    if np.any(np.triu(mine, 1)):
                        return np.inf
                    unit = unit_roundoff(dtype) * bound + 2.0**20 * unit_roundoff(float)
                    worst = max(worst, float(np.max(np.abs(np.tril(mine - exact)) / unit)))
    return worst


def nan_reaches_its_row_and_column():
    m = _modules()
    none, expected = _none("float64"), np.zeros((10, 10), bool)
    expected[6, :7] = expected[6:, 6] = True
    wrong = 0
    for bad in (np.nan, np.inf):
        a = _scores(11, 10, dtype="float64")
        a[9, 6] = bad
        mine = _run(m.syrk.syrk, np.zeros((10, 10)), a, none, none)
        wrong += not np.array_equal(~np.isfinite(np.tril(mine)), expected)
        with _tiled(16, 8, 8, 16, 8, (16, 8, 8), 16):
            mine = _run(m.syrk.syrk, np.zeros((10, 10)), a.astype("f4"), none.astype("f4"), none)
        wrong += not np.array_equal(~np.isfinite(np.tril(mine)), expected)
    return float(wrong)


# Each with its limit in units of u; 0 where bits or patterns must be the same.
CHECKS = {
    check.__name__: (check, limit)
    for check, limit in (
        (tensor_cores_m8n8k4, 32),
        (tensor_cores_m16n8k8, 32),
        (tensor_cores_of_two_warps, 32),
        (three_products_of_tf32, 32),
        (half_precision_has_the_bits_of_float32, 0),
        (sums_that_are_cut, 32),
        (the_same_bits_again, 0),
        (updates_inside_larger_arrays, 32),
        (wide_and_long, 32),
        (tokens, 32),
        (nan_reaches_its_row_and_column, 0),
    )
}


def run(names):
    """{name: ratio, or what was raised}."""
    found = {}
    for name in names:
        try:
            with np.errstate(all="ignore"):
                found[name] = globals()[name]()
        except Exception as problem:
            found[name] = repr(problem)
    return found
