"""What the CUDA products are compiled to, for sm_80 and sm_90; there need be no device.

What is launched fits the device, no register is spilled, and tensor cores and asynchronous copies
are where they are meant to be.
"""

import re

import numpy as np
import pytest

from fastfisher.kernels import cuda

if (missing := cuda._missing()) is not None:
    pytest.skip(missing, allow_module_level=True)

from fastfisher.kernels.cuda import compat
from fastfisher.kernels.cuda.diag import diag, scan
from fastfisher.kernels.cuda.gram import gram, plain_gram
from fastfisher.kernels.cuda.layered import layered_gram
from fastfisher.kernels.cuda.matvec import fvp, matvec, rmatvec
from fastfisher.kernels.cuda.moments import layered_diag
from fastfisher.kernels.cuda.syrk import mirror, plain_syrk, syrk
from tests.kernels.cuda.compiling import CAPABILITIES, compiled

pytestmark = pytest.mark.skipif(compat.SIMULATED, reason="the simulator compiles nothing")

N = 200  # one share; few enough to cost nothing


def _square(op, n, p, stored, changed=False):
    def call():
        a = np.empty((n, p), stored)
        real = a.dtype if a.dtype.itemsize > 2 else np.dtype("float32")
        of_rows, of_columns = (np.empty(size if changed else 0, real) for size in (n, p))
        if op in (syrk, plain_syrk):
            op(np.empty((p, p)), a, of_rows, of_columns)
        else:
            op(np.empty((n, n)), a, 0, p, of_columns, of_columns)

    return call


def _vectors(op, p, stored, k=1):
    def call():
        real = "float32" if stored == "float16" else stored
        a, none = np.empty((N, p), stored), np.empty(0, real)
        v, u = np.empty((k, p), real), np.empty((k, N), real)
        if op is fvp:
            op(np.empty((k, p)), a, v, none, none)
        elif op is matvec:
            op(np.empty((k, N)), a, v, none)
        elif op is rmatvec:
            op(np.empty((k, p)), a, u, none)
        elif op is diag:
            op(np.empty(p), a, none, none)
        else:
            op(np.empty(N, bool), a)

    return call


def _layered(tokens, stored, op=layered_gram):
    def call():
        a, e = np.empty((N * tokens, 40), stored), np.empty((N * tokens, 30), stored)
        op(np.empty((N, N) if op is layered_gram else (30, 40)), a, e, tokens)

    return call


# name: (call, the instruction that sums, kinds of asynchronous copies)
DOUBLE, TF32, PLAIN = r"mma\.sync.*f64", r"mma\.sync.*tf32", r"fma\.rn\.f(32|64)"
WIDE, NARROW = r"cp\.async\.cg.* 16,", r"cp\.async\.ca"
TILES = {
    "syrk float64": (_square(syrk, N, 512, "float64"), DOUBLE, WIDE),
    "syrk float64 thin, in shares": (_square(syrk, 5000, 9, "float64", True), DOUBLE, NARROW),
    "syrk float32": (_square(syrk, N, 512, "float32"), TF32, WIDE),
    "gram float64": (_square(gram, N, 512, "float64"), DOUBLE, WIDE),
    "gram float64 changed": (_square(gram, N, 512, "float64", True), DOUBLE, WIDE),
    "gram float32 changed": (_square(gram, N, 512, "float32", True), TF32, WIDE),
    "gram bfloat16": (_square(gram, N, 510, "uint16"), TF32, NARROW),
    "plain_syrk float32": (_square(plain_syrk, N, 512, "float32"), PLAIN, WIDE),
    "plain_gram float64": (_square(plain_gram, N, 512, "float64"), PLAIN, NARROW),
    "layered_gram float64": (_layered(1, "float64"), DOUBLE, WIDE),
    "layered_gram float32 tokens": (_layered(3, "float32"), TF32, NARROW),
    "layered_diag float32": (_layered(3, "float32", layered_diag), PLAIN, NARROW),
}
OTHERS = {
    "mirror": lambda: mirror(np.empty((50, 50))),
    "fvp float64": _vectors(fvp, 4096, "float64"),
    "fvp float32": _vectors(fvp, 1000, "float32", 4),
    "fvp float64 wide": _vectors(fvp, 9000, "float64"),
    "matvec float64": _vectors(matvec, 9000, "float64", 4),
    "rmatvec float32": _vectors(rmatvec, 9, "float32"),
    "diag float16": _vectors(diag, 300, "float16"),
    "scan float32": _vectors(scan, 300, "float32"),
}
over_capabilities = pytest.mark.parametrize(
    "capability", CAPABILITIES, ids=["sm_{}{}".format(*c) for c in CAPABILITIES]
)


def fits(kernels):
    """Every kernel, after a look at what it takes of a multiprocessor."""
    for kernel in kernels:
        assert not kernel.spilled and not kernel.stack, f"{kernel.name} spills registers"
        assert kernel.registers * kernel.threads <= 65536, f"{kernel.name} has too many registers"
        assert not kernel.count(r"ld\.local"), f"{kernel.name} keeps arrays in memory"
        assert not kernel.count(r"(atom|red)\."), f"{kernel.name} sums in no fixed order"
    return kernels


@over_capabilities
@pytest.mark.parametrize("name", TILES)
def test_cuda_products_of_tiles(name, capability):
    call, instruction, copies = TILES[name]
    hot, *_ = fits(compiled(call, capability))
    assert hot.count(instruction), f"{hot.name} does not use {instruction}"
    assert hot.count(copies) and hot.count(r"cp\.async\.wait_group")
    assert not hot.count(r"ld\.[fubv]\d"), "an address space is not known"
    tiles, *_ = re.findall(r"\.shared \.align (\d+)", hot.ptx)
    assert int(tiles) >= 16, "16 bytes are copied to where they may not lie"
    if instruction == DOUBLE:
        assert hot.count(r"mma\.sync\S*m16n8k8") == (capability >= (9, 0)) * hot.count(DOUBLE)


@over_capabilities
@pytest.mark.parametrize("name", OTHERS)
def test_cuda_products_with_vectors(name, capability):
    assert fits(compiled(OTHERS[name], capability))


def test_cuda_registers_that_are_indexed_by_a_variable_are_seen():
    @compat.cuda.jit
    def rolled(x, k):
        local = compat.cuda.local.array(64, compat.types.float64)
        for u in range(64):
            local[u] = x[u]
        x[0] = local[k]

    with pytest.raises(AssertionError, match="rolled"):
        fits(compiled(lambda: compat.launch(rolled, 1, 1, np.empty(64), 3), CAPABILITIES[0]))


def test_cuda_arrays_overlap_as_numpy_says_of_the_same_bounds():
    class Seen:
        """A NumPy array as a device array shows itself."""

        def __init__(self, a):
            self.shape, self.strides, self.size, self.dtype = a.shape, a.strides, a.size, a.dtype
            self.__cuda_array_interface__ = a.__array_interface__

    a = np.zeros((6, 4))
    parts = [a, a[:3], a[3:], a[::-1], a[2::-1, 1:], a[:, :2], a[:, 2:], a[:0], a[2:3, 1], a.copy()]
    verdicts = set()
    for x in parts:
        for y in parts:
            expected = np.may_share_memory(x, y)
            assert compat.overlaps(Seen(x), Seen(y)) == expected, (x.shape, y.shape)
            verdicts.add(expected)
    assert verdicts == {True, False}
