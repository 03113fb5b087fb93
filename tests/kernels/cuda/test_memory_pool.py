"""The pool of device memory, whose logic needs no device; ids carry `cuda` as the rest here."""

import gc
import weakref

import pytest

from fastfisher.kernels.cuda.pool import BLOCK_BYTES, KEPT_BYTES, Pool


class Driver:
    """Hands out numbers for blocks, as long as there is room."""

    def __init__(self, room=1 << 40):
        self.room, self.made, self.pool = room, [], Pool(self.allocate)

    def allocate(self, size):
        if sum(self.made) + size > self.room:
            if self.pool.kept == 0:
                raise MemoryError("out of memory")
            self.made = [0]  # what was kept is about to be freed
            raise MemoryError("out of memory")
        self.made.append(size)
        return object()


def test_cuda_blocks_are_handed_out_again_in_their_place_only():
    driver = Driver()
    lease = driver.pool.take((0, 7), 1000)
    block = lease.block
    assert driver.pool.take((0, 7), 1000).block is not block, "it is in use"
    del lease
    assert driver.pool.kept == 2 * 1024
    assert driver.pool.take((0, 8), 1000).block is not block, "another stream"
    assert driver.pool.take((1, 7), 1000).block is not block, "another device"
    assert driver.pool.take((0, 7), 3000).block is not block, "another size"
    assert driver.pool.take((0, 7), 1020).block is block


def test_a_cuda_block_in_a_cycle_of_garbage_is_not_freed_before_it_goes_back():
    freed = []

    class Block:
        def __init__(self, size):
            weakref.finalize(self, freed.append, size)

    pool = Pool(Block)
    cycle = [pool.take((0, 0), 512)]
    cycle.append(cycle)
    del cycle
    gc.collect()
    assert freed == [] and pool.kept == 512
    pool.clear()
    assert freed == [512]


@pytest.mark.parametrize("size", [1, 511, 513, 10**6 + 1, 10**9 + 1])
def test_cuda_blocks_are_hardly_larger_than_they_must_be(size):
    driver = Driver()
    driver.pool.take((0, 0), size)
    assert size <= driver.made[0] <= size + max(512, size // 8)


def test_the_cuda_pool_keeps_no_more_than_it_may():
    driver = Driver()
    driver.pool.take((0, 0), 2 * BLOCK_BYTES)
    assert driver.pool.kept == 0, "too large to keep"
    leases = [driver.pool.take((0, 0), BLOCK_BYTES // 2) for _ in range(12)]
    first, last = leases[0].block, leases[-1].block
    while leases:
        del leases[0]
    assert driver.pool.kept == KEPT_BYTES
    leases = [driver.pool.take((0, 0), BLOCK_BYTES // 2) for _ in range(8)]
    assert leases[0].block is last, "the last one back is the first one out"
    assert all(lease.block is not first for lease in leases), "the longest unused were freed"


def test_the_cuda_pool_gives_back_what_it_keeps_where_there_is_no_room():
    driver = Driver(room=4096)
    driver.pool.take((0, 0), 2048)
    driver.pool.take((0, 0), 3072)
    assert driver.pool.kept == 3072
    with pytest.raises(MemoryError):
        Driver(room=100).pool.take((0, 0), 512)
