"""From scores to bytes: slices of 7 bits in panels of four summed terms per 32-bit word.

A word of a panel holds four consecutive terms of one column. Vectors of 16 words whatever the
instruction set: plain LLVM code, which it splits where it must.
"""

import functools

from llvmlite import ir
from numba import types

from ..slicing import BITS
from . import twins_integer as twins
from .simd import _I32, Code, _index, vector

__all__ = ["WORDS", "peaks_at", "quantise_columns", "quantise_rows", "words"]

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


class _Quantiser:
    """Numbers in, rounded ones out as integers, and the rest in units of the next slice."""

    def __init__(self, code):
        self.code, self.builder = code, code.builder
        self.magic = ir.Constant(code.vector, [_ROUNDING[code.bytes]] * code.lanes)
        self.unit = ir.Constant(code.vector, [2.0**BITS] * code.lanes)
        self.integers = ir.VectorType(_I32, code.lanes)

    def split(self, x):
        whole = self.builder.fsub(self.builder.fadd(x, self.magic), self.magic)
        rest = self.builder.fmul(self.builder.fsub(x, whole), self.unit)
        return self.builder.fptosi(whole, self.integers), rest

    def split_all(self, xs):
        """16 integers from vectors of numbers, and the rests."""
        pairs = [self.split(x) for x in xs]
        return _joined(self.builder, [q for q, _ in pairs]), [rest for _, rest in pairs]


def _shifted(code, x, mean, at, count, shifted):
    return code.builder.fsub(x, code.load_some(code.at(mean, at), at, count)) if shifted else x


@vector(twins.quantise_rows)
def quantise_rows(typingctx, to, step, sums, source, lda, rows, count, units, factors, shift, like):
    """Four rows of scores as words of one panel: 16 columns per turn, all slices of them.

    to, sums, source, units, factors, shift are addresses; rows <= 4 are there, the others are
    zero. `step`: (bytes from slice to slice at `to`, words from slice to slice of sums, slices,
    turns, whether there is a shift).
    """
    index = types.intp
    record = types.UniTuple(index, 5)

    def emit(context, builder, signature, values):
        to_v, step_v, sums_v, source_v, lda_v, rows_v, count_v, units_v, factors_v, shift_v, _ = (
            values
        )
        stride, sums_stride, slices, turns, some = (
            builder.extract_value(step_v, i) for i in range(5)
        )
        code = Code(context, builder, like)
        quantiser, parts = _Quantiser(code), WORDS // code.lanes
        start, scale, mean = code.address(source_v), code.address(units_v), code.address(shift_v)
        factor, none = code.address(factors_v), ir.Constant(code.element, 0.0)
        pointers, by = [], []
        for r in range(4):
            there = builder.icmp_signed("<", _index(r), rows_v)
            row = builder.select(there, _index(r), _index(0))
            pointers.append(code.at(start, builder.mul(row, lda_v)))
            x = builder.load(code.at(factor, row))
            by.append(code.splat(builder.select(there, x, none)))

        def turn(number, carried, shifted):
            j = builder.mul(number, _index(WORDS))
            xs = []
            for r in range(4):
                for part in range(parts):
                    at = builder.add(j, _index(part * code.lanes))
                    x = code.load_some(code.at(pointers[r], at), at, count_v)
                    x = builder.fmul(by[r], _shifted(code, x, mean, at, count_v, shifted))
                    xs.append(builder.fmul(x, code.load_some(code.at(scale, at), at, count_v)))
            place = builder.add(to_v, builder.mul(number, _index(4 * WORDS)))
            total = builder.add(sums_v, builder.mul(number, _index(4 * WORDS)))

            def one(s, rests):
                word, sum_, after = None, None, []
                for r in range(4):
                    q, left = quantiser.split_all(rests[r * parts : (r + 1) * parts])
                    after += left
                    sum_ = q if sum_ is None else builder.add(sum_, q)
                    q = builder.shl(builder.and_(q, words(255)), words(8 * r))
                    word = q if word is None else builder.or_(word, q)
                _store(builder, word, builder.add(place, builder.mul(s, stride)), 64)
                at = builder.add(total, builder.mul(s, builder.mul(sums_stride, _index(4))))
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
        index, record, index, index, index, index, index, index, index, index, like
    ), emit


def _load(builder, address, align):
    return builder.load(builder.inttoptr(address, _WORD_VECTOR.as_pointer()), align=align)


def _store(builder, value, address, align):
    builder.store(value, builder.inttoptr(address, value.type.as_pointer()), align=align)


