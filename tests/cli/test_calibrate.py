"""`fastfisher calibrate`: what is measured, written, refused. No speed is judged."""

import dataclasses
import itertools
import json
import os
from types import SimpleNamespace

import numpy as np
import pytest

from fastfisher import calibration, cli, planning
from fastfisher.calibration import cells, measure, works
from fastfisher.errors import FisherError, InputError
from fastfisher.kernels import reference
from fastfisher.planning import SIDED, TABLE, choose, rates

TINY = dataclasses.replace(
    works.QUICK, rounds=2, turn=0.0, pause=0.0, bytes=1 << 16, flops=1e5, dtypes=("float64",)
)


@pytest.fixture
def tiny(monkeypatch):
    """A few ops at small sizes."""
    monkeypatch.setattr(measure, "QUICK", TINY)
    few = {"fvp": (4, 8, 16), "cholesky": (8, 12, 16), "solve_lower": (60, 70, 80)}
    monkeypatch.setattr(works, "SIZES", few)


def test_every_op_with_a_choice_and_every_op_of_the_plans_is_measured():
    chosen = {band.op for band in TABLE if len(band.entries) > 1}
    assert chosen | set(works.IN_PLANS) <= set(works.SIZES)
    assert set(SIDED) <= set(works.SIZES)
    for settings in (works.QUICK, works.FULL):
        measured = {(op, dtype) for op, dtype, _, _ in cells(settings)}
        assert measured >= {
            (op, dtype) for op in chosen | set(works.IN_PLANS) for dtype in settings.dtypes
        }


def test_every_band_with_a_choice_is_met_by_a_size():
    met = {(op, dtype, size) for op, dtype, size, _ in cells(works.FULL)}
    for band in TABLE:
        if len(band.entries) > 1 and band.lo < 10_000:  # larger ones are a matter of memory
            for dtype in band.dtypes:
                sizes = [s for o, d, s in met if (o, d) == (band.op, dtype)]
                assert any(band.lo <= s < band.hi for s in sizes), band


def test_every_band_of_right_hand_sides_is_measured_or_between_two_that_are():
    for op, dtype in itertools.product(SIDED, works.FULL.dtypes):
        spans = sorted({b.sides for b in TABLE if b.op == op and dtype in b.dtypes})
        met = [any(least <= k < most for k in works.SIDES) for least, most in spans]
        for span, before, own, after in zip(spans, [0, *met], met, [*met[1:], 0], strict=False):
            assert own or (before and after), (op, dtype, span)


@pytest.mark.parametrize("op", works.SIZES)
@pytest.mark.parametrize("dtype", ["float64", "complex64"])
def test_the_calls_that_are_timed_are_calls_of_the_contract(op, dtype):
    size = min(s for s in works.SIZES[op] if s > 1)
    for work in works.works(op, size, dtype, TINY):
        assert work.flops > 0
        before = [np.array(a) for a in work.arguments if isinstance(a, np.ndarray)]
        for _ in range(2):
            if work.restore:
                work.restore()
            getattr(reference, op)(*work.arguments)
        after = [a for a in work.arguments if isinstance(a, np.ndarray)]
        assert all(np.isfinite(a).all() for a in after)
        assert any((a != b).any() for a, b in zip(after, before, strict=True)), "nothing happened"


def test_what_stages_cost_is_measured_on_a_solve_that_has_them():
    """A primal solve of few parameters is one compiled call: all of it would be one stage's."""
    call, solving, stages, conversion = measure._around_kernels()
    assert len(stages) > 1 and min(call, solving, conversion) > 0


