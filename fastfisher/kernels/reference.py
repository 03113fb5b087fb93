"""Every op in a few lines of NumPy: the oracle of the kernels and the fallback of the table.

Same names, arguments and effects as the kernels in cpu/; README.md is the contract.
"""

import numpy as np

__all__ = [
    "batched_metric_solve",
    "batched_solve",
    "batched_syrk",
    "bf16_gram",
    "bf16_syrk",
    "block_cholesky",
    "block_solve",
    "block_syrk",
    "cholesky",
    "diag",
    "dual_small",
    "fine_rmatvec",
    "fvp",
    "gram",
    "int7_gram",
    "int7_syrk",
    "int16_gram",
    "int16_syrk",
    "inverse_diagonal",
    "layered_diag",
    "layered_gram",
    "matvec",
    "mirror",
    "narrow",
    "peaks",
    "primal_small",
    "rmatvec",
    "scan",
    "sliced_gram",
    "sliced_syrk",
    "solve_lower",
    "solve_lower_adjoint",
    "spectral_norm",
    "substitute",
    "syrk",
    "wide_fvp",
]

POWER_STEPS = 4  # towards a norm, from below
HEAD = 11  # numbers of the report of a small solve before those of the right-hand sides


def _shifted(a, shift, dtype):
    a = a.astype(dtype)
    return a - shift if shift.size else a


def _add_lower(c, product):
    lower = np.tril_indices(len(c))
    c[lower] += product[lower]


def syrk(c, a, scale, shift):
    a = _shifted(a, shift, c.dtype)
    if scale.size:
        a = a * scale[:, np.newaxis]
    _add_lower(c, a.conj().T @ a)


def gram(c, a, lo, hi, weight, shift):
    a = _shifted(a, shift, c.dtype)[:, lo:hi]
    scaled = a * weight[lo:hi] if weight.size else a
    _add_lower(c, scaled @ a.conj().T)


def mirror(c, out=None):
    lower = np.tril(c, -1)
    (c if out is None else out)[:] = lower + lower.conj().T + np.diag(c.diagonal().real)


def spectral_norm(a):
    x, largest = np.zeros(len(a), a.dtype), float(a.diagonal().real.max())
    x[np.argmax(a.diagonal().real)] = 1
    for _ in range(POWER_STEPS):
        y = a @ x
        unit = float(np.abs(y).max()) or 1.0
        size = float(np.linalg.norm(y / unit)) * unit
        if not size > largest:
            break
        largest, x = size, y / size
    return largest


def matvec(y, a, v, shift):
    y[:] = v.astype(y.dtype) @ _shifted(a, shift, y.dtype).T


def rmatvec(y, a, u, shift):
    y += u.astype(y.dtype) @ _shifted(a, shift, y.dtype).conj()


fine_rmatvec = rmatvec


def fvp(y, a, v, weights, shift):
    t = np.empty((len(v), len(a)), y.dtype)
    matvec(t, a, v, shift)
    rmatvec(y, a, t * weights if weights.size else t, shift)


wide_fvp = fvp


def diag(y, a, weights, shift):
    squares = np.abs(_shifted(a, shift, np.result_type(a.dtype, y.dtype))) ** 2
    y += weights @ squares if weights.size else squares.sum(axis=0)


def scan(bad, a):
    finite = np.isfinite(a)
    bad[:] = ~finite.all(axis=1)
    return float(np.abs(np.where(finite, a, 0).view(a.real.dtype)).max(initial=0.0))


def cholesky(l, a=None, damping=0.0):
    if a is not None:
        l[np.tril_indices(len(l))] = a[np.tril_indices(len(l))]
    l[np.diag_indices(len(l))] += damping
    return _factor(l)


def _factor(a):
    for j in range(len(a)):
        pivot = a[j, j].real - np.sum(np.abs(a[j, :j]) ** 2)
        if not (pivot > 0 and np.isfinite(pivot)):
            return j + 1
        a[j, j] = np.sqrt(pivot)
        a[j + 1 :, j] = (a[j + 1 :, j] - a[j + 1 :, :j] @ a[j, :j].conj()) / a[j, j].real
    return 0


def solve_lower(l, x, start=0):
    for i in range(start, len(l)):
        x[:, i] = (x[:, i] - x[:, start:i] @ l[i, start:i]) / l[i, i].real


def solve_lower_adjoint(l, x):
    for i in reversed(range(len(l))):
        x[:, i] = (x[:, i] - x[:, i + 1 :] @ l[i + 1 :, i].conj()) / l[i, i].real


def inverse_diagonal(y, l):
    units = np.eye(len(l), dtype=l.dtype)
    solve_lower(l, units)
    y[:] = np.square(np.abs(units), dtype=np.float64).sum(axis=1)