@vector(twins.quantise_columns)
def quantise_columns(typingctx, to, step, sums, source, count, unit, shift, like):
    """64 terms of one row of scores as 16 words, all slices; `unit` is a number.

    Terms from `count` on are zero. `step`: (bytes from slice to slice at `to`, words from slice to
    slice of sums, slices, whether there is a shift).
    """
    index = types.intp
    record = types.UniTuple(index, 4)

    def emit(context, builder, signature, values):
        to_v, step_v, sums_v, source_v, count_v, unit_v, shift_v, _ = values
        stride, sums_stride, slices, some = (builder.extract_value(step_v, i) for i in range(4))
        code = Code(context, builder, like)
        quantiser, parts = _Quantiser(code), WORDS // code.lanes
        start, mean, by = code.address(source_v), code.address(shift_v), code.splat(unit_v)
        byte = ir.IntType(8)

        def whole(shifted):
            xs = []
            for part in range(4 * parts):
                at = _index(part * code.lanes)
                x = code.load_some(code.at(start, at), at, count_v)
                xs.append(builder.fmul(by, _shifted(code, x, mean, at, count_v, shifted)))

            def one(s, rests):
                found, total, after = [], None, []
                for quarter in range(4):
                    q, left = quantiser.split_all(rests[quarter * parts : (quarter + 1) * parts])
                    after += left
                    total = q if total is None else builder.add(total, q)
                    found.append(builder.trunc(q, ir.VectorType(byte, WORDS)))
                word = builder.bitcast(_joined(builder, found), _WORD_VECTOR)
                _store(builder, word, builder.add(to_v, builder.mul(s, stride)), 4)
                at = builder.add(sums_v, builder.mul(s, builder.mul(sums_stride, _index(4))))
                place = builder.inttoptr(at, _I32.as_pointer())
                builder.store(builder.add(builder.load(place), _sum(builder, total)), place)
                return after

            code.loop(slices, xs, one)

        shifted = builder.icmp_signed("!=", some, _index(0))
        with builder.if_else(shifted) as (then, otherwise):
            with then:
                whole(True)
            with otherwise:
                whole(False)
        return context.get_dummy_value()

    return types.void(index, record, index, index, index, like, index, like), emit


def _sum(builder, x):
    """Of all words of a vector."""
    width = WORDS
    while width > 1:
        width //= 2
        mask = [lane + width if lane < width else lane for lane in range(WORDS)]
        x = builder.add(x, builder.shuffle_vector(x, x, ir.Constant(_WORD_VECTOR, mask)))
    return builder.extract_element(x, _I32(0))


@vector(twins.peaks_at)
def peaks_at(typingctx, peaks, source, count, factor, shift, shifted):
    """peaks[j] = max(peaks[j], |factor (source[j] - shift[j])|) for j < count, as bits.

    Bits of absolute values are ordered like them, with Inf and then NaN above all: nothing is
    lost. `peaks` has room for whole vectors.
    """
    index, like = types.intp, factor

    def emit(context, builder, signature, values):
        peaks_v, source_v, count_v, factor_v, shift_v, shifted_v = values
        code = Code(context, builder, like)
        start, mean, by = code.address(source_v), code.address(shift_v), code.splat(factor_v)
        place = code.address(peaks_v)
        bits = ir.VectorType(ir.IntType(8 * code.bytes), code.lanes)
        positive = ir.Constant(bits, [(1 << (8 * code.bytes - 1)) - 1] * code.lanes)

        def body(number, carried, moved):
            at = builder.mul(number, _index(code.lanes))
            x = code.load_some(code.at(start, at), at, count_v)
            x = builder.fmul(by, _shifted(code, x, mean, at, count_v, moved))
            size = builder.and_(builder.bitcast(x, bits), positive)
            before = builder.bitcast(code.load(code.at(place, at)), bits)
            larger = builder.icmp_signed(">", size, before)
            code.store(builder.select(larger, size, before), code.at(place, at))
            return []

        turns = builder.sdiv(builder.add(count_v, _index(code.lanes - 1)), _index(code.lanes))
        some = builder.icmp_signed("!=", shifted_v, _index(0))
        with builder.if_else(some) as (then, otherwise):
            with then:
                code.loop(turns, [], functools.partial(body, moved=True))
            with otherwise:
                code.loop(turns, [], functools.partial(body, moved=False))
        return context.get_dummy_value()

    return types.void(index, index, index, like, index, index), emit
