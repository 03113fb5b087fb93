"""Sums of products of slices: of integers, X2, exact, in any order, on every unit; of halves, X8,
as near as in single precision."""

import numba
import numpy as np
import pytest

from fastfisher.kernels import reference
from fastfisher.kernels.cpu import quantise, sliced, threads, units
from fastfisher.kernels.cpu.splitting import sliced_terms
from fastfisher.kernels.slicing import (
    KINDS,
    SLICED_LEAST,
    SLICED_TERMS,
    TILED_TERMS,
    full_units,
    slice_units,
)
from tests.tolerances import LIMITS, assert_ratio, entrywise_ratio, unit_roundoff

# Those of this processor; "amx", where it is and where it is not, has test_amx.py.
UNITS = [(name, kind) for kind in units.NEEDED for name in units._promised(kind) if name != "amx"]
WHOLE = [unit for unit in UNITS if unit[1] != "halves"]
NONE, U = np.empty(0), unit_roundoff("float64")
compiled = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="there is no compiled code")


@pytest.fixture(params=UNITS, ids="-".join)
def code(request):
    return units.unit_code(*request.param)


only_whole = pytest.mark.parametrize("code", WHOLE, ids="-".join, indirect=True)
# Bits of a slice, the largest of the first, and what sums products of them.
INTEGERS = {
    "bytes": (7, 127, sliced.sliced_syrk, sliced.sliced_gram),
    "septets": (6, 63, sliced.int7_syrk, sliced.int7_gram),
    "shorts": (11, 2047, sliced.int16_syrk, sliced.int16_gram),
}
over_integers = pytest.mark.parametrize("kind", INTEGERS)


def powers(sizes, largest=127):
    return np.exp2(np.floor(np.log2(largest / sizes)))


def assert_same_sums(c, expected):
    assert_ratio(entrywise_ratio(c, expected, U * np.abs(expected).max()), "bytes", "sums")


def products(a, code, *, slices=1, levels=1, by_rows=True):
    """Through one unit, whichever this machine would take."""
    order = a.shape[1 if by_rows else 0]
    c, ones, none = np.zeros((order, order)), np.ones(order, a.dtype), np.empty(0, a.dtype)
    if by_rows:
        sliced._syrk(c, a, ones, slices, levels, none, none, code)
    else:
        sliced._gram(c, a, 0, a.shape[1], ones, slices, levels, none, code)
    return c


@pytest.mark.parametrize("n, p", [(1, 1), (3, 47), (64, 48), (65, 49), (700, 16), (130, 97)])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_X2_sums_of_small_integers_are_exact(code, n, p, dtype, rng):
    """Up to 127 (63) either way: not one unit in the last place off, lower triangle only."""
    largest = min(2 ** (code.bits or 7) - 1, 127)
    a = rng.integers(-largest, largest + 1, (n, p)).astype(dtype)
    a[0], a[-1] = largest, -largest
    for by_rows in (True, False):
        x = (a if by_rows else a.T).astype(np.float64)
        np.testing.assert_array_equal(products(a, code, by_rows=by_rows), np.tril(x.T @ x))


@only_whole
def test_X2_sums_hold_the_largest_stretch_of_the_largest_integers(code):
    """8192 terms of 127 * 127 (with the offset: 255 * 127), or 512 of 2047 * 2047: one flush."""
    largest = 2.0**code.bits - 1
    for sign in (1.0, -1.0):
        a = np.full((SLICED_TERMS, 3), largest)
        a[:, 1] *= sign
        np.testing.assert_array_equal(products(a, code), np.tril(a.T @ a))


@pytest.mark.parametrize(
    "code", [unit for unit in WHOLE if unit[1] == "shorts"], ids="-".join, indirect=True
)
def test_X2_two_slices_of_shorts_hold_their_largest_sums(code):
    """Both products of a level are summed in 32 bits: 2 x 512 x 2047 x 1024."""
    for sign in (1.0, -1.0):
        a = np.full((1000, 3), sign * (2047 - 0.5 + 2.0**-9))
        a[:, 1] = 2047 - 0.5 + 2.0**-9  # the second slice takes as much away as it can
        first = np.rint(a)
        x = first + np.rint((a - first) * 2**11) / 2**11
        assert np.abs((a - first) * 2**11).max() > 1019
        assert_same_sums(products(a, code, slices=2, levels=3), np.tril(x.T @ x))


