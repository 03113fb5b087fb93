"""The front door as users meet it: results, errors, threads, processes, statistics."""

import copy
import os
import pickle
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import fastfisher as ff
from fastfisher import errors
from tests import matrices, oracle

ROOT = Path(__file__).parents[1]


def run(code, *, timeout=240, expect=0, **environment):
    """Run code in a fresh interpreter; its standard output."""
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning:__main__", "-c", textwrap.dedent(code)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == expect, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


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
    assert {"fastfisher", "numpy", "numba", "cpu", "cores", "threads", "memory_available_bytes",
            "threading_layer", "kernel_cache"} <= set(facts)
    assert all(isinstance(value, str | int | float) for value in facts.values())
    assert facts["fastfisher"] == ff.__version__ and facts["cores"] >= 1


def test_options_reach_this_block_and_this_thread_only():
    assert not ff.plan(1000, 100).reproducible
    with ff.options(reproducible=True):
        assert ff.plan(1000, 100).reproducible
        assert "*" not in str(ff.plan(1000, 100))
        seen = []
        thread = threading.Thread(target=lambda: seen.append(ff.plan(1000, 100).reproducible))
        thread.start()
        thread.join()
        assert seen == [False]
        with ff.options(progress=print):
            assert ff.plan(1000, 100).reproducible
    assert not ff.plan(1000, 100).reproducible
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


# Equal bits on any number of threads ---------------------------------------------------------------

BITS = """
    import hashlib
    import numpy as np
    import fastfisher as ff
    def digest(dtype, n, p):
        rng = np.random.default_rng(7)
        G = rng.standard_normal((n, p))
        if np.dtype(dtype).kind == "c":
            G = G + 1j * rng.standard_normal((n, p))
        G, w, out = G.astype(dtype), rng.random(n), hashlib.sha256()
        sides = dict(b=np.ones(p, dtype)), dict(coef=np.ones((n, 5), dtype))
        for method in ("primal", "dual", "cg"):
            for side in sides:
                sol = ff.solve(G, **side, damping=ff.Relative(.1), weights=w, center=True, method=method)
                out.update(np.ascontiguousarray(sol.x).tobytes())
        F = ff.DenseFisher(p, dtype=dtype, center=True).update(G, w).update(G[::2])
        out.update(F.matrix().tobytes())
        out.update(ff.ops.layered_gram([(G[:150], G[:150, :20])]).tobytes())
        F = np.broadcast_to(np.ones((3, 3)) + np.eye(3), (2000, 3, 3)).astype(dtype)
        out.update(ff.ops.batched_solve(F, np.resize(G, (2000, 3)))[0].tobytes())
        return out.hexdigest()
    with ff.options(reproducible=True):
        for case in (("float32", 1500, 150), ("float32", 150, 1500), ("complex128", 700, 300)):
            seen = []
            for k in THREADS:
                ff.set_num_threads(k)
                seen.append(digest(*case))
            assert len(set(seen)) == 1, (case, seen)
            print(seen[0])
"""


def test_law_26_2_same_bits_on_1_2_and_3_threads():
    three = run(BITS.replace("THREADS", "(1, 2, 3)"), NUMBA_NUM_THREADS="3")
    assert len(three.split()) == 3
    one = run(BITS.replace("THREADS", "(1,)"), NUMBA_NUM_THREADS="1")
    assert one == three


# Threads, processes, interruptions -----------------------------------------------------------------


