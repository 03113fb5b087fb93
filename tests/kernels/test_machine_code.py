"""What register tiles are compiled to: vector FMAs, and nothing on the stack between them."""

import re

import numba
import pytest
from numba import types

from fastfisher.kernels.cpu import direct, jit, products, triangles
from fastfisher.kernels.cpu.simd import target
from tests.kernels.instruction_sets import environment, host_isa
from tests.kernels.processes import in_a_process

FMA = re.compile(r"^\s*vfn?m(?:add|sub)\w+p([sd])\s.*")


def fresh_assembly(function, arguments):
    """Of code compiled anew, since code from the cache cannot be looked at."""
    fresh = numba.njit(**jit.OUTER)(function)
    fresh.compile(types.void(*[types.intp] * arguments))
    (asm,) = fresh.inspect_asm().values()
    return asm


def innermost_loops(asm):
    """What is between the first and the last FMA of each loop that is one block."""
    for block in re.split(r"\n(?=\.?\w+:)", asm):
        lines = block.splitlines()
        places = [i for i, line in enumerate(lines) if FMA.match(line)]
        back = re.compile(r"\s*j\w+\s+" + re.escape(lines[0][:-1]))
        if places and any(map(back.match, lines)):
            yield lines[places[0] : places[-1] + 1]


def products_in(lines):
    return sum(bool(FMA.match(line)) for line in lines)


def on_the_stack(asm, lines):
    frame = r"\(%r[sb]p" if "%rsp, %rbp" in asm else r"\(%rsp"
    return [line for line in lines if re.search(frame, line)]


def full_tiles():
    """Per micro-kernel of sums: what is in the loops with as many FMAs as a full tile has."""
    found = {}
    for function in (products.add_double, products.add_single):
        asm = fresh_assembly(function, 8)
        full = 2 * target().rows * target().vectors
        # A narrower tile may be unrolled, and its loop longer than that of the full one.
        loops = [lines for lines in innermost_loops(asm) if products_in(lines) >= full]
        inside = [line for lines in loops for line in lines]
        vectors = [line for line in inside if FMA.match(line)]
        found[function.__name__] = {
            "loops": [products_in(lines) for lines in loops],
            "vector FMAs": products_in(asm.splitlines()),
            "elements": sorted({FMA.match(line)[1] for line in vectors}),
            "registers": sorted(
                {kind for line in vectors for kind in re.findall("%([xyz])mm", line)}
            ),
            "stack": on_the_stack(asm, inside),
            "calls": [line for line in inside if re.match(r"\s*call", line)],
            "scalar": re.findall(r"\bvfn?m(?:add|sub)\w+s[sd]\b", asm),
            "libm": re.findall(r"\bfmaf?\b", asm),
            "expected": full,
        }
    return {"isa": target().name, **found}


@pytest.mark.parametrize("isa", ("native", "avx2"))
def test_a_register_tile_is_vector_FMAs_that_never_touch_the_stack(isa):
    if isa == host_isa():
        pytest.skip("this machine's own vectors are those of AVX2")
    found = in_a_process(full_tiles, **environment(isa))
    assert found["isa"] == (host_isa() if isa == "native" else isa)
    if found["isa"] == "plain":
        pytest.skip("this machine has no fused multiply-add")
    for name, element in (("add_double", "d"), ("add_single", "s")):
        tile = found[name]
        assert tile["expected"] in tile["loops"], name
        assert tile["elements"] == [element], name
        assert tile["registers"] == ["z" if found["isa"] == "avx512" else "y"], name
        assert not tile["stack"] and not tile["calls"] and not tile["scalar"], tile


def test_without_a_fused_multiply_add_no_tile_asks_the_C_library_for_one():
    found = in_a_process(full_tiles, **environment("plain"))
    for name in ("add_double", "add_single"):
        assert not found[name]["vector FMAs"] and not found[name]["libm"], name


SOLVES = {
    "triangles.solve_double": (triangles.solve_double, 10),
    "triangles.solve_single": (triangles.solve_single, 10),
    "direct_double": (direct.direct_double, 9),
    "direct_single": (direct.direct_single, 9),
    "direct_double_pairs": (direct.direct_double_pairs, 9),
    "direct_single_pairs": (direct.direct_single_pairs, 9),
}


def solving_tiles():
    """Per micro-kernel of solves: loops of full tiles, their registers, what any spills."""
    found = {"isa": target().name, "full": target().rows * target().vectors}
    for name, (function, arguments) in SOLVES.items():
        asm = fresh_assembly(function, arguments)
        loops = list(innermost_loops(asm))
        spilled = [x for lines in loops for x in on_the_stack(asm, lines) if "mm" in x]
        full = [lines for lines in loops if products_in(lines) >= found["full"]]
        kinds = sorted(set(re.findall("%([xyz])mm", "".join(map("".join, full)))))
        found[name] = len(full), kinds, spilled
    return found


# Code for vectors that this machine may lack is compiled, and not run.
AVX512 = {
    "NUMBA_CPU_NAME": "skylake-avx512",
    "NUMBA_CPU_FEATURES": "+avx512f,+avx512vl,+avx512dq,+avx512bw,+avx512cd,+avx2,+fma,+f16c",
}


@pytest.mark.parametrize("isa", ("native", "avx2", "avx512"))
def test_the_tiles_of_solves_keep_their_sums_in_registers(isa):
    if isa == host_isa():
        pytest.skip("these are this machine's own vectors")
    own = environment("plain" if isa == "avx512" else isa)
    found = in_a_process(solving_tiles, **own | (AVX512 if isa == "avx512" else {}))
    if found["isa"] == "plain":
        pytest.skip("this machine has no fused multiply-add")
    assert found["isa"] == (host_isa() if isa == "native" else isa)
    for name in SOLVES:
        loops, registers, spilled = found[name]
        assert loops >= (2 if name.startswith("direct") else 1), name  # in either direction
        assert ("z" if found["isa"] == "avx512" else "y") in registers, name
        assert not spilled, (name, spilled[:4])
