"""The driver itself: processes, gate, ratio, files. Nothing here looks at how fast anything is."""

import json

import pytest

from . import grid, report, startup
from .cases import Case
from .contenders import CONTENDERS, contender
from .gates import GATES, error, gate
from .inputs import inputs
from .workloads import WORKLOADS

FULL, QUICK = grid.GRIDS["full"], grid.GRIDS["quick"]
SYRK = next(case for case in QUICK if case.id == "syrk-d-2000x200")


def test_a_run_measures_gates_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(grid, "RESULTS", tmp_path / "results")
    only = f"--quick --only ^{SYRK.id}$ --contenders numpy --rounds 2 --name here"
    assert grid.main(only.split()) == 0
    results = json.loads((tmp_path / "results" / "here.json").read_text())
    (record,) = results["cases"]
    assert record["best_vendor"] == "numpy"
    assert record["ratio"] == pytest.approx(
        record["contenders"]["numpy"]["median"] / record["contenders"]["fastfisher"]["median"]
    )
    assert results["environment"]["cpu"] in (tmp_path / "RESULTS.md").read_text()
    assert SYRK.id in capsys.readouterr().out


def test_a_contender_that_fails_leaves_the_others_their_results():
    """numpy-explicit refuses scores of more than 2 GB, here 16 MB of layers."""
    case = Case("layered_gram", "d", (256, 4096, 4096))
    results = grid.run(
        [case],
        ["numpy", "numpy-explicit"],
        1,
        grid.SETTINGS["quick"] | {"rounds": 2, "probe_bytes": 1 << 20},
    )
    entries = results["cases"][0]["contenders"]
    assert "explicit scores would take 34 GB" in entries["numpy-explicit"]["failure"]
    assert entries["numpy"]["passed"] and results["cases"][0]["best_vendor"] == "numpy"


def test_a_run_that_is_stopped_leaves_its_cells_beside_what_was_there(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path)
    monkeypatch.setattr(grid, "GRIDS", grid.GRIDS | {"quick": [SYRK, QUICK[0]]})
    compare, before = grid._compare, '{"cases": []}'
    (tmp_path / "here.json").write_text(before)

    def stopped(case, *rest):
        if case is not SYRK:
            raise KeyboardInterrupt
        return compare(case, *rest)

    monkeypatch.setattr(grid, "_compare", stopped)
    with pytest.raises(KeyboardInterrupt):
        grid.main("--quick --contenders numpy --rounds 1 --name here".split())
    (record,) = json.loads((tmp_path / "here.partial").read_text())["cases"]
    assert record["id"] == SYRK.id and record["ratio"] > 0
    assert (tmp_path / "here.json").read_text() == before


def test_no_matching_case_is_an_error_with_an_example(capsys):
    assert grid.main(["--quick", "--only", "nothing-like-this"]) == 2
    assert QUICK[0].id in capsys.readouterr().out


def test_case_ids_are_unique_and_every_op_has_a_gate_and_ours():
    for cases in (QUICK, FULL):
        assert len({case.id for case in cases}) == len(cases)
        assert {case.op for case in cases} == set(CONTENDERS) == set(GATES) | set(WORKLOADS)
    assert all("fastfisher" in table for table in CONTENDERS.values())


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_gate_refuses_a_result_that_is_slightly_wrong(case):
    operands = inputs(case)
    right = contender(case, "numpy" if "numpy" in CONTENDERS[case.op] else "scipy")(*operands)
    wrong = right * (1 + 100 * gate(case) * 2.0**-24)
    assert error(case, operands, right) <= gate(case) < error(case, operands, wrong)
    right[(0,) * right.ndim] = float("nan")
    assert error(case, operands, right) == float("inf")


def test_a_losing_cell_and_a_missed_gate_are_shown():
    def entry(median, passed=True):
        return {"median": median, "passed": passed, "error": 1.0}

    entries = {"fastfisher": entry(2.0), "numpy": entry(1.0), "scipy": entry(0.1, passed=False)}
    turns = {"fastfisher": [2.0, 2.0], "numpy": [1.0, 1.0], "scipy": [0.1, 0.1]}
    verdict = grid._verdict(entries, turns)
    assert (verdict["best_vendor"], verdict["ratio"]) == ("numpy", 0.5)
    record = {"id": "x", "contenders": entries, "disturbed_rounds": 0} | verdict
    line = report.case_line(record)
    assert "*loses*" in line
    assert "~~100 ms~~" in line


def test_scaling_times_our_kernels_at_each_number_of_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "RESULTS", tmp_path / "results")
    monkeypatch.setattr(grid, "GRIDS", grid.GRIDS | {"quick": [SYRK]})
    assert grid.main("--quick --scaling 1,2 --rounds 2 --name there".split()) == 0
    (record,) = json.loads((tmp_path / "results" / "there.json").read_text())["cases"]
    one, two = record["scaling"]["1"], record["scaling"]["2"]
    assert f"({one / two / 2:.0%})" in (tmp_path / "RESULTS.md").read_text()


def test_every_workload_of_the_book_is_run():
    assert set(WORKLOADS) == {f"w{i}" for i in range(1, 22)}  # the last is that of the goals


def test_startup_is_measured_in_fresh_processes():
    found = startup.measure(quick=True, repeats=1)
    assert all(t > 0 for t in found.values())
    assert any("from the cache" in name for name in found)