def test_bandwidth_is_measured_with_scores_that_no_cache_holds(monkeypatch):
    seen, choose = [], measure.choose

    def watched(*args):
        kernel = choose(*args).load()
        load = lambda: lambda y, G, *rest: seen.append(G.nbytes) or kernel(y, G, *rest)  # noqa: E731
        return SimpleNamespace(load=load)

    monkeypatch.setattr(measure, "cache_sizes", lambda: {"L3": 3 << 20})
    monkeypatch.setattr(measure, "CACHED", 1 << 20)
    monkeypatch.setattr(measure, "choose", watched)
    assert 0 < measure._memory_bandwidth() < 1e13
    assert set(seen) == {6 << 20}
    monkeypatch.setattr(measure, "available_memory", lambda: 8 << 20)  # a quarter of it at most
    seen.clear()
    assert measure._memory_bandwidth() > 0 and set(seen) == {2 << 20}


def test_calibrate_writes_a_profile_that_planning_reads(tiny, profile_file, capsys):
    assert cli.main(["calibrate", "--quick", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["path"] == str(profile_file)
    assert facts["machine"] == planning.fingerprint()
    assert {row["op"] for row in facts["rows"]} <= {"fvp", "cholesky", "solve_lower"}
    sided = [(r["size"], r["sides"]) for r in facts["rows"] if r["op"] == "solve_lower"]
    assert sided == [(size, k) for size in (60, 80) for k in works.SIDES]
    assert planning.profile() == rates.rates_from(profile_file.read_text())
    for row in facts["rows"]:
        sides = row["sides"] or 1
        assert choose(row["op"], row["size"], row["dtype"], sides=sides).name == row["chosen"]
        assert row["sides"] is None or all(len(x) == 1 for x in row["milliseconds"].values())
        assert row["chosen"] in row["milliseconds"] and len(row["milliseconds"]) > 1
        assert all(ms > 0 for calls in row["milliseconds"].values() for ms in calls)
    assert [p.name for p in profile_file.parent.iterdir()] == ["profile.json"]


def test_dry_run_prints_and_writes_nothing(tiny, profile_file, capsys):
    assert cli.main(["calibrate", "--quick", "--dry-run"]) == 0
    printed = capsys.readouterr()
    assert not profile_file.exists()
    for word in ("op", "chosen", "numba.cholesky", "scipy.cholesky", "GB/s", "not written"):
        assert word in printed.out


def test_progress_is_told_after_every_cell(tiny):
    seen = []
    calibration.calibrate(quick=True, dry_run=True, progress=lambda *call: seen.append(call))
    assert [done for _, done, _ in seen] == list(range(1, len(seen) + 1))
    assert {total for _, _, total in seen} == {len(seen)}


def test_calibrate_is_refused_where_profiles_are_off(monkeypatch):
    monkeypatch.setenv("FASTFISHER_PROFILE", "off")
    with pytest.raises(InputError, match="FASTFISHER_PROFILE is off"):
        calibration.calibrate(quick=True)


@pytest.mark.parametrize("name", ["", "file/profile.json"])
def test_a_profile_that_cannot_be_written_is_told_before_the_work(tmp_path, monkeypatch, name):
    (tmp_path / "file").touch()
    monkeypatch.setenv("FASTFISHER_PROFILE", str(tmp_path / name))
    monkeypatch.setattr(measure, "_Contenders", lambda stack: pytest.fail("it was measured"))
    with pytest.raises(OSError):
        calibration.calibrate(quick=True)


def test_calibrate_is_refused_without_the_compiler(monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    with pytest.raises(InputError, match="NUMBA_DISABLE_JIT is set"):
        calibration.calibrate(quick=True, dry_run=True)


def test_a_kernel_that_kills_its_process_is_an_error_and_leaves_no_profile(
    tiny,
    profile_file,
    monkeypatch,
):
    class Dying(measure._Contenders):
        def ask(self, vendor, function, *arguments):
            dies = vendor and function is measure._turn
            return super().ask(vendor, _die if dies else function, *(() if dies else arguments))

    monkeypatch.setattr(measure, "_Contenders", Dying)
    with pytest.raises(FisherError, match="the process that measured SciPy's kernels died"):
        calibration.calibrate(quick=True)
    assert not profile_file.exists()


def _die():
    os._exit(3)