def test_sliced_terms_stay_inside_32_bits():
    for tiled, most in ((False, SLICED_TERMS), (True, TILED_TERMS)):
        for order in (1, 100, 5000, 10**6):
            for count in (1, 2, 4, 8):
                terms = sliced_terms(order, count, tiled=tiled)
                assert terms % SLICED_LEAST == 0 and SLICED_LEAST <= terms <= most
    assert 8 * 255 * 127 * SLICED_TERMS < 2**31 and 8 * 127 * 127 * TILED_TERMS < 2**31
    assert 2 * 2047 * 1024 * SLICED_LEAST < 2**31 and 2 * 2 * 127 * 63 < 2**15


@over_integers
def test_X2_units_bring_every_peak_below_the_largest_integer(kind, rng):
    """As large as they can be: half as much again would be too large."""
    bits, largest, _, _ = INTEGERS[kind]
    sizes = np.concatenate([np.exp2(rng.uniform(-60, 60, 999)), np.arange(1, 130.0)])
    sizes = np.concatenate([sizes, np.nextafter(sizes, 0), np.nextafter(sizes, np.inf)])
    scaled = np.rint(sizes * slice_units(sizes, bits=bits))
    assert scaled.max() == largest and scaled.min() >= largest // 2
    edges = np.ldexp([[largest + 0.49], [largest + 0.5]], np.arange(-60, 60))
    scaled = np.rint(edges * slice_units(edges, bits=bits))
    np.testing.assert_array_equal(scaled, [[largest] * 120, [(largest + 1) // 2] * 120])
    np.testing.assert_array_equal(slice_units(np.zeros(3), bits=bits), 1)
    assert KINDS[kind].bits == bits


@over_integers
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_X2_full_units_bring_every_peak_to_the_largest_integer(kind, dtype, rng):
    """Computed in the dtype of the scores; at the ends of the range they are powers of two."""
    bits, largest, _, _ = INTEGERS[kind]
    sizes = np.concatenate([np.exp2(rng.uniform(-60, 60, 999)), np.arange(1, 130.0)]).astype(dtype)
    units = full_units(sizes.astype(float), dtype, bits)
    assert np.array_equal(units, units.astype(dtype))
    np.testing.assert_array_equal(np.rint(sizes * units.astype(dtype)), largest)
    tiny, huge = np.finfo(dtype).tiny, np.finfo(dtype).max
    ends = np.array([0.0, float(tiny) / 8, float(tiny), float(huge), np.inf, np.nan])
    with np.errstate(all="ignore"):
        units = full_units(ends, dtype, bits)
        assert np.all(np.isfinite(units) & (units > 0)) and units[0] == 1
        assert np.all(ends[:3].astype(dtype) * units[:3].astype(dtype) <= largest)


@over_integers
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("slices", [1, 2])
def test_sums_in_single_precision_are_those_in_double_rounded(kind, dtype, slices, rng):
    """To the bit after one stretch; the next one is rounded as well, and added in single."""
    bits, _, syrk, gram = INTEGERS[kind]
    a = (rng.choice([-1, 1], (8000, 21)) * rng.uniform(0.7, 1, (8000, 21))).astype(dtype)
    units = full_units(np.abs(a).max(axis=0).astype(float), dtype, bits).astype(dtype)
    none, turned = np.empty(0, dtype), np.ascontiguousarray(a.T)
    for product in (syrk, gram):
        found = wide, single = np.zeros((21, 21)), np.zeros((21, 21), np.float32)
        for times in (1, 2):
            for c in found:
                if product is syrk:
                    syrk(c, a, units, slices, 2 * slices - 1, none, none)
                else:
                    gram(c, turned, 0, 8000, units, slices, 2 * slices - 1, none)
            if times == 1:
                assert np.array_equal(single, wide.astype(np.float32))
                assert not np.array_equal(single, wide)  # there was something to round
        error = np.abs(single - wide).max() / np.abs(wide).max()
        assert 0 < error <= 2 * unit_roundoff("float32")


def test_sums_become_a_rounded_matrix_where_they_lie(rng):
    c, units = rng.standard_normal((150, 150)).astype(np.float32), rng.uniform(0.5, 2, 150)
    out, above = np.zeros_like(c), np.triu(c, 1)
    sliced.narrow(out, c, units)
    sliced.narrow(c, c, units)
    assert np.array_equal(np.tril(c), out) and np.array_equal(np.triu(c, 1), above)
    assert np.abs(out).max() > 0


@over_integers
@pytest.mark.parametrize("slices", [1, 2, 3, 5])
@pytest.mark.parametrize("shape", [(90, 33), (33, 90)], ids=str)
def test_X2_slices_leave_a_known_rest(kind, slices, shape, rng):
    """|x - x_q| <= 2^-bits s of the largest: the sums are those of x_q, and x is that near."""
    (bits, largest, syrk, _), a = INTEGERS[kind], rng.standard_normal(shape)
    if kind == "shorts" and slices > 2:
        return  # there is no room in 32 bits, nor any use
    peak = np.abs(a).max(axis=0)
    c, u = np.zeros((shape[1], shape[1])), powers(peak, largest)
    syrk(c, a, u, slices, 2 * slices - 1, NONE, NONE)
    x, rest = np.zeros(shape), a * u
    for s in range(slices):
        x, rest = x + np.rint(rest) * 2.0 ** (-bits * s), (rest - np.rint(rest)) * 2**bits
    assert np.all(np.abs(a - x / u) <= 1.01 * 2.0 ** (-bits * slices) * peak)
    assert_same_sums(c, np.tril(x.T @ x))
    found = np.linalg.eigvalsh(c + np.tril(c, -1).T)
    assert (
        found[0] >= -len(c) * LIMITS["bytes"] * U * found[-1]
    )  # X3: positive semidefinite as it stands


@over_integers
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("slices, levels", [(1, 1), (2, 3), (2, 2)])
def test_sliced_sums_are_the_reference_to_the_bit(kind, dtype, slices, levels, rng):
    """Weights and shift are applied before rounding, as the reference does it."""
    _, largest, syrk, gram = INTEGERS[kind]
    their_syrk, their_gram = (getattr(reference, f.__name__) for f in (syrk, gram))
    a, m = rng.standard_normal((130, 51)).astype(dtype), rng.standard_normal(51).astype(dtype)
    w = rng.uniform(0.1, 2, 130).astype(dtype)
    none = np.empty(0, dtype)
    u = powers(np.abs(w[:, None] * (a - m)).max(axis=0), largest).astype(dtype)
    v = powers(np.abs(a - m).max(axis=1), largest).astype(dtype)
    ours, theirs = np.zeros((51, 51)), np.zeros((51, 51))
    syrk(ours, a, u, slices, levels, w, m)
    their_syrk(theirs, a, u, slices, levels, w, m)
    assert_same_sums(ours, theirs)
    ours, theirs = np.zeros((130, 130)), np.zeros((130, 130))
    gram(ours, a, 3, 47, v, slices, levels, m)
    their_gram(theirs, a, 3, 47, v, slices, levels, m)
    assert_same_sums(ours, theirs)
    assert not np.array_equal(theirs, theirs + 1)  # the comparison can fail
    none_shift = np.zeros((51, 51))
    their_syrk(none_shift, a, u, slices, levels, w, none)
    assert np.abs(none_shift[:51, :51] - ours[:51, :51]).max() > 1


@pytest.mark.parametrize("n", [300, 9000])
@pytest.mark.parametrize("positive", [False, True])
def test_X8_slices_of_halves_reach_single_precision_at_any_length(n, positive, rng):
    """|F - F*| <= some u |G|'|G|: three slices 2^-24, two 2^-16, one 2^-8; not more with n."""
    a = rng.standard_normal((n, 50)).astype(np.float32)
    a *= np.exp2(rng.integers(-30, 30, (n, 1))).astype(np.float32)  # no unit of a column fits all
    a = np.abs(a) if positive else a
    x, ones, none = a.astype(np.float64), np.ones(50, np.float32), np.empty(0, np.float32)
    exact, size = x.T @ x, np.abs(x).T @ np.abs(x)
    for slices, u in ((1, 2.0**-8), (2, 2.0**-16), (3, 2.0**-24)):
        c, d = np.zeros((50, 50)), np.zeros((50, 50))
        sliced.bf16_syrk(c, a, ones, slices, min(2 * slices - 1, 3), none, none)
        assert_ratio(entrywise_ratio(c, np.tril(exact), u * size), "bytes", slices)
        rows = np.ascontiguousarray(a.T)
        sliced.bf16_gram(d, rows, 0, n, ones, slices, min(2 * slices - 1, 3), none)
        assert_ratio(entrywise_ratio(d, np.tril(exact), u * size), "bytes", slices)
        if slices < 3:  # and it is no nearer than it says
            assert entrywise_ratio(c, np.tril(exact), u * size) > 1e-3


@compiled
@pytest.mark.parametrize(
    "syrk, largest",
    [*((syrk, largest) for _, largest, syrk, _ in INTEGERS.values()), (sliced.bf16_syrk, 127)],
)
def test_A6_one_and_two_threads_give_the_same_bits(syrk, largest, rng):
    a = rng.standard_normal((1500, 300))
    u = powers(np.abs(a).max(axis=0), largest)
    found = []
    for count in (1, 2):
        before = threads._limit
        threads.set_num_threads(count)
        try:
            c = np.zeros((300, 300))
            syrk(c, a, u, 2, 3, NONE, NONE)
            found.append(c.tobytes())
        finally:
            threads.set_num_threads(before)
    assert found[0] == found[1]


@over_integers
def test_sums_of_one_slice_do_not_depend_on_how_they_are_cut(kind, rng):
    (_, largest, syrk, _), a = INTEGERS[kind], rng.standard_normal((700, 60))
    u = powers(np.abs(a).max(axis=0), largest)
    whole, parts = np.zeros((60, 60)), np.zeros((60, 60))
    syrk(whole, a, u, 1, 1, NONE, NONE)
    for rows in np.split(a, [13, 400, 401]):
        syrk(parts, rows, u, 1, 1, NONE, NONE)
    assert whole.tobytes() == parts.tobytes()


def test_a_wrong_result_of_the_self_check_is_seen(code):
    assert sliced.is_exact(code)
    other = "halves" if code.terms == KINDS["bytes"].terms else "bytes"
    assert not sliced.is_exact(code._replace(tile=units.unit_code("plain", other).tile))


def test_words_of_a_panel_hold_four_terms_of_a_column(rng):
    a = rng.integers(-127, 128, (4, 16)).astype(np.float64)
    panel, sums = np.zeros(64, np.int8), np.zeros(16, np.int32)

    def cut(to, sums, a, ones):
        step = (np.int64(64), np.int64(16), np.int64(1), np.int64(1), np.int64(0))
        four, width = np.int64(4), np.int64(16)
        quantise.quantise_rows(
            to, step, sums, a, width, four, width, ones, ones, ones, 1.0, np.int8(0)
        )

    run = cut if numba.config.DISABLE_JIT else numba.njit(cut)
    ones, buffer = np.ones(16), np.zeros(192, np.int8)
    start = -buffer.ctypes.data % 64
    panel = buffer[start : start + 64]
    run(panel.ctypes.data, sums.ctypes.data, a.ctypes.data, ones.ctypes.data)
    np.testing.assert_array_equal(panel.reshape(16, 4), a.T.astype(np.int8))
    np.testing.assert_array_equal(sums, a.sum(axis=0))
