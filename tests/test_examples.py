"""The examples in the docstrings of models and statistics print what they say."""

import doctest
import importlib
import pkgutil

import pytest

MODULES = sorted(
    module.name
    for room in ("models", "stats")
    for module in pkgutil.iter_modules(
        importlib.import_module(f"fastfisher.{room}").__path__, f"fastfisher.{room}."
    )
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_print_what_they_say(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0
