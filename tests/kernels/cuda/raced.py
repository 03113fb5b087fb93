"""Calls of every kernel that threads of a block share memory in, to be watched by racing.py."""

from functools import partial
from unittest import mock

import numpy as np

from tests import matrices
from tests.kernels.cuda.racing import watching

__all__ = ["CONTROLS", "KERNELS", "broken", "raced"]


def _there(x):
    from numba import cuda

    return cuda.to_device(x) if isinstance(x, np.ndarray) else x


def _scores(*shape, dtype="float64"):
    return matrices.gaussian(shape, np.dtype(dtype), matrices.generator("races", *shape))


def _none(dtype="float64"):
    return np.empty(0, dtype)


def _definite(n, dtype="float64"):
    a = _scores(2 * n, n)
    return (a.T @ a + np.eye(n)).astype(dtype)


def _tiled(*tiling, **more):
    from fastfisher.kernels.cuda import layered, rank_k, tilings

    made = tilings.Tiling(*tiling, **more)
    return (
        mock.patch.object(rank_k, "tiling_of", lambda *a, **k: made),
        mock.patch.object(layered, "tiny_tiling", lambda: made),
    )


WARPS = 16, 8, 8, 8, 8, (8, 8, 4)  # two, which share the right tile


def tiles():
    """Stages that are reused, tiles on the diagonal and off it, shares; warps that share a tile."""
    from fastfisher.kernels.cuda import gram, rank_k, syrk

    scale, shift = np.abs(_scores(26)), _scores(9)
    yield syrk.syrk, np.zeros((9, 9)), _scores(26, 9), scale, shift
    yield gram.gram, np.zeros((9, 9)), _scores(9, 20), 0, 20, _none(), _none()
    halves = _scores(18, 7, dtype="float32").astype(np.float16)
    yield syrk.syrk, np.zeros((7, 7)), halves, _none("float32"), _none("float32")
    with mock.patch.object(rank_k, "SUM", 24):
        yield syrk.syrk, np.zeros((3, 3)), _scores(30, 3), _none(), _none()
    one, two = _tiled(*WARPS)
    with one, two:
        yield syrk.syrk, np.zeros((9, 9)), _scores(20, 9), _none(), _none()
        yield gram.gram, np.zeros((3, 3)), _scores(3, 20), 0, 20, np.abs(_scores(20)), _none()


def slices():
    """One step and several, of two stages; tiles of one source, and of two."""
    from fastfisher.kernels.cuda import peaks, sliced, tilings

    square = tilings.Tiling(16, 16, 8, 16, 8, (16, 8, 8))
    tall, wide, none = 0.1 * _scores(70, 18), 0.1 * _scores(18, 70), _none()
    units, scale, shift = np.full(18, 64.0), np.ones(70), np.zeros(18)
    for made in (tilings.sliced_tiling(True), square):
        with mock.patch.object(sliced, "sliced_tiling", lambda simulated, made=made: made):
            for n in (70, 9):
                a, c = tall[:n].copy(), np.zeros((18, 18))
                yield sliced.sliced_syrk, c, a, units, 2, 3, scale[:n].copy(), shift
    yield sliced.sliced_gram, np.zeros((18, 18)), wide, 0, 70, units, 2, 3, none
    yield peaks.peaks, np.zeros(18), tall, True, scale, shift
    yield peaks.peaks, np.zeros(18), wide, False, none, none


def layers():
    from fastfisher.kernels.cuda import layered, moments

    for n, tokens in ((9, 1), (4, 3), (2, 9)):
        a, e = _scores(n * tokens, 9), _scores(n * tokens, 2)
        yield layered.layered_gram, np.zeros((n, n)), a, e, tokens
    yield moments.layered_diag, np.zeros((2, 9)), _scores(12, 9), _scores(12, 2), 3


def vectors():
    from fastfisher.kernels.cuda import diag, matvec, syrk

    a, v, u = _scores(19, 9), _scores(3, 9), _scores(3, 19)
    yield matvec.fvp, np.zeros((3, 9)), a, v, np.abs(u[0]), v[0].copy()
    yield matvec.fvp, np.zeros((1, 20)), _scores(5, 20), _scores(1, 20), _none(), _none()
    yield matvec.matvec, np.zeros((3, 19)), a, v, _none()
    yield matvec.matvec, np.zeros((1, 2)), _scores(2, 70), _scores(1, 70), _none()
    yield matvec.rmatvec, np.zeros((3, 9)), a, u, _none()
    yield diag.diag, np.zeros(9), a, np.abs(u[0]), _none()
    yield diag.scan, np.zeros(19, bool), a
    yield syrk.mirror, np.tril(_definite(9))
    yield syrk.mirror, np.tril(_definite(9)), np.zeros((9, 9), np.float32)


