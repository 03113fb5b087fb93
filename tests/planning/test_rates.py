"""The cost model: interpolation, scaling, and what it says of plans."""

import itertools
import math
from dataclasses import replace

import pytest

import fastfisher as ff
from fastfisher import machine
from fastfisher.planning import (
    CACHED,
    SOLVE,
    TABLE,
    Problem,
    Rates,
    Stage,
    costs,
    plan_factored,
    plans,
)
from fastfisher.planning import small as small_costs
from fastfisher.planning.rates import (
    FRESH,
    MEASURED,
    built_in,
    measured_at,
    rates_from,
    vector_kind,
)
from fastfisher.planning.records import format_seconds


def rates(points, **changes):
    facts = {
        "machine": {},
        "date": "",
        "bandwidth": 1e10,
        "overhead": 1e-9,
        "call": 1e-9,
        "conversion": 1e9,
    }
    return Rates(points={"numba.syrk": {"float64": points}}, **(facts | changes))


def seconds(model, size, flops, moved=0, dtype="float64", op="syrk"):
    return model.seconds(op, f"numba.{op}", dtype, size, flops, moved) - model.overhead


def test_measured_points_come_back_and_between_them_rates_are_geometric():
    model = rates([(10, 1e6, 1e9), (10, 1e8, 4e9), (1000, 1e6, 1e10), (1000, 1e8, 4e10)])
    assert seconds(model, 10, 1e6) == pytest.approx(1e6 / 1e9)
    assert seconds(model, 1000, 1e8) == pytest.approx(1e8 / 4e10)
    assert seconds(model, 10, 1e7) == pytest.approx(1e7 / 2e9)
    assert seconds(model, 100, 1e7) == pytest.approx(1e7 / math.sqrt(2e9 * 2e10))


def test_rates_are_constant_outside_the_measured_range():
    model = rates([(10, 1e6, 1e9), (1000, 1e8, 4e10)])
    assert seconds(model, 1, 1e3) == pytest.approx(1e3 / 1e9)
    assert seconds(model, 10**6, 1e15) == pytest.approx(1e15 / 4e10)
    assert seconds(model, 0, 0) == 0.0


