"""The unit of the processor that multiplies slices of scores: register tiles, gates, the choice.

Units: "amx", tiles in matrix registers (amx.py); "vnni", "avxvnni" and "avx512bf16", a word per
lane and instruction; "avx2", septets or shorts in two or more; "plain", the same sums from ordinary
vector code, slowly. An intrinsic of a processor that Numba does not compile for would abort the
process: what the unit is, is settled before anything is compiled.
"""

import functools
from typing import NamedTuple

import numba

from ..slicing import KINDS, SLICED_LEAST, SLICED_TERMS
from . import word_tiles as tiles
from .jit import entry_address

__all__ = ["Unit", "expected", "features", "unit", "unit_code"]

HALVES_SPAN = 256  # terms of them summed in single precision, one after another
# What a unit needs of the processor, the fastest first; "plain" needs nothing.
NEEDED = {
    "bytes": {
        "amx": {"+amx-int8", "+amx-tile"},
        "vnni": {"+avx512vnni", "+avx512f"},
        "avxvnni": {"+avxvnni", "+avx2"},
    },
    "septets": {"avx2": {"+avx2"}},
    "shorts": {
        "vnni": {"+avx512vnni", "+avx512f"},
        "avxvnni": {"+avxvnni", "+avx2"},
        "avx2": {"+avx2"},
    },
    "halves": {"amx": {"+amx-bf16", "+amx-tile"}, "avx512bf16": {"+avx512bf16", "+avx512f"}},
}
PROVEN = {
    ("vnni", "bytes"),
    ("avx2", "septets"),
    ("avx2", "shorts"),
}  # need no permission, and have run
BESIDE = {"avx2": "+avx512f"}  # where single precision, in wider vectors, is as fast


class Unit(NamedTuple):
    """How one processor multiplies slices; tiles of `rows` x `width`, panels of `width` columns.

    prepare(to, source, steps) brings a stretch of a panel into the form that the left side of
    tile(c, ldc, left, right, steps) takes; offset: what that added to every term there. begin and
    end surround the work of a thread. All are addresses; 0: nothing to do.
    """

    terms: int  # in a word
    bits: int  # per slice after the first; 0: slices are worth what they are
    span: int  # words that are summed at most, before the sums are added in double
    rows: int
    width: int
    offset: int
    prepare: int
    tile: int
    side: int = 8  # panels on a side of a task's block
    begin: int = 0
    end: int = 0
    config: int = 0  # what these two are given


def features():
    """The features Numba compiles for, which its environment variables may narrow."""
    from numba.core.registry import cpu_target

    return frozenset(cpu_target.target_context.codegen().magic_tuple()[2].split(","))


def _promised(kind):
    """The units that Numba compiles for, the fastest first; nothing is tried."""
    known = frozenset() if numba.config.DISABLE_JIT else features()
    found = [
        name
        for name, needed in NEEDED[kind].items()
        if needed <= known and BESIDE.get(name) not in known
    ]
    return [*found, "plain"]


@functools.cache
def expected(kind="bytes"):
    """The unit that should serve."""
    return _promised(kind)[0]


@functools.cache
def unit(kind="bytes"):
    """The unit that is used: the expected one, or the next where it fails its gates."""
    for name in _promised(kind):
        if (name, kind) in PROVEN or name == "plain" or _is_usable(name, kind):
            return name


def _is_usable(name, kind):
    """True if the system permits it, and a small product is right."""
    if name == "amx":
        from . import amx

        if not amx.permitted():
            return False
    from .sliced import is_exact

    return is_exact(unit_code(name, kind))


# Their code ----------------------------------------------------------------------------------


def bytes_vnni(c, ldc, left, right, steps):
    tiles.vnni_bytes(c, ldc, left, right, steps)


def bytes_avxvnni(c, ldc, left, right, steps):
    tiles.avxvnni_bytes(c, ldc, left, right, steps)


def bytes_plain(c, ldc, left, right, steps):
    tiles.plain_bytes(c, ldc, left, right, steps)


def septets_avx2(c, ldc, left, right, steps):
    tiles.avx2_septets(c, ldc, left, right, steps)


def shorts_vnni(c, ldc, left, right, steps):
    tiles.vnni_shorts(c, ldc, left, right, steps)


def shorts_avxvnni(c, ldc, left, right, steps):
    tiles.avxvnni_shorts(c, ldc, left, right, steps)


def shorts_avx2(c, ldc, left, right, steps):
    tiles.avx2_shorts(c, ldc, left, right, steps)


def shorts_plain(c, ldc, left, right, steps):
    tiles.plain_shorts(c, ldc, left, right, steps)


def halves_avx512bf16(c, ldc, left, right, steps):
    tiles.bf16_halves(c, ldc, left, right, steps)


def halves_plain(c, ldc, left, right, steps):
    tiles.plain_halves(c, ldc, left, right, steps)


def prepare_unsigned(to, source, steps):
    tiles.prepare_unsigned(to, source, steps)


def prepare_septets(to, source, steps):
    tiles.prepare_septets(to, source, steps)


def prepare_signed(to, source, steps):
    tiles.prepare_signed(to, source, steps)


# By kind: terms of a span, offset, what prepares, and the tile of each unit.
CODE = {
    "bytes": (
        (SLICED_TERMS, 128, prepare_unsigned),
        {"vnni": bytes_vnni, "avxvnni": bytes_avxvnni, "plain": bytes_plain},
    ),
    "septets": (
        (SLICED_TERMS, 64, prepare_septets),
        {"avx2": septets_avx2, "plain": bytes_plain},
    ),
    "shorts": (
        (SLICED_LEAST, 0, prepare_signed),
        {
            "vnni": shorts_vnni,
            "avxvnni": shorts_avxvnni,
            "avx2": shorts_avx2,
            "plain": shorts_plain,
        },
    ),
    "halves": (
        (HALVES_SPAN, 0, prepare_signed),
        {"avx512bf16": halves_avx512bf16, "plain": halves_plain},
    ),
}


@functools.cache
def unit_code(name, kind="bytes"):
    """The code of a unit, compiled once."""
    if name == "amx":
        from . import amx

        return amx.code(kind)
    (terms, bits, _), ((span, offset, prepare), made) = KINDS[kind], CODE[kind]
    bits = 0 if kind == "halves" else bits
    addresses = entry_address(prepare, 3), entry_address(made[name], 5)
    return Unit(terms, bits, span // terms, tiles.ROWS, tiles.WIDTH, offset, *addresses)
