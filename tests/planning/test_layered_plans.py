"""Plans of layered solves: flops and bytes by the formulas; what does not fit is refused."""

from itertools import pairwise

import pytest

from fastfisher.errors import MemoryLimitError
from fastfisher.planning import plan_kronecker, plan_layered

NET = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)


def sizes(net, tokens=1):
    return [(tokens, d_in, d_out) for d_in, d_out in pairwise(net)]


def layered(n, net, *, tokens=1, dtype="float64", rhs=1):
    return plan_layered(n, sizes(net, tokens), rhs, dtype, weighted=False, centered=False)


def stage(plan, op):
    return next(s for s in plan.stages if s.op == op)


def test_L1_the_gram_matrix_of_the_autoencoder_takes_328_times_fewer_flops():
    n, p = 1000, sum(i * o for i, o in pairwise(NET))
    plan = layered(n, NET)
    assert stage(plan, "layered_gram").flops == n * (n + 1) * sum(i + o for i, o in pairwise(NET))
    assert stage(plan, "matvec").flops == stage(plan, "rmatvec").flops == 2 * n * p
    assert n * (n + 1) * p / stage(plan, "layered_gram").flops == pytest.approx(328, abs=1)
    assert plan.peak_bytes < 0.3e9 and plan.method == "dual"


def test_L2_tokens_cost_pairs_or_explicit_scores_whichever_is_less():
    pairs, explicit = layered(10, (40, 30), tokens=3), layered(10, (5, 4), tokens=9)
    assert stage(pairs, "layered_gram").flops == 10 * 11 * 9 * 70
    assert stage(explicit, "layered_gram").flops == 10 * 11 * 20


def test_costs_grow_with_right_hand_sides_and_complex_numbers():
    one, many = layered(100, (50, 40)), layered(100, (50, 40), rhs=7)
    assert stage(many, "matvec").flops == 7 * stage(one, "matvec").flops
    assert many.peak_bytes > one.peak_bytes
    double = stage(layered(100, (50, 40), dtype="complex128"), "layered_gram")
    assert double.flops == 4 * stage(one, "layered_gram").flops


def test_P7_eigenbases_and_rotations():
    plan = plan_kronecker(1000, sizes((30, 20)), 2, "float64")
    assert stage(plan, "eigenbases").flops == 9 * (30**3 + 20**3)
    assert stage(plan, "rotations").flops == 2 * 4 * 2 * 30 * 20 * 50
    assert not plan.reproducible and "Kronecker" in plan.because


def test_a_plan_that_does_not_fit_is_refused_and_carried():
    with pytest.raises(MemoryLimitError, match="this plan needs") as caught:
        layered(3_000_000, (3, 2))
    assert caught.value.plan.stages[0].op == "layered_gram"
    with pytest.raises(MemoryLimitError):
        plan_kronecker(10, sizes((2_000_000, 3)), 1, "float64")
