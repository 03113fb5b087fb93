"""What tests of every route share: the routes, and how far cg is to go."""

import pytest

from tests import matrices
from tests.tolerances import unit_roundoff

over_dtypes = pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
over_methods = pytest.mark.parametrize("method", ["primal", "dual", "cg"])


def tight(method, dtype):
    return {"rtol": 8 * unit_roundoff(dtype)} if method == "cg" else {}
