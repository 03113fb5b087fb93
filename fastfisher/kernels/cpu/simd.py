"""Vector code that does not depend on the auto-vectoriser: register tiles and their pieces.

Intrinsics work on addresses; the element type picks the vector. Unrolling is done here, in Python,
so what the compiler sees is what runs. With the JIT disabled the same names are NumPy `twins`.
Scores in less precision than is computed in are widened by the load.
"""

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from . import twins
from .halves import BITS, STORED, widened
from .isa import lanes, target, tile_rows, tile_width

__all__ = [
    "SHORT",
    "add_doubles",
    "address",
    "call",
    "call_entry",
    "clear",
    "lanes",
    "micro_kernel",
    "reader",
    "target",
    "tile_rows",
    "tile_width",
]


def vector(twin):
    """An intrinsic where there is a compiler, its NumPy twin where the JIT is disabled."""
    return lambda define: twin if numba.config.DISABLE_JIT else intrinsic(define)


_I32, _I64 = ir.IntType(32), ir.IntType(64)


def _index(value):
    return ir.Constant(_I64, value)


def _size(element):
    """Bytes of a number that is widened."""
    return 4 if element == ir.FloatType() else 2


class Code:
    """LLVM pieces for vectors of one real element type."""

    def __init__(self, context, builder, element, lanes=None):
        isa = target()
        self.context, self.builder = context, builder
        self.element = context.get_data_type(element)
        self.bytes = element.bitwidth // 8
        self.lanes = lanes or isa.bytes // self.bytes
        self.vector = ir.VectorType(self.element, self.lanes)
        self.suffix = f"v{self.lanes}f{element.bitwidth}"
        self.fused = isa.fused

    def pointer(self, array_type, array, offset):
        """Address of element `offset` of the flat array."""
        data = self.context.make_array(array_type)(self.context, self.builder, value=array).data
        return self.builder.gep(data, [offset])

    def address(self, value, stored=None):
        """Pointer from an address: to elements, or to what is `stored` there and loaded as such."""
        kind = STORED.get(stored, self.element)
        return self.builder.inttoptr(value, kind.as_pointer())

    def at(self, pointer, offset):
        return self.builder.gep(pointer, [_index(offset) if isinstance(offset, int) else offset])

    def load(self, pointer, align=None):
        if pointer.type.pointee != self.element:
            kind = ir.VectorType(pointer.type.pointee, self.lanes)
            address = self.builder.bitcast(pointer, kind.as_pointer())
            return self.widen(self.builder.load(address, align=_size(kind.element)))
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        return self.builder.load(address, align=align or self.bytes)

    def load_one(self, pointer):
        """The element at a pointer, by itself."""
        x = self.builder.load(pointer)
        return x if x.type == self.element else self.widen(x)

    def widen(self, x):
        """x as it is stored, or a vector of that, in elements."""
        x = widened(self.builder, x)
        single = getattr(x.type, "element", x.type)
        return x if single == self.element else widened(self.builder, x)

    def store(self, value, pointer, align=None):
        address = self.builder.bitcast(pointer, value.type.as_pointer())
        self.builder.store(value, address, align=align or self.bytes)

    def load_some(self, pointer, first, count):
        """Elements first.. of `count` that there are; zero beyond."""
        left = self.builder.sub(count, first)
        if pointer.type.pointee != self.element:
            return self._load_some_widened(pointer, left)
        return self._masked(pointer, left, self.vector, self.suffix, self.bytes)

    def _masked(self, pointer, left, kind, suffix, align):
        mask = self.inside(left)
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(kind, [kind.as_pointer(), _I32, mask.type, kind]),
            f"llvm.masked.load.{suffix}.p0",
        )
        address = self.builder.bitcast(pointer, kind.as_pointer())
        return self.builder.call(function, [address, _I32(align), mask, ir.Constant(kind, None)])

    def store_some(self, value, pointer, count):
        """The first `count` elements of a vector."""
        mask = self.inside(count)
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(
                ir.VoidType(), [self.vector, self.vector.as_pointer(), _I32, mask.type]
            ),
            f"llvm.masked.store.{self.suffix}.p0",
        )
        address = self.builder.bitcast(pointer, self.vector.as_pointer())
        self.builder.call(function, [value, address, _I32(self.bytes), mask])

    def _load_some_widened(self, pointer, left):
        # Whole vectors without a mask: few processors have one for elements of 16 bits.
        builder = self.builder
        whole = builder.icmp_signed(">=", left, _index(self.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                every, after = self.load(pointer), builder.block
            with otherwise:
                own = ir.VectorType(pointer.type.pointee, self.lanes)
                bits, name = (BITS, "i16") if _size(own.element) == 2 else (own.element, "f32")
                kind, suffix = ir.VectorType(bits, self.lanes), f"v{self.lanes}{name}"
                x = self._masked(pointer, left, kind, suffix, _size(own.element))
                some, before = self.widen(builder.bitcast(x, own)), builder.block
        found = builder.phi(self.vector)
        found.add_incoming(every, after)
        found.add_incoming(some, before)
        return found

    def inside(self, count):
        """The mask of the first `count` elements of a vector."""
        numbers = ir.Constant(ir.VectorType(_I64, self.lanes), list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(count))

    def splat(self, scalar):
        none = ir.Constant(ir.VectorType(scalar.type, self.lanes), ir.Undefined)
        one = self.builder.insert_element(none, scalar, _I32(0))
        return self.shuffle(one, none, [0] * self.lanes)

    def zero(self):
        return ir.Constant(self.vector, None)

    def fma(self, x, y, z):
        name = "fma" if self.fused else "fmuladd"
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.{name}.{self.suffix}",
        )
        return self.builder.call(function, [x, y, z])

    def add_outer(self, sums, p, q, rows, vectors):
        """sums[i, v] + p[i] q[v] for `rows` numbers at p and `vectors` vectors at q."""
        sums, panel = list(sums), [self.load(self.at(q, v * self.lanes)) for v in range(vectors)]
        for i in range(rows):
            x = self.splat(self.builder.load(self.at(p, i)))
            for v in range(vectors):
                s = i * vectors + v
                sums[s] = self.fma(x, panel[v], sums[s])
        return sums

    def transposed(self, rows):
        """A square of vectors, mirrored: ever smaller off-diagonal halves change places."""
        n, rows = self.lanes, list(rows)
        half = n // 2
        while half:
            lower = [j if not j & half else n + j - half for j in range(n)]
            upper = [j + half if not j & half else n + j for j in range(n)]
            for i in range(n):
                if not i & half:
                    x, y = rows[i], rows[i + half]
                    rows[i], rows[i + half] = self.shuffle(x, y, lower), self.shuffle(x, y, upper)
            half //= 2
        return rows

    def shuffle(self, x, y, mask):
        """Elements of x and, from `lanes` on, of y."""
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, self.lanes), mask))

    def prefetch(self, pointer, *, write=False, level=3):
        """Level 3 is L1, 2 is L2."""
        byte = ir.IntType(8).as_pointer()
        function = cgutils.get_or_insert_function(
            self.builder.module,
            ir.FunctionType(ir.VoidType(), [byte, _I32, _I32, _I32]),
            "llvm.prefetch.p0",
        )
        address = self.builder.bitcast(pointer, byte)
        self.builder.call(function, [address, _I32(int(write)), _I32(level), _I32(1)])

    def touch(self, pointer):
        """Read a byte for the sake of its cache line: an atomic load is not left out."""
        byte = self.builder.bitcast(pointer, ir.IntType(8).as_pointer())
        self.builder.load_atomic(byte, "monotonic", 1)

    def switch(self, value, numbers):
        """for number in ...: emits what runs if `value` is that number; others do nothing."""
        builder = self.builder
        done = builder.append_basic_block("done")
        switch = builder.switch(value, done)
        for number in numbers:
            block = builder.append_basic_block(f"case{number}")
            switch.add_case(_index(number), block)
            builder.position_at_end(block)
            yield number
            builder.branch(done)
        builder.position_at_end(done)

    def loop(self, count, carried, body):
        """Do-while over `count` >= 1 steps; body(step, values) -> values; the last values."""
        builder = self.builder
        before = builder.block
        block, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
        builder.branch(block)
        builder.position_at_end(block)
        step = builder.phi(_I64)
        step.add_incoming(_index(0), before)
        values = [builder.phi(value.type) for value in carried]
        for phi, value in zip(values, carried, strict=True):
            phi.add_incoming(value, before)
        results = body(step, values)
        following = builder.add(step, _index(1))
        step.add_incoming(following, builder.block)
        for phi, value in zip(values, results, strict=True):
            phi.add_incoming(value, builder.block)
        builder.cbranch(builder.icmp_signed("<", following, count), block, after)
        builder.position_at_end(after)
        return results


