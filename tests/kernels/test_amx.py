"""Tiles in matrix registers: their machine code, trapped and done where no processor has them.

Every case of `emulated` runs the code that a processor with AMX would run, threads and all; where
there is such a processor, it does so itself.
"""

import re
import sys

import numba
import numpy as np
import pytest

from fastfisher import machine
from fastfisher.kernels.cpu import sliced, threads, units
from tests.kernels.processes import in_a_process
from tests.kernels.test_sliced import compiled, products
from tests.kernels.test_units import assembly, host_features, loop_of
from tests.tolerances import LIMITS, assert_ratio, unit_roundoff

HAS_TILES = "amx_int8" in machine.cpu_features()
TILES = ("+amx-tile", "+amx-int8", "+amx-bf16")
# Nothing to a tile, past tiles, panels, blocks of panels, stretches of words; tall and wide.
KINDS = ("bytes", "halves")
SHAPES = ((1, 1), (3, 33), (65, 31), (130, 97), (40, 300), (2100, 35))


def emulated():
    """What the unit with tiles gives over sizes, slices, axes and threads, and what was done."""
    from fastfisher.kernels.cpu import amx

    tiles, found = None, {}
    if not HAS_TILES:
        from tests.kernels.tile_machine import Machine

        tiles = Machine()
        amx.permitted = lambda: True
    rng = np.random.default_rng(0)
    found["units"] = [units.unit(kind) for kind in KINDS]
    found["gate"] = tiles and tiles.counts()
    for kind in KINDS:
        found[kind] = _sums(kind, rng)
        found[kind]["done"] = tiles and tiles.counts()
    if tiles:
        found |= _faults(tiles)
    found["public"] = _public()
    found["used"] = tiles and tiles.counts()["bytes"]
    return found


def _sums(kind, rng):
    """Cases that are wrong; the largest distance of slices from those of plain code, in units of
    the largest sum; and how many cases gave other bits on two threads."""
    code, plain = units.unit_code("amx", kind), units.unit_code("plain", kind)
    wrong, far, digests, cases = [], 0.0, set(), 0
    for n, p in SHAPES:
        a = rng.integers(-127, 128, (n, p)).astype(np.float64)
        a[0], a[-1] = 127, -127
        b = rng.uniform(-127, 127, (n, p))
        for slices in (1, 2, 3) if n * p < 10_000 else (1,):
            for by_rows in (True, False):
                how = {"slices": slices, "levels": 2 * slices - 1, "by_rows": by_rows}
                expected, x = products(b, plain, **how), a if by_rows else a.T
                cases += 1
                for count in (1, 2):
                    threads.set_num_threads(count)
                    found = products(b, code, **how)
                    digests.add((n, p, slices, by_rows, found.tobytes()))
                    far = max(far, np.abs(found - expected).max() / np.abs(expected).max())
                    if slices == 1:
                        exact = products(a, code, **how)
                        if not np.array_equal(exact, np.tril(x.T @ x)):
                            wrong.append([n, p, by_rows, count])
    return {"wrong": wrong, "far": float(far), "different": len(digests) - cases}


def _faults(tiles):
    """What must not work: no configuration, another one, permission or a product denied."""
    from fastfisher.kernels.cpu import amx

    code = units.unit_code("amx")
    found = {"bare": [sliced.is_exact(code._replace(begin=0)), tiles.counts()["fault"] > 0]}
    config = amx.configuration()
    config[50] = 8  # rows of a tile
    lame = code._replace(config=config.ctypes.data)
    found["lame"] = [sliced.is_exact(lame), tiles.counts()["fault"] > 0]
    units.unit.cache_clear()
    before = units.unit_code
    units.unit_code = lambda name, *of: lame if name == "amx" else before(name, *of)
    found["next"] = [units.unit(kind) for kind in KINDS]
    units.unit.cache_clear()
    units.unit_code, amx.permitted = before, lambda: False
    tiles.counts()
    found["refused"] = [[units.unit(kind) for kind in KINDS], sum(tiles.counts().values())]
    units.unit.cache_clear()
    amx.permitted = lambda: True
    return found


def _public():
    """The way in from outside: error of a product allowed to be normwise, and its bits."""
    from fastfisher import ops
    from fastfisher.planning import units as planned

    planned.NORMWISE_ORDER, planned.integer_unit = {"float64": 1}, lambda: "amx"
    rng, bits = np.random.default_rng(3), set()
    G, w = rng.standard_normal((301, 97)), rng.uniform(0, 1, 301)
    for count in (1, 2):
        threads.set_num_threads(count)
        F = ops.syrk(G, w, precision="normwise")
        bits.add(F.tobytes())
    peaks = np.abs(G * np.sqrt(w)[:, np.newaxis]).max(axis=0)
    return [len(bits), float(np.max(np.abs(F - (G.T * w) @ G) / np.outer(peaks, peaks))) / 301]


