"""Machine code is made once: of drivers and entries, with the kernels inside."""

import numba
import numpy as np
import pytest

from fastfisher.kernels.cpu import jit
from fastfisher.kernels.cpu.parallel import for_each

pytestmark = pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")


@jit.kernel
def _twice(x):
    return 2 * x


@jit.kernel
def _task(t, out, factor):
    if factor > 0:
        out[t] += _twice(factor) * t


@jit.driver
def _run(launch, out, factor):
    for_each(launch, _task, out.size, (out, factor))


@pytest.mark.parametrize("size", (3, 10 * jit.SMALL))  # on this thread, on several
def test_a_driver_holds_the_code_of_its_task_and_kernels(size):
    out = np.ones(size)
    _run(out, 3)
    np.testing.assert_array_equal(out, 1 + 6.0 * np.arange(size))
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
    def task(t, out):
        out.no_such_method(t)

    @jit.compiled
    def run(launch, out):
        for_each(launch, task, out.size, (out,))

    with pytest.raises(numba.core.errors.NumbaError, match="no_such_method"):
        run(0, np.ones(3))
