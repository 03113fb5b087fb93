"""What multiplies slices: its machine code, the gates before it, and what plans foretell of it."""

import numba
import pytest

from fastfisher import machine
from fastfisher.kernels.cpu import sliced, units, word_tiles
from fastfisher.kernels.slicing import KINDS
from tests.kernels.processes import in_a_process
from tests.kernels.test_sliced import compiled


def assembly(intrinsic, arguments):
    @numba.njit(no_cpython_wrapper=True)
    def run(args):
        intrinsic(*args)

    run.compile((numba.types.UniTuple(numba.types.intp, arguments),))
    (text,) = run.inspect_asm().values()
    return text


def loop_of(text, instruction):
    """Lines from the first to the last use of an instruction."""
    lines = text.splitlines()
    used = [i for i, line in enumerate(lines) if instruction in line]
    return len(used), lines[used[0] : used[-1] + 1]


@compiled
@pytest.mark.parametrize(
    "tile, name, unit",
    [
        ("vnni_bytes", "vpdpbusd", ("bytes", "vnni")),
        ("vnni_shorts", "vpdpwssd", ("shorts", "vnni")),
        ("plain_halves", "vfmadd", ("bytes", "vnni")),
        ("avx2_shorts", "vpmaddwd", ("shorts", "avx2")),
        ("avx2_septets", "vpmaddubsw", ("septets", "avx2")),
    ],
)
def test_tiles_spill_nothing(tile, name, unit):
    if units.expected(unit[0]) not in (unit[1], "amx"):
        pytest.skip(f"Numba does not compile {unit[0]} for {unit[1]}")
    count, body = loop_of(assembly(getattr(word_tiles, tile), 5), name)
    assert count >= word_tiles.ROWS * word_tiles.VECTORS
    assert not [line for line in body if "rsp" in line or "call" in line]


def code_for(kind, unit, tile, name):
    """What becomes of a tile where Numba compiles for what this machine may lack; not to be run."""
    units.unit_code(unit, kind)  # all of it compiles
    count, body = loop_of(assembly(getattr(word_tiles, tile), 5), name)
    return [units.expected(kind), count, [x for x in body if "rsp" in x or "call" in x]]


def bf16_code():
    return code_for("halves", "avx512bf16", "bf16_halves", "vdpbf16ps")


def vnni_bytes_code():
    return code_for("bytes", "avxvnni", "avxvnni_bytes", "vpdpbusd")


def vnni_shorts_code():
    return code_for("shorts", "avxvnni", "avxvnni_shorts", "vpdpwssd")


@compiled
@pytest.mark.slow
@pytest.mark.parametrize(
    "made, feature, needed, lanes",
    [
        (bf16_code, "avx512bf16", "+avx512vnni", 16),
        (vnni_bytes_code, "avxvnni", "+avx2", 8),
        (vnni_shorts_code, "avxvnni", "+avx2", 8),
    ],
    ids=["bf16", "avxvnni bytes", "avxvnni shorts"],
)
def test_tiles_for_other_processors_spill_nothing(made, feature, needed, lanes):
    if needed not in units.features():
        pytest.skip(f"only where {needed[1:]} is")
    features = without("amx-bf16") if feature == "avx512bf16" else without_avx512()
    unit, count, spilled = in_a_process(made, NUMBA_CPU_FEATURES=f"{features},+{feature}")
    assert unit == feature and not spilled
    assert count >= word_tiles.ROWS * word_tiles.WIDTH // lanes


def without_avx512():
    """The features of this machine, as if its vectors ended at 256 bits."""
    return ",".join(
        name.replace("+avx512", "-avx512").replace("+avx10", "-avx10").replace("+amx", "-amx")
        for name in host_features().split(",")
    )


def host_features(*more):
    from numba.core.registry import cpu_target

    return ",".join([cpu_target.target_context.codegen().magic_tuple()[2], *more])


def without(*names):
    """The features of this machine but these."""
    return ",".join(
        f"-{x[1:]}" if x[:1] == "+" and x[1:] in names else x for x in host_features().split(",")
    )


def foretold():
    """Of each kind, the unit that a plan reckons with and the one that Numba compiles for."""
    from fastfisher.planning import integer_unit

    return [[integer_unit(kind), units.expected(kind)] for kind in KINDS]


@compiled
@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"NUMBA_CPU_NAME": "generic"},
        {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
        {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
        {"NUMBA_CPU_FEATURES": "+avx2,+fma,+avxvnni"},
        {"NUMBA_CPU_FEATURES": "+avx2,+avx512f,+avx512vnni"},
        {"NUMBA_CPU_FEATURES": "+avx512f,+avx512bf16"},
        {"NUMBA_CPU_FEATURES": "+avx2,+amx-tile,+amx-int8,+amx-bf16"},
        {"NUMBA_CPU_FEATURES": "+avx2,+amx-int8,+amx-bf16"},
        {"NUMBA_CPU_FEATURES": "-avx2"},
        {"NUMBA_DISABLE_JIT": "1"},
    ],
    ids=lambda environment: " ".join(environment.values()) or "native",
)
def test_plans_foretell_the_units_without_the_compiler(environment):
    """Whatever the environment hides; nothing is compiled."""
    names = "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES"
    found = in_a_process(foretold, **(dict.fromkeys(names) | environment))
    assert all(planned == compiled_for for planned, compiled_for in found), found


def gate():
    """Which unit is used, and whether its sums are right."""
    import fastfisher as ff
    from fastfisher.kernels.cpu import amx
    from fastfisher.planning import integer_unit
    from fastfisher.planning.costs import INTEGERS

    used = units.unit()
    plain = all(integer_unit(kind) == "plain" for kind in INTEGERS)
    assert plain == (ff.plan(16000, 4000).method == "primal")
    return [used, amx.permitted(), sliced.is_exact(units.unit_code(used))]


def refused_gate():
    """The same where the system refuses to let this process use tiles."""
    from fastfisher.kernels.cpu import amx

    amx.permitted = lambda: False
    return gate()


@compiled
@pytest.mark.slow
@pytest.mark.parametrize("hidden", ["vnni", "permission"])
def test_a_gate_that_fails_leads_to_the_next_unit(hidden):
    """Never an instruction that is not there: without VNNI plain code, without permission VNNI."""
    if "+avx512vnni" not in units.features():
        pytest.skip("Numba does not compile for VNNI")
    if hidden == "vnni":
        features = without("avx512vnni", "avxvnni", "amx-int8")
        assert in_a_process(gate, NUMBA_CPU_FEATURES=features)[::2] == ["plain", True]
        return
    if "amx_int8" in machine.cpu_features():  # where it would be granted
        used, permitted, exact = in_a_process(refused_gate)
    else:  # Numba is told of tiles, the system grants none
        features = host_features("+amx-tile", "+amx-int8")
        used, permitted, exact = in_a_process(gate, NUMBA_CPU_FEATURES=features)
    assert (used, permitted, exact) == ("vnni", False, True)
