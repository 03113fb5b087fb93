"""Plans: costs as docs/math.md says, the route that "auto" takes, refusal before allocation."""

import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import fastfisher as ff
from fastfisher.errors import InputError, MemoryLimitError
from fastfisher.kernels.cpu import memory as scratch
from fastfisher.planning import costs, integer_unit, plans
from fastfisher.planning.rates import MEASURED, measured_at
from fastfisher.planning.records import SMALL_ORDER

ROOT = Path(__file__).parents[2]
COMPLEX_FLOPS = 4  # a complex multiplication and addition is four real ones


def leading(stage_names, plan):
    return sum(s.flops for s in plan.stages if s.op in stage_names)


@pytest.mark.parametrize(("n", "p"), [(1000, 400), (400, 1000), (7, 7), (1, 5), (5, 1)])
@pytest.mark.parametrize("k", [1, 4])
@pytest.mark.parametrize(("dtype", "factor"), [("float64", 1), ("float32", 1), ("complex128", 4)])
def test_plan_D8_flops_are_those_of_the_table(n, p, k, dtype, factor):
    primal = ff.plan(n, p, rhs=k, dtype=dtype, method="primal")
    product, third, solves = n * p * (p + 1), p**3 / 3, 2 * p * p * k
    parts = 2 if dtype == "complex128" else 1
    N, P = parts * n, parts * p  # of the real problem that one call solves
    small = {"primal": P <= SMALL_ORDER, "dual": N <= SMALL_ORDER}
    if small["primal"]:
        every = (N * P * (P + 1) + P**3 / 3 + (2 * P * P + 4 * N * P) * k) / parts
        assert leading({"primal_small"}, primal) == primal.flops == pytest.approx(every, abs=1)
    else:
        assert leading({"syrk"}, primal) == factor * product
        assert leading({"cholesky"}, primal) == pytest.approx(factor * third, abs=1)
        assert leading({"solve_lower", "solve_lower_adjoint"}, primal) == factor * solves
        assert leading({"fvp"}, primal) == factor * 4 * n * p * k
    dual = ff.plan(n, p, rhs=k, dtype=dtype, method="dual")
    product, third, solves = p * n * (n + 1), n**3 / 3, 2 * n * n * k
    # The certificate costs one more product, and is in the plan.
    if small["dual"]:
        every = (P * N * (N + 1) + N**3 / 3 + (2 * N * N + 8 * N * P) * k) / parts
        assert leading({"dual_small"}, dual) == dual.flops == pytest.approx(every, abs=1)
    else:
        assert leading({"gram"}, dual) == factor * product
        assert leading({"cholesky"}, dual) == pytest.approx(factor * third, abs=1)
        assert leading({"solve_lower", "solve_lower_adjoint"}, dual) == factor * solves
        assert leading({"matvec", "rmatvec"}, dual) == factor * 4 * n * p * k
        assert leading({"fvp"}, dual) == factor * 4 * n * p * k
    cg = ff.plan(n, p, rhs=k, dtype=dtype, method="cg")
    assert leading({"fvp"}, cg) == factor * 4 * n * p * k == cg.flops
    for plan in (primal, dual):
        assert plan.flops == sum(s.flops for s in plan.stages)
        assert plan.bytes == sum(s.bytes for s in plan.stages)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128"])
def test_plan_D8_passes_over_the_scores(dtype):
    n, p = 2000, 900
    one = n * p * np.dtype(dtype).itemsize
    by_op = {s.op: s.bytes for s in ff.plan(n, p, dtype=dtype, method="primal").stages}
    square = p * p * (16 if dtype.startswith("c") else 8)
    assert by_op["syrk"] == one + square and by_op["fvp"] == one
    by_op = {s.op: s.bytes for s in ff.plan(n, p, dtype=dtype, method="dual").stages}
    assert by_op["matvec"] == by_op["rmatvec"] == one


