"""Input files for the command."""

import numpy as np
import pytest

from tests import matrices


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """A folder of inputs; tests write elsewhere, and at the end every file must be as it was."""
    folder = tmp_path_factory.mktemp("inputs")
    real = matrices.scores(40, 12, seed=1)
    wide = matrices.scores(15, 60, "complex128", seed=2)
    nan = real.copy()
    nan[7, 3] = np.nan
    arrays = {
        "G": real,
        "fortran32": np.asfortranarray(matrices.scores(40, 12, "float32", seed=3)),
        "big": matrices.scores(40, 12, ">f8", seed=1),
        "wide": wide,
        "g": matrices.generator("g").standard_normal(12),
        "short": np.ones(9),
        "w": np.arange(40) % 4,
        "nan": nan,
        "cube": np.ones((2, 2, 2)),
        "integers": np.ones((4, 2), int),
        "huge": np.zeros((0, 2**45)),
        "hard": matrices.scores(400, 40, seed=4, cond=1e12),
    }
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    np.save(folder / "objects.npy", np.array([[1.0, None]]), allow_pickle=True)
    content = (folder / "G.npy").read_bytes()
    (folder / "truncated.npy").write_bytes(content[:-8])
    (folder / "trailing.npy").write_bytes(content + b"\0")
    (folder / "text.npy").write_text("1 2 3\n")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    yield folder
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
