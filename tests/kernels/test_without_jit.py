"""NUMBA_DISABLE_JIT=1: vector code has twins in NumPy, for debuggers, coverage and odd machines."""

import pytest

from tests.kernels.every_op import LIMIT, OPS, examine, in_a_process
from tests.matrices import DTYPES
from tests.tolerances import assert_ratio


@pytest.fixture(scope="module")
def found():
    dtypes = [dtype.name for dtype in DTYPES]
    return in_a_process(examine, OPS, dtypes, NUMBA_DISABLE_JIT="1")


@pytest.mark.slow
@pytest.mark.parametrize("op", OPS)
def test_every_kernel_is_right_without_the_compiler(found, op):
    result = found[op]
    assert_ratio(result["error"], LIMIT, f"{op} {result['case']}")
