"""Fixtures and hypothesis profiles for the whole suite."""

import os
import zlib

if "PYTEST_XDIST_WORKER" in os.environ:  # before NumPy: the spinning pools of two workers
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import hypothesis
import numpy as np
import pytest

os.environ.setdefault("FASTFISHER_PROFILE", "off")  # a user's measurements decide nothing here

hypothesis.settings.register_profile("dev", max_examples=30, deadline=None)
hypothesis.settings.register_profile("ci", max_examples=60, deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")


@pytest.fixture
def rng(request):
    """A generator seeded by the test's id: the same numbers in any order, alone or in a run."""
    return np.random.default_rng(zlib.crc32(request.node.nodeid.encode()))


@pytest.fixture
def profile_file(tmp_path, monkeypatch):
    """A file that FASTFISHER_PROFILE names; nothing of it is remembered afterwards."""
    from fastfisher import planning

    path = tmp_path / "profile.json"
    monkeypatch.setenv("FASTFISHER_PROFILE", str(path))
    planning.forget_profile()
    yield path
    monkeypatch.undo()
    planning.forget_profile()
