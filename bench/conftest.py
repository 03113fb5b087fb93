"""pytest-benchmark's share: which grid runs, and what a saved number must say about its machine."""

import pytest

from . import environment
from .contenders import CONTENDERS, names
from .grid import GRIDS


def pytest_addoption(parser):
    """``python -m pytest bench --grid full``."""
    parser.addoption("--grid", choices=GRIDS, default="quick", help="which cases to run")


def pytest_generate_tests(metafunc):
    """One test per case and contender."""
    if {"case", "contender"} <= set(metafunc.fixturenames):
        here = names()
        pairs = [
            pytest.param(case, name, id=f"{case.id}-{name}")
            for case in GRIDS[metafunc.config.getoption("--grid")]
            for name in CONTENDERS[case.op]
            if name in here
        ]
        metafunc.parametrize(("case", "contender"), pairs)


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info):
    """Features, versions and BLAS, which the plugin does not know."""
    machine_info["fastfisher"] = environment.describe()
    machine_info["contenders"] = {name: environment.contender(name) for name in names()}