def test_four_python_threads_solve_at_once(rng):
    problems = [
        (rng.standard_normal(shape), method)
        for shape, method in [((300, 20), "primal"), ((20, 300), "dual"), ((200, 50), "cg"), ((60, 60), "auto")]
    ]
    expected = [ff.natural_gradient(G, damping=0.1, method=m) for G, m in problems]
    wrong = []

    def work(G, method, x):
        for _ in range(15):
            result = ff.natural_gradient(G, damping=0.1, method=method)
            if not np.allclose(result, x, rtol=1e-9):
                wrong.append(method)

    threads = [
        threading.Thread(target=work, args=(G, m, x))
        for (G, m), x in zip(problems, expected, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=120)
    assert not any(thread.is_alive() for thread in threads) and not wrong


@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_four_python_threads_on_either_threading_layer(layer):
    run(
        """
        import threading
        import numpy as np
        import fastfisher as ff
        G = np.random.default_rng(0).standard_normal((2000, 30))
        x = ff.natural_gradient(G, damping=.1)
        same = []
        def work():
            for _ in range(10):
                same.append(np.allclose(ff.natural_gradient(G, damping=.1), x, rtol=1e-9))
                ff.ops.diag(G)
        with ff.options(reproducible=True):
            threads = [threading.Thread(target=work) for _ in range(4)]
            [t.start() for t in threads]
            [t.join() for t in threads]
        assert all(same) and len(same) == 40
        """,
        NUMBA_THREADING_LAYER=layer,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
def test_a_child_forked_after_use_computes(layer):
    run(
        """
        import os
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        import fastfisher as ff
        G = np.random.default_rng(0).standard_normal((500, 20))
        with ff.options(reproducible=True):
            x = ff.natural_gradient(G, damping=.1)
            for method in ("primal", "cg"):
                child = os.fork()
                if child == 0:
                    y = ff.natural_gradient(G, damping=.1, method=method)
                    os._exit(0 if np.allclose(x, y, rtol=1e-8) else 3)
                _, status = os.waitpid(child, 0)
                assert os.waitstatus_to_exitcode(status) == 0, os.waitstatus_to_exitcode(status)
            assert np.array_equal(ff.natural_gradient(G, damping=.1), x)
        """,
        NUMBA_THREADING_LAYER=layer,
    )


INTERRUPTED = """
    import os, signal
    import numpy as np
    import fastfisher as ff
    rng = np.random.default_rng(0)
    p, n = 200, 400_000
    rows = rng.standard_normal((50, p))
    G = np.broadcast_to(rng.standard_normal((1, p)), (n, p))
    for center in (False, True):
        # in the scan before, between mean and sums of a slice, after the sums of a slice
        for op, calls, least in (("scan", 1, 0), ("rmatvec", 2, 1), ("syrk", 3, 1)):
            F = ff.DenseFisher(p, center=center).update(rows)
            left = calls
            def progress(name, done, total):
                global left
                left -= name == op
                if left == 0 and name == op:
                    os.kill(os.getpid(), signal.SIGINT)
            try:
                with ff.options(progress=progress):
                    F.update(G)
            except KeyboardInterrupt:
                pass
            else:
                raise SystemExit("was not interrupted")
            more = F.n_samples - 50
            assert bool(least) == bool(more) and more < n, (op, more)
            assert F.weight == F.n_samples
            w = np.concatenate([[more], np.ones(50)])
            exact = ff.solve(np.vstack([G[:1], rows]), np.ones(p), weights=w, center=center, damping=1e-2)
            assert np.allclose(F.solve(np.ones(p), damping=1e-2).x, exact.x, rtol=1e-6), (op, more)
            F.update(G[:10])
            assert F.n_samples == 60 + more
"""


@pytest.mark.skipif(sys.platform == "win32", reason="signals to oneself are POSIX")
def test_ctrl_c_leaves_an_accumulator_of_whole_slices():
    run(INTERRUPTED)


def test_ctrl_c_keeps_the_handler_of_the_application(rng):
    called = []
    before = signal.signal(signal.SIGINT, lambda *_: called.append(True))
    handler = signal.getsignal(signal.SIGINT)
    try:
        ff.DenseFisher(3).update(rng.standard_normal((5, 3)))
        assert signal.getsignal(signal.SIGINT) is handler
    finally:
        signal.signal(signal.SIGINT, before)
    F = ff.DenseFisher(3)
    F.update(rng.standard_normal((5, 3)))
    assert signal.getsignal(signal.SIGINT) is before


# The cache of compiled code --------------------------------------------------------------------------

FIRST_CALL = """
    import warnings
    import numpy as np
    import fastfisher as ff
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        x = ff.ops.diag(np.array([[1.0, 0.0], [0.0, 2.0]]))
    assert x.tolist() == [1.0, 4.0]
    print(len([w for w in seen if "compiled-code cache" in str(w.message)]))
"""


@pytest.fixture(scope="module")
def warm_cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kernels")
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(folder))
    assert list(folder.rglob("*.nbi")) and list(folder.rglob("*.nbc"))
    return folder


def truncated(data):
    return data[: len(data) // 2]


@pytest.mark.parametrize("suffix", [".nbi", ".nbc"])
@pytest.mark.parametrize(
    "damage",
    [truncated, lambda data: b"", lambda data: b"\0" * len(data), lambda data: b"garbage"],
    ids=["truncated", "empty", "zeros", "garbage"],
)
def test_a_damaged_kernel_cache_costs_a_compilation_not_a_crash(warm_cache, suffix, damage, tmp_path):
    folder = tmp_path / "kernels"
    shutil.copytree(warm_cache, folder)
    for file in folder.rglob("*" + suffix):
        file.write_bytes(damage(file.read_bytes()))
    assert int(run(FIRST_CALL, NUMBA_CACHE_DIR=str(folder))) > 0
    assert int(run(FIRST_CALL, NUMBA_CACHE_DIR=str(folder))) == 0


def test_a_kernel_cache_that_cannot_be_written_is_done_without(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(blocked))
    assert blocked.read_text() == ""


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_kernel_cache_is_done_without(tmp_path):
    tmp_path.chmod(0o500)
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="POSIX permissions")
def test_a_kernel_cache_that_others_can_write_is_not_trusted(tmp_path):
    tmp_path.chmod(0o777)
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path))
    for folder in [tmp_path, *(f for f in tmp_path.rglob("*") if f.is_dir())]:
        if folder.stat().st_mode & 0o022:
            assert not list(folder.glob("*.nbc")), "code was kept where others can replace it"