def factors():
    from fastfisher.kernels.cuda import cholesky, triangular

    for n in (11, 3):
        yield cholesky.cholesky, _definite(n)
    yield cholesky.cholesky, np.diag([1.0, 1, 1, 1, 1, -1, 1])
    L = np.linalg.cholesky(_definite(10))
    yield triangular.solve_lower, L, _scores(3, 10)
    yield triangular.solve_lower_adjoint, L, _scores(3, 10)
    yield triangular.inverse_diagonal, np.zeros(5), L[:5, :5].copy()


def systems():
    """By a thread each, a warp, a thread block, and one after the other."""
    from fastfisher.kernels.cuda import batched, blocks, metric

    room = batched.SQUARE_BYTES
    for n, p, most in ((5, 2, room), (2, 5, room), (2, 7, room), (1, 7, 0)):
        with mock.patch.object(batched, "SQUARE_BYTES", most):
            f, g = np.stack([_definite(p)] * n), _scores(n, p)
            f[0] = -f[0]
            x, info = np.zeros((n, p)), np.zeros(n, np.int32)
            yield batched.batched_solve, x, info, f, g, np.ones(n)
    yield blocks.block_syrk, np.zeros((2, 3, 3)), _scores(9, 7), 1, np.abs(_scores(9))
    for d in (3, 7):
        yield blocks.block_cholesky, np.stack([_definite(d)] * 2), np.zeros(2, np.int32)
        L = np.stack([np.linalg.cholesky(_definite(d))] * 2)
        yield blocks.block_solve, L, _scores(3, 2 * d)
    scores, g, info = _scores(2, 6, 3), _scores(2, 3), np.zeros(2, np.int32)
    yield (
        metric.batched_metric_solve,
        np.zeros((2, 3)),
        info,
        scores,
        np.abs(_scores(6)),
        g,
        np.ones(2),
    )


def solves():
    """What solvers do between these."""
    import fastfisher as ff
    from fastfisher.solvers.device import iterative

    G, wide, b = _scores(5, 3), _scores(3, 5), _scores(3, 2)
    weights, coef = np.abs(_scores(5)), _scores(3)

    def on_device(method, G, b, coef, weights, damping, **also):
        ff.solve(G, b, coef=coef, weights=weights, damping=damping, method=method, **also)

    yield partial(on_device, center=True), "primal", G, b, None, weights, ff.Marquardt(0.1)
    yield partial(on_device, center=True), "dual", wide, None, coef, None, 0.1
    with mock.patch.object(iterative, "CHUNK", 2):
        yield partial(on_device, maxiter=1), "cg", G, b[:, 0].copy(), None, weights, 0.1


def reductions():
    """By more than two threads."""
    from fastfisher.kernels.cuda import recurrence, sums

    x, y = _scores(2, 9), _scores(2, 9)
    state, partial = np.ones((2, recurrence.STATE)), np.zeros((2, 1, 3))
    with mock.patch.object(sums, "THREADS", 4), mock.patch.object(recurrence, "THREADS", 4):
        for reduce in (sums.largest, sums.least, sums.logarithms):
            yield reduce, np.zeros(2), x
        yield sums.dots, np.zeros(2), x, y
        yield recurrence.measure, partial, x, y, x, 1.0, np.ones(9), state
        yield recurrence.advance, partial, x, y, x, y, 1.0, _none(), state


GROUPS = tiles, slices, layers, vectors, factors, systems, reductions, solves
KERNELS = {f.__name__: f for f in GROUPS}


# Kernels of wrong.py, and what is said of them.
CONTROLS = {
    "barrier_left_out": "written at .* by another thread",
    "barrier_in_every_second_place": "read at .* by another thread",
    "thread_that_leaves": r"pass \[0, 1\] barriers",
    "barriers_in_two_branches": "waits at .* and at",
    "two_blocks_one_element": "by another block",
    "what_nobody_wrote": "read before it was written",
    "copy_that_has_not_arrived": "before its copy has arrived",
    "copy_that_is_not_waited_for": "before its copies have",
    "index_below_zero": "index -1 of 2",
    "nothing_wrong": None,
}


def broken():
    """{control: what is said of it}, and the barriers that the last one needs."""
    from fastfisher.kernels.cuda import compat

    found = {}
    for name in CONTROLS:
        with watching() as ledger:
            from tests.kernels.cuda import wrong  # made inside: kernels keep their copies

            kernel, blocks = getattr(wrong, name), 2 if "blocks" in name else 1
            compat.launch(kernel, blocks, 2, _there(np.ones(2)))
        found[name] = list(ledger.problems)
    return found, len(ledger.needed)


def raced():
    """{group: what is wrong}, the barriers that nothing seen needs, and how many there are."""
    found = {}
    with watching() as ledger, np.errstate(all="ignore"):
        for name, calls in KERNELS.items():
            for function, *args in calls():
                function(*map(_there, args))
            found[name] = list(ledger.problems)
            ledger.problems.clear()
    return found, sorted(ledger.barriers - ledger.needed), len(ledger.barriers)
