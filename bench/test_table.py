"""Bands proposed from measurements."""

import json
import math

from fastfisher.planning.rates import built_in

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


def test_a_profile_is_read():
    found, origin = table.measurements(built_in(2).as_json())
    assert ("syrk", "float64") in found
    assert all(r > 0 and math.isfinite(r) for s in found.values() for v in s.values() for r in v)
    assert "threads" in origin
