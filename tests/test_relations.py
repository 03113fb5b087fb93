"""Metamorphic laws, by hypothesis: no oracle, any size, dtype, weight and layout."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import assume, example, given

import fastfisher as ff
from tests import matrices, oracle
from tests.tolerances import assert_ratio, entrywise_ratio, gamma, unit_roundoff

dtypes = st.sampled_from(matrices.DTYPES)
seeds = st.integers(0, 2**32 - 1)
methods = st.sampled_from(["primal", "dual", "cg"])


@st.composite
def problems(draw, least=1, most=40):
    """Scores with rows over several orders of magnitude, and weights, some of them zero."""
    n, p = draw(st.integers(least, most)), draw(st.integers(least, most))
    dtype, seed = draw(dtypes), draw(seeds)
    rng = np.random.default_rng(seed)
    G = matrices.gaussian((n, p), np.float64 if dtype.kind == "f" else np.complex128, rng)
    G = (G * np.exp(draw(st.sampled_from([0, 1, 2])) * rng.standard_normal((n, 1)))).astype(dtype)
    w = draw(st.none() | st.just(rng.random(n) * 3 + 0.01))
    return G, w, rng


def real(G):
    return G.real.dtype


def bound(G, w, extra=4):
    """2 g_n |G|'|G| with a few roundings for weights and the cast."""
    return 2 * gamma(len(G) + extra, G.dtype) * oracle.syrk_bound(G, w)


def close_sums(F, H, G, w=None):
    assert entrywise_ratio(F, H, bound(G, w)) <= 1


# Relations between sums --------------------------------------------------------------------------


@given(problems())
def test_relation_1_law_26_1_rows_permuted(problem):
    G, w, rng = problem
    order = rng.permutation(len(G))
    w2 = None if w is None else w[order]
    close_sums(ff.ops.syrk(G[order], w2), ff.ops.syrk(G, w), G, w)
    close_sums(
        ff.DenseFisher(G.shape[1], dtype=G.dtype).update(G[order], w2)._sums.astype(G.dtype),
        ff.ops.syrk(G, w),
        G,
        w,
    )


@given(problems(), st.floats(0, 1))
def test_relation_1_law_26_3_split_and_merged(problem, share):
    G, w, _ = problem
    cut = round(share * len(G))
    make = lambda: ff.DenseFisher(G.shape[1], dtype=G.dtype, center=False)  # noqa: E731
    parts = [(G[:cut], None if w is None else w[:cut]), (G[cut:], None if w is None else w[cut:])]
    merged = make().update(*parts[0]).merge(make().update(*parts[1]))
    total = len(G) if w is None else w.sum()
    assert entrywise_ratio(merged.matrix(), make().update(G, w).matrix(), bound(G, w) / total) <= 1
    close_sums(ff.ops.syrk(*parts[0]) + ff.ops.syrk(*parts[1]), ff.ops.syrk(G, w), G, w)


@given(problems(most=15), seeds)
def test_relation_3_law_26_3_weights_are_repetition(problem, seed):
    G, _, _ = problem
    counts = np.random.default_rng(seed).integers(0, 5, len(G))
    repeated = np.repeat(G, counts, axis=0)
    close_sums(ff.ops.syrk(G, counts), ff.ops.syrk(repeated), repeated if len(repeated) else G)
    assume(counts.any())
    x = ff.natural_gradient(G, weights=counts, damping=ff.Relative(0.5))
    y = ff.natural_gradient(repeated, damping=ff.Relative(0.5))
    size = np.linalg.norm(oracle.wide(y))
    assert np.linalg.norm(oracle.wide(x) - oracle.wide(y)) <= 1e4 * unit_roundoff(G.dtype) * size


@given(problems(), st.data())
def test_relation_3_weight_zero_is_removal(problem, data):
    G, _, rng = problem
    kept = data.draw(hnp.arrays(bool, len(G)))
    w = np.where(kept, rng.random(len(G)) + 0.1, 0)
    close_sums(ff.ops.syrk(G, w), ff.ops.syrk(G[kept], w[kept]), G, w)
    np.testing.assert_array_equal(ff.ops.gram(G, w)[~kept], 0)


