"""Numbers, switches and words: what is one, what is only like one, and doors that ask for one."""

import numpy as np
import pytest
from scipy import sparse

import fastfisher as ff
from fastfisher.errors import InputError
from fastfisher.scalars import (
    as_choice,
    as_count,
    as_flag,
    as_generator,
    as_number,
    as_positive,
    as_real,
)

MASKED = np.ma.masked_array(2, mask=True)
G, b = np.eye(3), np.ones(3)


@pytest.mark.parametrize("value", [2, 2.0, np.float32(2), np.int8(2), np.array(2), np.array(2.0)])
def test_what_is_a_real_number(value):
    assert as_real(value, "x") == as_number(value, "x") == 2.0
    assert type(as_real(value, "x")) is float


NO_NUMBERS = ["2", b"2", True, np.True_, 2 + 0j, np.complex64(2), None, [2], np.ones(1), MASKED]
NO_NUMBERS += [np.array("2"), np.array(2 + 0j), np.array(True), np.datetime64("2020"), ...]


@pytest.mark.parametrize("value", NO_NUMBERS, ids=repr)
def test_what_is_no_real_number(value):
    for check in (as_real, as_number, as_positive):
        with pytest.raises(InputError, match=r"^x is .*; expected a real number"):
            check(value, "x")


def test_numbers_out_of_range():
    for value in (-1, np.nan, np.inf, np.array(np.nan)):
        with pytest.raises(InputError, match=r"expected a finite real number >= 0"):
            as_real(value, "x")
    for value in (0, -1.0, np.nan, np.inf):
        with pytest.raises(InputError, match="expected a finite real number > 0"):
            as_positive(value, "x")
    assert as_positive(5e-324, "x") > 0
    assert np.isnan(as_number(np.nan, "x")) and as_number(-np.inf, "x") == -np.inf
    with pytest.raises(InputError, match="expected a real number"):
        as_number(10**400, "x")


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3)], ids=repr)
def test_what_is_a_count(value):
    assert as_count(value, "n", least=3, most=3) == 3 and type(as_count(value, "n")) is int


class _Class:
    pass


NO_PRECONDITIONERS = [np.ones(3), np.array("jacobi"), "ilu", 1, _Class, [1], np.eye(3)]
NO_PRECONDITIONERS += [sparse.eye(3), ff.Nystrom]


@pytest.mark.parametrize("given", NO_PRECONDITIONERS, ids=lambda x: type(x).__name__)
@pytest.mark.parametrize("method", ["primal", "cg"])
def test_what_is_no_preconditioner(given, method):
    with pytest.raises(InputError, match=r"preconditioner is .*; expected 'auto', 'jacobi', None"):
        ff.solve(G, b, damping=1, method=method, preconditioner=given)


@pytest.mark.parametrize(
    "sizes", [2.5, None, np.array(np.nan), "ab", True, 0, [0], [1.0, 2], np.array([True]), ["1"]]
)
def test_what_are_no_block_sizes(sizes):
    with pytest.raises(InputError, match=r"BlockJacobi.* is .*; expected an integer >= 1"):
        ff.BlockJacobi(sizes)


def test_block_sizes_from_arrays():
    assert ff.BlockJacobi(np.array([1, 2])).sizes == (1, 2)
    assert ff.BlockJacobi(np.array(2)).sizes == 2


@pytest.mark.parametrize("tries", [2.5, None, np.array("2"), True, 17, 2**70, -1])
def test_what_are_no_escalations(tries):
    with pytest.raises(InputError, match=r"escalations is .*; expected an integer from 0 to 16"):
        ff.Ladder(escalations=tries)


@pytest.mark.parametrize("index", ["a", 1.5, 2, -3, True, [0, 2], [True], np.zeros((1, 2), int)])
def test_what_names_no_damping_of_a_path(index):
    path = ff.DenseFisher(3).update(G).path(b, [0.1, 1.0])
    with pytest.raises(InputError, match=r"index is .*; expected integers from -2 to 1, a slice"):
        path.x(index)
    assert path.x(np.array(1)).shape == (3,) and path.x([False, True]).shape == (3, 1)


NO_COUNTS = [3.0, "3", True, np.True_, None, [3], np.ones(1, int), np.array(3.0), MASKED, 3j]


@pytest.mark.parametrize("value", [*NO_COUNTS, np.array("3"), -1, np.array(-1)], ids=repr)
def test_what_is_no_count(value):
    with pytest.raises(InputError, match=r"^n is .*; expected an integer >= 0$"):
        as_count(value, "n")


