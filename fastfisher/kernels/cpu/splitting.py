"""How sums over one axis are cut into tasks: by sizes alone, never by threads. Pure Python.

The planner reads the workspace off the same numbers.
"""

from ..slicing import SLICED_TERMS, TILED_TERMS, stretch_terms

__all__ = [
    "AT_ONCE",
    "BLOCK_ROWS",
    "CHUNK_BYTES",
    "FACTOR_WHOLE",
    "FINE_ROWS",
    "KC",
    "LANE_BYTES",
    "PLANES",
    "SLICED_ORDER",
    "SLICE_BYTES",
    "STEP_BYTES",
    "SUMS",
    "TASKS",
    "THIN",
    "block_columns",
    "block_terms",
    "factor_bytes",
    "factor_side",
    "formed_apart",
    "is_kept",
    "one_pass",
    "padded",
    "rank_k_bytes",
    "resident_rows",
    "share_count",
    "sliced_terms",
    "step_rows",
    "stretch",
    "strip_rows",
    "written_once",
]

SLICE_BYTES = 96 << 20  # of copied scores, factors or products worked on at once
KC = 256  # packed rows per block sum, which is then added in double; part of the numbers
STEP_BYTES = 1024  # of such rows where panels are tiles: room in L1 for what passes by; likewise
THIN = 64  # up to this order a row is one panel, read where it lies if nothing is to be changed
SPLIT = 384  # up to this order every task owns a whole C and a share of the sum,
SPLIT_PAIRS = 224  # and of complex numbers, whose blocks of one C take three products, not four
SHARES = 16  # such tasks come in powers of two up to this, then in multiples: threads end together
SHARE_ROWS = 1024  # packed rows that such a task has at least,
FULL_SHARE = 4 * SHARE_ROWS  # and at most
THIN_BYTES = 32 << 10  # of scores that the tiles of a thin C pass over: they stay in cache
STRETCH_BYTES = 16 << 20  # of packed panels between which C is read and written,
STRETCH_ROWS = 2048  # of them at most, and half as many at least; twice that of complex numbers
PLANES, SUMS = 4, 3  # of packed panels of complex numbers, and of products of them (planes.py)
AT_ONCE = 4  # panels of complex numbers packed at a time: they stay in L2
# Columns of a task's block of C, which stays in L2 with its panels and the next ones, or of complex
# numbers one of its sums,
BLOCK = 192
SMALL_BLOCK = 144  # where L2 is smaller than
LARGE_L2 = 1 << 20
TASKS = 16  # such tasks, of all stretches, that there are per thread at least: threads end together
KEPT_BYTES = 128 << 20  # of blocks kept apart until all is summed, in place of being added to C
FUSED_BYTES = 256 << 10  # four rows up to which they, and the next four, stay in L2 during fvp,
FUSED_VECTORS = 768 << 10  # and bytes that several vectors may have, which stay there as well
STRIP_BYTES = 16 << 20  # of a strip in the last cache, where it takes up to half of it
LANE_BYTES = 64  # independent sums of a dot product, added as a tree; part of the numbers
CHUNK_BYTES = 4096  # terms of it between which the sum is added in double; likewise
BLOCK_ROWS = 256  # samples per partial sum of a product with vectors; likewise
FINE_ROWS = 16  # of a sum that rounds little even where they are all alike
RESIDENT_BYTES = 256 << 10  # of rows that stay in L2 between two passes over them
RESIDENT_SHARE = 8  # of L2 that rows take at most which are passed over once, and fetched ahead
MOST_VECTORS = 8  # of a register tile, on the widest vectors
APART = 21.6e6  # products from which on threads are worth another call
EDGE = 48  # the widest register tile: panels are whole tiles

FACTOR_WHOLE = 240  # packed orders up to which a matrix to be factored is one block
# Packed orders up to, order of its blocks at least: small enough for all threads to have some,
# large enough for what is read of other blocks, n^3 / side numbers, to come in time.
FACTOR_SIDES = ((1500, 48), (3000, 96), (1 << 62, 144))

SLICED_ORDER = 768  # from which products of bytes are considered
SLICED_PRODUCTS = 130e9  # of a stretch, about 0.2 s,
TILED_PRODUCTS = 1300e9  # and in matrix registers


def sliced_terms(order, slices, *, tiled=False, per_word=4):
    """Terms of a stretch of sliced scores: bytes at once, products at once, room in 32 bits.

    `tiled`: in matrix registers.
    """
    room, products = (TILED_TERMS, TILED_PRODUCTS) if tiled else (SLICED_TERMS, SLICED_PRODUCTS)
    bytes_ = SLICE_BYTES * per_word // max(4 * order * slices, 1)
    return stretch_terms(min(bytes_, int(products / (max(order, 1) * slices) ** 2)), room)


