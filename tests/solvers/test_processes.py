"""Threads, forks, interruptions, and the cache of compiled code, each in a fresh interpreter."""

import os
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

ROOT = Path(__file__).parents[2]


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


# Equal bits on any number of threads -------------------------------------------------------------

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
                settings = dict(damping=ff.Relative(.1), weights=w, center=True, method=method)
                sol = ff.solve(G, **side, **settings)
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
    numba = run(BITS.replace("THREADS", "(3,)"), NUMBA_NUM_THREADS="3", FASTFISHER_THREADS="numba")
    assert one == three == numba


BLAS_BITS = """
    import numpy as np
    import fastfisher as ff
    rng = np.random.default_rng(7)
    for n, p in ((20_000, 10), (50_000, 4), (60_000, 1), (60, 30_000)):
        G, coef = rng.standard_normal((n, p)), rng.standard_normal(n)
        for center in (False, True):
            with ff.options(reproducible=True):
                x = ff.solve(G, coef=coef, damping=0.1, center=center).x
            print(x.tobytes().hex()[:4000])
"""


def test_law_26_2_same_bits_on_any_number_of_threads_of_blas():
    assert run(BLAS_BITS, OPENBLAS_NUM_THREADS="1") == run(BLAS_BITS, OPENBLAS_NUM_THREADS="2")


# Threads, processes, interruptions ---------------------------------------------------------------


def test_four_python_threads_solve_at_once(rng):
    problems = [
        (rng.standard_normal(shape), method)
        for shape, method in [
            ((30_000, 20), "primal"),
            ((20, 30_000), "dual"),
            ((20_000, 30), "cg"),
            ((60, 60), "auto"),
        ]
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


def layers(function):
    """Our own threads, where there are any, and Numba's."""
    return pytest.mark.parametrize(
        "threads",
        [
            {},
            {"FASTFISHER_THREADS": "numba", "NUMBA_THREADING_LAYER": "omp"},
            {"FASTFISHER_THREADS": "numba", "NUMBA_THREADING_LAYER": "workqueue"},
        ],
        ids=["own", "omp", "workqueue"],
    )(function)


@layers
def test_four_python_threads_on_either_threading_layer(threads):
    run(
        """
        import threading
        import numpy as np
        import fastfisher as ff
        G = np.random.default_rng(0).standard_normal((30_000, 40))  # beyond what runs serially
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
        **threads,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@layers
def test_a_child_forked_after_use_computes(threads):
    run(
        """
        import os
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        import numpy as np
        import fastfisher as ff
        G = np.random.default_rng(0).standard_normal((30_000, 40))  # beyond what runs serially
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
        **threads,
    )


INTERRUPTED = """
    import os, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
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
            seen = np.vstack([G[:1], rows])
            exact = ff.solve(seen, np.ones(p), weights=w, center=center, damping=1e-2)
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


# The cache of compiled code ----------------------------------------------------------------------

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


@pytest.mark.parametrize(
    "damage",
    [truncated, lambda data: b"", lambda data: b"\0" * len(data), lambda data: b"garbage"],
    ids=["truncated", "empty", "zeros", "garbage"],
)
def test_a_damaged_kernel_cache_costs_a_compilation_not_a_crash(warm_cache, damage, tmp_path):
    """The index of one kernel and the code of another, each of which is told of."""
    folder = tmp_path / "kernels"
    shutil.copytree(warm_cache, folder)
    for kernel in ("*._diag-*.nbi", "*.rows_double-*.nbc"):
        (file,) = folder.rglob(kernel)
        file.write_bytes(damage(file.read_bytes()))
    assert int(run(FIRST_CALL, NUMBA_CACHE_DIR=str(folder))) == 2
    assert int(run(FIRST_CALL, NUMBA_CACHE_DIR=str(folder))) == 0


def test_a_kernel_cache_that_cannot_be_written_is_done_without(tmp_path):
    blocked = tmp_path / "a file, not a folder"
    blocked.write_text("")
    run(FIRST_CALL, NUMBA_CACHE_DIR=str(blocked))
    assert blocked.read_text() == ""


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
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
