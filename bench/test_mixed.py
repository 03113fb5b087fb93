"""The verdict on a cell, the error all contenders are judged by, and the two exact contenders."""

import numpy as np

from . import mixed, mixed_cases, mixed_report
from .mkl import mkl


def test_a_cell_that_misses_the_gate_has_no_ratio():
    fast = {"seconds": 1.0, "error": 5e-16, "rung": "int8+cg", "iterations": 7}
    record = {
        "n": 6, "p": 2, "spectrum": "power", "share": 1e-4, "stages": {},
        "contenders": {
            "fastfisher": fast,
            "fastfisher-exact": {"seconds": 4.0, "error": 1e-16},
            "mkl": {"seconds": 3.0, "error": 1e-16},
            "cg": {"failure": "ValueError"},
        },
    }  # fmt: skip
    mixed._judge(record)
    assert record["ratio"] == 3.0 and record["over_mkl"] == 3.0
    assert "ValueError" in mixed_report.table([record])
    fast["error"] = 2e-15
    del record["ratio"], record["over_mkl"]
    mixed._judge(record)
    assert "ratio" not in record and "~~1 s~~" in mixed_report.table([record])


def test_the_error_is_that_of_a_direct_solve_and_sees_a_worse_one():
    for kind in mixed_cases.SPECTRA[:-2]:
        G, b = mixed_cases.scores(300, 40, kind)
        top = mixed._norm(G)
        A = G.T @ G / 300 + 1e-2 * top * np.eye(40)
        x = np.linalg.solve(A, b)
        assert mixed.backward_error(G, b, 1e-2 * top, x, top)[0] < 1e-15
        assert mixed.backward_error(G, b, 1e-2 * top, x * (1 + 1e-12), top)[0] > 1e-15


def test_the_dual_case_gives_coefficients_to_all_contenders():
    G, c = mixed_cases.scores(40, 300, "dual")
    top, lam = mixed._norm(G), 1e-3
    assert len(c) == 40
    expected = G.T @ np.linalg.solve(G @ G.T + 40 * lam * np.eye(40), c)
    for name in ("fastfisher", "fastfisher-exact", *(["mkl"] if mkl.available else [])):
        x, _ = mixed.call(name, G, c, lam, "auto")
        np.testing.assert_allclose(x, expected, rtol=1e-9, atol=1e-9 * np.abs(expected).max())
        assert mixed.backward_error(G, c, lam, x, top)[0] < 1e-14
    assert mixed_cases.size_of("dual", 8, 4) == mixed_cases.DUAL
    assert mixed_cases.size_of("dual", 4, 8) == (4, 8)


def test_the_scores_of_the_network_are_its_exact_fisher_and_hard(monkeypatch):
    monkeypatch.setattr(mixed_cases, "HIDDEN", 3)
    monkeypatch.setattr(mixed_cases, "STEPS", 5)
    G, b = mixed_cases.scores(0, 0, "digits")
    assert G.shape == (17970, 65 * 3 + 4 * 10) and b.shape == G.shape[1:]
    e = np.linalg.eigvalsh(G.T @ G / len(G))
    assert e[0] <= 1e-12 * e[-1] and np.any(np.abs(G).max(axis=0) == 0)  # dead pixels
    assert mixed_cases.size_of("digits", 8, 4) == mixed_cases.DIGITS
    assert mixed_cases.DIGITS[1] == 65 * 27 + 28 * 10 and mixed_cases.size_of("heavy", 8, 4) == (
        8,
        4,
    )
