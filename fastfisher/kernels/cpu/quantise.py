"""From scores to slices, in panels of words of 32 bits.

A word of a panel holds consecutive terms of one column: four of bytes or septets (7 bits of a
byte), two of shorts (16 bits) or halves (bfloat16). Slices of integers are so many bits after the
point of a unit, slices of halves what is nearest to the rest. Vectors of 16 words whatever the
instruction set: plain LLVM code, which it splits where it must.
"""

import functools

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils

from ..slicing import KINDS
from . import twins_units as twins
from .simd import _I32, Code, _index, vector

__all__ = [
    "STORED",
    "WORDS",
    "quantise_columns",
    "quantise_rows",
    "words",
]

# What stands for a term: as it is stored, but that septets are signed.
STORED = {"bytes": np.int8, "septets": np.uint8, "shorts": np.int16, "halves": np.uint16}
WORDS = 16  # in a vector, here

_WORD_VECTOR = ir.VectorType(_I32, WORDS)
# Added and subtracted again, this rounds to an integer, ties to even; below it half is exact.
_ROUNDING = {8: 1.5 * 2.0**52, 4: 1.5 * 2.0**23}


def words(value):
    """A vector of 16 times the same 32 bits."""
    return ir.Constant(_WORD_VECTOR, [value] * WORDS)


def _joined(builder, parts):
    """Short vectors one after the other."""
    while len(parts) > 1:
        width = parts[0].type.count
        mask = ir.Constant(ir.VectorType(_I32, 2 * width), list(range(2 * width)))
        parts = [
            builder.shuffle_vector(parts[i], parts[i + 1], mask) for i in range(0, len(parts), 2)
        ]
    return parts[0]


class _Bytes:
    """Numbers in, rounded ones out as integers, and the rest in units of the next slice."""

    kind, bits = KINDS["bytes"], 8
    summed = True  # for the offset that a unit may add to one side

    def __init__(self, code):
        self.code, self.builder, self.terms = code, code.builder, self.kind.terms
        self.magic = ir.Constant(code.vector, [_ROUNDING[code.bytes]] * code.lanes)
        self.unit = ir.Constant(code.vector, [2.0**self.kind.bits] * code.lanes)
        self.integers = ir.VectorType(_I32, code.lanes)

    def begun(self, x):
        return x

    def split(self, x):
        whole = self.builder.fsub(self.builder.fadd(x, self.magic), self.magic)
        rest = self.builder.fmul(self.builder.fsub(x, whole), self.unit)
        return self.builder.fptosi(whole, self.integers), rest

    def split_all(self, xs):
        """16 integers from vectors of numbers, and the rests."""
        pairs = [self.split(x) for x in xs]
        return _joined(self.builder, [q for q, _ in pairs]), [rest for _, rest in pairs]


class _Septets(_Bytes):
    kind = KINDS["septets"]


class _Shorts(_Bytes):
    kind, bits = KINDS["shorts"], 16
    summed = False


class _Halves(_Bytes):
    """Numbers in, the bits of the nearest bfloat16 out, and the rest, in single precision."""

    kind, bits = KINDS["halves"], 16
    summed = False

    def begun(self, x):
        single = ir.VectorType(ir.FloatType(), self.code.lanes)
        return x if x.type == single else self.builder.fptrunc(x, single)

    def split(self, x):
        builder, kind = self.builder, self.integers
        bits = builder.bitcast(x, kind)
        odd = builder.and_(builder.lshr(bits, _same(kind, 16)), _same(kind, 1))
        near = builder.add(bits, builder.add(odd, _same(kind, 0x7FFF)))  # ties to even
        whole = builder.and_(near, _same(kind, 0xFFFF0000))
        rest = builder.fsub(x, builder.bitcast(whole, x.type))
        return builder.lshr(near, _same(kind, 16)), rest


def _same(kind, value):
    return ir.Constant(kind, [value] * kind.count)


def _slicer(code, term):
    """What makes slices whose terms are stored like this."""
    kinds = {
        types.int8: _Bytes,
        types.uint8: _Septets,
        types.int16: _Shorts,
        types.uint16: _Halves,
    }
    return kinds[term](code)


def _shifted(code, x, mean, at, count, shifted):
    return code.builder.fsub(x, code.load_some(code.at(mean, at), at, count)) if shifted else x


