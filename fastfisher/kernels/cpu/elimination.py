"""Triangular elimination on register tiles: what Cholesky and the triangular solves share.

Everything happens in panels: row e of a panel holds entry e of `width` right-hand sides (for
Cholesky: of rows of the matrix) side by side, so that solving is c -= a' b on register tiles, the
last step of which is a small triangle. Complex numbers are pairs of rows (re, im) on the right and
2 x 2 blocks [[re, -im], [im, re]] on the left, which makes them real problems of twice the order.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from .jit import entry_address, kernel
from .simd import _Code, _index, address, lanes, target, tile_rows, tile_width, transpose

__all__ = [
    "BACKWARD",
    "FORWARD",
    "UPDATE",
    "Tile",
    "embed",
    "factor_tile",
    "from_panels",
    "publish",
    "solve_strip",
    "tile_of",
    "to_panels",
    "wait_for",
]

UPDATE, FORWARD, BACKWARD = 0, 1, 2  # what follows c -= a' b: nothing, or a triangle either way


class Tile(NamedTuple):
    """Register tiles of `rows` entries x `width` right-hand sides, `lanes` per vector."""

    parts: int
    rows: int
    width: int
    lanes: int
    micro: int  # address of the micro-kernel


def _products(code, rows, vectors, a, lda, b, ldb, steps):
    """Tile of sums over k of a[k, i] b[k, j], in order; `steps` may be 0."""
    builder = code.builder
    before, head = builder.block, builder.append_basic_block("head")
    body, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(head)
    builder.position_at_end(head)
    start = [_index(0), a, b, *[code.zero()] * (rows * vectors)]
    values = [builder.phi(value.type) for value in start]
    step, p, q, *sums = values
    builder.cbranch(builder.icmp_signed("<", step, steps), body, after)
    builder.position_at_end(body)
    totals = list(sums)
    for _ in range(2):
        panel = [code.load(code.at(q, v * code.lanes)) for v in range(vectors)]
        for i in range(rows):
            x = code.splat(builder.load(code.at(p, i)))
            for v in range(vectors):
                s = i * vectors + v
                totals[s] = code.fma(x, panel[v], totals[s])
        p, q = code.at(p, lda), code.at(q, ldb)
    following = [builder.add(step, _index(2)), p, q, *totals]
    builder.branch(head)
    for phi, first, later in zip(values, start, following, strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(later, body)
    builder.position_at_end(after)
    return sums


def _substitute(code, x, rows, vectors, triangle, ld, order):
    """Solve with the triangle in registers; its diagonal holds reciprocals."""
    builder, x, left = code.builder, list(x), list(order)
    for r in order:
        left.remove(r)
        line = code.at(triangle, builder.mul(ld, _index(r)))
        by = code.splat(builder.load(code.at(line, r)))
        for v in range(vectors):
            x[r * vectors + v] = builder.fmul(by, x[r * vectors + v])
        for s in left:
            by = code.splat(builder.fneg(builder.load(code.at(line, s))))
            for v in range(vectors):
                at = s * vectors + v
                x[at] = code.fma(by, x[r * vectors + v], x[at])
    return x


def _emit_solve(code, rows, vectors, mode, operands, done):
    builder = code.builder
    c, ldc, a, lda, b, ldb, steps = operands
    c, a, b = (code.address(value) for value in (c, a, b))
    places = [c]
    for _ in range(rows - 1):
        places.append(code.at(places[-1], ldc))
    sums = _products(code, rows, vectors, a, lda, b, ldb, steps)
    x = []
    for s, total in enumerate(sums):
        place = code.at(places[s // vectors], s % vectors * code.lanes)
        x.append(builder.fsub(code.load(place), total))

    def finish(values):
        for s, value in enumerate(values):
            code.store(value, code.at(places[s // vectors], s % vectors * code.lanes))
        builder.branch(done)

    names = ("update", "forward", "backward")
    blocks = [builder.append_basic_block(name) for name in names]
    switch = builder.switch(mode, blocks[UPDATE])
    for number in (FORWARD, BACKWARD):
        switch.add_case(_index(number), blocks[number])
    builder.position_at_end(blocks[UPDATE])
    finish(x)
    builder.position_at_end(blocks[FORWARD])  # the triangle follows the summed rows of a
    triangle = code.at(a, builder.mul(steps, lda))
    finish(_substitute(code, x, rows, vectors, triangle, lda, range(rows)))
    builder.position_at_end(blocks[BACKWARD])  # it precedes them
    triangle = code.at(a, builder.mul(lda, _index(-rows)))
    finish(_substitute(code, x, rows, vectors, triangle, lda, range(rows - 1, -1, -1)))


def _solver(element):
    """Intrinsic (vectors, mode, c, ldc, a, lda, b, ldb, steps): c -= a' b, then a triangle."""

    @intrinsic
    def solver(typingctx, vectors, mode, c, ldc, a, lda, b, ldb, steps):
        def emit(context, builder, signature, values):
            code = _Code(context, builder, element)
            done = builder.append_basic_block("done")
            switch = builder.switch(values[0], done)
            blocks = [builder.append_basic_block(f"vectors{v}") for v in (1, 2, 3)]
            for v, block in zip((1, 2, 3), blocks, strict=True):
                switch.add_case(_index(v), block)
                builder.position_at_end(block)
                _emit_solve(code, target().rows, v, values[1], values[2:], done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), emit

    return solver