def batched_solve(x, info, f, g, damping):
    damping = np.broadcast_to(damping, len(g))
    for t in range(len(g)):
        a = f[t].copy()
        a[np.diag_indices(len(a))] += damping[t]
        info[t] = cholesky(a)
        if info[t] == 0:
            x[t] = g[t]
            solve_lower(a, x[t : t + 1])
            solve_lower_adjoint(a, x[t : t + 1])
            if not np.isfinite(x[t]).all():
                info[t] = -1
        if info[t]:
            x[t] = np.nan


def layered_diag(c, a, e, tokens):
    wide = np.complex128 if a.dtype.kind == "c" else np.float64
    n = len(a) // tokens
    a, e = (x.reshape(n, tokens, x.shape[1]).astype(wide) for x in (a, e))
    c += np.square(np.abs(np.einsum("nto,nti->noi", e, a))).sum(axis=0)


def layered_gram(c, a, e, tokens):
    n = len(c)
    inputs = a.astype(c.dtype) @ a.conj().T.astype(c.dtype)
    outputs = e.astype(c.dtype) @ e.conj().T.astype(c.dtype)
    pairs = (inputs * outputs).reshape(n, tokens, n, tokens)
    _add_lower(c, pairs.sum(axis=(1, 3)))


def primal_small(x, report, a, weights, shift, b, coef, damping, share, sums=None):
    wide, w = _shifted(a, shift, np.float64), weights if weights.size else np.ones(len(a))
    F = (wide.T * w) @ wide if sums is None else sums.copy()
    mirror(F)
    F /= w.sum()
    L = _damped(report, F, F.diagonal().max(), damping, share, len(F))
    if report[3]:
        return
    given = b if len(b) else (coef * w) @ wide / w.sum()
    units = np.frexp(np.abs(given).max(axis=1))[1]
    for c, near in enumerate(np.ldexp(given, -units[:, np.newaxis])):
        x[c] = _substituted(L, near).astype(a.dtype)
        errors = _errors(near - F @ x[c] - report[2] * x[c], F, report[2], x[c], near)
        _tell(report, c, x[c], near, units[c], *errors)


def dual_small(x, report, a, weights, shift, b, coef, damping, share, limit, steps, sums=None):
    wide, w = _shifted(a, shift, np.float64), weights if weights.size else np.ones(len(a))
    u = np.sqrt(w / w.sum())
    T = u[:, np.newaxis] * wide
    K = wide @ wide.T if sums is None else sums.copy()
    mirror(K)
    K *= u[:, np.newaxis] * u
    L = _damped(report, K, np.square(wide).mean(axis=1).max(), damping, share, a.shape[1])
    if report[3]:
        return
    given, added, arbitrary = (b, report[2], True) if len(b) else (coef, report[2], False)
    units = np.frexp(np.abs(given).max(axis=1))[1]
    for c, near in enumerate(np.ldexp(given, -units[:, np.newaxis])):
        f = 0.0 if arbitrary else near * u
        f -= (f @ u) * u if shift.size and not arbitrary else 0.0
        right = near if arbitrary else f @ T
        total, y, best = (near if arbitrary else 0 * right), 0.0, None
        for step in range(1 + steps):
            move = _substituted(L, f - T @ total - added * y)
            y, total = y + move, total + move @ T
            better = (total / (added if arbitrary else 1.0)).astype(a.dtype)
            r = right - (T @ better) @ T - added * better
            errors = _errors(r, K, added, better, right)
            if best and not errors[1] < best[1]:
                break
            x[c], best = better, errors
            report[9] = max(report[9], step > 0)
            if best[1] <= limit:
                break
        size = np.linalg.norm(total)
        if arbitrary and size > 0:
            report[10] = max(report[10], np.linalg.norm(near) / size)
        _tell(report, c, x[c], right, units[c], *best)


def _damped(report, A, largest, damping, share, p):
    """The factor of A + lambda I, and the head of the report."""
    added = damping + share * (np.trace(A) / p)
    L = A + added * np.eye(len(A))
    report[:] = 0
    report[:4] = largest, np.trace(A), added, cholesky(L)
    report[4], report[8] = np.inf, (L.diagonal() ** 2).min()
    return L


def _substituted(L, b):
    x = np.array(b[np.newaxis])
    solve_lower(L, x)
    solve_lower_adjoint(L, x)
    return x[0]


def _errors(r, A, added, x, b):
    """The norm of a residual, and the backward error."""
    scale = (np.linalg.norm(A, 2) + added) * np.linalg.norm(x) + np.linalg.norm(b)
    return np.linalg.norm(r), np.linalg.norm(r) / (scale or 1)


def _tell(report, c, x, b, unit, size, backward_error):
    x[:] = np.ldexp(x, unit)
    if b.any():
        report[4] = min(report[4], np.abs(x).max())
        report[5] = max(report[5], np.abs(x).max())
    report[HEAD + 2 * c] = size / (np.linalg.norm(b) or 1)
    report[HEAD + 2 * c + 1] = backward_error
    report[6:8] = report[HEAD::2].max(initial=0.0), report[HEAD + 1 :: 2].max(initial=0.0)


