"""The front door as users meet it: results, errors, threads, processes, statistics."""

import copy
import os
import pickle
import re
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import errors
from tests import matrices, oracle

ROOT = Path(__file__).parents[1]

# Results -----------------------------------------------------------------------------------------


def test_solution_unpacks_prints_pickles_and_copies(rng):
    G, b = rng.standard_normal((20, 5)), rng.standard_normal(5)
    result = ff.solve(G, b, damping=0.1)
    x, info = result
    assert x is result.x and info == 0 and result.info == 0
    text = repr(result)
    assert re.fullmatch(
        r"Solution\(status='converged', method='primal', residual=\d\.\d\de-\d\d, iterations=0, "
        r"damping=0\.1, rung='cholesky', x=ndarray\(5,\)\)",
        text,
    )
    for again in (pickle.loads(pickle.dumps(result)), copy.copy(result), copy.deepcopy(result)):
        assert again.x.tobytes() == result.x.tobytes()
        assert repr(again) == text and again.plan == result.plan
        assert str(again.plan) == str(result.plan)
    unfinished = ff.solve(G, b, damping=1e-9, method="cg", maxiter=2)
    assert unfinished.info == 2 and not unfinished.converged
    with pytest.raises(AttributeError):
        result.x = 0


def test_solution_of_tensors_prints_and_pickles(rng):
    torch = pytest.importorskip("torch")
    result = ff.solve(torch.ones(4, 3), torch.ones(3), damping=1.0)
    assert "x=Tensor(3,)" in repr(result)
    assert torch.equal(pickle.loads(pickle.dumps(result)).x, result.x)


def made_errors():
    G = np.ones((3, 2))
    zero = np.diag([1.0, 0.0])
    calls = {
        errors.InputError: lambda: ff.natural_gradient(G.astype(int), damping=1.0),
        errors.NotPositiveDefiniteError: lambda: ff.ops.cholesky(zero),
        errors.ConvergenceError: lambda: ff.solve(
            matrices.scores(20, 10), np.ones(10), damping=0.0, method="cg", maxiter=1
        ).require_convergence(),
        errors.MemoryLimitError: lambda: ff.DenseFisher(10**7),
        errors.StateError: lambda: ff.DenseFisher(2).merge(ff.DenseFisher(3)),
    }
    for kind, call in calls.items():
        with pytest.raises(kind) as caught:
            call()
        yield caught.value


def test_errors_survive_pickling_and_copying_with_their_facts():
    for error in made_errors():
        assert isinstance(error, errors.FisherError)
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
            assert type(again) is type(error) and str(again) == str(error)
            assert set(vars(again)) == set(vars(error))
            for name in ("order", "rcond", "suggested_damping"):
                assert getattr(again, name, None) == getattr(error, name, None)
            if hasattr(error, "solution"):
                assert again.solution.x.tobytes() == error.solution.x.tobytes()


def test_errors_are_what_other_libraries_raise():
    assert issubclass(errors.InputError, ValueError)
    assert issubclass(errors.NotPositiveDefiniteError, np.linalg.LinAlgError)
    assert issubclass(errors.MemoryLimitError, MemoryError)
    assert issubclass(errors.MissingDependencyError, ImportError)
    for name in errors.__all__:
        assert issubclass(getattr(errors, name), errors.FisherError)


def test_convergence_error_carries_what_was_reached(rng):
    G = matrices.scores(60, 25, cond=1e10)
    b = rng.standard_normal(25)
    reached = ff.solve(G, b, damping=1e-12, method="cg", maxiter=3)
    with pytest.raises(errors.ConvergenceError, match="max_iterations") as caught:
        reached.require_convergence()
    assert caught.value.solution is reached
    assert ff.solve(G, b, damping=0.1).require_convergence().converged


def test_S2_a_step_of_the_damped_natural_gradient_is_a_descent_direction(rng):
    G, g = rng.standard_normal((30, 12)), rng.standard_normal(12)
    for lam in 10.0 ** np.arange(-6, 7, 2):
        for method in ("primal", "dual", "cg"):
            assert g @ ff.natural_gradient(G, g, damping=lam, method=method) > 0


# Statistics --------------------------------------------------------------------------------------


