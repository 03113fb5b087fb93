"""Profiles for the tests of planning."""

import json

import pytest

from fastfisher import planning
from fastfisher.planning import fingerprint
from fastfisher.planning.rates import FORMAT


@pytest.fixture
def write_profile(profile_file):
    """A function that writes a profile of this machine and makes planning read it anew.

    Points are {entry: [(size, flops, rate), ...]} for float64; `changes` replace what it records.
    """

    def write(points=None, **changes):
        facts = {
            "format": FORMAT,
            "machine": fingerprint(),
            "date": "2026-01-02",
            "bandwidth": 1e10,
            "overhead": 1e-5,
            "call": 2e-5,
            "conversion": 1e9,
            "points": {name: {"float64": rows} for name, rows in (points or {}).items()},
        }
        profile_file.write_text(json.dumps(facts | changes))
        planning.forget_profile()
        return profile_file

    return write
