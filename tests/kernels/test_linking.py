"""Machine code is made once: of drivers and entries, with the kernels inside."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest

from fastfisher.kernels.cpu import jit, linking, threads
from fastfisher.kernels.cpu.parallel import for_each
from tests.kernels.test_threads import ROOT

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


@jit.kernel
def _twice(x):
    return 2 * x


@jit.kernel
def _task(t, thread, out, factor):
    if factor > 0:
        out[t] += _twice(factor) * t


@pytest.fixture(scope="module")
def run():
    """Compiled here: of code from the cache of an earlier run there are no parts to look at."""

    @threads.driver
    def run(launch, out, factor):
        for_each(launch, _task, out.size, (out, factor))

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTFISHER_CACHE", "0")
        assert run.compiled.overloads == {}
    return run


@pytest.mark.parametrize("size", (3, 10 * threads.SMALL))  # on this thread, on several
def test_a_driver_holds_the_code_of_its_task_and_kernels(size, run):
    out = np.ones(size)
    run(out, 3)
    np.testing.assert_array_equal(out, 1 + 6.0 * np.arange(size))
    if not linking.KNOWN:
        return
    assert not _task.overloads
    (compiled,) = _twice.overloads.values()
    assert not compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)


def test_one_kernel_serves_several_drivers_and_types():
    @jit.compiled
    def alone(x):
        return _twice(x) + 1

    assert alone(1.5) == 4
    assert alone(4) == 9
    assert alone(1 + 2j) == 3 + 4j


def test_what_is_wrong_in_a_task_is_said_when_its_driver_is_compiled():
    @jit.kernel
    def task(t, thread, out):
        out.no_such_method(t)

    @jit.compiled
    def run(launch, out):
        for_each(launch, task, out.size, (out,))

    with pytest.raises(numba.core.errors.NumbaError, match="no_such_method"):
        run(0, np.ones(3))


def test_with_a_numba_that_was_not_tried_its_own_way_is_taken(tmp_path):
    code = (
        "import numpy as np, fastfisher as ff\n"
        "from fastfisher.kernels.cpu import linking\n"
        "assert not linking.KNOWN\n"
        "G = np.random.default_rng(0).standard_normal((9000, 70))\n"
        "np.testing.assert_allclose(ff.ops.syrk(G), G.T @ G)\n"
        "L = ff.ops.cholesky(ff.ops.syrk(G))\n"
        "np.testing.assert_allclose(L @ L.T, G.T @ G)\n"
    )
    env = {**os.environ, "FASTFISHER_LINK": "numba", "NUMBA_CACHE_DIR": str(tmp_path)}
    for _ in range(2):  # compiled, and from the cache
        done = subprocess.run(
            [sys.executable, "-c", code], env=env, cwd=ROOT, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
