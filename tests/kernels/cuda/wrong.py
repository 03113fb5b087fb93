"""Kernels that are wrong, each in a way of its own, to see that racing.py sees it.

To be imported inside `racing.watching`, in the simulator.
"""

import numpy as np

from fastfisher.kernels.cuda import compat
from fastfisher.kernels.cuda.compat import cuda

DOUBLE = np.dtype(np.float64)


def _neighbour(wait):
    @cuda.jit
    def kernel(x):
        s = cuda.shared.array(2, DOUBLE)
        t = cuda.threadIdx.x
        s[t] = x[t]
        if wait:
            cuda.syncthreads()
        x[t] = s[1 - t]

    return kernel


barrier_left_out, nothing_wrong = _neighbour(False), _neighbour(True)


@cuda.jit
def barrier_in_every_second_place(x):
    s = cuda.shared.array(2, DOUBLE)
    t = cuda.threadIdx.x
    for k in range(2):
        s[t] = k
        cuda.syncthreads()
        x[t] = s[1 - t]


@cuda.jit
def thread_that_leaves(x):
    if cuda.threadIdx.x == 1:
        return
    cuda.syncthreads()


@cuda.jit
def barriers_in_two_branches(x):
    if cuda.threadIdx.x == 1:
        cuda.syncthreads()
    else:
        cuda.syncthreads()


@cuda.jit
def two_blocks_one_element(x):
    if cuda.threadIdx.x == 0:
        x[0] = cuda.blockIdx.x


@cuda.jit
def what_nobody_wrote(x):
    s = cuda.shared.array(2, DOUBLE)
    x[cuda.threadIdx.x] = s[cuda.threadIdx.x]


@cuda.jit
def copy_that_has_not_arrived(x):
    s = cuda.shared.array(2, DOUBLE)
    t = cuda.threadIdx.x
    compat.cp_async(8)(s, t, x, t, 8)
    compat.cp_async_commit()
    cuda.syncthreads()
    x[t] += s[1 - t]
    compat.cp_async_wait(0)()


@cuda.jit
def copy_that_is_not_waited_for(x):
    s = cuda.shared.array(2, DOUBLE)
    compat.cp_async(8)(s, cuda.threadIdx.x, x, cuda.threadIdx.x, 8)


@cuda.jit
def index_below_zero(x):
    x[cuda.threadIdx.x - 1] = 0
