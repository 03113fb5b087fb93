"""The user's profile: where it lies, when it is believed, what it changes and what it does not."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import fastfisher as ff
from fastfisher import machine, planning
from fastfisher.planning import TABLE, choose, decide, fingerprint, profile, profiles

ROOT = Path(__file__).parents[2]
# ours is faster up to 100, SciPy's from there on
CROSSING = {
    "numba.cholesky": [(10, 1e3, 2e9), (1000, 1e8, 2e9)],
    "scipy.cholesky": [(10, 1e3, 1e9), (1000, 1e8, 4e9)],
}


def several(op):
    """A band of the op where there is a choice."""
    return next(b for b in TABLE if b.op == op and len(b.entries) > 1)


def test_a_profile_splits_a_band_at_the_measured_crossover(write_profile):
    write_profile(CROSSING)
    assert [choose("cholesky", n, "float64").name for n in (10, 60, 250, 1000, 9999)] == [
        "numba.cholesky",
        "numba.cholesky",
        "scipy.cholesky",
        "scipy.cholesky",
        "scipy.cholesky",
    ]


def test_a_profile_knows_right_hand_sides_by_the_work(write_profile):
    flops = {k: planning.solve_flops(100, "float64", k) for k in (1, 64)}
    assert flops == {1: 1e4, 64: 64e4} and planning.solve_flops(100, "complex64", 1) == 4e4
    write_profile(
        {
            "numba.solve_lower": [(100, flops[1], 1e8), (100, flops[64], 4e10)],
            "scipy.solve_lower": [(100, flops[1], 4e9), (100, flops[64], 1e9)],
        }
    )
    vendor = {k: choose("solve_lower", 100, "float64", sides=k).vendor for k in (1, 2, 40, 64, 999)}
    assert vendor == {1: True, 2: True, 40: False, 64: False, 999: False}
    assert decide("solve_lower", 100, "float64", sides=64).measured.startswith("40.00x of scipy")
    # The other direction was not measured, so the table decides.
    assert decide("solve_lower_adjoint", 100, "float64", sides=64).source == "table"
    for k, name, rate in ((1, "scipy", 4e9), (64, "numba", 4e10)):
        stages = ff.plan(50_000, 100, rhs=k, dtype="float64", method="primal").stages
        stage = next(s for s in stages if s.op == "solve_lower")
        assert stage.kernel == f"{name}.solve_lower"
        assert stage.seconds == pytest.approx(flops[k] / rate + 1e-5)
    with ff.options(reproducible=True):
        assert not choose("solve_lower", 100, "float64", sides=1).vendor


def test_of_more_vectors_than_were_measured_a_profile_says_nothing(write_profile):
    points = {
        "numba.fvp": [(1, 1e6, 4e9), (32, 1e8, 4e9)],
        "scipy.fvp": [(1, 1e6, 1e9), (32, 1e8, 1e9)],
    }
    write_profile(points)
    assert [choose("fvp", k, "float64").vendor for k in (1, 30, 32, 33, 500)] == [False] * 3 + [
        True
    ] * 2
    assert decide("fvp", 32, "float64").source == "profile"
    assert decide("fvp", 33, "float64").source == "table"


def test_a_gain_within_the_noise_keeps_the_preference_of_the_table(write_profile):
    first, second = (e.name for e in several("cholesky").entries)
    write_profile({first: [(50, 1e6, 1.00e9)], second: [(50, 1e6, 1.04e9)]})
    assert choose("cholesky", 50, "float64").name == first
    write_profile({first: [(50, 1e6, 1.00e9)], second: [(50, 1e6, 1.06e9)]})
    assert choose("cholesky", 50, "float64").name == second


def test_a_profile_that_measured_one_entry_only_decides_nothing(write_profile):
    write_profile({"scipy.cholesky": CROSSING["scipy.cholesky"]})
    choice = decide("cholesky", 10, "float64")
    assert choice.source == "table" and choice.entry is several("cholesky").entries[0]
    assert decide("cholesky", 10, "float32").source == "table"


def test_reproducible_leaves_vendors_out_whatever_the_profile_says(write_profile):
    write_profile(CROSSING)
    assert choose("cholesky", 1000, "float64").vendor
    with ff.options(reproducible=True):
        assert choose("cholesky", 1000, "float64").reproducible
        assert ff.plan(5000, 1000).reproducible


def test_a_plan_names_the_profile_and_the_measurement_it_rests_on(write_profile):
    write_profile(CROSSING)
    stage = next(s for s in ff.plan(5000, 1000, method="primal").stages if s.op == "cholesky")
    assert (stage.source, stage.kernel) == ("profile", "scipy.cholesky")
    text = str(ff.plan(5000, 1000, method="primal"))
    assert "cholesky: by profile, 2.00x of numba.cholesky at 1000, 2026-01-02" in text
    # n^3/3 flops at 4e9 per second, and what a stage costs outside its kernel
    assert stage.seconds == pytest.approx(1e9 / 3 / 4e9 + 1e-5)


def test_a_new_profile_is_read_after_forgetting_the_old_one(write_profile):
    write_profile(CROSSING)
    before = ff.plan(5000, 1000, method="primal").seconds
    swapped = {"numba.cholesky": CROSSING["scipy.cholesky"]}
    write_profile(swapped | {"scipy.cholesky": CROSSING["numba.cholesky"]})
    assert choose("cholesky", 1000, "float64").name == "numba.cholesky"
    assert ff.plan(5000, 1000, method="primal").seconds == pytest.approx(before)


# Whether it fits ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cpu", "features", "threads", "fastfisher", "numba"])
def test_a_profile_of_another_machine_or_version_is_ignored_with_one_warning(name, write_profile):
    write_profile(CROSSING, machine=fingerprint() | {name: "another"})
    with pytest.warns(RuntimeWarning, match=f"{name} 'another'.*fastfisher calibrate.*=off"):
        assert decide("cholesky", 10, "float64").source == "table"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert decide("cholesky", 11, "float64").source == "table"


DAMAGE = {
    "empty": "",
    "not json": "{",
    "a list": "[1, 2]",
    "no points": '{"format": 2}',
    "of an older version": '{"format": 1}',
    "binary": "\x00\xff",
    "too deep": "[" * 100_000,
}


@pytest.mark.parametrize("text", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_profile_is_ignored_with_a_warning(text, profile_file):
    profile_file.write_text(text, encoding="utf-8")
    planning.forget_profile()
    with pytest.warns(RuntimeWarning, match="is ignored"):
        assert profile() is None
    assert ff.plan(100, 10).seconds > 0


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), float("inf"), "fast", None, True])
def test_a_profile_with_an_impossible_number_is_ignored(value, write_profile):
    write_profile({"numba.cholesky": [(10, 1e3, value)]})
    with pytest.warns(RuntimeWarning, match="is ignored"):
        assert profile() is None
    write_profile(CROSSING, bandwidth=value)
    with pytest.warns(RuntimeWarning, match="is ignored"):
        assert profile() is None


def test_points_that_cannot_be_interpolated_are_refused(write_profile):
    for rows in ([], [(1, 2)], [(10, 1e3, 1.0), (10, 1e3, 2.0)]):
        write_profile({"numba.cholesky": rows})
        with pytest.warns(RuntimeWarning, match="is ignored"):
            assert profile() is None


def test_a_huge_file_is_not_read(profile_file):
    profile_file.write_text(" " * (profiles.LARGEST + 1))
    planning.forget_profile()
    with pytest.warns(RuntimeWarning, match="more than"):
        assert profile() is None


def test_an_unknown_entry_in_a_profile_is_harmless(write_profile):
    write_profile(CROSSING | {"other.kernel": [(1, 1, 1)]})
    assert profile() is not None and choose("cholesky", 1000, "float64").name == "scipy.cholesky"


@pytest.mark.parametrize("limit", ["", "x", "0", "-2", "\u00b2", "9" * 5000, "1.5"], ids=range(7))
def test_a_limit_that_is_no_number_of_threads_leaves_all_cores(limit, monkeypatch):
    monkeypatch.setenv("NUMBA_NUM_THREADS", limit)
    assert profiles.thread_count() == machine.cpu_count()
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    assert profiles.thread_count() == 1


# Where it lies -----------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["0", "off", "OFF"])
def test_profiles_can_be_turned_off(word, monkeypatch):
    monkeypatch.setenv("FASTFISHER_PROFILE", word)
    assert profiles.profile_path() is None


def test_the_default_is_in_the_cache_folder_of_the_user(monkeypatch, tmp_path):
    monkeypatch.delenv("FASTFISHER_PROFILE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert profiles.profile_path() == tmp_path / "fastfisher" / "profile.json"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative/is/ignored")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(sys, "platform", "linux")
    assert profiles.profile_path() == tmp_path / ".cache" / "fastfisher" / "profile.json"
    monkeypatch.setattr(sys, "platform", "darwin")
    expected = tmp_path / "Library" / "Caches" / "fastfisher" / "profile.json"
    assert profiles.profile_path() == expected
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert profiles.profile_path().parts[-3:] == ("fastfisher", "Cache", "profile.json")


def test_importing_reads_no_profile_and_planning_needs_no_compiler(write_profile):
    path = write_profile(CROSSING, machine={})
    code = "import sys, fastfisher, warnings; warnings.simplefilter('error'); print('fine')\n"
    code += (
        "from fastfisher.planning import fingerprint; fingerprint(); print('numba' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "FASTFISHER_PROFILE": str(path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout.split() == ["fine", "False"], done.stderr
