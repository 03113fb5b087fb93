"""cuBLAS and cuSOLVER through nvmath-python as entries of the table: see `vendor`, which is CuPy's.

`nvmath.bindings` are the C functions themselves: handles, addresses, column-major matrices. A
C-ordered array is its own transpose there, and its lower triangle UPPER.
"""

import functools
import threading

import numpy as np

from . import compat, copies, squares
from .compat import cuda
from .syrk import mirror
from .vectors import per_element, times, weight_roots
from .vendor import BLOCK

__all__ = [
    "cholesky",
    "eigh",
    "gram",
    "matvec",
    "rmatvec",
    "solve_lower",
    "solve_lower_adjoint",
    "syrk",
]


@functools.cache
def _bindings():
    from nvmath.bindings import cublas, cusolverDn

    return cublas, cusolverDn


_kept = threading.local()  # handles: one for each thread and device


def _handle(module):
    """The handle of a library, on the stream in force."""
    handles = _kept.__dict__.setdefault(module.__name__, {})
    number = compat.device_number()
    if number not in handles:
        handles[number] = module.create()
    stream = getattr(compat.current_stream(), "handle", 0) or 0
    module.set_stream(handles[number], int(getattr(stream, "value", stream) or 0))
    return handles[number]


def _call(name, dtype, *args):
    """A function of cuBLAS for this dtype; device arrays become addresses, floats those of numbers
    of the host."""
    cublas, _ = _bindings()
    numbers = {x: np.array([x], dtype) for x in args if isinstance(x, float)}  # outlive the call

    def given(x):
        if isinstance(x, float):
            return numbers[x].ctypes.data
        return compat.address(x) if hasattr(x, "dtype") else x

    letter = "d" if dtype == np.float64 else "s"
    getattr(cublas, letter + name)(_handle(cublas), *map(given, args))


@cuda.jit
def _add(y, part, lower):
    e = cuda.grid(1)
    if e < y.size:
        i, j = e // y.shape[1], e % y.shape[1]
        if j <= i or not lower:
            y[i, j] += part[i, j]


def _summed(y, dtype, product, *, lower=False):
    """y += a product that ``product(out, beta)`` makes: in place, or first in single precision."""
    if y.dtype == dtype:
        product(y, 1.0)
        return
    part = compat.empty(tuple(y.shape), dtype)
    product(part, 0.0)
    per_element(_add, y.size, y, part, lower)


def _blocks(length, dtype):
    step = BLOCK if dtype == np.float32 else max(length, 1)
    return [(lo, min(lo + step, length)) for lo in range(0, length, step)]


def _computed(a):
    """What scores are computed in."""
    return np.dtype(np.float64 if a.dtype == np.float64 else np.float32)


def _part(a, shift, rows=None):
    """Scores as they are, if cuBLAS can take them; else shifted, scaled or widened."""
    if a.dtype == _computed(a) and not shift.size and rows is None:
        return a
    out = compat.empty(tuple(a.shape), _computed(a))
    copies.rows_of(out, a, 0, shift, shift[:0] if rows is None else rows, 0, 1.0)
    return out


def syrk(c, a, scale, shift):
    if not (c.size and len(a)):
        return
    cublas, _ = _bindings()
    dtype, p, upper = _computed(a), a.shape[1], int(cublas.FillMode.UPPER)
    for lo, hi in _blocks(a.shape[0], dtype):
        part = _part(a[lo:hi], shift, scale[lo:hi] if scale.size else None)

        def product(out, beta, part=part, k=hi - lo):
            where = upper, int(cublas.Operation.N), p, k
            _call("syrk", dtype, *where, 1.0, part, p, beta, out, p)

        _summed(c, dtype, product, lower=True)


def gram(c, a, lo, hi, weight, shift):
    cublas, _ = _bindings()
    dtype, n, upper = _computed(a), a.shape[0], int(cublas.FillMode.UPPER)
    for first, last in _blocks(hi - lo, dtype):
        columns = slice(lo + first, lo + last)
        part, k, ld = a[:, columns], last - first, a.shape[1]
        if a.dtype != dtype or shift.size or weight.size:
            part, ld = compat.empty((n, k), dtype), k
            copies.rows_of(part, a[:, columns], 0, shift[columns], shift[:0], 0, 1.0)
        if weight.size:
            root = compat.empty((k,), dtype)
            weight_roots(root, weight[columns])
            times(part, part, root)

        def product(out, beta, part=part, k=k, ld=ld):
            where = upper, int(cublas.Operation.T), n, k
            _call("syrk", dtype, *where, 1.0, part, ld, beta, out, n)

        if n and k:
            _summed(c, dtype, product, lower=True)


