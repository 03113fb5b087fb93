"""The driver itself: processes, gate, ratio, files. Nothing here looks at how fast anything is."""

import json

import pytest

from . import compare, report
from .cases import FULL, QUICK, Case
from .contenders import CONTENDERS, inputs
from .gates import GATES, error, gate

SYRK = next(case for case in QUICK if case.id == "syrk-d-2000x200")


def test_a_run_measures_gates_and_writes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(compare, "RESULTS", tmp_path / "results")
    only = f"--quick --only ^{SYRK.id}$ --contenders numpy --rounds 2 --name here"
    assert compare.main(only.split()) == 0
    results = json.loads((tmp_path / "results" / "here.json").read_text())
    (record,) = results["cases"]
    assert record["best_vendor"] == "numpy"
    assert record["ratio"] == pytest.approx(
        record["contenders"]["numpy"]["median"] / record["contenders"]["fastfisher"]["median"]
    )
    assert results["environment"]["cpu"] in (tmp_path / "RESULTS.md").read_text()
    assert SYRK.id in capsys.readouterr().out


def test_a_contender_that_fails_leaves_the_others_their_results():
    """numpy-explicit refuses scores of more than 4 GB, here 16 MB of layers."""
    case = Case("layered_gram", "d", (256, 4096, 4096))
    results = compare.run(
        [case],
        ["numpy", "numpy-explicit"],
        1,
        compare.SETTINGS["quick"] | {"rounds": 2, "probe_bytes": 1 << 20},
    )
    entries = results["cases"][0]["contenders"]
    assert "explicit scores would take 34 GB" in entries["numpy-explicit"]["failure"]
    assert entries["numpy"]["passed"] and results["cases"][0]["best_vendor"] == "numpy"


def test_no_matching_case_is_an_error_with_an_example(capsys):
    assert compare.main(["--quick", "--only", "nothing-like-this"]) == 2
    assert QUICK[0].id in capsys.readouterr().out


def test_case_ids_are_unique_and_every_op_has_a_gate_and_ours():
    for grid in (QUICK, FULL):
        assert len({case.id for case in grid}) == len(grid)
        assert {case.op for case in grid} == set(CONTENDERS) == set(GATES)
    assert all("fastfisher" in table for table in CONTENDERS.values())


@pytest.mark.parametrize("case", QUICK, ids=lambda case: case.id)
def test_gate_refuses_a_result_that_is_slightly_wrong(case):
    operands = inputs(case)
    right = CONTENDERS[case.op]["numpy" if case.op != "cho_solve" else "scipy"](*operands)
    wrong = right * (1 + 100 * gate(case) * 2.0**-24)
    assert error(case, operands, right) <= gate(case) < error(case, operands, wrong)
    right[(0,) * right.ndim] = float("nan")
    assert error(case, operands, right) == float("inf")


def test_a_losing_cell_and_a_missed_gate_are_shown():
    def entry(median, passed=True):
        return {"median": median, "passed": passed, "error": 1.0}

    entries = {"fastfisher": entry(2.0), "numpy": entry(1.0), "scipy": entry(0.1, passed=False)}
    turns = {"fastfisher": [2.0, 2.0], "numpy": [1.0, 1.0], "scipy": [0.1, 0.1]}
    verdict = compare._verdict(entries, turns)
    assert (verdict["best_vendor"], verdict["ratio"]) == ("numpy", 0.5)
    record = {"id": "x", "contenders": entries, "disturbed_rounds": 0} | verdict
    line = report.case_line(record)
    assert "*loses*" in line
    assert "~~100 ms~~" in line