@pytest.mark.parametrize(
    ("n", "p", "method"),
    [
        (1000, 10, "primal"),
        (10, 1000, "dual"),
        (500, 499, "primal"),
        (490, 500, "dual"),
        (100, 100, "primal"),
        (0, 5, "dual"),
        (5, 0, "primal"),
        (0, 0, "primal"),
        (1, 1, "primal"),
        (10**6, 100, "primal"),
        (100, 10**6, "dual"),
        (50_000, 40_000, "cg"),
        (40_000, 50_000, "cg"),
    ],
)
def test_auto_D8_takes_the_fewest_flops(n, p, method, monkeypatch):
    monkeypatch.setattr(plans, "memory_room", lambda: 1e12)
    plan = ff.plan(n, p)
    assert plan.method == method
    assert plan.because and plan.because in str(plan)


@pytest.mark.parametrize("kind", MEASURED)
@pytest.mark.parametrize(
    "shape",
    [(8000, 3000), (16000, 4000), (32000, 8000), (50000, 10000), (16000, 16000), (4000, 200000)],
    ids=str,
)
def test_auto_takes_nothing_that_is_reckoned_much_slower_than_another_route(
    shape, kind, monkeypatch
):
    monkeypatch.setattr(costs, "current_rates", lambda: measured_at(kind))
    monkeypatch.setattr(plans, "memory_room", lambda: 1 << 50)
    plans.forget_plans()
    names = ["primal", "dual", "cg"] + ["mixed"] * (integer_unit("shorts") != "plain")
    reckoned = {name: ff.plan(*shape, method=name).seconds for name in names}
    reckoned["cg"] *= plans.NOMINAL_CG_ITERATIONS
    taken = ff.plan(*shape).method
    plans.forget_plans()
    assert reckoned[taken] * plans.MIXED_SHARE <= 1.01 * min(reckoned.values()), reckoned


def test_auto_D8_follows_memory(monkeypatch):
    n, p, single = 3000, 2000, {"dtype": "complex64"}  # never in mixed precision
    methods = "primal", "dual", "cg"
    primal, dual, cg = (ff.plan(n, p, method=m, **single).peak_bytes for m in methods)
    assert cg < primal < dual
    for room, method in [(dual + 1, "primal"), (primal + 1, "primal"), (primal - 1, "cg")]:
        monkeypatch.setattr(plans, "memory_room", lambda room=room: room)
        assert ff.plan(n, p, **single).method == method
    assert "memory" in ff.plan(n, p, **single).because


def test_solve_takes_the_route_that_the_plan_names(rng):
    for shape in ((60, 9), (9, 60)):
        G = rng.standard_normal(shape)
        result = ff.solve(G, np.ones(shape[1]), damping=0.1)
        assert result.method == result.plan.method == ff.plan(*shape).method


def test_a_printed_plan_shows_what_was_promised():
    text = str(ff.plan(5000, 300, rhs=2, dtype="float32"))
    for word in (
        "primal",
        "5000 samples x 300 parameters",
        "2 right-hand sides",
        "float32",
        "because",
        "stage",
        "kernel",
        "syrk",
        "cholesky",
        "flops",
        "bytes",
        "peak memory",
    ):
        assert word in text
    kernels = re.findall(r"(scipy|numba)\.\w+", text)
    assert kernels
    assert ("*" in text) == (not ff.plan(5000, 300, rhs=2, dtype="float32").reproducible)


def test_plan_takes_half_precision_storage():
    stored = ff.plan(1000, 100, dtype="float16")
    assert stored.problem.dtype == "float32"
    copy = 4 * 1000 * 100  # which one call takes of so few
    assert stored.peak_bytes == ff.plan(1000, 100, dtype="float32").peak_bytes + copy
    stored, single = (
        ff.plan(10**5, 1000, dtype=dtype, method="primal") for dtype in ("float16", "float32")
    )
    assert stored.peak_bytes == single.peak_bytes
    many = [
        ff.plan(10**5, 1000, rhs=40, dtype=dtype, method="cg").peak_bytes
        for dtype in ("bfloat16", "float32")
    ]
    assert many[0] > many[1]  # vendors read no half precision


def test_planning_a_huge_problem_costs_nothing():
    plan = ff.plan(10**9, 10**7)
    assert plan.method == "cg" and plan.flops == 4 * 10**16
    assert "TB" in str(ff.plan(10**7, 10**7, method="primal"))


# Refusal -----------------------------------------------------------------------------------------


@pytest.fixture
def little_memory(monkeypatch):
    monkeypatch.setattr(plans, "memory_room", lambda: 2_000_000)


