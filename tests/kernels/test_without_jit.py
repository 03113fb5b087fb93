"""NUMBA_DISABLE_JIT=1: vector code has twins in NumPy, for debuggers, coverage and odd machines."""

import pytest

from tests.kernels.every_op import LIMIT, OPS, examine
from tests.kernels.processes import in_a_process
from tests.tolerances import assert_ratio


def without_compiler(ops):
    """Complex numbers are two parts to a twin, of one precision or the other: in turn."""
    found = {}
    for i, op in enumerate(ops):
        found |= examine([op], ["float32", "float64", ("complex64", "complex128")[i % 2]])
    return found


@pytest.fixture(scope="module")
def found():
    return in_a_process(without_compiler, OPS, NUMBA_DISABLE_JIT="1")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_right_without_the_compiler(found, op):
    result = found[op]
    assert_ratio(result["error"], LIMIT, f"{op} {result['case']}")