def _emit_tile(code, sums_code, rows, vectors, sign, operands):
    """c[i, j] += sign * sum_k a[k, i] b[k, j] on a register tile of rows x vectors.

    Every element is summed over k in order, so neither the tile's shape nor the vector width shows.
    """
    c, ldc, a, b, ld, steps, ahead = operands
    builder = code.builder
    c_rows = [sums_code.address(c)]
    for _ in range(rows - 1):
        c_rows.append(code.at(c_rows[-1], ldc))
    for row in c_rows:
        for j in range(0, vectors * code.lanes, 64 // sums_code.bytes):
            code.prefetch(code.at(row, j), write=True)

    def body(step, carried):
        p, q, line, *sums = carried
        code.prefetch(line, level=2)
        for _ in range(2):
            sums = code.add_outer(sums, p, q, rows, vectors)
            p, q = code.at(p, ld), code.at(q, ld)
        return [p, q, code.at(line, 64 // code.bytes), *sums]

    start = [code.address(x) for x in (a, b, ahead)] + [code.zero()] * (rows * vectors)
    _, _, _, *sums = code.loop(builder.lshr(steps, _index(1)), start, body)
    combine = builder.fadd if sign > 0 else builder.fsub
    for s, total in enumerate(sums):
        place = code.at(c_rows[s // vectors], s % vectors * code.lanes)
        if sums_code.bytes != code.bytes:
            total = builder.fpext(total, sums_code.vector)
        sums_code.store(combine(sums_code.load(place), total), place)


SHORT = 2  # rows of the tiles at the lower edge of a triangle


def micro_kernel(element, sums_element, sign):
    """Intrinsic (shape, c, ldc, a, b, ld, steps, ahead): one register tile, see `_emit_tile`.

    c, a, b are addresses, ldc and ld (of a and b, along k) strides in elements; steps >= 2 is even.
    A cache line from `ahead` on is fetched for every two steps.
    shape is the number of vectors, 1 to 3, plus 4 for a tile of SHORT rows.
    """

    def twin(shape, *operands):
        rows = SHORT if shape > 3 else target().rows
        columns = shape % 4 * lanes(element.name)
        twins.micro(rows, columns, element.name, sums_element.name, sign, *operands)

    @vector(twin)
    def micro(typingctx, shape, c, ldc, a, b, ld, steps, ahead):
        def emit(context, builder, signature, values):
            code = Code(context, builder, element)
            sums_code = Code(context, builder, sums_element, code.lanes)
            for shape in code.switch(values[0], (1, 2, 3, 5, 6, 7)):
                rows = SHORT if shape > 3 else target().rows
                _emit_tile(code, sums_code, rows, shape % 4, sign, values[1:])
            return context.get_dummy_value()

        return types.void(*[types.intp] * 8), emit

    return micro


@vector(twins.address)
def address(typingctx, array, offset):
    """Address of element `offset` of a C-ordered array."""

    def emit(context, builder, signature, values):
        data = context.make_array(array)(context, builder, value=values[0]).data
        return builder.ptrtoint(builder.gep(data, [values[1]]), _I64)

    return types.intp(array, types.intp), emit


@vector(twins.call_entry)
def call_entry(typingctx, function, args):
    """Call the code compiled at the address `function` with a tuple of integers."""

    def emit(context, builder, signature, values):
        kind = ir.FunctionType(ir.VoidType(), [_I64] * len(args)).as_pointer()
        items = cgutils.unpack_tuple(builder, values[1], len(args))
        builder.call(builder.inttoptr(values[0], kind), items)
        return context.get_dummy_value()

    return types.void(types.intp, types.UniTuple(types.intp, len(args))), emit


@vector(twins.call)
def call(typingctx, function, record):
    """Call the code compiled at the address `function` with a record of integers, by reference."""
    kinds = tuple(record)

    def emit(context, builder, signature, values):
        items = cgutils.unpack_tuple(builder, values[1], len(kinds))
        slot = cgutils.alloca_once(builder, _I64, size=len(kinds))
        for k, (item, kind) in enumerate(zip(items, kinds, strict=True)):
            whole = context.cast(builder, item, kind, types.int64)
            builder.store(whole, builder.gep(slot, [_index(k)]))
        kind = ir.FunctionType(ir.VoidType(), [_I64]).as_pointer()
        builder.call(builder.inttoptr(values[0], kind), [builder.ptrtoint(slot, _I64)])
        return context.get_dummy_value()

    return types.void(types.intp, record), emit


def reader(kind):
    """Intrinsic (address) -> record of integers, the other end of `call`."""
    count = len(kind._fields)

    @vector(lambda record: record)
    def read(typingctx, place):
        record = types.NamedUniTuple(types.intp, count, kind)

        def emit(context, builder, signature, values):
            slot = builder.inttoptr(values[0], _I64.as_pointer())
            items = [builder.load(builder.gep(slot, [_index(k)])) for k in range(count)]
            return context.make_tuple(builder, record, items)

        return record(types.intp), emit

    return read


@vector(twins.clear)
def clear(typingctx, place, size):
    """Zero so many bytes at an address."""

    def emit(context, builder, signature, values):
        pointer = builder.inttoptr(values[0], ir.IntType(8).as_pointer())
        cgutils.memset(builder, pointer, values[1], 0)
        return context.get_dummy_value()

    return types.void(types.intp, types.intp), emit


@vector(twins.add_doubles)
def add_doubles(typingctx, to, step, source, count):
    """to[s * step] += source[s] for doubles at two addresses, s < count."""

    def emit(context, builder, signature, values):
        to_v, step_v, source_v, count_v = values
        code = Code(context, builder, types.float64)
        place, start = code.address(to_v), code.address(source_v)
        with cgutils.for_range(builder, count_v, intp=_I64) as loop:
            at = code.at(place, builder.mul(loop.index, step_v))
            x = builder.load(code.at(start, loop.index))
            builder.store(builder.fadd(builder.load(at), x), at)
        return context.get_dummy_value()

    return types.void(*[types.intp] * 4), emit