@given(problems(), st.integers(-20, 20))
def test_relation_4_law_26_4_powers_of_two_are_exact(problem, k):
    G, w, _ = problem
    c = real(G).type(2.0**k)
    for op in (ff.ops.syrk, ff.ops.gram, ff.ops.diag):
        assert (op(c * G, w) == c * c * op(G, w)).all(), op.__name__
    assert (ff.ops.syrk(-G, w) == ff.ops.syrk(G, w)).all()


@given(problems(), st.integers(-10, 10), methods)
def test_relation_4_the_step_scales_inversely_to_the_bit(problem, k, method):
    G, w, _ = problem
    c = real(G).type(2.0**k)
    x = ff.natural_gradient(G, weights=w, damping=ff.Relative(0.1), method=method)
    y = ff.natural_gradient(c * G, weights=w, damping=ff.Relative(0.1), method=method)
    assert (y == x / c).all()


@given(problems(), st.data())
def test_relation_5_law_26_5_columns_scaled_by_powers_of_two(problem, data):
    G, w, _ = problem
    p = G.shape[1]
    powers = data.draw(hnp.arrays(np.int64, p, elements=st.integers(-8, 8)))
    D = (2.0**powers).astype(real(G))
    for reproducible in (False, True):
        with ff.options(reproducible=reproducible):
            F = ff.ops.syrk(G, w)
            assert (ff.ops.syrk(G * D, w) == D[:, None] * F * D).all()
            assert (ff.ops.diag(G * D, w) == D * ff.ops.diag(G, w) * D).all()


@given(problems())
def test_relation_5_law_26_6_columns_permuted(problem):
    G, w, rng = problem
    order = rng.permutation(G.shape[1])
    F = ff.ops.syrk(G, w)
    assert (
        entrywise_ratio(
            ff.ops.syrk(G[:, order], w), F[np.ix_(order, order)], bound(G, w)[np.ix_(order, order)]
        )
        <= 1
    )
    assert (ff.ops.diag(np.ascontiguousarray(G[:, order]), w) == ff.ops.diag(G, w)[order]).all()


@given(problems())
def test_relation_6_law_26_7_rotation_turns_the_matrix(problem):
    G, w, rng = problem
    n, p = G.shape
    Q = matrices.orthonormal(p, p, G.dtype, rng)
    turned = (oracle.wide(G) @ Q).astype(G.dtype)
    F = oracle.wide(ff.ops.syrk(G, w))
    H = oracle.wide(ff.ops.syrk(turned, w))
    scale = unit_roundoff(G.dtype) * np.trace(F).real
    assert_ratio(np.abs(H - Q.conj().T @ F @ Q).max() / scale, 10 * (n + p), "Q'FQ")
    spread = np.abs(np.linalg.eigvalsh(H) - np.linalg.eigvalsh(F)).max()
    assert_ratio(spread / scale, 10 * (n + p), "spectrum")


@given(st.integers(2, 10), st.integers(0, 30), seeds, methods)
@example(4, 20, 0, "primal")
def test_relation_7_law_26_8_reparametrisation(p, more, seed, method):
    """Scores G M with damping M'M: x becomes M^-1 x. With damping I it differs by what it must."""
    rng = np.random.default_rng(seed)
    n = p + 2 + more
    G, g = rng.standard_normal((n, p)), rng.standard_normal(p)
    M = matrices.orthonormal(p, p, "float64", rng) @ np.diag(np.linspace(1, 4, p))
    # Damping lam M'M is lam more samples, the rows of M, with weights; there is no other route.
    lam = 0.3
    tight = {"rtol": 1e-14} if method == "cg" else {}
    x = ff.solve(G, g, damping=lam, method=method, **tight).x
    rows, w = np.vstack([G @ M, M]), np.concatenate([np.ones(n), np.full(p, lam * n)])
    y = ff.solve(rows, M.T @ g * n / w.sum(), weights=w, damping=0, method="primal").x
    cond = np.linalg.cond(oracle.fisher(rows, w))
    error = np.linalg.norm(y - np.linalg.solve(M, x)) / np.linalg.norm(y)
    assert_ratio(error / unit_roundoff("float64"), 30 * cond * 16 + 1e3, "M^-1 x")
    value = g @ x
    assert abs((M.T @ g) @ y - value) <= 1e-9 * abs(value)
    # What it differs by is known, and is little where M'M y is nearly y.
    other = ff.solve(G @ M, M.T @ g, damping=lam, method=method, **tight).x
    excess = lam * (M.T @ M - np.eye(p)) @ y
    apart = np.linalg.solve(oracle.fisher(G @ M) + lam * np.eye(p), excess)
    error = np.linalg.norm(other - y - apart) / np.linalg.norm(y)
    assert_ratio(error / unit_roundoff("float64"), 30 * cond * 16 + 1e3, "damping I")
    assert np.linalg.norm(other - y) > 1e-3 * np.linalg.norm(excess), "the negative control"


