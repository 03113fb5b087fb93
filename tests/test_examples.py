"""The examples in the docstrings print what they say."""

import doctest
import importlib.util
import pkgutil
from pathlib import Path

import pytest

import fastfisher

DEVICES = ("fastfisher.kernels", "fastfisher.devices", "fastfisher.solvers.device")
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(fastfisher.__path__, "fastfisher.")
    if not module.name.startswith(DEVICES)
    and ">>> " in Path(importlib.util.find_spec(module.name).origin).read_text()
)


def test_most_rooms_have_examples():
    rooms = {name.split(".")[1] for name in MODULES}
    assert rooms >= {"api", "damping", "fisher", "models", "ops", "optim", "planning", "stats"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and result.failed == 0
