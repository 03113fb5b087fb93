"""The table of kernels: every op, dtype and size has exactly one band, and what it names exists."""

import inspect
import itertools
import math
import pickle

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError
from fastfisher.kernels import reference, vendor
from fastfisher.planning import SIDED, TABLE, choices, choose, decide, solve_flops
from fastfisher.planning.rates import MEASURED, measured_at
from fastfisher.planning.table import ALL, SIZE

BY_OP = {op: [band for band in TABLE if band.op == op] for op in sorted({b.op for b in TABLE})}
ENTRIES = {entry.name: entry for band in TABLE for entry in band.entries}


@pytest.fixture
def of_kind(monkeypatch):
    """of_kind(kind): choices as on a processor of that kind."""

    def change(kind):
        monkeypatch.setattr(choices, "own_kind", lambda: kind)
        choices.forget_choices()

    yield change
    choices.forget_choices()


def test_every_op_of_the_contract_is_in_the_table():
    assert set(BY_OP) == set(SIZE) == set(reference.__all__)


@pytest.mark.parametrize("op", BY_OP)
@pytest.mark.parametrize("dtype", ALL)
def test_bands_cover_every_size_once(op, dtype, of_kind):
    of_kind("narrow")  # of which none was measured
    bands = sorted((b for b in BY_OP[op] if dtype in b.dtypes), key=lambda b: (b.sides, b.lo))
    by_sides = {s: [b for b in bands if b.sides == s] for s in sorted({b.sides for b in bands})}
    assert len(by_sides) == 1 or op in SIDED
    assert min(by_sides)[0] == 0 and max(by_sides)[1] == math.inf
    assert all(left[1] == right[0] for left, right in itertools.pairwise(by_sides))
    for some in by_sides.values():
        assert some[0].lo == 0 and some[-1].hi == math.inf
        for band in some:
            assert band.lo < band.hi and band.because and band.device == "cpu"
        for left, right in itertools.pairwise(some):
            assert left.hi == right.lo, f"gap or overlap of {op} for {dtype} at {left.hi}"
    edges = sorted({e for b in bands for e in (b.lo, b.hi) if e != math.inf})
    for size in {0, 1, 7, 10**9, *(max(e + d, 0) for e in edges for d in (-1, 0, 1))}:
        for sides in {0, 1, 1000, *(k for s, _ in by_sides if s for k in (s - 1, s))}:
            fitting = [b for b in bands if b.holds(size, sides)]
            assert len(fitting) == 1
            assert choose(op, size, dtype, sides=sides) is fitting[0].entries[0]


@pytest.mark.parametrize("op", BY_OP)
def test_one_entry_of_a_band_is_ours_and_reproducible(op):
    for band in BY_OP[op]:
        (ours,) = (entry for entry in band.entries if not entry.vendor)
        assert ours.reproducible
        assert len({e.name for e in band.entries}) == len(band.entries)
        for entry in band.entries:
            assert entry.reproducible != entry.vendor
        with ff.options(reproducible=True):
            assert choose(op, band.lo, band.dtypes[0], sides=band.sides[0]).reproducible


@pytest.mark.parametrize("entry", ENTRIES.values(), ids=ENTRIES.keys())
def test_every_entry_loads_with_the_arguments_of_its_reference(entry):
    function = entry.load()
    assert callable(function)
    twin = getattr(reference, entry.function)
    assert list(inspect.signature(function).parameters) == list(inspect.signature(twin).parameters)


def test_vendor_entries_are_scipy_and_the_contract_is_complete():
    for name in vendor.__all__:
        assert callable(getattr(vendor, name)) and name in reference.__all__


def test_choose_refuses_what_the_table_does_not_hold():
    for op, size, dtype in (("fft", 1, "float64"), ("syrk", -1, "float64"), ("syrk", 1, "float16")):
        with pytest.raises((InputError, LookupError, AssertionError)):
            choose(op, size, dtype)