def test_kept_scratch_is_given_back_where_memory_is_short(monkeypatch):
    scratch.aligned((1 << 20,), "f8")
    kept, free = scratch.kept_bytes(), iter((plans.SHORT * scratch.kept_bytes(), 5, 7))
    monkeypatch.setattr(plans.machine, "available_memory", lambda: next(free))
    plans.memory_room()
    assert scratch.kept_bytes() == kept >= 8 << 20
    assert plans.memory_room() == int(plans.MEMORY_SHARE * 7)
    assert scratch.kept_bytes() == 0


@pytest.mark.parametrize(("shape", "method"), [((2400, 1800), "primal"), ((1800, 2400), "dual")])
def test_a_plan_that_does_not_fit_is_refused_with_the_route_that_fits(shape, method, little_memory):
    G = np.ones(shape, np.float32)
    for call in (
        lambda: ff.solve(G, np.ones(shape[1]), damping=1.0, method=method),
        lambda: ff.natural_gradient(G, damping=1.0, method=method),
    ):
        with pytest.raises(MemoryLimitError, match=r'method="cg" would need') as caught:
            call()
        assert caught.value.plan.method == method and str(caught.value.plan) in str(caught.value)


def test_fisher_objects_are_refused_likewise(little_memory, rng):
    with pytest.raises(MemoryLimitError, match=r"DenseFisher\(1000\) would take 8\.0 MB"):
        ff.DenseFisher(1000)
    F = ff.GramFisher()
    with pytest.raises(MemoryLimitError, match="a copy of the scores"):
        F.update(np.ones((600, 600)))
    assert F.n_samples == 0 and F.p is None
    F.update(rng.standard_normal((3, 900)))
    with pytest.raises(MemoryLimitError, match="the matrix of F"):
        F.matrix()


def child(code, **settings):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **settings},
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS binds on Linux")
@pytest.mark.parametrize(
    ("n", "p", "method"), [(20, 4000, "primal"), (4000, 20, "dual")], ids=["primal", "dual"]
)
def test_a_child_with_too_little_address_space_refuses_before_allocating(n, p, method):
    child(
        f"""
        import resource, tracemalloc
        import numpy as np
        import fastfisher as ff
        from fastfisher import machine
        G = np.ones(({n}, {p}), np.float32)
        small = G[:4, :4]
        ff.solve(small, np.ones(4, np.float32), damping=1.0, method="{method}")
        need = ff.plan({n}, {p}, dtype="float32", method="{method}").peak_bytes
        used = machine._status_bytes("VmSize")
        limit = used + int(0.9 * need)
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        before = machine._status_bytes("VmHWM")
        tracemalloc.start()
        try:
            ff.solve(G, np.ones({p}, np.float32), damping=1.0, method="{method}")
        except ff.errors.MemoryLimitError as error:
            assert error.plan.peak_bytes == need, error
            assert 'method="' in str(error)
        else:
            raise SystemExit("was not refused")
        _, peak = tracemalloc.get_traced_memory()
        assert peak < 2e6, peak
        # and the route it names does fit
        x = ff.solve(G, np.ones({p}, np.float32), damping=1.0)
        assert x.method != "{method}" and x.converged
        """,
        OPENBLAS_NUM_THREADS="1",
        NUMBA_NUM_THREADS="1",
    )


@pytest.mark.parametrize(("n", "p"), [(4, 3), (3000, 1500), (300, 10**6), (10**7, 10**5)])
@pytest.mark.parametrize("method", ["primal", "dual", "cg", "mixed"])
def test_no_line_of_a_printed_plan_is_longer_than_100_characters(n, p, method):
    text = str(ff.plan(n, p, method=method))
    assert max(map(len, text.splitlines())) <= 100
    words = " ".join(text.split())  # wrapped, but all there
    for stage in ff.plan(n, p, method=method).stages:
        assert stage.measured in words


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_plans_of_complex_scores_on_a_device_are_refused(dtype):
    with pytest.raises(InputError, match=f"{dtype}.*expected float32 or float64 on a device"):
        ff.plan(100, 50, dtype=dtype, device="cuda")
    assert ff.plan(100, 50, dtype="float16", device="cuda").method == "primal"