_solve_double, _solve_single = _solver(types.float64), _solver(types.float32)


def solve_double(vectors, mode, c, ldc, a, lda, b, ldb, steps):
    _solve_double(vectors, mode, c, ldc, a, lda, b, ldb, steps)


def solve_single(vectors, mode, c, ldc, a, lda, b, ldb, steps):
    _solve_single(vectors, mode, c, ldc, a, lda, b, ldb, steps)


@intrinsic
def _call_solver(typingctx, function, vectors, mode, c, ldc, a, lda, b, ldb, steps):
    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * 9).as_pointer()
        builder.call(builder.inttoptr(values[0], kind), values[1:])
        return context.get_dummy_value()

    return types.void(*[types.intp] * 10), emit


@functools.cache
def _solver_address(double):
    return entry_address(solve_double if double else solve_single, 9)


def tile_of(dtype, parts):
    """The register tile of a real dtype."""
    double = np.dtype(dtype).itemsize == 8
    micro = _solver_address(double)
    return Tile(parts, tile_rows(), tile_width(dtype), lanes(dtype), micro)


@intrinsic
def factor_tile(typingctx, tile):
    """Factor U'U = tile in place, from its upper triangle; returns the failing pivot, or `rows`.

    tile is flat: rows x rows, whose diagonal becomes 1 / diag U, then diag U. A failing pivot
    counts as 1.
    """

    def emit(context, builder, signature, values):
        rows = target().rows
        code = _Code(context, builder, tile.dtype, rows)
        start = code.pointer(tile, values[0], _index(0))
        x = [code.load(code.at(start, r * rows)) for r in range(rows)]
        one = ir.Constant(code.element, 1.0)
        root = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(code.element, [code.element]),
            f"llvm.sqrt.f{tile.dtype.bitwidth}",
        )
        failing = _index(rows)
        for r in range(rows):
            pivot = builder.extract_element(x[r], ir.Constant(ir.IntType(32), r))
            good = builder.and_(
                builder.fcmp_ordered(">", pivot, ir.Constant(code.element, 0.0)),
                builder.fcmp_ordered("<", pivot, ir.Constant(code.element, np.inf)),
            )
            first = builder.icmp_signed("==", failing, _index(rows))
            failing = builder.select(
                builder.and_(builder.not_(good), first), _index(r), failing
            )
            side = builder.call(root, [builder.select(good, pivot, one)])
            inverse = builder.fdiv(one, side)
            x[r] = builder.fmul(code.splat(inverse), x[r])
            builder.store(side, code.at(start, rows * rows + r))
            for s in range(r + 1, rows):
                by = builder.extract_element(x[r], ir.Constant(ir.IntType(32), s))
                x[s] = code.fma(code.splat(builder.fneg(by)), x[r], x[s])
            x[r] = builder.insert_element(x[r], inverse, ir.Constant(ir.IntType(32), r))
        for r in range(rows):
            code.store(x[r], code.at(start, r * rows))
        return failing

    return types.intp(tile), emit


