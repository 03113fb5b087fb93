"""The CUDA room mirrors that of the CPU, and says in one sentence why it cannot be used."""

import ast
import importlib
import importlib.util
import inspect
from pathlib import Path

import numpy as np
import pytest

import fastfisher
from fastfisher.errors import MissingDependencyError
from fastfisher.kernels import cuda, reference

ROOM = Path(fastfisher.__file__).parent / "kernels"


def functions(path):
    """{public op of the contract: its arguments} in a file, read, not imported."""
    tree = ast.parse(path.read_text())
    return {
        node.name: [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name in reference.__all__
    }


TWINS = {path.stem: functions(path) for path in (ROOM / "cuda").glob("*.py")}


@pytest.mark.parametrize("stem", [stem for stem, found in TWINS.items() if found])
def test_cuda_ops_have_the_files_names_and_arguments_of_the_cpu(stem):
    vendor = stem.startswith("vendor")
    on_cpu = functions(ROOM / "vendor.py" if vendor else ROOM / "cpu" / f"{stem}.py")
    for name, arguments in TWINS[stem].items():
        assert name in on_cpu, f"cuda/{stem}.py has {name}, cpu/{stem}.py has not"
        assert (
            arguments == on_cpu[name] == [*inspect.signature(getattr(reference, name)).parameters]
        )


def test_the_cuda_room_has_the_ops_that_solvers_need():
    found = {name for functions in TWINS.values() for name in functions}
    assert {"syrk", "gram", "mirror", "fvp", "cholesky", "solve_lower", "layered_gram"} <= found


def test_every_public_op_has_a_cuda_twin_with_its_arguments():
    found = {}
    for path in (ROOM.parent / "ops").glob("device*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef):
                found[node.name] = [a.arg for a in (*node.args.args, *node.args.kwonlyargs)]
    for name in fastfisher.ops.__all__:
        assert found[name] == [*inspect.signature(getattr(fastfisher.ops, name)).parameters], name


# Availability --------------------------------------------------------------------------------


def test_cuda_is_available_answers_without_an_error(monkeypatch):
    assert isinstance(cuda.is_available(), bool)
    assert (cuda.obstacle() is None) == cuda.is_available()

    def broken(name):
        raise RuntimeError("odd installation")

    monkeypatch.setattr(importlib.util, "find_spec", broken)
    assert not cuda.is_available() and "odd installation" in cuda.obstacle()


def test_cuda_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "numba-cuda" in cuda.obstacle() and "fastfisher[cuda]" in cuda.obstacle()
    with pytest.raises(MissingDependencyError, match=r"fastfisher\[cuda\]"):
        cuda.require()


def test_cuda_with_a_numpy_that_is_too_new_says_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delattr(np, "row_stack")
    with pytest.raises(MissingDependencyError, match=r"NumPy .* needs NumPy < 2.5"):
        cuda.require()


@pytest.mark.parametrize(
    "what, value, sentence",
    [
        ("environment", "", "hides every GPU"),
        ("environment", "-1,0", "hides every GPU"),
        ("_loads", False, "no NVIDIA driver"),
        ("_devices", 0, "sees no GPU"),
        ("_devices", 1, None),
        ("_devices", None, None),
    ],
)
def test_cuda_obstacles_are_one_sentence(monkeypatch, what, value, sentence):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.delenv("NUMBA_ENABLE_CUDASIM", raising=False)
    monkeypatch.setattr(cuda, "_missing", lambda: None)
    monkeypatch.setattr(cuda, "_loads", lambda: True)
    monkeypatch.setattr(cuda, "_devices", lambda: 1)
    if what == "environment":
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", value)
    else:
        monkeypatch.setattr(cuda, what, lambda: value)
    assert cuda.obstacle() is None if sentence is None else sentence in cuda.obstacle()


def test_the_cuda_simulator_counts_as_a_device(monkeypatch):
    monkeypatch.setattr(cuda, "_missing", lambda: None)
    monkeypatch.setenv("NUMBA_ENABLE_CUDASIM", "1")
    assert cuda.is_available()
