"""Scratch: aligned, used again when it is free and never before."""

import sys
import threading
import weakref

import numpy as np
import pytest

from fastfisher.kernels.cpu import memory


@pytest.fixture(autouse=True)
def nothing_kept(monkeypatch):
    monkeypatch.setattr(memory, "_own", threading.local())


def test_arrays_start_on_a_cache_line():
    for shape, dtype in (((3,), "f4"), ((5, 7), "f8"), ((1, 4), "c16"), ((1 << 20, 2), "f8")):
        a = memory.aligned(shape, dtype)
        assert a.shape == shape and a.dtype == dtype and a.ctypes.data % memory.LINE == 0
        assert a.flags.c_contiguous and a.flags.writeable
    assert memory.aligned((0, 4), "c16").shape == (0, 4)


def test_memory_is_used_again_only_when_nobody_refers_to_it():
    a = memory.aligned((100,), "f8")
    place, view = a.ctypes.data, a[10:].reshape(9, 10)
    del a
    b = memory.aligned((50,), "f8")
    assert not np.shares_memory(b, view)
    del view
    c = memory.aligned((80,), "f8")
    assert c.ctypes.data == place and not np.shares_memory(b, c)


def test_arrays_in_use_never_overlap():
    rng = np.random.default_rng(0)
    live = []
    for _ in range(500):
        if live and rng.random() < 0.5:
            live.pop(int(rng.integers(len(live))))
        a = memory.aligned((int(rng.integers(1, 3000)),), "f4")
        assert not any(np.shares_memory(a, b) for b in live)
        live.append(a)


def test_what_is_kept_is_bounded_and_larger_arrays_are_not_kept(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", 1000)
    monkeypatch.setattr(memory, "KEPT", 3000)
    for size in range(100, 2000, 50):
        memory.aligned((size,), "u1")
    kept = memory._own.kept
    sizes = [b.size for b, _ in kept]
    assert kept and sum(sizes) <= 3000 and max(sizes) <= 1000
    assert all(sys.getrefcount(b) <= 3 for b, _ in kept)
    assert all(b.ctypes.data == address for b, address in kept)


def test_a_large_buffer_waits_for_a_large_request(monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 1000)
    place = memory.aligned((50_000,), "u1").ctypes.data
    held = [memory.aligned((size,), "u1") for size in (900, 12_000)]
    assert [a.ctypes.data == place for a in held] == [False, False]
    assert memory.aligned((13_000,), "u1").ctypes.data == place


def test_threads_beside_the_main_one_keep_less(monkeypatch):
    monkeypatch.setattr(memory, "SMALL", 1000)
    monkeypatch.setattr(memory, "KEPT_SMALL", 3000)
    seen = []

    def work():
        for size in range(100, 2000, 50):
            memory.aligned((size,), "u1")
        seen.append([b.size for b, _ in memory._own.kept])

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    work()
    assert sum(seen[0]) <= 3000 and max(seen[0]) <= 1000
    assert sum(seen[1]) > 3000 and max(seen[1]) > 1000


def test_what_is_kept_is_given_back_on_demand():
    memory.aligned((1 << 20,), "f8")
    memory.aligned((100,), "f8")
    assert memory.kept_bytes() >= 8 << 20
    memory.forget(1 << 20)
    assert 800 <= memory.kept_bytes() < 1 << 20
    memory.forget()
    assert memory.kept_bytes() == 0
    assert memory.aligned((5,), "f8").size == 5


def test_memory_that_runs_out_is_asked_for_again_without_what_is_kept(monkeypatch):
    memory.aligned((1 << 20,), "f8")
    empty, seen = np.empty, []

    def scarce(*args, **kwargs):
        seen.append(memory.kept_bytes())
        if seen[-1]:
            raise MemoryError
        return empty(*args, **kwargs)

    monkeypatch.setattr(np, "empty", scarce)
    assert memory.aligned((3 << 20,), "f8").size == 3 << 20
    assert len(seen) == 2 and seen[0] >= 8 << 20


def test_scratch_that_is_no_scratch_again_belongs_to_who_asked():
    a = memory.aligned((9, 5), "f8", again=False)
    assert a.ctypes.data % memory.LINE == 0 and memory.kept_bytes() == 0


def test_each_thread_has_its_own():
    mine = memory.aligned((100,), "f8")
    place, theirs = mine.ctypes.data, []
    del mine
    thread = threading.Thread(target=lambda: theirs.append(memory.aligned((100,), "f8")))
    thread.start()
    thread.join()
    assert theirs[0].ctypes.data != place


def test_large_arrays_are_used_again_inside_a_block(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", 1000)
    with memory.large_kept():
        places = [memory.aligned((size,), "u1").ctypes.data for size in (9000, 9000, 4000)]
        assert len(set(places)) == 1 and not memory._own.__dict__.get("kept")
        held, other = memory.aligned((5000,), "u1"), memory.aligned((5000,), "u1")
        assert len(memory._own.large) == 2 and not np.shares_memory(held, other)
        with memory.large_kept():  # those of the block around it
            assert memory.aligned((100,), "u1").size and len(memory._own.large) == 2
        del held, other
        smallest = memory.aligned((5000,), "u1")
        assert smallest.base.size < 9000
        memory.aligned((20_000,), "u1")  # what is free, but has no room, goes
        assert [b.size > 20_000 for b, _ in memory._own.large] == [False, True]
        monkeypatch.setattr(memory, "MOST", 30_000)
        memory.aligned((29_000,), "u1")
        assert sum(b.size for b, _ in memory._own.large) <= 30_000
        del smallest
        watched = weakref.ref(memory._own.large[0][0])
    assert watched() is None and memory._own.large is None
    assert memory.aligned((5000,), "u1").size == 5000
