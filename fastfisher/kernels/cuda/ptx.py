"""Instructions that numba-cuda has no name for, as inline PTX, for `compat` alone."""

import functools
import weakref

from llvmlite import ir
from numba import cuda
from numba.cuda import types
from numba.cuda.extending import intrinsic

__all__ = [
    "add_lower",
    "address",
    "array_of",
    "clear",
    "cp_async",
    "cp_async_commit",
    "cp_async_wait",
    "from_bfloat16",
    "from_float16",
    "load_vector",
    "mma",
    "move",
    "new_stream",
    "opaque",
    "overlaps",
    "spoil",
    "syncwarp",
    "to_tf32",
]

_I16, _I32, _I64 = (ir.IntType(bits) for bits in (16, 32, 64))


def _element(context, builder, array_type, array, offset):
    """Address of an element of a one-dimensional contiguous array."""
    data = context.make_array(array_type)(context, builder, array).data
    return builder.gep(data, [builder.sext(offset, _I64) if offset.type.width < 64 else offset])


def _asm(builder, result, text, constraints, *args):
    kind = ir.FunctionType(result, [a.type for a in args])
    return builder.call(ir.InlineAsm(kind, text, constraints, side_effect=True), args)


def _fragment(names, count):
    return "{" + ", ".join(f"${next(names)}" for _ in range(count)) + "}"


# By the dtype of sums: constraints of sums and of factors, formats, terms per element of a factor.
_MMA = {
    types.float64: ("d", "d", ".f64.f64.f64.f64", 1),
    types.float32: ("f", "r", ".f32.tf32.tf32.f32", 1),
    types.int32: ("r", "r", ".s32.s8.s8.s32", 4),
}


@functools.cache
def mma(m, n, k):
    """mma(c, i, a, j, b, l): c[i:] += a[j:] b[l:] for a warp, fragments in local arrays.

    Lane 4 g + t holds, in order, a (g + 8 r, t + 4 s), b (t + 4 s, g) and c (g + 8 r, 2 t + s),
    rows r first in a and last in c (PTX ISA, "Matrix fragments for mma"). float64; float32 whose
    factors `to_tf32` has rounded; or int32 sums of products of signed bytes, whose factors are
    words of four terms: then k counts words.
    """
    sizes = m * n // 32, m * k // 32, k * n // 32

    @intrinsic
    def multiply(context, c, i, a, j, b, l):
        def codegen(context, builder, signature, args):
            kinds, values = signature.args[::2], zip(args[::2], args[1::2], strict=True)
            places = []
            for kind, (array, offset), size in zip(kinds, values, sizes, strict=True):
                first = _element(context, builder, kind, array, offset)
                places.append([builder.gep(first, [_I64(u)]) for u in range(size)])
            number, factor, formats, terms = _MMA[kinds[0].dtype]
            sums, *factors = ([builder.load(p) for p in place] for place in places)
            factors = factors[0] + factors[1]
            if factor == "r":
                factors = [builder.bitcast(x, _I32) for x in factors]
            names = iter(range(64))
            groups = [_fragment(names, size) for size in (*sizes, sizes[0])]
            constraints = [f"={number}"] * sizes[0] + [factor] * len(factors) + [number] * sizes[0]
            result = _asm(
                builder,
                ir.LiteralStructType([s.type for s in sums]),
                f"mma.sync.aligned.m{m}n{n}k{terms * k}.row.col{formats} {', '.join(groups)};",
                ",".join(constraints),
                *factors,
                *sums,
            )
            for u, place in enumerate(places[0]):
                builder.store(builder.extract_value(result, u), place)
            return context.get_dummy_value()

        return types.void(c, i, a, j, b, l), codegen

    return multiply


@functools.cache
def load_vector(count):
    """load(to, i, source, j): to[i:] = source[j:], `count` elements that lie 16 bytes aligned."""

    @intrinsic
    def load(context, to, i, source, j):
        def codegen(context, builder, signature, args):
            target = _element(context, builder, signature.args[0], args[0], args[1])
            origin = _element(context, builder, signature.args[2], args[2], args[3])
            vector = ir.VectorType(origin.type.pointee, count).as_pointer()
            values = builder.load(builder.bitcast(origin, vector), align=16)
            for u in range(count):
                value = builder.extract_element(values, _I32(u))
                builder.store(value, builder.gep(target, [_I64(u)]))
            return context.get_dummy_value()

        return types.void(to, i, source, j), codegen

    return load