def test_V1_opg_covariance_of_statsmodels():
    """cov = (sum of score outer products)^-1: the mean Fisher, factored undamped, over n."""
    sm = pytest.importorskip("statsmodels.api")
    data = sm.datasets.spector.load_pandas()
    fitted = sm.Logit(data.endog, sm.add_constant(data.exog)).fit(disp=0)
    scores = fitted.model.score_obs(fitted.params)
    expected = np.linalg.inv(np.asarray(scores.T @ scores))

    F = ff.DenseFisher(scores.shape[1]).update(scores)
    covariance = F.factor(damping=0).inv_quad(np.eye(F.p)) / F.n_samples
    np.testing.assert_allclose(covariance, expected, rtol=1e-10)
    errors_of = np.sqrt(F.factor(damping=0).inv_diagonal() / F.n_samples)
    np.testing.assert_allclose(errors_of, np.sqrt(np.diag(expected)), rtol=1e-10)

    # The same through one solve with the identity on the right.
    solved = ff.solve(np.asarray(scores), np.eye(F.p), damping=0).x / len(scores)
    np.testing.assert_allclose(solved, expected, rtol=1e-10)


def test_V1_sandwich_of_statsmodels():
    sm = pytest.importorskip("statsmodels.api")
    data = sm.datasets.fair.load_pandas()
    X = sm.add_constant(data.exog.iloc[:, :4])
    fitted = sm.Logit((data.endog > 0).astype(float), X).fit(disp=0, cov_type="HC0")
    scores = np.asarray(fitted.model.score_obs(fitted.params))
    H_inverse = np.linalg.inv(-fitted.model.hessian(fitted.params))
    meat = ff.ops.syrk(scores)
    np.testing.assert_allclose(H_inverse @ meat @ H_inverse, fitted.cov_params(), rtol=1e-10)


# Settings ----------------------------------------------------------------------------------------


def test_info_is_flat_and_complete():
    facts = ff.info()
    assert {
        "fastfisher",
        "numpy",
        "numba",
        "cpu",
        "cores",
        "threads",
        "memory_available_bytes",
        "threading_layer",
        "kernel_cache",
    } <= set(facts)
    assert all(isinstance(value, str | int | float) for value in facts.values())
    assert facts["fastfisher"] == ff.__version__ and facts["cores"] >= 1


def test_options_reach_this_block_and_this_thread_only():
    assert not ff.plan(10_000, 300).reproducible
    with ff.options(reproducible=True):
        assert ff.plan(10_000, 300).reproducible
        assert "*" not in str(ff.plan(10_000, 300))
        seen = []
        thread = threading.Thread(target=lambda: seen.append(ff.plan(10_000, 300).reproducible))
        thread.start()
        thread.join()
        assert seen == [False]
        with ff.options(progress=print):
            assert ff.plan(10_000, 300).reproducible
    assert not ff.plan(10_000, 300).reproducible
    with pytest.raises(errors.InputError, match="unknown option 'speed'"):
        with ff.options(speed=11):
            pass


def test_progress_is_told_of_every_slice(rng):
    seen = []
    with ff.options(progress=lambda op, done, total: seen.append((op, done, total))):
        ff.natural_gradient(rng.standard_normal((30, 4)), damping=0.1)
    assert ("syrk", 30, 30) in seen
    assert all(0 <= done <= total for _, done, total in seen)


def test_set_num_threads_is_seen_by_info_and_undone():
    most = ff.info()["threads_available"]
    ff.set_num_threads(1)
    try:
        assert ff.info()["threads"] == 1
        ff.natural_gradient(np.ones((3, 2)), damping=1.0)
    finally:
        ff.set_num_threads(most)
    assert ff.info()["threads"] == most


def test_set_num_threads_holds_for_a_blas_that_a_later_call_uses():
    pytest.importorskip("threadpoolctl")
    code = """
        import numpy as np, threadpoolctl
        import fastfisher as ff
        ff.set_num_threads(1)
        np.testing.assert_array_equal(ff.ops.cholesky(np.eye(40)), np.eye(40))  # SciPy's
        pools = [p for p in threadpoolctl.threadpool_info() if p["user_api"] == "blas"]
        assert {p["num_threads"] for p in pools} == {1}, pools
        """
    env = {name: value for name, value in os.environ.items() if not name.endswith("NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=env | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_oracle_agrees_once_through_the_front_door(rng):
    """The one end-to-end check that needs no other file."""
    G, w, g = rng.standard_normal((30, 7)), rng.random(30), rng.standard_normal(7)
    expected = np.linalg.solve(oracle.fisher(G, w) + 0.3 * np.eye(7), g)
    np.testing.assert_allclose(
        ff.natural_gradient(G, g, weights=w, damping=0.3), expected, rtol=1e-12
    )
