"""float16 and bfloat16 scores: read as stored, to the bit what the same float32 scores give."""

import numba
import numpy as np
import pytest

from fastfisher.kernels.cpu import moves, twins
from fastfisher.kernels.cpu.isa import lanes, target, widens_halves
from fastfisher.kernels.cpu.splitting import SHARE_ROWS, SPLIT, THIN
from fastfisher.kernels.cpu.widen import LINE, ROWS, widen
from fastfisher.kernels.storage import HALVES
from tests.kernels import every_op
from tests.kernels.cases import ours
from tests.kernels.instruction_sets import HOST, environment
from tests.kernels.processes import in_a_process

bfloat16 = pytest.importorskip("ml_dtypes").bfloat16

OPS = ("syrk", "gram", "matvec", "rmatvec", "fvp", "wide_fvp", "diag", "scan")
FORMATS = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(bfloat16)}
STORED = {"float16": np.int16(1), "bfloat16": np.uint16(1)}  # as simd.STORED says
LARGE = (  # past the narrow sums, their shares, and the panels of one C
    (3 * SHARE_ROWS + 5, THIN - 5),
    (4 * SHARE_ROWS + 3, THIN + 6),
    (600, SPLIT + 3),
    (SPLIT + 3, 600),
    (THIN + 6, 4 * SHARE_ROWS + 3),
)
over_formats = pytest.mark.parametrize("name", HALVES)


def environments():
    """Where float16 is widened by an instruction, by integers on two widths, and by NumPy."""
    plain, avx2 = environment("plain"), {}
    if {"avx2", "fma", "f16c"} <= HOST:
        avx2 = {
            "F16C": environment("avx2"),
            "no F16C": {
                "NUMBA_DISABLE_JIT": "0",
                "NUMBA_CPU_NAME": "x86-64",
                "NUMBA_CPU_FEATURES": "+avx2,+fma",
            },
        }
    return {"plain": plain, **avx2, "no JIT": {"NUMBA_DISABLE_JIT": "1"}}


# Every number of a format --------------------------------------------------------------------


def expected(bits, name):
    with np.errstate(all="ignore"):
        return bits.view(FORMATS[name]).astype(np.float32)


def differing(found, bits, name):
    """How many patterns of 16 bits became another number; a NaN may become any NaN."""
    wanted = expected(bits, name)
    nan = np.isnan(wanted)
    same = np.where(nan, np.isnan(found), found.view(np.uint32) == wanted.view(np.uint32))
    return int((~same).sum())


