"""Scratch: aligned, used again when it is free and never before."""

import sys
import threading

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


def test_what_is_kept_is_bounded_and_large_arrays_are_not_kept(monkeypatch):
    monkeypatch.setattr(memory, "LARGEST", 1000)
    monkeypatch.setattr(memory, "KEPT", 3000)
    for size in range(100, 2000, 50):
        memory.aligned((size,), "u1")
    kept = memory._own.kept
    assert kept and sum(b.size for b in kept) <= 3000 and max(b.size for b in kept) <= 1000
    assert all(sys.getrefcount(b) <= 3 for b in kept)


def test_each_thread_has_its_own():
    mine = memory.aligned((100,), "f8")
    place, theirs = mine.ctypes.data, []
    del mine
    thread = threading.Thread(target=lambda: theirs.append(memory.aligned((100,), "f8")))
    thread.start()
    thread.join()
    assert theirs[0].ctypes.data != place