def share_count(order, length, parts):
    """Tasks that own a C each; 0 where tasks are blocks of one C."""
    if order > (SPLIT if parts == 1 else SPLIT_PAIRS):
        return 0
    if length * parts >= SHARES * FULL_SHARE:
        return -(-length * parts // (SHARES * FULL_SHARE)) * SHARES
    count = 1
    while count < SHARES and length * parts >= 2 * count * SHARE_ROWS:
        count *= 2
    return count if order <= THIN or count >= 4 else 0


def block_terms(order, parts, itemsize):
    """Terms per block sum of such a task."""
    if order > THIN:
        return step_rows(itemsize) // parts
    fitting = THIN_BYTES // (order * parts * itemsize)
    return min(KC // parts, max(32, fitting // 16 * 16))


def step_rows(itemsize):
    """Packed rows of real numbers per block sum where panels are tiles."""
    return STEP_BYTES // itemsize


def formed_apart(scores, order):
    """True if a small solve has its matrix of this order formed by the kernels of larger ones: in
    the precision of the scores, if they are not weighted or centred; else it is in double."""
    return scores * (order + 1) > APART


def block_columns(cache):
    """Columns of a task's block of C, given the bytes of L2."""
    return BLOCK if cache >= LARGE_L2 else SMALL_BLOCK


def stretch(order, itemsize, parts=1):
    """Terms between two visits to a block of C; itemsize is that of a real number."""
    rows = min(STRETCH_BYTES // (order * itemsize), STRETCH_ROWS)
    return max(rows // parts // KC * KC, STRETCH_ROWS // 2 // parts)


def is_kept(order, parts, stretches):
    """True if blocks of C are kept apart and added to it once, not after every stretch."""
    return stretches > 1 and order**2 * (SUMS if parts == 2 else 1) * 4 <= KEPT_BYTES


def written_once(order, length, parts, itemsize):
    """True if a sum over `length` > 0 terms is written to C once, so that C can be in single."""
    if not length or share_count(order, length, parts):
        return False
    stretches = -(-length // stretch(order, itemsize, parts))
    return stretches == 1 or is_kept(order, parts, stretches)


def one_pass(width, itemsize, vectors=1):
    """True if a thread's cache holds rows of so many real numbers until fvp reads them again.

    Tiles of several vectors do not read on meanwhile.
    """
    row = width * itemsize
    if vectors == 1:
        return 4 * row <= FUSED_BYTES
    return 4 * row <= 2 * FUSED_BYTES and vectors * row <= FUSED_VECTORS


def factor_side(order, width, parts):
    """Order of the blocks in which a matrix is factored, a multiple of the panels' width."""
    if order * parts <= FACTOR_WHOLE:
        return -(-order // width) * width
    side = next(side for limit, side in FACTOR_SIDES if order * parts <= limit)
    return -(-side // (width * parts)) * width


def factor_bytes(order, parts, itemsize):
    """Scratch of a Cholesky factorisation; itemsize is that of a real number."""
    if not order:
        return 0
    sides = {factor_side(order, width, parts) for width in (EDGE // 4, EDGE // 2, EDGE)}
    most = max((blocks := -(-order // side)) * (blocks + 1) // 2 * side**2 for side in sides)
    return most * parts * itemsize * (3 if parts == 2 else 1)


def strip_rows(width, itemsize, threads, caches):
    """Rows, four or one, of which L2 holds a thread's share of the columns, of as many that follow,
    and of the two vectors; or, of four, the last cache all columns. 0 if there are none."""
    share, room = -(-width // threads), min(caches["L3"] // 2, STRIP_BYTES)
    for rows in (4, 1):
        held = (2 * rows + 2) * itemsize
        if held * share <= caches["L2"] or (rows > 1 and held * width <= room):
            return rows
    return 0


def padded(k, most=MOST_VECTORS):
    """Vectors that tiles take for k > 1 of them: twos, fours and so on up to `most`."""
    whole, rest = k // most * most, k % most
    return whole + (max(2, 1 << (rest - 1).bit_length()) if rest else 0)


def resident_rows(row_bytes, least, cache=None):
    """Rows, a multiple of `least`, that several passes work on while they are in L2.

    `cache`: bytes of L2, where a tile of vectors passes over them but once.
    """
    room = RESIDENT_BYTES if cache is None else min(RESIDENT_BYTES, cache // RESIDENT_SHARE)
    rows = room // max(row_bytes, 1) // least * least
    return min(max(rows, least), BLOCK_ROWS // least * least)


def rank_k_bytes(order, length, parts, itemsize, threads, cache):
    """Scratch of one call over `length` terms; itemsize is that of a real number, cache L2."""
    if not (order and length):
        return 0
    width = -(-order // EDGE) * EDGE
    shares = share_count(order, length, parts)
    if not shares:
        step, block = step_rows(itemsize), block_columns(cache)
        terms = min(stretch(order, itemsize, parts), -(-length // step) * step)
        stretches = -(-length // terms)
        side = -(-order // block)
        blocks = side * (side + 1) // 2 if is_kept(order, parts, stretches) else threads
        planes, sums = (PLANES, SUMS) if parts == 2 else (1, 1)
        packed = min(stretches, 2) * width * terms * itemsize * planes
        pairs = threads * AT_ONCE * 2 * EDGE * STEP_BYTES if parts == 2 else 0
        return packed + pairs + blocks * block**2 * sums * 8
    packed = width * block_terms(order, parts, itemsize) * parts * itemsize
    return shares * parts * (order + EDGE) * width * 8 + threads * packed