def test_the_table_is_what_runs(rng, monkeypatch):
    """A choice in the table is a choice of code: hide one kernel and the call fails."""

    def hidden(*args):
        raise RuntimeError("hidden")

    monkeypatch.setattr(vendor, "syrk", hidden)
    G = rng.standard_normal((5, 3))
    if choose("syrk", 3, "float64").vendor:
        with pytest.raises(RuntimeError, match="hidden"):
            ff.ops.syrk(G)
    with ff.options(reproducible=True):
        np.testing.assert_allclose(ff.ops.syrk(G), G.T @ G)


@pytest.mark.parametrize("kind", ("narrow", *MEASURED))
def test_a_choice_says_what_it_rests_on(kind, of_kind):
    of_kind(kind)
    for band in TABLE:
        for dtype in band.dtypes:
            choice = decide(band.op, max(band.lo, 1), dtype, sides=band.sides[0])
            grounds, preferred = choice.measured, choice.entry is band.entries[0]
            assert choice.source == "table" and (preferred or kind != "narrow")
            assert (band.because in grounds) == preferred
            assert ("x of " in grounds and "threads" in grounds) == (len(band.entries) > 1)


# How far behind a choice may be that was made for more than its speed: SciPy's Cholesky of order 96
# in single precision, alone, with AVX2; four right-hand sides of complex64 with AVX-512.
FAR = {"avx512": 2.2, "halved avx512": 2.0, "avx2": 2.2}


@pytest.mark.parametrize("kind", MEASURED)
def test_no_vendor_is_chosen_where_ours_was_measured_clearly_faster(kind, of_kind):
    of_kind(kind)
    rates, differing = measured_at(kind), 0
    for band in TABLE:
        for dtype in band.dtypes:
            names = [entry.name for entry in band.entries]
            if len(names) < 2 or not all(rates.has(name, dtype) for name in names):
                continue
            one = solve_flops(1, dtype, 1)
            for size, flops, _ in rates.points[names[0]][dtype]:
                sides = round(flops / (one * size**2)) if band.op in SIDED else 1
                if band.holds(size, sides):
                    choice = decide(band.op, size, dtype, sides=sides).entry
                    work = flops if band.op in SIDED else None
                    ours, vendors = sorted(names)  # numba, scipy
                    gain = rates.speed(ours, dtype, size, work)
                    gain /= rates.speed(vendors, dtype, size, work)
                    most = FAR[kind] if band.op in SIDED else choices.KIND_GAIN
                    assert gain < most if choice.vendor else gain > 1 / FAR[kind]
                    assert not choice.vendor or band.entries[0].vendor
                    differing += choice is not band.entries[0]
    assert differing  # kinds do differ


@pytest.mark.parametrize("kind", MEASURED)
def test_beyond_the_sizes_that_were_measured_the_order_stands(kind, of_kind):
    of_kind(kind)
    rates = measured_at(kind)
    for band in TABLE:
        for dtype in band.dtypes:
            sizes = [
                p[0] for e in band.entries for p in rates.points.get(e.name, {}).get(dtype, ())
            ]
            for size in (max(sizes, default=1) + 1, min(sizes, default=1) - 1):
                if band.holds(size, band.sides[0]):
                    choice = decide(band.op, size, dtype, sides=band.sides[0])
                    assert choice.entry is band.entries[0], (band.op, dtype, size)


@pytest.mark.parametrize("kind", MEASURED)
def test_no_measurement_changes_an_order_that_is_not_one_of_speeds(kind, of_kind, write_profile):
    of_kind(kind)
    firm = [band for band in TABLE if band.firm]
    assert firm
    fast = {e.name: [(10, 1e3, 1e9 * k)] for b in firm for k, e in enumerate(b.entries, 1)}
    for write in (lambda: None, lambda: write_profile(fast)):
        write()
        for band in firm:
            choice = decide(band.op, band.lo, "float64")
            assert choice.entry is band.entries[0] and band.because in choice.measured


def test_entries_can_be_sent_to_other_processes_after_their_use():
    entry = TABLE[0].entries[0]
    assert callable(entry.load())
    assert pickle.loads(pickle.dumps(entry)) == entry
