"""What `import fastfisher` costs, and that its names exist."""

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numba
import pytest

import fastfisher as ff
from fastfisher.kernels.cpu import jit, linking

ROOT = Path(__file__).parents[1]


def modules_after(code):
    code = textwrap.dedent(code) + "\nimport sys\nprint(' '.join(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


NEVER = {
    "torch",
    "jax",
    "matplotlib",
    "sklearn",
    "pandas",
    "numba.cuda",
    "cupy",
    "dask",
    "statsmodels",
}


def test_import_loads_numpy_at_most():
    loaded = modules_after("import fastfisher")
    assert not loaded & (NEVER | {"numba", "llvmlite", "scipy", "scipy.linalg", "safetensors"})


def test_planning_and_errors_need_no_compiler():
    loaded = modules_after(
        """
        import fastfisher as ff
        ff.plan(100, 10), ff.errors.InputError, ff.Tikhonov(1.0), ff.options
        """
    )
    assert not loaded & (NEVER | {"numba", "llvmlite"})


def test_a_solve_never_loads_the_edges():
    loaded = modules_after(
        """
        import numpy as np
        import fastfisher as ff
        ff.natural_gradient(np.eye(3), damping=1.0)
        ff.DenseFisher(3).update(np.eye(3)).solve(damping=1.0)
        ff.info()
        """
    )
    assert not loaded & (NEVER - {"numba.cuda"})
    assert not any(name.startswith("numba.cuda") for name in loaded)
    assert not loaded & {"fastfisher.cli", "fastfisher.demo", "fastfisher.plots"}


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="needs the JIT compiler")
@pytest.mark.skipif(jit.cache_folder() is None, reason="code is not kept")
@pytest.mark.skipif(not linking.KNOWN, reason="this Numba loads code its own way")
def test_a_small_solve_from_the_cache_needs_no_compiler_and_no_scipy():
    code = """
        import numpy as np
        import fastfisher as ff
        ff.solve(np.eye(50, 4), np.ones(4), damping=1.0)
        """
    modules_after(code)  # compiled by now
    loaded = modules_after(code)
    assert "numba" in loaded and "scipy.linalg" not in loaded
    assert "numba.np.linalg" not in loaded  # what compiling anything begins with


def test_listing_the_package_loads_nothing():
    loaded = modules_after("import fastfisher; dir(fastfisher)")
    assert "numba" not in loaded


def test_every_public_name_resolves_and_is_listed():
    assert dir(ff) == sorted(ff.__all__) and len(set(ff.__all__)) == len(ff.__all__)
    for name in ff.__all__:
        assert getattr(ff, name) is not None
    namespace = {}
    exec("from fastfisher import *", namespace)
    assert set(ff.__all__) <= set(namespace)


@pytest.mark.parametrize(
    "name",
    "errors ops planning solvers fisher damping arrays models optim stats".split(),
)
def test_every_name_of_a_room_resolves(name):
    module = importlib.import_module(f"fastfisher.{name}")
    for public in module.__all__:
        assert hasattr(module, public), f"{name}.{public}"


CONTRACT = {
    "natural_gradient",
    "solve",
    "plan",
    "info",
    "warmup",
    "set_num_threads",
    "options",
    "ops",
    "errors",
    "optim",
    "models",
    "stats",
    "load",
    "DenseFisher",
    "DiagonalFisher",
    "GramFisher",
    "Tikhonov",
    "Relative",
    "Marquardt",
    "LevenbergMarquardt",
    "Solution",
    "Plan",
    "__version__",
}
OPS = {
    "syrk",
    "gram",
    "group_sums",
    "fvp",
    "matvec",
    "rmatvec",
    "diag",
    "cholesky",
    "cho_solve",
    "batched_metric_solve",
    "batched_solve",
    "batched_syrk",
    "block_cholesky",
    "block_solve",
    "block_syrk",
    "layered_diag",
    "layered_gram",
}


def test_the_contract_is_there():
    assert set(ff.__all__) >= CONTRACT
    assert set(ff.ops.__all__) == OPS


def test_every_module_can_be_imported():
    """Those that nothing on a host without a device asks for, too."""
    loaded = modules_after(
        """
        import importlib, pkgutil, fastfisher
        for module in pkgutil.walk_packages(fastfisher.__path__, "fastfisher."):
            if not module.name.startswith(("fastfisher.__main__", "fastfisher.kernels.cuda.")):
                importlib.import_module(module.name)
        """
    )
    assert "fastfisher.solvers.device.mixed" in loaded


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'fastfisher' has no attribute 'solv'"):
        getattr(ff, "solv")  # noqa: B009


@pytest.mark.parametrize(
    "name", sorted(CONTRACT - {"__version__", "ops", "errors", "optim", "models", "stats"})
)
def test_public_names_are_documented(name):
    thing = getattr(ff, name)
    assert thing.__doc__ and thing.__doc__.strip()[0].isalnum(), name


def test_version_is_the_distribution_version():
    from importlib import metadata

    try:
        assert metadata.version("fastfisher") == ff.__version__
    except metadata.PackageNotFoundError:
        assert ff.__version__.count(".") == 2
