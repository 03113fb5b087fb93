"""What tests of every route share: the routes, and how far cg is to go."""

import pytest

from fastfisher.planning import records
from tests import matrices
from tests.tolerances import unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_methods = pytest.mark.parametrize("method", ["primal", "dual", "cg"])


@pytest.fixture(params=["one call", "stages"])
def small_problems(request, monkeypatch):
    """How primal problems of this size are solved: by the kernel for them, or like large ones."""
    if request.param == "stages":
        monkeypatch.setattr(records, "SMALL_ORDER", 0)


def tight(method, dtype):
    return {"rtol": 8 * unit_roundoff(dtype)} if method == "cg" else {}