def test_counts_out_of_range():
    with pytest.raises(InputError, match=r"n is 5; expected an integer from 1 to 4"):
        as_count(5, "n", least=1, most=4)
    with pytest.raises(InputError, match=r"expected an integer >= 0, below 2\*\*63"):
        as_count(2**63, "n")


@pytest.mark.parametrize("value", ["no", 0, 1, None, np.array(True), np.ones(3), []], ids=repr)
def test_what_merely_counts_as_true_or_false_is_no_switch(value):
    with pytest.raises(InputError, match=r"center is .*; expected True or False"):
        as_flag(value, "center")


def test_switches_and_words():
    assert as_flag(np.True_, "x") is True and as_flag(False, "x") is False
    assert as_choice("a", "x", ("a", "b")) == "a"
    for value in ("c", None, np.array("a"), np.array(["a", "b"]), ["a"], 1):
        with pytest.raises(InputError, match=r"x is .*; expected one of a, b"):
            as_choice(value, "x", ("a", "b"))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: ff.solve(G, b, damping=np.array(1j)), "damping"),
        (lambda: ff.solve(G, b, damping="0.1"), "damping"),
        (lambda: ff.solve(G, b, damping=0.1, center="no"), "center"),
        (lambda: ff.solve(G, b, damping=0.1, method=np.ones(2)), "method"),
        (lambda: ff.solve(G, b, damping=0.1, nan_policy=np.ones(2)), "nan_policy"),
        (lambda: ff.solve(G, b, damping=0.1, device=np.ones(2)), "device"),
        (lambda: ff.solve(G, b, damping=0.1, method="cg", maxiter=np.array(2.5)), "maxiter"),
        (lambda: ff.solve(G, b, damping=0.1, method="cg", rtol=MASKED), "rtol"),
        (lambda: ff.solve_path(G, b, dampings=np.array(0.1)), "dampings"),
        (lambda: ff.solve_path(G, b, dampings=np.array([1j])), "damping"),
        (lambda: ff.solve_path(G, b, dampings=[0.1], center=1), "center"),
        (lambda: ff.plan(np.ones(2), 3), "n"),
        (lambda: ff.plan(10**308, 3), "n"),
        (lambda: ff.plan(3, 3, rhs="1"), "rhs"),
        (lambda: ff.plan(3, 3, dtype=[1]), "dtype"),
        (lambda: ff.DenseFisher(np.array(np.nan)), "p"),
        (lambda: ff.DenseFisher(3, center="no"), "center"),
        (lambda: ff.DenseFisher(3).update(G, decay=MASKED), "decay"),
        (lambda: ff.BlockDiagonalFisher([[1, 2], [3]]), "sizes"),
        (lambda: ff.BlockDiagonalFisher({"a": np.ones(2)}), "a block size in the layout"),
        (lambda: ff.ops.batched_solve(G[None], b[None], damping=[[1, 2], [3]]), "damping"),
        (lambda: ff.set_num_threads(np.ones(2)), "k"),
        (lambda: ff.LevenbergMarquardt(0.1).step("good"), "rho"),
        (lambda: ff.options(reproducible="no").__enter__(), "reproducible"),
    ],
)
def test_doors_that_ask_for_one_say_what_came(call, name):
    with pytest.raises(InputError, match=rf"^{name}"):
        call()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: ff.stats.standard_errors(np.ma.masked_array(G, G > 2)), "covariance is a masked"),
        (lambda: ff.stats.standard_errors(G.astype(object)), "covariance has dtype object"),
        (lambda: ff.stats.standard_errors([[1.0], [2.0, 3.0]]), "covariance of type list is no"),
        (lambda: ff.stats.wald_test([[1.0], [2.0, 3.0]], G), "of type list is no array"),
        (lambda: ff.optim.norm_clip([[1.0], [2.0, 3.0]], 1.0), "step of type list is no array"),
        (lambda: ff.models.MLP(3.0), "sizes is 3.0, expected positive integers"),
        (lambda: ff.models.MLP("ab"), "sizes is ab, expected positive integers"),
        (lambda: ff.models.MLP((2, np.nan, 2)), "sizes is .*, expected positive integers"),
    ],
)
def test_statistics_and_models_say_what_came(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_what_makes_a_generator():
    made = np.random.default_rng(3)
    assert as_generator(made) is made
    assert as_generator(3).random() == np.random.default_rng(3).random()
    assert isinstance(as_generator(None), np.random.Generator)
    for seed in (-1, 1.5, "seed"):
        with pytest.raises(InputError, match=r"^rng is .*; expected a numpy\.random\.Generator"):
            as_generator(seed)
