"""Bands proposed from measurements."""

import json
import math
import re

from fastfisher.planning.rates import built_in, measured_at
from fastfisher.planning.table import INF, Band

from . import table


def result(op, shape, dtype, ours, scipy, kernel="scipy.x"):
    name = "fastfisher-numba" if kernel.startswith("scipy") else "fastfisher"
    entry = {"passed": True, "error": 0.0}
    return {
        "op": op,
        "shape": shape,
        "dtype": dtype,
        "kernel": kernel,
        "contenders": {name: entry | {"median": ours}, "scipy": entry | {"median": scipy}},
    }


def test_bands_are_split_between_the_sizes_where_the_winner_changes():
    lines = list(table.propose("syrk", "float64", {10: [2.0], 100: [1.5], 400: [0.5]}, "here"))
    assert len(lines) == 2
    assert "0, 200, ...)  # ours" in lines[0] and "2.00x at 10, 1.50x at 100" in lines[0]
    assert "200, INF, ...)  # SciPy's" in lines[1] and "0.50x at 400" in lines[1]


def test_a_result_of_the_grid_is_read_and_overhead_cells_left_out(tmp_path, capsys):
    cases = [
        result("syrk", [1000, 50], "d", 1.0, 3.0),
        result("syrk", [9000, 50], "d", 1.0, 12.0, kernel="numba.syrk"),
        result("syrk", [2, 2], "d", 9.0, 1.0),
        result("diag", [9, 9], "h", 1.0, 1.0),
    ]
    place = {"cpu": "C", "threads": 2, "date": "2026-01-02 10:00"}
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"cases": cases, "environment": place}))
    assert table.main([str(path)]) == 0
    printed = capsys.readouterr().out
    assert "ours 6.00x at 50 of SciPy's speed (C, 2 threads, 2026-01-02)" in printed
    assert "at 2" not in printed.replace("2026", "") and "diag" not in printed


def test_bands_of_right_hand_sides_can_be_pasted_and_leave_no_gap(tmp_path, capsys):
    path = tmp_path / "profile.json"
    path.write_text(built_in(2).as_json())
    assert table.main([str(path)]) == 0
    lines = [x for x in capsys.readouterr().out.splitlines() if x.startswith("Band(")]
    solves, names = [x for x in lines if "solve_lower" in x], {"Band": Band, "INF": INF}
    bands = [eval(re.sub(r"\.\.\.", '("ours", "theirs"), "why"', x), names) for x in solves]
    assert {band.op for band in bands} == {"solve_lower", "solve_lower_adjoint"}
    for op, dtype in {(band.op, band.dtypes) for band in bands}:
        for size in (1, 100, 300, 2000, 10_000):
            for k in (1, 2, 3, 4, 9, 16, 30, 64, 1000):
                held = [b for b in bands if (b.op, b.dtypes) == (op, dtype) and b.holds(size, k)]
                assert len(held) == 1, (op, dtype, size, k)
    assert all("sides" not in x for x in lines if x not in solves)


def test_a_profile_is_read():
    four = measured_at("halved avx512")  # numbers of right-hand sides, whatever this machine is
    found, origin = table.measurements(four.as_json())
    assert ("syrk", "float64", None) in found
    assert {k for op, _, k in found if op == "solve_lower"} == {1, 4, 16, 64}
    assert all(r > 0 and math.isfinite(r) for s in found.values() for v in s.values() for r in v)
    assert "threads" in origin