def _at(builder, first, steps):
    return builder.gep(first, [_I64(steps)])


@functools.cache
def clear(count):
    """clear(x): zeros in the first `count` elements.

    This, `move`, `spread` and `add_lower` are written out: a local array stays in registers only
    where every index is a constant, and the compiler leaves long loops rolled up.
    """

    @intrinsic
    def zeros(context, x):
        def codegen(context, builder, signature, args):
            first = _element(context, builder, signature.args[0], args[0], _I64(0))
            kind = first.type.pointee
            zero = 0 if isinstance(kind, ir.IntType) else 0.0
            for u in range(count):
                builder.store(ir.Constant(kind, zero), _at(builder, first, u))
            return context.get_dummy_value()

        return types.void(x), codegen

    return zeros


@functools.cache
def move(count, to_step, step, how):
    """move(to, i, x, j): to[i + u to_step] = x[j + u step] for u < count; `how` is =, += or *=.

    float32 may become double.
    """

    @intrinsic
    def moved(context, to, i, x, j):
        def codegen(context, builder, signature, args):
            target = _element(context, builder, signature.args[0], args[0], args[1])
            source = _element(context, builder, signature.args[2], args[2], args[3])
            for u in range(count):
                place = _at(builder, target, u * to_step)
                value = builder.load(_at(builder, source, u * step))
                if value.type != place.type.pointee:
                    value = builder.fpext(value, place.type.pointee)
                if how == "+=":
                    value = builder.fadd(builder.load(place), value)
                elif how == "*=":
                    value = builder.fmul(builder.load(place), value)
                builder.store(value, place)
            return context.get_dummy_value()

        return types.void(to, i, x, j), codegen

    return moved


@functools.cache
def add_lower(places):
    """add(c, at, ldc, order, i, j, sign, sums): lower c[i + r, j + s] += sign sums[u], for the
    u-th (r, s) of `places`; c is the flat array from `at` on, in rows of ldc. Sums may be integers.
    """

    @intrinsic
    def add(context, c, at, ldc, order, i, j, sign, sums):
        def codegen(context, builder, signature, args):
            c, at, ldc, order, i, j, sign, sums = args
            corner = builder.add(at, builder.add(builder.mul(i, ldc), j))
            first = _element(context, builder, signature.args[0], c, corner)
            values = _element(context, builder, signature.args[7], sums, _I64(0))
            for u, (r, s) in enumerate(places):
                row, column = builder.add(i, _I64(r)), builder.add(j, _I64(s))
                inside = builder.icmp_signed("<", row, order)
                lower = builder.icmp_signed("<=", column, row)
                with builder.if_then(builder.and_(inside, lower)):
                    step = builder.add(builder.mul(ldc, _I64(r)), _I64(s))
                    place = builder.gep(first, [step])
                    value = builder.load(_at(builder, values, u))
                    if isinstance(value.type, ir.IntType):
                        value = builder.sitofp(value, sign.type)
                    value = builder.fmul(value, sign)
                    if value.type != place.type.pointee:
                        value = builder.fptrunc(value, place.type.pointee)
                    builder.store(builder.fadd(builder.load(place), value), place)
            return context.get_dummy_value()

        wide = types.int64
        return types.void(c, wide, wide, wide, wide, wide, types.float64, sums), codegen

    return add


@functools.cache
def spread(places, ld):
    """spread(to, at, x): to[at + r ld + s] = x[u], for the u-th (r, s) of `places`."""

    @intrinsic
    def spread_out(context, to, at, x):
        def codegen(context, builder, signature, args):
            target = _element(context, builder, signature.args[0], args[0], args[1])
            source = _element(context, builder, signature.args[2], args[2], _I64(0))
            for u, (r, s) in enumerate(places):
                builder.store(
                    builder.load(_at(builder, source, u)), _at(builder, target, r * ld + s)
                )
            return context.get_dummy_value()

        return types.void(to, at, x), codegen

    return spread_out