@vector(twins.quantise_rows)
def quantise_rows(
    typingctx, to, step, sums, source, lda, rows, count, units, factors, shift, like, term
):
    """A few rows of scores as the terms of words of one panel: 16 columns per turn, all slices.

    to, sums, source, units, factors, shift are addresses; as many rows as a word has terms, or
    fewer: the others are zero. `step`: (bytes from slice to slice at `to`, words from slice to
    slice of sums, slices, turns, whether there is a shift). `term` is like those stored; bytes are
    summed.
    """
    index = types.intp
    record = types.UniTuple(index, 5)

    def emit(context, builder, signature, values):
        to_v, step_v, sums_v, source_v, lda_v, rows_v, count_v, units_v, factors_v, shift_v, *_ = (
            values
        )
        stride, sums_stride, slices, turns, some = (
            builder.extract_value(step_v, i) for i in range(5)
        )
        code = Code(context, builder, like)
        slicer, parts = _slicer(code, term), WORDS // code.lanes
        start, scale, mean = code.address(source_v), code.address(units_v), code.address(shift_v)
        factor, none = code.address(factors_v), ir.Constant(code.element, 0.0)
        pointers, by = [], []
        for r in range(slicer.terms):
            there = builder.icmp_signed("<", _index(r), rows_v)
            row = builder.select(there, _index(r), _index(0))
            pointers.append(code.at(start, builder.mul(row, lda_v)))
            x = builder.load(code.at(factor, row))
            by.append(code.splat(builder.select(there, x, none)))

        def turn(number, carried, shifted):
            j = builder.mul(number, _index(WORDS))
            xs = []
            for r in range(slicer.terms):
                for part in range(parts):
                    at = builder.add(j, _index(part * code.lanes))
                    x = code.load_some(code.at(pointers[r], at), at, count_v)
                    x = builder.fmul(by[r], _shifted(code, x, mean, at, count_v, shifted))
                    x = builder.fmul(x, code.load_some(code.at(scale, at), at, count_v))
                    xs.append(slicer.begun(x))
            place = builder.add(to_v, builder.mul(number, _index(4 * WORDS)))
            sums = builder.add(sums_v, builder.mul(number, _index(4 * WORDS)))

            def one(s, rests):
                word, sum_, after = words(0), words(0), []
                for r in range(slicer.terms):
                    q, left = slicer.split_all(rests[r * parts : (r + 1) * parts])
                    after += left
                    sum_ = builder.add(sum_, q)
                    q = builder.and_(q, words((1 << slicer.bits) - 1))
                    word = builder.or_(word, builder.shl(q, words(slicer.bits * r)))
                _store(builder, word, builder.add(place, builder.mul(s, stride)), 64)
                if slicer.summed:
                    at = builder.add(sums, builder.mul(s, builder.mul(sums_stride, _index(4))))
                    _store(builder, builder.add(_load(builder, at, 4), sum_), at, 4)
                return after

            code.loop(slices, xs, one)
            return []

        shifted = builder.icmp_signed("!=", some, _index(0))
        with builder.if_else(shifted) as (then, otherwise):
            with then:
                code.loop(turns, [], functools.partial(turn, shifted=True))
            with otherwise:
                code.loop(turns, [], functools.partial(turn, shifted=False))
        return context.get_dummy_value()

    return types.void(
        index, record, index, index, index, index, index, index, index, index, like, term
    ), emit


def _load(builder, address, align):
    return builder.load(builder.inttoptr(address, _WORD_VECTOR.as_pointer()), align=align)


def _store(builder, value, address, align):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


@vector(twins.quantise_columns)
def quantise_columns(typingctx, to, step, sums, source, count, unit, shift, like, term):
    """Terms of one row of scores as 16 words, all slices; `unit` is a number.

    Terms from `count` on are zero. `step`: (bytes from slice to slice at `to`, words from slice to
    slice of sums, slices, whether there is a shift); `term` as in `quantise_rows`.
    """
    index = types.intp
    record = types.UniTuple(index, 4)

    def emit(context, builder, signature, values):
        to_v, step_v, sums_v, source_v, count_v, unit_v, shift_v, *_ = values
        stride, sums_stride, slices, some = (builder.extract_value(step_v, i) for i in range(4))
        code = Code(context, builder, like)
        slicer, parts = _slicer(code, term), WORDS // code.lanes
        start, mean, by = code.address(source_v), code.address(shift_v), code.splat(unit_v)
        narrow = ir.VectorType(ir.IntType(slicer.bits), WORDS)

        def whole(shifted):
            xs = []
            for part in range(slicer.terms * parts):
                at = _index(part * code.lanes)
                x = code.load_some(code.at(start, at), at, count_v)
                x = builder.fmul(by, _shifted(code, x, mean, at, count_v, shifted))
                xs.append(slicer.begun(x))

            def one(s, rests):
                found, sum_, after = [], words(0), []
                for part in range(slicer.terms):
                    q, left = slicer.split_all(rests[part * parts : (part + 1) * parts])
                    after += left
                    sum_ = builder.add(sum_, q)
                    found.append(builder.trunc(q, narrow))
                word = builder.bitcast(_joined(builder, found), _WORD_VECTOR)
                _store(builder, word, builder.add(to_v, builder.mul(s, stride)), 4)
                if slicer.summed:
                    at = builder.add(sums_v, builder.mul(s, builder.mul(sums_stride, _index(4))))
                    place = builder.inttoptr(at, _I32.as_pointer())
                    builder.store(builder.add(builder.load(place), _sum(builder, sum_)), place)
                return after

            code.loop(slices, xs, one)

        shifted = builder.icmp_signed("!=", some, _index(0))
        with builder.if_else(shifted) as (then, otherwise):
            with then:
                whole(True)
            with otherwise:
                whole(False)
        return context.get_dummy_value()

    return types.void(index, record, index, index, index, like, index, like, term), emit


def _sum(builder, x):
    """Of all words of a vector. LLVM 22 miscompiles halving by shuffles here, for Zen 4."""
    kind = ir.FunctionType(_I32, [_WORD_VECTOR])
    name = f"llvm.vector.reduce.add.v{WORDS}i32"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [x])