def batched_metric_solve(x, info, scores, weights, g, damping):
    wide = np.result_type(scores.dtype, np.float64)
    f = np.empty((*g.shape, g.shape[1]), scores.dtype)
    for t in range(len(g)):
        w = weights[t] if weights.ndim == 2 else weights
        w = w.astype(np.float64) if w.size else np.ones(scores.shape[1])
        a = scores[t].astype(wide)
        with np.errstate(invalid="ignore"):
            f[t] = (a.conj().T * w) @ a / w.sum()
    batched_solve(x, info, f, g, damping)


def block_syrk(c, a, start, scale):
    blocks, d, _ = c.shape
    rows = a[:, start : start + blocks * d].astype(c.dtype).reshape(len(a), blocks, d)
    rows = rows.transpose(1, 0, 2) * (scale[:, np.newaxis] if scale.size else 1)
    for b in range(blocks):
        _add_lower(c[b], rows[b].conj().T @ rows[b])
        mirror(c[b])


def batched_syrk(c, a, scale):
    for t in range(len(c)):
        rows = scale[t] if scale.ndim == 2 else scale
        block_syrk(c[t : t + 1], a[t], 0, rows)


def block_cholesky(c, info):
    for b, block in enumerate(c):
        info[b] = cholesky(block)
        if info[b]:
            block[np.tril_indices(len(block))] = np.nan


def block_solve(l, x):
    d = l.shape[1]
    for b in range(len(l)):
        solve_lower(l[b], x[:, b * d : (b + 1) * d])
        solve_lower_adjoint(l[b], x[:, b * d : (b + 1) * d])


def peaks(y, a, by_rows, scale, shift):
    a = _shifted(a, shift, a.dtype)
    if scale.size and by_rows:
        a = a * scale[:, np.newaxis]
    if a.size:
        np.maximum(y, np.abs(a).max(axis=0 if by_rows else 1), out=y)


def _integers(bits):
    def cut(x, count):
        """q_i 2^(-bits i), i < count, whose sum is x, nearly; q_i integers."""
        for i in range(count):
            yield np.rint(x) * 2.0 ** (-bits * i)
            x = (x - np.rint(x)) * x.dtype.type(2**bits)

    return cut


def _halves(x, count):
    """Slices of x in bfloat16, the nearest to what those before leave."""
    x = x.astype(np.float32)
    for _ in range(count):
        bits = np.ascontiguousarray(x).view(np.uint32).astype(np.uint64)
        near = (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000
        q = near.astype(np.uint32).view(np.float32)
        yield q
        x = x - q


def _products_of_slices(x, cut, count, levels):
    """Sum of q_i'q_j over i + j < levels for slices q of x."""
    slices = [q.astype(np.float64) for q in cut(x, count)]
    pairs = [(i, j) for i in range(count) for j in range(count) if i + j < levels]
    return sum((slices[i].T @ slices[j] for i, j in pairs), np.zeros((x.shape[1],) * 2))


def _sliced_syrk(cut, c, a, units, slices, levels, scale, shift):
    a = _shifted(a, shift, a.dtype)
    if scale.size:
        a = a * scale[:, np.newaxis]
    _add_lower(c, _products_of_slices(a * units, cut, slices, levels))


def _sliced_gram(cut, c, a, lo, hi, units, slices, levels, shift):
    a = _shifted(a, shift, a.dtype)[:, lo:hi]
    _add_lower(c, _products_of_slices((a * units[:, np.newaxis]).T, cut, slices, levels))


def sliced_syrk(c, a, units, slices, levels, scale, shift):
    _sliced_syrk(_integers(7), c, a, units, slices, levels, scale, shift)


def sliced_gram(c, a, lo, hi, units, slices, levels, shift):
    _sliced_gram(_integers(7), c, a, lo, hi, units, slices, levels, shift)


def int7_syrk(c, a, units, slices, levels, scale, shift):
    _sliced_syrk(_integers(6), c, a, units, slices, levels, scale, shift)


def int7_gram(c, a, lo, hi, units, slices, levels, shift):
    _sliced_gram(_integers(6), c, a, lo, hi, units, slices, levels, shift)


def int16_syrk(c, a, units, slices, levels, scale, shift):
    _sliced_syrk(_integers(11), c, a, units, slices, levels, scale, shift)


def int16_gram(c, a, lo, hi, units, slices, levels, shift):
    _sliced_gram(_integers(11), c, a, lo, hi, units, slices, levels, shift)


def bf16_syrk(c, a, units, slices, levels, scale, shift):
    _sliced_syrk(_halves, c, a, units, slices, levels, scale, shift)


def bf16_gram(c, a, lo, hi, units, slices, levels, shift):
    _sliced_gram(_halves, c, a, lo, hi, units, slices, levels, shift)


def narrow(out, c, units):
    lower = np.tril_indices(len(c))
    with np.errstate(over="ignore", under="ignore"):
        out[lower] = (c * (units[:, np.newaxis] * units))[lower]


def substitute(l, x):
    solve_lower(l, x)
    solve_lower_adjoint(l, x)
