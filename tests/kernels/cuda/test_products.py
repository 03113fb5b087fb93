"""The CUDA products in the simulator: tensor cores, half precision, cut sums, wide rows, tokens."""

import importlib.util

import pytest

from tests.kernels.cuda.products import CHECKS, run
from tests.kernels.cuda.simulated import SIMULATOR
from tests.kernels.processes import in_a_process
from tests.tolerances import assert_ratio

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


@pytest.fixture(scope="module")
def found():
    return in_a_process(run, [*CHECKS, "one_product_of_tf32"], **SIMULATOR)


@pytest.mark.parametrize("name", CHECKS)
def test_cuda_products_in_the_simulator(name, found):
    assert isinstance(found[name], float), found[name]
    assert_ratio(found[name], CHECKS[name][1], name)


def test_the_cuda_check_of_three_products_sees_one(found):
    assert 2**10 < found["one_product_of_tf32"] < 2**14