def test_FASTFISHER_CACHE_0_keeps_no_code(tmp_path):
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(tmp_path), FASTFISHER_CACHE="0")
    assert not list(tmp_path.rglob("*.nb?"))


def test_the_cache_is_used_the_second_time(warm_cache):
    before = {file: file.stat().st_mtime_ns for file in warm_cache.rglob("*.nbc")}
    start = time.monotonic()
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(warm_cache))
    after = {file: file.stat().st_mtime_ns for file in warm_cache.rglob("*.nbc")}
    assert after == before, f"recompiled in {time.monotonic() - start:.1f} s"


def test_kernels_run_without_the_compiler():
    """NUMBA_DISABLE_JIT=1: for debuggers and coverage."""
    run(
        """
        import numpy as np
        import fastfisher as ff
        G = np.random.default_rng(0).standard_normal((6, 3))
        A = G.T @ G / 6 + .1 * np.eye(3)
        with ff.options(reproducible=True):
            for method in ("primal", "dual", "cg"):
                x = ff.natural_gradient(G, damping=.1, method=method)
                assert np.allclose(x, np.linalg.solve(A, G.mean(axis=0))), method
        """,
        NUMBA_DISABLE_JIT="1",
    )


def test_oracle_agrees_once_through_the_front_door(rng):
    """The one end-to-end check that needs no other file."""
    G, w, g = rng.standard_normal((30, 7)), rng.random(30), rng.standard_normal(7)
    expected = np.linalg.solve(oracle.fisher(G, w) + 0.3 * np.eye(7), g)
    np.testing.assert_allclose(ff.natural_gradient(G, g, weights=w, damping=0.3), expected, rtol=1e-12)