# Relations between solves ------------------------------------------------------------------------


@given(problems(), st.sampled_from([1e-1, 1e-3]), st.booleans())
def test_relation_8_law_26_10_push_through_and_woodbury(problem, c, center):
    G, w, rng = problem
    n, p = G.shape
    F = oracle.fisher(G, w, center)
    spectrum = np.linalg.eigvalsh(F)
    assume(spectrum[-1] > 1e-3)
    lam = c * spectrum[-1]
    k = 1 / c + 1
    u = unit_roundoff(G.dtype)
    f, b = matrices.gaussian((n,), G.dtype, rng), matrices.gaussian((p,), G.dtype, rng)
    for sides in (dict(coef=f), dict(b=b)):
        x, y = (
            ff.solve(G, **sides, weights=w, center=center, damping=lam, method=m).x
            for m in ("primal", "dual")
        )
        z = ff.solve(G, **sides, weights=w, center=center, damping=lam, method="cg", rtol=4 * u).x
        size = np.linalg.norm(oracle.wide(x)) or 1.0
        for other in (y, z):
            # A centred or weighted row adds its own rounding: n + p more of them.
            error = np.linalg.norm(oracle.wide(x) - oracle.wide(other)) / size
            assert error <= (30 * k + 10 * (n + p)) * k**0.5 * u * 4, (sides.keys(), error / u)


@given(problems(), st.booleans())
def test_relation_9_law_26_9_what_every_fisher_matrix_is(problem, center):
    G, w, _ = problem
    n, p = G.shape
    u = unit_roundoff(G.dtype)
    F = ff.DenseFisher(p, dtype=G.dtype, center=center).update(G, w)
    A = F.matrix()
    assert np.array_equal(A, A.conj().T) and not A.diagonal().imag.any()
    assert np.all(A.diagonal().real >= 0)
    trace = float(np.trace(oracle.wide(A)).real)
    assert np.linalg.eigvalsh(oracle.wide(A)).min() >= -(gamma(n + 4, G.dtype) + p * u) * trace
    norm = np.linalg.norm(oracle.scaled_rows(G, w, center)) ** 2
    raw = np.linalg.norm(oracle.scaled_rows(G, w)) ** 2
    assert abs(trace - norm) <= (n + p + 8) * u * raw
    S = ff.ops.syrk(G, w)
    assert np.array_equal(S, S.conj().T)
    K = ff.ops.gram(G, w)
    assert np.array_equal(K, K.conj().T) and np.all(K.diagonal().real >= 0)


@given(problems(), methods)
def test_relation_10_law_26_11_damping_shortens(problem, method):
    G, w, rng = problem
    scale = float(np.trace(oracle.fisher(G, w)).real) / G.shape[1]
    b = matrices.gaussian((G.shape[1],), G.dtype, rng)
    F = oracle.fisher(G, w)
    lengths, residuals = [], []
    for c in (0.1, 1, 10, 100):
        x = oracle.wide(ff.solve(G, b, weights=w, damping=c * scale, method=method).x)
        lengths.append(np.linalg.norm(x))
        residuals.append(np.linalg.norm(b - F @ x))
    assert np.all(np.diff(lengths) < 0)
    assert np.all(np.diff(residuals) > -1e-4 * np.linalg.norm(b))
    far = oracle.wide(ff.solve(G, b, weights=w, damping=1e6 * scale, method=method).x)
    top = np.linalg.eigvalsh(F)[-1] / scale
    assert np.linalg.norm(far * 1e6 * scale - b) <= (2e-6 * top + 1e-4) * np.linalg.norm(b)


