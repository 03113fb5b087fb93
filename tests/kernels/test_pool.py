"""The threads that kernels run on: every task once, whoever comes and whenever."""

import os
import subprocess
import sys
import threading
import time

import numba
import numpy as np
import pytest

from fastfisher.kernels.cpu import pool as module
from fastfisher.kernels.cpu import posix
from fastfisher.kernels.cpu.jit import kernel
from fastfisher.kernels.cpu.parallel import NumbaThreads, for_each
from fastfisher.kernels.cpu.threads import driver
from tests.kernels.test_threads import ROOT

needs_threads = pytest.mark.skipif(not module.AVAILABLE, reason="no threads of our own here")
THREADS = 3


@kernel
def _visit(t, thread, visits, seen):
    visits[t] += 1
    seen[thread, t] += 1


@driver
def _visit_all(launch, visits, seen):
    for_each(launch, _visit, visits.size, (visits, seen))


@pytest.fixture(scope="module", params=["own", "numba"])
def team(request):
    if not module.AVAILABLE:
        pytest.skip("no threads of our own here")
    team = module.Pool(THREADS) if request.param == "own" else NumbaThreads(THREADS)
    yield team
    if request.param == "own":
        team.stop()


def run(team, count, threads):
    visits, seen = np.zeros(count, np.int64), np.zeros((256, count), np.int64)
    team.enter(threads)
    try:
        _visit_all.compiled(team.address, visits, seen)
    finally:
        team.leave()
    assert (visits == 1).all() and (seen.sum(0) == 1).all()
    return np.flatnonzero(seen.sum(1))


@pytest.mark.parametrize("count", (0, 1, 2, 3, 64, 5000))
@pytest.mark.parametrize("threads", (1, 2))
def test_every_task_runs_once_on_one_of_the_threads(team, count, threads):
    if isinstance(team, NumbaThreads) and threads > 1:
        threads = min(threads, module.numba.config.NUMBA_NUM_THREADS)
    for _ in range(200):
        used = run(team, count, threads)
        assert used.size <= threads and used.max(initial=0) < threads


@needs_threads
def test_jobs_follow_each_other_at_any_pace():
    own = module.Pool(THREADS)
    rng = np.random.default_rng(0)
    for pause in rng.choice((0, 0, 0, 2e-5, 1e-4, 2e-4, 1e-3), 3000):
        run(own, 7, THREADS)
        time.sleep(pause) if pause else None
    own.stop()


needs_sets = pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="cores are not assigned here"
)


@needs_threads
@needs_sets
def test_threads_that_were_woken_may_run_wherever_they_might_before():
    team, cores = module.Pool(THREADS), os.sched_getaffinity(0)
    try:
        for _ in range(500):  # bursts, between which they sleep
            time.sleep(0.0003)
            for _ in range(3):
                run(team, 64, THREADS)
        os.sched_setaffinity(0, {min(cores)})  # of this thread alone
        time.sleep(0.01)
        run(team, 64, THREADS)
        until = time.monotonic() + 60
        while any(os.sched_getaffinity(own.native_id) != cores for own in team._own):
            assert time.monotonic() < until, "a thread was left without some core"
            time.sleep(0.01)
            run(team, 64, THREADS)
    finally:
        os.sched_setaffinity(0, cores)
        team.stop()


@needs_threads
@needs_sets
def test_a_thread_is_kept_off_one_core_unless_it_has_no_other():
    @numba.njit
    def keep_off(thread, core, place):
        return posix.allowed_cores(0, place) and posix.keep_off(thread, core, place)

    words, done = np.zeros(posix.CORES, np.uint8), threading.Event()
    other = threading.Thread(target=done.wait)
    other.start()
    mine = os.sched_getaffinity(0)
    first = min(mine)
    try:
        moved = keep_off(other.native_id, first, words.ctypes.data)
        assert moved is (len(mine) > 1)
        assert os.sched_getaffinity(other.native_id) == (mine - {first} or mine)
        os.sched_setaffinity(0, {first})  # this thread alone
        assert not keep_off(other.native_id, first, words.ctypes.data)
        assert os.sched_getaffinity(other.native_id) == (mine - {first} or mine)
    finally:
        os.sched_setaffinity(0, mine)
        done.set()
        other.join()


@needs_threads
def test_threads_end_when_told_whatever_they_do():
    for pause in (0, 1e-4, 0.02):
        own = module.Pool(THREADS)
        run(own, 5, THREADS)
        time.sleep(pause)
        own.stop()
        assert not any(thread.is_alive() for thread in own._own)
    assert module.Pool(1).stop() is None


@needs_threads
def test_a_thread_that_does_not_come_is_not_waited_for():
    own = module.Pool(THREADS)
    own.stop()
    assert run(own, 100, THREADS).tolist() == [0]


@needs_threads
def test_every_task_runs_once_where_others_have_the_cores():
    own = module.Pool(THREADS)
    busy = [threading.Thread(target=_burn, daemon=True) for _ in range(4)]
    for thread in busy:
        thread.start()
    for _ in range(50):
        run(own, 100, THREADS)
    for thread in busy:
        thread.join()
    own.stop()


def _burn():
    until = time.monotonic() + 0.5
    while time.monotonic() < until:
        np.sort(np.random.default_rng(0).random(20000))


@needs_threads
def test_a_process_ends_while_its_threads_look_out_for_work():
    code = (
        "import numpy as np, fastfisher as ff\n"
        "G = np.ones((30000, 40))\n"
        "ff.ops.syrk(G)\n"
        "print(ff.info()['threading_layer'])"
    )
    for _ in range(3):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        assert done.returncode == 0 and not done.stderr, done
    assert done.stdout.strip() == "own"
