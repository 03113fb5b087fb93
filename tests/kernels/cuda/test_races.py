"""Barriers, shared memory and asynchronous copies of the CUDA kernels, watched by racing.py."""

import importlib.util
import re

import pytest

from tests.kernels.cuda.raced import CONTROLS, KERNELS, broken, raced
from tests.kernels.cuda.simulated import SIMULATOR
from tests.kernels.processes import in_a_process

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed"
)


@pytest.fixture(scope="module")
def found():
    return in_a_process(raced, **SIMULATOR)


@pytest.fixture(scope="module")
def control():
    return in_a_process(broken, **SIMULATOR)


@pytest.mark.parametrize("group", KERNELS, ids=[f"cuda-{name}" for name in KERNELS])
def test_no_two_threads_touch_an_element_without_a_barrier_between(group, found):
    assert found[0][group] == []


def test_every_cuda_barrier_keeps_two_accesses_apart(found):
    _, needless, barriers = found
    assert barriers > 30 and needless == []


@pytest.mark.parametrize("name", CONTROLS, ids=[f"cuda-{name}" for name in CONTROLS])
def test_a_kernel_that_is_wrong_is_seen_to_be(name, control):
    said, needed = control
    if CONTROLS[name] is None:
        assert said[name] == [] and needed == 1
    else:
        assert any(re.search(CONTROLS[name], sentence) for sentence in said[name]), said[name]