@given(st.integers(1, 8), st.integers(9, 20), seeds)
def test_relation_10_no_damping_is_the_pseudo_inverse(n, p, seed):
    rng = np.random.default_rng(seed)
    G, f = rng.standard_normal((n, p)), rng.standard_normal(n)
    s = np.linalg.svd(G, compute_uv=False)
    assume(s[0] / s[-1] < 1e3)
    expected = np.linalg.pinv(G) @ f
    x = ff.solve(G, coef=f, damping=0).x
    assert np.linalg.norm(x - expected) <= 1e-8 * np.linalg.norm(expected)


@given(problems(least=2), st.sampled_from([0.0, 1.0, 100.0]))
def test_relation_15_centred_is_raw_minus_the_mean(problem, offset):
    G, w, _ = problem
    G = G + real(G).type(offset)
    total = len(G) if w is None else w.sum()
    share = np.ones(len(G)) / len(G) if w is None else w / total
    m = share @ oracle.wide(G)
    shifted = oracle.wide(G) - m
    F = ff.DenseFisher(G.shape[1], dtype=G.dtype, center=True).update(G, w)
    # In extended precision: in double this difference has the larger error of the two.
    weights = oracle.wide(np.ones(len(G)) if w is None else w, precise=True)
    exact = weights / weights.sum() @ oracle.wide(G, precise=True)
    expected = oracle.fisher(G, w, precise=True) - np.outer(exact.conj(), exact)
    allowed = 8 * gamma(len(G) + 8, G.dtype) * (oracle.syrk_bound(shifted, w) / total)
    # The mean is rounded to the dtype of G, and the raw difference loses to the offset.
    u = unit_roundoff(G.dtype)
    allowed += (4 * u * np.abs(m).max()) ** 2 + 2 * len(G) * 2.0**-53 * oracle.fisher(np.abs(G), w)
    allowed += 4 * u * np.abs(m).max() * np.abs(shifted).max()
    assert entrywise_ratio(F.matrix(), expected, allowed) <= 1
    x = ff.solve(G, coef=np.ones(len(G), G.dtype), weights=w, center=True, damping=1.0)
    assert np.abs(x.x).max() <= 1e3 * u * (np.abs(G).max() ** 2 + 1) * len(G)


@given(problems(), st.booleans(), methods)
def test_relation_18_law_26_13_inputs_keep_their_bytes(problem, center, method):
    G, w, rng = problem
    b, f = (
        matrices.gaussian((G.shape[1],), G.dtype, rng),
        matrices.gaussian((len(G),), G.dtype, rng),
    )
    operands = [a for a in (G, w, b, f) if a is not None]
    before = [a.tobytes() for a in operands]
    for a in operands:
        a.flags.writeable = False
    ff.solve(G, b, weights=w, center=center, damping=1.0, method=method)
    ff.solve(G, coef=f, weights=w, center=center, damping=1.0, method=method)
    ff.GramFisher(center=center).update(G, w).solve(b, damping=1.0)
    assert [a.tobytes() for a in operands] == before


@given(problems(), st.data())
def test_relation_16_any_strided_view_gives_the_bits_of_its_copy(problem, data):
    G, _, _ = problem
    index = tuple(data.draw(st.slices(size)) for size in G.shape)
    view = G[index] if data.draw(st.booleans()) else G[index].T
    copy = np.ascontiguousarray(view)
    for op in (ff.ops.syrk, ff.ops.gram, ff.ops.diag):
        assert op(view).tobytes() == op(copy).tobytes()
    assert (
        ff.natural_gradient(view, damping=1.0).tobytes()
        == ff.natural_gradient(copy, damping=1.0).tobytes()
    )


@given(
    st.integers(1, 30),
    st.integers(1, 30),
    seeds,
    st.sampled_from([np.nan, np.inf, -np.inf]),
    methods,
)
def test_law_26_16_a_bad_value_anywhere_is_an_error_that_names_it(n, p, seed, value, method):
    rng = np.random.default_rng(seed)
    G = rng.standard_normal((n, p))
    i, j = rng.integers(n), rng.integers(p)
    G[i, j] = value
    F = ff.DenseFisher(p)
    for call in (
        lambda: ff.natural_gradient(G, damping=1.0, method=method),
        lambda: ff.solve(G, np.ones(p), damping=1.0, method=method, center=True),
        lambda: ff.ops.syrk(G),
        lambda: ff.ops.gram(G),
        lambda: F.update(G),
    ):
        with pytest.raises(ff.errors.InputError, match=f"row {i}"):
            call()
    assert F.n_samples == 0