def errors(name):
    """Patterns read wrongly by whole vectors, masked ones, blocks, single elements."""
    copy, transpose = (
        numba.njit(lambda *args: moves.copy_at(*args)),
        numba.njit(lambda *args: moves.transpose_at(*args)),
    )
    bits, n, stored = np.arange(1 << 16, dtype=np.uint16), lanes("float32"), STORED[name]
    one, found, at = np.float32(1), [], twins.address
    out = np.empty(1 << 16, np.float32)
    copy(at(out, 0), 0, at(bits, 0), bits.size, bits.size, one, 0, 0, stored)
    found.append(differing(out, bits, name))
    some = np.empty((-(-bits.size // (n - 1)), n), np.float32)
    for i, first in enumerate(range(0, bits.size, n - 1)):
        count = min(n - 1, bits.size - first)
        copy(at(some, i * n), 0, at(bits, first), count, n, one, 0, 0, stored)
    assert not some[:, -1].any()
    found.append(differing(np.ascontiguousarray(some[:, :-1]).reshape(-1)[: bits.size], bits, name))
    square = np.empty((256, 256), np.float32)
    transpose(at(square, 0), 256, 256, at(bits, 0), 256, 256, one, stored)
    found.append(differing(square.T.copy().reshape(-1), bits, name))
    column = np.empty((bits.size, 1), np.float32)
    transpose(at(column, 0), 1, 1, at(bits, 0), bits.size, bits.size, one, stored)
    found.append(differing(column.reshape(-1), bits, name))
    return found


def all_errors():
    instruction = widens_halves() if not numba.config.DISABLE_JIT else None
    return {"isa": target().name, "instruction": instruction, **{n: errors(n) for n in HALVES}}


@over_formats
def test_every_number_is_widened_exactly(name):
    assert errors(name) == [0, 0, 0, 0]


@pytest.mark.slow
def test_every_number_is_widened_exactly_with_and_without_the_instruction():
    ways = set()
    for label, variables in environments().items():
        found = in_a_process(all_errors, **variables)
        ways.add(found["instruction"])
        for name in HALVES:
            assert found[name] == [0, 0, 0, 0], (label, found)
    assert ways >= {False, None}


@over_formats
@pytest.mark.parametrize("size", (0, 1, 2 * LINE - 1, 2 * LINE, (ROWS + 4) * LINE + 17))
def test_widening_a_whole_array(name, size):
    bits = np.resize(np.arange(1 << 16, dtype=np.uint16), size)
    out = np.full(size + 1, 7, np.float32)
    with np.errstate(all="ignore"):
        widen(out[:size], bits.view(FORMATS[name]))
    assert out[size] == 7 and not differing(out[:size], bits, name)


# Every op ------------------------------------------------------------------------------------


def cases(op, large):
    """Arguments of an op in float32, the scores second."""
    data = every_op.Data(op, "float32")
    yield from getattr(every_op, "_" + op)(data)
    for shape in LARGE if large else ():
        for weighted, shifted in every_op.VARIANTS[::3]:
            per = shape[op == "gram"]
            weights = data.positive(per) if weighted else data.none
            shift = data.scores(shape[1]) if shifted else data.none
            if op == "syrk" and shape[0] >= shape[1] - 3:
                yield (data.sums(shape[1]), data.scores(*shape), weights, shift), [0]
            elif op == "gram" and shape[1] >= shape[0] - 3:
                arguments = (data.scores(*shape), 3, shape[1], weights, shift)
                yield (data.sums(shape[0]), *arguments), [0]


def differences(op, name, large=False):
    """Cases in which scores stored in half precision give other bits than in float32."""
    kernel, found = ours(op).load(), []
    for (out, scores, *others), written in cases(op, large):
        assert written == [0]
        with np.errstate(all="ignore"):
            half = (2 * scores).astype(FORMATS[name])
            outs = out.copy(), out.copy()
            before = half.tobytes()
            returned = kernel(outs[0], half, *others), kernel(outs[1], half.astype("f4"), *others)
        if outs[0].tobytes() != outs[1].tobytes() or returned[0] != returned[1]:
            found.append(list(scores.shape))
        assert half.tobytes() == before
    return found


def all_differences():
    return {f"{op} {name}": differences(op, name) for op in OPS for name in HALVES}


@over_formats
@pytest.mark.parametrize("op", OPS)
def test_half_precision_gives_the_bits_of_the_same_scores_in_float32(op, name):
    assert differences(op, name, large=True) == []


@pytest.mark.slow
def test_half_precision_gives_the_bits_of_float32_on_narrower_vectors_and_without_the_compiler():
    for label, variables in environments().items():
        if label == "no F16C":  # that of plain on wider vectors, which every number went through
            continue
        found = in_a_process(all_differences, **variables)
        assert not any(found.values()), (label, found)


@over_formats
def test_scan_finds_rows_and_the_largest_number_of_a_format(name):
    scan, dtype = ours("scan").load(), FORMATS[name]
    largest = float(np.array([0x7BFF if name == "float16" else 0x7F7F], "u2").view(dtype)[0])
    a = np.zeros((600, 5), dtype)
    a[1, 4], a[299, 0], a[511, 2], a[599, 3] = np.inf, -largest, np.nan, 1
    bad = np.empty(600, bool)
    assert scan(bad, a) == largest
    assert np.flatnonzero(bad).tolist() == [1, 511]
