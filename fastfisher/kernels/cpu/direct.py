"""Register tiles of substitution that read the factor where it lies: nothing of it is copied.

They add and multiply in the same order as Cholesky's (triangles.py), which read a packed copy.
"""

import functools

from llvmlite import ir
from numba import types

from . import twins
from .jit import entry_address
from .row_passes import row_pointers
from .simd import Code, _index, lanes, target, vector
from .triangles import substitute_tile

__all__ = ["ADJOINT", "SOLVED", "direct_address", "direct_double", "direct_single"]

SOLVED, ADJOINT = 1, 2  # of a mode: a triangle follows; what is multiplied is the adjoint


class _Factor:
    """The numbers of a tile's rows (or, adjoint, columns) in the factor, of which `inside` exist.

    Others take the place of the last one, and count for nothing: `triangle` makes them zero.
    Adjoint products read on beside the last one instead, so a ragged tile must have 0 steps:
    it always does, since only the last rows of all are ragged, and nothing is below them.
    """

    def __init__(self, code, parts, rows, adjoint, l, ld, inside):
        builder = code.builder
        self.code, self.parts, self.adjoint = code, parts, adjoint
        self.count, self.rows = rows // parts, rows
        self.inside, self.ld = inside, ld
        last = builder.sub(inside, _index(1))
        self.kept = [
            builder.select(builder.icmp_signed("<", _index(r), inside), _index(r), last)
            for r in range(self.count)
        ]
        self.first = code.address(l)
        step = _index(parts) if self.adjoint else ld
        self.places = [code.at(self.first, builder.mul(r, step)) for r in self.kept]

    def load(self, pointer):
        """Real and imaginary part of what is multiplied; None for what is not there."""
        builder, re = self.code.builder, self.code.builder.load(pointer)
        if self.parts == 1:
            return re, None
        im = builder.load(self.code.at(pointer, 1))
        return re, builder.fneg(im) if self.adjoint else im

    def add_products(self, sums, places, q, vectors):
        """sums + the numbers at `places` times the vectors at q."""
        code, builder, sums = self.code, self.code.builder, list(sums)
        for part in range(self.parts):
            if part:  # the factor's numbers are read again: kept, they would not fit the registers
                builder.fence("acq_rel", "singlethread")
            b = [code.load(code.at(q, (part * vectors + v) * code.lanes)) for v in range(vectors)]
            for i, place in enumerate(places):
                for to in range(self.parts):
                    by = code.splat(builder.load(code.at(place, part ^ to)))
                    if part != to and to == (self.adjoint > 0):
                        by = builder.fneg(by)
                    for v in range(vectors):
                        s = (self.parts * i + to) * vectors + v
                        sums[s] = code.fma(by, b[v], sums[s])
        return sums

    def triangle(self, steps):
        """element(r, s) of the triangle of real numbers after so many steps, or before them."""
        code, builder = self.code, self.code.builder
        one = ir.Constant(code.element, 1.0)
        if self.adjoint:
            corner = code.at(self.first, builder.mul(self.ld, _index(-self.count)))
            lines = [code.at(corner, builder.mul(r, self.ld)) for r in self.kept]
        else:
            lines = [code.at(p, builder.mul(steps, _index(self.parts))) for p in self.places]

        def element(r, s):
            R, S = r // self.parts, s // self.parts
            line, at = (R, S) if self.adjoint else (S, R)
            there = code.at(lines[line], builder.mul(self.kept[at], _index(self.parts)))
            if R == S:
                if r != s:
                    return None
                inverse = builder.fdiv(one, builder.load(there))
                exists = builder.icmp_signed("<", _index(R), self.inside)
                return builder.select(exists, inverse, ir.Constant(code.element, 0.0))
            re, im = self.load(there)
            if r % self.parts == s % self.parts:
                return re
            return builder.fneg(im) if r % self.parts else im

        return element