def _gemm(dtype, transposed, m, k, length, a, lda, b, ldb, beta, out):
    cublas, _ = _bindings()
    ops = int(cublas.Operation.T if transposed else cublas.Operation.N), int(cublas.Operation.N)
    _call("gemm", dtype, *ops, m, k, length, 1.0, a, lda, b, ldb, beta, out, m)


def matvec(y, a, v, shift):
    (n, p), k, dtype = a.shape, len(v), _computed(a)
    y_flat = y.reshape(y.size)
    per_element(_clear, y.size, y_flat)
    for lo, hi in _blocks(p, dtype) if y.size else ():
        part, ld = a[:, lo:hi], p
        if a.dtype != dtype or shift.size:
            part, ld = compat.empty((n, hi - lo), dtype), hi - lo
            copies.rows_of(part, a[:, lo:hi], 0, shift[lo:hi], shift[:0], 0, 1.0)

        def product(out, beta, part=part, ld=ld, b=v[:, lo:hi], length=hi - lo):
            _gemm(dtype, True, n, k, length, part, ld, b, p, beta, out)

        _summed(y, dtype, product)


@cuda.jit
def _clear(y):
    e = cuda.grid(1)
    if e < y.size:
        y[e] = 0


def rmatvec(y, a, u, shift):
    (n, p), k, dtype = a.shape, len(u), _computed(a)
    for lo, hi in _blocks(n, dtype) if y.size else ():
        part = _part(a[lo:hi], shift)

        def product(out, beta, part=part, b=u[:, lo:hi], length=hi - lo):
            _gemm(dtype, False, p, k, length, part, p, b, n, beta, out)

        _summed(y, dtype, product)


@cuda.jit
def _take_transposed(l, full):
    e = cuda.grid(1)
    if e < l.size:
        i, j = e // l.shape[1], e % l.shape[1]
        if j <= i:
            l[i, j] = full[j, i]


def cholesky(l, a=None, damping=0.0):
    """The status is cuSOLVER's: it need not see NaN."""
    cublas, solver = _bindings()
    n, dtype, info = l.shape[0], np.dtype(l.dtype), compat.empty((1,), np.int32)
    per_element(_clear, 1, info)
    if not n:
        return info
    if a is not None or damping != 0:
        squares.take_lower(l, l if a is None else a, dtype.type(damping))
    full = compat.empty((n, n), dtype)
    mirror(l, full)
    kind = "d" if dtype == np.float64 else "s"
    # In LOWER, which cuSOLVER is faster at: the upper triangle of the C-ordered array.
    where = _handle(solver), int(cublas.FillMode.LOWER), n, compat.address(full), n
    room = getattr(solver, f"{kind}potrf_buffer_size")(*where)
    work = compat.empty((max(int(room), 1),), dtype)
    getattr(solver, f"{kind}potrf")(*where, compat.address(work), room, compat.address(info))
    per_element(_take_transposed, l.size, l, full)
    return info


VECTORS = 1  # CUSOLVER_EIG_MODE_VECTOR


def eigh(e, a):
    """As `vendor.eigh`."""
    cublas, solver = _bindings()
    n, info = a.shape[0], compat.empty((1,), np.int32)
    per_element(_clear, 1, info)
    if not n:
        return info
    # Rows here are columns there: the lower triangle is UPPER, and vectors come in rows.
    place = VECTORS, int(cublas.FillMode.UPPER), n, compat.address(a), n, compat.address(e)
    handle = _handle(solver)
    room = int(solver.dsyevd_buffer_size(handle, *place))
    work = compat.empty((max(room, 1),), np.dtype(np.float64))
    solver.dsyevd(handle, *place, compat.address(work), room, compat.address(info))
    return info


def _solve(l, x, op):
    cublas, _ = _bindings()
    (k, n), sides = x.shape, cublas.SideMode.LEFT
    modes = [int(m) for m in (sides, cublas.FillMode.UPPER, op, cublas.DiagType.NON_UNIT)]
    _call("trsm", np.dtype(l.dtype), *modes, n, k, 1.0, l, n, x, n)


def solve_lower(l, x, start=0):
    if x.size:
        _solve(l, x, _bindings()[0].Operation.T)


def solve_lower_adjoint(l, x):
    if x.size:
        _solve(l, x, _bindings()[0].Operation.N)
