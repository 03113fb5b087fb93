"""fvp in strips of columns, a barrier between rounds: the bits of one pass, on any threads."""

import numpy as np
import pytest

from fastfisher.kernels.cpu import matvec, strips
from fastfisher.kernels.cpu.rows import real_rows
from fastfisher.kernels.cpu.splitting import BLOCK_ROWS
from fastfisher.kernels.cpu.sums import STRIPE
from tests import matrices
from tests.kernels.cases import operands


@pytest.mark.parametrize("count", (1, 2, 5), ids="{} strips".format)
@pytest.mark.parametrize("dtype", ("float32", "float64", "float16"))
def test_fvp_in_strips_has_the_bits_of_one_pass(dtype, count):
    computed = np.dtype("float64" if dtype == "float64" else "float32")
    for n, p in ((1, 9), (3, 4100), (8, STRIPE + 70), (BLOCK_ROWS + 7, 2500), (4200, 1100)):
        G, w = operands(n, p, computed).G.astype(dtype), matrices.weights(n, computed)
        v = matrices.gaussian((1, p), computed, matrices.generator("strips", n, p))
        for shift in v[0], v[0, :0]:
            y = np.zeros((1, p))
            matvec.fvp(y, G, v, w, shift)
            assert np.array_equal(strips.fvp(real_rows(G, shift), v, w, count), y)