@pytest.fixture(scope="module")
def found():
    """Some fifteen seconds, most of them for the compiler."""
    if numba.config.DISABLE_JIT or sys.platform != "linux" or "avx2" not in machine.cpu_features():
        pytest.skip("only where machine code for AMX is made, and can be trapped")
    environment = {} if HAS_TILES else {"NUMBA_CPU_FEATURES": host_features(*TILES)}
    return in_a_process(emulated, NUMBA_NUM_THREADS="2", **environment)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_X2_X8_tiles_give_the_sums_of_plain_code_on_one_and_two_threads(found, kind):
    """Of integers exactly; of slices of bytes the same bits, of halves some roundings apart."""
    here = found[kind]
    assert found["units"] == ["amx", "amx"] and not here["wrong"] and not here["different"]
    limit = 0 if kind == "bytes" else LIMITS["summation"] * unit_roundoff("float32")
    assert here["far"] <= limit


@pytest.mark.slow
def test_every_task_configures_its_thread_and_releases_it(found):
    """Not a tile out of its range, not an instruction without a configuration, aligned."""
    for done in (found["gate"], *(found[kind]["done"] for kind in KINDS)):
        if done is None:
            pytest.skip("this processor does it itself")
        assert done["fault"] == done["unaligned"] == 0
        assert done["configure"] == done["release"] > 0
        # Two by two tiles: four loads and four products at a time, and results come and go.
        products = done["bytes"] + done["halves"]
        assert done["load"] == products + done["store"] and done["store"] % 4 == 0


@pytest.mark.slow
def test_tiles_that_fail_a_gate_are_left(found):
    """Without configuration, or with another one, the check of a product fails: then VNNI."""
    if "bare" not in found:
        pytest.skip("a processor with tiles would end the process")
    following = [next(name for name in units._promised(kind) if name != "amx") for kind in KINDS]
    assert found["bare"] == found["lame"] == [False, True]
    assert found["next"] == following and found["refused"] == [following, 0]


@pytest.mark.slow
def test_X2_normwise_sums_through_tiles_are_as_near_as_in_double(found):
    bits, error = found["public"]
    assert bits == 1 and found["used"] != 0
    assert_ratio(error / unit_roundoff("float64"), "goal", "normwise")


# Code and layouts ----------------------------------------------------------------------------


def amx_code():
    """What the tile kernel becomes where Numba compiles for AMX; nothing of it is run."""
    from fastfisher.kernels.cpu import amx

    found = {
        "expected": [units.expected(kind) for kind in KINDS],
        "configures": "ldtilecfg" in assembly(amx._load_configuration, 1),
        "releases": "tilerelease" in assembly(amx._release, 1),
    }
    for name, tile in (("tdpbssd", amx._bytes_tile), ("tdpbf16ps", amx._halves_tile)):
        text = assembly(tile, 5)
        count, body = loop_of(text, name)
        foreign = [line for line in body if re.search(r"tmm.*%rsp|%rsp.*tmm|call|[xyz]mm", line)]
        loads = sum("tileloadd" in line for line in text.splitlines())
        first = [line.split()[-3:] for line in body if name in line][:4]
        found[name] = [count, loads, foreign, first]
    return found


@compiled
@pytest.mark.slow
def test_the_amx_tile_is_four_loads_and_four_products_without_spills():
    if "+avx512vnni" not in units.features():
        pytest.skip("only where AVX-512 is")
    environment = {
        "NUMBA_CPU_NAME": "sapphirerapids",
        "NUMBA_CPU_FEATURES": host_features(*TILES),
    }
    found = in_a_process(amx_code, **environment)
    assert found["expected"] == ["amx", "amx"] and found["configures"] and found["releases"]
    for name in ("tdpbssd", "tdpbf16ps"):
        count, loads, foreign, first = found[name]
        assert count >= 4 and count % 4 == 0 and loads == count + 4 and not foreign
        assert [[re.sub(r"\W", "", word) for word in line] for line in first] == [
            ["tmm6", "tmm4", "tmm0"],  # result += A tile x B tile, in AT&T order: B, A, result
            ["tmm7", "tmm4", "tmm1"],
            ["tmm6", "tmm5", "tmm2"],
            ["tmm7", "tmm5", "tmm3"],
        ]


def test_the_twin_of_the_amx_tile_takes_transposed_words(rng):
    """A tiles are 16 columns as rows of 16 words, B tiles the panel itself (amx.py)."""
    from fastfisher.kernels.cpu import amx, twins_units

    steps = 32
    panel = rng.integers(-127, 128, (steps, 32, 4)).astype(np.int8)
    left = np.zeros(panel.size, np.int8)
    for k in range(0, steps, 16):
        for half in range(2):
            at = panel.ctypes.data + 128 * k + 64 * half
            to = left.ctypes.data + 128 * k + 1024 * half
            twins_units.transpose_words(to, 16, at, 32)
    c = np.zeros((32, 32), np.int32)
    amx._bytes_twin(c.ctypes.data, 32, left.ctypes.data, panel.ctypes.data, steps)
    terms = panel.transpose(0, 2, 1).reshape(-1, 32).astype(np.int64)
    np.testing.assert_array_equal(c, terms.T @ terms)


def test_the_configuration_is_eight_tiles_of_16_rows_of_64_bytes():
    from fastfisher.kernels.cpu import amx

    config = amx.configuration()
    assert config.ctypes.data % 64 == 0 and config[0] == 1 and not config[1:16].any()
    assert (config[16:32].view(np.uint16) == 64).all() and (config[48:56] == 16).all()
    assert not config[32:48].any() and not config[56:].any()