@functools.cache
def cp_async(size):
    """copy(to, i, source, j, valid): `size` bytes to shared memory, zeros past `valid` of them."""
    kind = "cg" if size == 16 else "ca"  # past L1 where that is possible

    @intrinsic
    def copy(context, to, i, source, j, valid):
        def codegen(context, builder, signature, args):
            target = _element(context, builder, signature.args[0], args[0], args[1])
            origin = _element(context, builder, signature.args[2], args[2], args[3])
            shared = builder.addrspacecast(target, target.type.pointee.as_pointer(3))
            valid = args[4] if args[4].type.width == 32 else builder.trunc(args[4], _I32)
            _asm(
                builder,
                ir.VoidType(),
                f"cp.async.{kind}.shared.global [$0], [$1], {size}, $2;",
                "r,l,r,~{memory}",
                builder.ptrtoint(shared, _I32),
                builder.ptrtoint(origin, _I64),
                valid,
            )
            return context.get_dummy_value()

        return types.void(to, i, source, j, types.int32), codegen

    return copy


@intrinsic
def cp_async_commit(context):
    """The copies so far are a group."""

    def codegen(context, builder, signature, args):
        _asm(builder, ir.VoidType(), "cp.async.commit_group;", "~{memory}")
        return context.get_dummy_value()

    return types.void(), codegen


@functools.cache
def cp_async_wait(pending):
    """wait(): until at most `pending` of this thread's groups are under way."""

    @intrinsic
    def wait(context):
        def codegen(context, builder, signature, args):
            _asm(builder, ir.VoidType(), f"cp.async.wait_group {pending};", "~{memory}")
            return context.get_dummy_value()

        return types.void(), codegen

    return wait


def _convert(result, argument, instruction, constraints, name):
    """An intrinsic of one value: cast to `argument`, one instruction, `result`."""
    returned = {"f": ir.FloatType(), "r": _I32}[constraints[1]]

    @intrinsic
    def convert(context, x):
        def codegen(context, builder, signature, args):
            value = _asm(builder, returned, instruction, constraints, args[0])
            return builder.bitcast(value, ir.FloatType())

        return result(argument), codegen

    convert.__doc__ = name
    return convert


to_tf32 = _convert(
    types.float32, types.float32, "cvt.rna.tf32.f32 $0, $1;", "=r,f", "Rounded to 11 bits."
)
from_float16 = _convert(
    types.float32, types.uint16, "cvt.f32.f16 $0, $1;", "=f,h", "float32 of float16 bits."
)


@intrinsic
def from_bfloat16(context, bits):
    """float32 of bfloat16 bits."""

    def codegen(context, builder, signature, args):
        wide = builder.shl(builder.zext(args[0], _I32), _I32(16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), codegen


@intrinsic
def opaque(context, x):
    """The integer x, of which the compiler knows nothing: it moves nothing that follows from it."""

    def codegen(context, builder, signature, args):
        return _asm(builder, _I64, "mov.b64 $0, $1;", "=l,l", args[0])

    return types.int64(types.int64), codegen


def array_of(interface, owner):
    """The device array that a __cuda_array_interface__ describes; it keeps `owner`."""
    return cuda.from_cuda_array_interface(interface, owner=owner, sync=False)


def address(x):
    """Where a device array begins; 0 if it is empty, or stands for one."""
    pointer = getattr(x, "device_ctypes_pointer", None)
    return pointer.value or 0 if pointer is not None else 0


def spoil(x):
    """Memory that is handed out again keeps what is in it."""


def new_stream():
    """A stream of our own. The provider's would wait for the default stream, and it for them."""
    from numba.cuda.cudadrv.driver import binding, driver

    handle = driver.cuStreamCreate(int(binding.CUstream_flags.CU_STREAM_NON_BLOCKING))
    stream = cuda.external_stream(int(handle))
    weakref.finalize(stream, driver.cuStreamDestroy, handle).atexit = False
    return stream


def _bounds(x):
    """The first byte of a device array, and the one after its last."""
    first = last = int(x.__cuda_array_interface__["data"][0])
    for length, step in zip(x.shape, x.strides, strict=True):
        reach = (length - 1) * step
        first, last = first + min(reach, 0), last + max(reach, 0)
    return first, last + x.dtype.itemsize


def overlaps(a, b):
    """True if device arrays may share memory: the bounds of both do."""
    if not a.size or not b.size:
        return False
    (first, last), (start, stop) = _bounds(a), _bounds(b)
    return first < stop and start < last


@intrinsic
def syncwarp(context):
    """All lanes of the warp wait for each other and see what the others have stored."""

    def codegen(context, builder, signature, args):
        _asm(builder, ir.VoidType(), "bar.warp.sync 0xffffffff;", "~{memory}")
        return context.get_dummy_value()

    return types.void(), codegen