def _sums(code, factor, b, steps, ahead, vectors):
    """Sums over k of what is at k in the factor times row k of b, in order.

    The lines that hold the same, `ahead` numbers further on, are fetched meanwhile.
    """
    builder, parts = code.builder, factor.parts
    stride = parts * vectors * code.lanes
    adjoint = factor.adjoint
    # Along rows one number moves all pointers to them: their own steps would not fit the registers.
    values = [factor.first if adjoint else _index(0), b]
    values += [code.zero()] * (factor.rows * vectors)
    left = steps
    for count in (2 if adjoint else factor.count, 1):
        before = builder.block
        head, body = builder.append_basic_block("head"), builder.append_basic_block("body")
        after = builder.append_basic_block("after")
        builder.branch(head)
        builder.position_at_end(head)
        todo, *carried = phis = [builder.phi(value.type) for value in (left, *values)]
        for phi, value in zip(phis, (left, *values), strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed(">=", todo, _index(count)), body, after)
        builder.position_at_end(body)
        at, q, *sums = carried
        for u in range(count):
            if adjoint:
                places = [code.at(at, parts * i) for i in range(factor.count)]
            else:
                places = [code.at(p, at) for p in factor.places]
            if count > 1:
                code.prefetch(code.at(places[0 if adjoint else u], ahead))
            sums = factor.add_products(sums, places, q, vectors)
            q = code.at(q, stride)
            at = code.at(at, factor.ld) if adjoint else builder.add(at, _index(parts))
        following = builder.sub(todo, _index(count)), at, q, *sums
        builder.branch(head)
        for phi, value in zip(phis, following, strict=True):
            phi.add_incoming(value, body)
        builder.position_at_end(after)
        left, values = todo, carried
    return values[2:]


def _emit(code, parts, rows, vectors, adjoint, operands):
    mode, c, l, ld, b, steps, inside, ahead = operands
    builder = code.builder
    width = vectors * code.lanes
    places = row_pointers(code, code.address(c), _index(width), rows)
    for place in places:
        for j in range(0, width, 64 // code.bytes):
            code.prefetch(code.at(place, j), write=True)
    factor = _Factor(code, parts, rows, adjoint, l, ld, inside)
    sums = _sums(code, factor, code.address(b), steps, ahead, vectors)
    x = []
    for s, total in enumerate(sums):
        place = code.at(places[s // vectors], s % vectors * code.lanes)
        x.append(builder.fsub(code.load(place), total))
    for solved in code.switch(builder.and_(mode, _index(SOLVED)), (0, SOLVED)):
        y = x
        if solved:
            order = range(rows - 1, -1, -1) if adjoint else range(rows)
            y = substitute_tile(code, x, vectors, order, factor.triangle(steps))
        for s, value in enumerate(y):
            code.store(value, code.at(places[s // vectors], s % vectors * code.lanes))


def _reader(element, parts):
    """Intrinsic (vectors, mode, c, l, ld, b, steps, inside, ahead): one register tile.

    c -= l b, or, if ADJOINT, l' b; then, if SOLVED, the triangle next to what was multiplied. c and
    b are rows of whole vectors, one after the other; l is the address in the factor, whose rows are
    `ld` numbers apart, of what is multiplied with the first row of b.
    """

    def twin(vectors, mode, c, l, ld, b, steps, inside, ahead):
        width = vectors * lanes(element.name)
        twins.direct(target().rows, width, element.name, parts, mode, c, l, ld, b, steps, inside)

    @vector(twin)
    def reader(typingctx, vectors, mode, c, l, ld, b, steps, inside, ahead):
        def emit(context, builder, signature, values):
            code = Code(context, builder, element)
            for v in code.switch(values[0], (1, 2, 3)):
                for adjoint in code.switch(builder.and_(values[1], _index(ADJOINT)), (0, ADJOINT)):
                    _emit(code, parts, target().rows, v, adjoint, values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 9), emit

    return reader


_double, _single = _reader(types.float64, 1), _reader(types.float32, 1)
_double_pairs, _single_pairs = _reader(types.float64, 2), _reader(types.float32, 2)


def direct_double(vectors, mode, c, l, ld, b, steps, inside, ahead):
    _double(vectors, mode, c, l, ld, b, steps, inside, ahead)


def direct_single(vectors, mode, c, l, ld, b, steps, inside, ahead):
    _single(vectors, mode, c, l, ld, b, steps, inside, ahead)


def direct_double_pairs(vectors, mode, c, l, ld, b, steps, inside, ahead):
    _double_pairs(vectors, mode, c, l, ld, b, steps, inside, ahead)


def direct_single_pairs(vectors, mode, c, l, ld, b, steps, inside, ahead):
    _single_pairs(vectors, mode, c, l, ld, b, steps, inside, ahead)


_CODE = {
    (8, 1): direct_double,
    (4, 1): direct_single,
    (8, 2): direct_double_pairs,
    (4, 2): direct_single_pairs,
}


@functools.cache
def direct_address(size, parts):
    """Address of the tiles for numbers of so many bytes, so many to an element."""
    return entry_address(_CODE[size, parts], 9)