# Order of tasks ------------------------------------------------------------------------------

LINE = 8  # counters on cache lines of their own


@intrinsic
def _acquire(typingctx, counters, i):
    def emit(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, value=values[0]).data
        return builder.load_atomic(builder.gep(data, [values[1]]), "acquire", 8)

    return types.intp(counters, types.intp), emit


@intrinsic
def _release(typingctx, counters, i, value):
    def emit(context, builder, signature, values):
        data = context.make_array(signature.args[0])(context, builder, value=values[0]).data
        builder.store_atomic(values[2], builder.gep(data, [values[1]]), "release", 8)
        return context.get_dummy_value()

    return types.void(counters, types.intp, types.intp), emit


@kernel
def wait_for(counters, i, value):
    """Until counter i has reached a value that an earlier task publishes."""
    while _acquire(counters, i * LINE) < value:
        pass


@kernel
def publish(counters, i, value):
    """What this task wrote before is seen by those who wait for the value."""
    _release(counters, i * LINE, value)


# Panels --------------------------------------------------------------------------------------


@kernel
def to_panels(out, o0, stride, a, a0, lda, rows, depth, padded, tile):
    """out[panel, k, i] = a[i, k] for rows x depth numbers; zeros up to whole panels of `padded`."""
    lanes, width = tile.lanes, tile.width
    blocked = depth // lanes * lanes
    for first in range(0, rows, width):
        start, inside = o0 + first // width * stride, min(width, rows - first)
        whole = inside // lanes * lanes
        for i in range(0, whole, lanes):
            for k in range(0, blocked, lanes):
                source = a0 + (first + i) * lda + k
                transpose(out, start + k * width + i, width, a, source, lda)
        for k in range(depth):
            for i in range(whole if k < blocked else 0, inside):
                out[start + k * width + i] = a[a0 + (first + i) * lda + k]
            for i in range(inside, width):
                out[start + k * width + i] = 0
        for j in range(depth * width, padded * width):
            out[start + j] = 0


@kernel
def from_panels(a, a0, lda, rows, depth, x, x0, stride, tile, below):
    """The way back; if `below`, only what is below the diagonal of numbers of `parts`."""
    lanes, width = tile.lanes, tile.width
    for first in range(0, rows, width):
        start, inside = x0 + first // width * stride, min(width, rows - first)
        for i in range(0, inside, lanes):
            here = min(lanes, inside - i)
            last = min(depth, (first + i) * tile.parts) if below else depth
            blocked = last // lanes * lanes if here == lanes else 0
            for k in range(0, blocked, lanes):
                to = a0 + (first + i) * lda + k
                transpose(a, to, lda, x, start + k * width + i, width)
            for r in range(i, i + here):
                last = min(depth, (first + r) * tile.parts) if below else depth
                for k in range(blocked, last):
                    a[a0 + (first + r) * lda + k] = x[start + k * width + r]


@kernel
def embed(out, o0, x, x0, rows, width, sign):
    """(re, im) pairs of rows as 2 x 2 blocks; sign is -1 where the conjugate is multiplied by."""
    for k in range(0, rows, 2):
        re, im = x0 + k * width, x0 + (k + 1) * width
        to = o0 + 2 * k * width
        for i in range(width):
            out[to + 2 * i] = x[re + i]
            out[to + 2 * i + 1] = sign * x[im + i]
            out[to + 2 * width + 2 * i] = -sign * x[im + i]
            out[to + 2 * width + 2 * i + 1] = x[re + i]


@kernel
def solve_strip(mode, right, c, count, left, a, lda, b, steps, tile):
    """One register tile of right[c] -= left[a]' right[b] with `count` right-hand sides."""
    vectors = (count + tile.lanes - 1) // tile.lanes
    _call_solver(
        tile.micro,
        vectors,
        mode,
        address(right, c),
        tile.width,
        address(left, a),
        lda,
        address(right, b),
        tile.width,
        steps,
    )