@pytest.mark.parametrize("cache", [CACHED // 3, 3 * CACHED])
def test_bytes_beyond_the_cache_take_their_time(monkeypatch, cache):
    """Of a cache shared by many more processors than these, only what was measured counts."""
    model = rates([(10, 1e6, 1e9)])
    monkeypatch.setattr(machine, "cache_sizes", lambda: {"L3": cache})
    cache = min(cache, CACHED)
    assert seconds(model, 10, 1e3, cache) == pytest.approx(1e-6)
    assert seconds(model, 10, 1e3, cache + 10**10) == pytest.approx(1.0)


@pytest.mark.parametrize("kind", MEASURED)
def test_substitutions_between_measured_orders_are_those_of_as_many_sides(kind):
    model = measured_at(kind)
    for entry in (
        f"{who}.solve_lower{way}" for who in ("numba", "scipy") for way in ("", "_adjoint")
    ):
        points = model.points[entry]["float64"]
        orders = sorted({order for order, _, _ in points})
        for k in (1, 4, 16, 64):
            at = {order: rate for order, flops, rate in points if round(flops / order**2) == k}
            for lo, hi in itertools.pairwise(orders):
                between = (lo * hi) ** 0.5
                found = model.speed(entry, "float64", between, k * between**2)
                assert found == pytest.approx((at[lo] * at[hi]) ** 0.5)


def test_what_was_not_measured_is_estimated_by_its_relatives():
    model = rates([(10, 1e6, 1e9)])
    for dtype in ("complex128", "float32", "complex64"):
        assert seconds(model, 10, 1e6, dtype=dtype) == pytest.approx(1e-3)
    assert model.seconds("syrk", "scipy.syrk", "float64", 10, 1e6, 0) == pytest.approx(1e-3, 1e-5)
    assert 0 < model.seconds("new", "numba.new", "float64", 10, 1e6, 0) < 1


def test_built_in_rates_scale_with_cores_and_vectors(monkeypatch):
    there = measured_at("avx2").machine
    monkeypatch.setattr(machine, "cpu_name", lambda: there["cpu"])
    monkeypatch.setattr(machine, "cpu_features", lambda: tuple(there["features"]))
    same, twice = (built_in.__wrapped__(there["threads"] * k) for k in (1, 2))
    flops = 1e12
    assert same.compute_scale == same.stream_scale == 1
    assert seconds(twice, 1000, flops) == pytest.approx(seconds(same, 1000, flops) / 2)
    monkeypatch.setattr(machine, "cpu_features", lambda: ())
    narrow = built_in.__wrapped__(there["threads"])
    assert seconds(narrow, 1000, flops) == pytest.approx(2 * seconds(same, 1000, flops))


def test_vector_kind_knows_which_processors_split_their_vectors():
    assert vector_kind("Intel(R) Xeon(R)", ("avx512f", "avx2")) == "avx512"
    assert vector_kind("AMD EPYC", ("avx512f", "avx2")) == "halved avx512"
    assert vector_kind("any", ("avx2",)) == "avx2" and vector_kind("any", ("asimd",)) == "narrow"


def test_rates_survive_the_file():
    model = rates([(10, 1000000, 1e9), (20, 1000000, 2e9)])
    again = rates_from(model.as_json())
    assert again.points == {"numba.syrk": {"float64": [(10, 10**6, 1e9), (20, 10**6, 2e9)]}}
    assert rates_from(again.as_json()) == again


def test_older_files_hold_the_time_of_a_small_solve_by_itself_too():
    model = rates([(10, 1000000, 1e9)], call=3e-5)
    text = model.as_json()
    assert rates_from(text).call == 3e-5
    assert rates_from(text.replace('"repeated_call"', '"call"')).call == 1.5e-5
    with pytest.raises(ValueError, match="-1 is not positive"):
        rates_from(text.replace('"repeated_call": 3e-05', '"repeated_call": -1'))
    with pytest.raises(ValueError, match="call"):
        rates_from(text.replace('"repeated_call"', '"another"'))


@pytest.mark.parametrize("kind", MEASURED)
def test_built_in_rates_are_those_of_a_machine_as_wide(kind, monkeypatch):
    there = measured_at(kind).machine
    assert vector_kind(there["cpu"], there["features"]) == kind
    monkeypatch.setattr(machine, "cpu_name", lambda: there["cpu"])
    monkeypatch.setattr(machine, "cpu_features", lambda: tuple(there["features"]))
    same = built_in.__wrapped__(there["threads"])
    assert same == measured_at(kind) and same.points == measured_at(kind).points


@pytest.mark.parametrize("kind", MEASURED)
def test_built_in_rates_know_every_op_of_the_plans(kind):
    known = {name for name, _ in measured_at(kind)._curves}
    for op in ("syrk", "gram", "matvec", "rmatvec", "fvp", "cholesky", "solve_lower"):
        assert f"numba.{op}" in known
        for band in TABLE:
            if band.op == op:
                assert {e.name for e in band.entries if e.vendor} <= known


# Plans -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["primal", "dual", "cg"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64", "complex128", "float16"])
def test_a_plan_estimates_every_stage_and_their_sum(method, dtype):
    plan = ff.plan(3000, 400, dtype=dtype, method=method)
    assert all(0 < s.seconds < 60 for s in plan.stages)
    assert plan.seconds == sum(s.seconds for s in plan.stages)
    text = str(plan)
    assert f"about {format_seconds(plan.seconds)}" in text
    for stage in plan.stages:
        assert format_seconds(stage.seconds) in text


def test_more_work_is_never_estimated_as_less_time():
    sizes = (1, 4, 30, 200, 1000, 5000, 40_000, 10**6)
    for method, p in itertools.product(("primal", "dual", "cg"), (3, 300)):
        estimates = [ff.plan(n, p, method=method).seconds for n in sizes]
        assert estimates == sorted(estimates)


@pytest.fixture
def instant(monkeypatch):
    """Rates of a machine on which kernels take no time: what is left is around them."""
    flops = {"float64": [(10, 1e6, 1e30)], "complex128": [(10, 1e6, 1e30)]}
    ops = ("syrk", "gram", "matvec", "rmatvec", "fvp", "cholesky")
    ops += ("solve_lower", "solve_lower_adjoint")
    model = rates([(10, 1e6, 1e30)], bandwidth=8e9, overhead=1e-4)
    model = replace(model, points={f"numba.{op}": flops for op in ops})
    for module in (costs, small_costs):
        monkeypatch.setattr(module, "current_rates", lambda: model)
    plans.forget_plans()
    yield model
    monkeypatch.undo()
    plans.forget_plans()


def test_a_direct_solve_is_charged_the_same_overhead_whatever_its_stages(instant):
    for n, p, method in ((200, 200, "primal"), (200, 200, "dual"), (9, 200, "primal")):
        plan = ff.plan(n, p, method=method, dtype="complex128")
        passes = costs.VECTOR_PASSES[method] * p + costs.PRODUCT_PASSES * n
        vectors = 16 * passes / (FRESH * instant.bandwidth)
        assert plan.seconds == pytest.approx(SOLVE * 1e-4 + vectors, rel=1e-6)
    factored = plan_factored(0, 200, 1, "float64")
    vectors = costs.VECTOR_PASSES["primal"] * 200 * 8 / (FRESH * instant.bandwidth)
    assert factored.seconds == pytest.approx(SOLVE * 1e-4 + vectors, rel=1e-6)
    iteration = ff.plan(200, 200, method="cg").seconds
    assert 2e-4 < iteration < SOLVE * 1e-4


def test_right_hand_sides_beside_few_long_scores_take_their_time(instant):
    one, many = (ff.plan(60, 42_000, rhs=k, method="dual").seconds for k in (1, 65))
    passes = costs.VECTOR_PASSES["dual"] * 42_000 + costs.PRODUCT_PASSES * 60
    assert many - one == pytest.approx(64 * 8 * passes / (FRESH * instant.bandwidth), rel=1e-3)


def test_a_solve_in_one_call_is_charged_one_overhead(instant):
    for side in ("primal", "dual"):

        def planned(n, p, side=side, **changes):
            n, p = (n, p) if side == "primal" else (p, n)
            return ff.plan(n, p, method=side, **changes)

        def small(*shape, side=side, **changes):
            return planned(*shape, **changes).problem.small(side)

        assert small(30, 384) and not small(30, 385)
        one, staged = planned(30, 384), planned(30, 385)
        assert one.seconds < 1e-4 < SOLVE * 1e-4 < staged.seconds
        assert small(30, 192, dtype="complex128") and not small(30, 193, dtype="complex128")
        assert not small(10**7, 100, rhs=0)
        for n, fits in ((404, True), (405, False)):  # 4 million products again
            shape = {"n": n, "p": 99} if side == "primal" else {"n": 99, "p": n}
            assert Problem(**shape, dampings=3).small(side) is fits
        most = 20_750 if side == "primal" else 24_880
        for n, p, fits in ((most, 100, True), (most + 1, 100, False)):
            assert small(n, p) is fits
            one = [stage.op for stage in planned(n, p).stages] == [f"{side}_small"]
            assert one is fits
        assert small(300, 30, rhs=100) and not small(300, 30, rhs=300)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", ">f2"])
def test_half_precision_storage_moves_half_the_bytes_and_costs_vendors_a_conversion(dtype):
    for rhs in (1, 40):
        stored, computed = (
            {s.op: s for s in ff.plan(10**5, 3000, rhs=rhs, dtype=d, method="dual").stages}
            for d in (dtype, "float32")
        )
        for op in ("fvp", "matvec", "rmatvec"):
            half, whole = stored[op], computed[op]
            assert half.kernel == whole.kernel and half.bytes == whole.bytes / 2
            vendor = half.kernel.startswith("scipy")
            assert vendor == (rhs == 40)
            assert half.seconds > whole.seconds if vendor else half.seconds < whole.seconds
        assert stored["gram"].seconds == computed["gram"].seconds
        assert stored["cholesky"] == computed["cholesky"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0 µs"), (2.5e-6, "2.5 µs"), (1e-3, "1 ms"), (0.25, "250 ms"), (90.0, "90 s")],
)
def test_format_seconds(value, text):
    assert format_seconds(value) == text


def test_a_stage_without_an_estimate_costs_nothing():
    assert Stage("op", "kernel", "1 x 1", 1, 1).seconds == 0.0
