"""Numbers and vectors of them in LLVM code: float16 and bfloat16 to float32, that to double."""

from llvmlite import ir
from numba import types

from .isa import widens_halves

__all__ = ["BITS", "STORED", "widened"]

BITS, _I32 = ir.IntType(16), ir.IntType(32)
# Numba has no half precision: numbers of these types say that scores are float16, bfloat16. Single
# precision is widened where double is computed.
STORED = {types.int16: ir.HalfType(), types.uint16: BITS, types.float32: ir.FloatType()}


def widened(builder, x):
    """x, of one of the types in STORED, as float32, or double if it is that: exact, subnormals,
    Inf and NaN too."""
    count = getattr(x.type, "count", None)

    def kind(element):
        return ir.VectorType(element, count) if count else element

    def constant(value):
        return ir.Constant(kind(_I32), [value] * count if count else value)

    single = kind(ir.FloatType())
    if x.type == single:
        return builder.fpext(x, kind(ir.DoubleType()))
    if x.type == kind(BITS):
        return builder.bitcast(builder.shl(builder.zext(x, kind(_I32)), constant(16)), single)
    if widens_halves():
        return builder.fpext(x, single)
    bits = builder.zext(builder.bitcast(x, kind(BITS)), kind(_I32))
    sign = builder.shl(builder.and_(bits, constant(0x8000)), constant(16))
    magnitude = builder.shl(builder.and_(bits, constant(0x7FFF)), constant(13))
    bias, tiny = constant(112 << 23), constant(113 << 23)  # what exponents lack; 2^-14
    number = builder.add(magnitude, bias)
    special = builder.icmp_unsigned(">=", magnitude, constant(31 << 23))  # Inf and NaN
    number = builder.select(special, builder.add(number, bias), number)
    # (1 + m) 2^-14 - 2^-14 is exact, and neither operand is subnormal.
    above = builder.bitcast(builder.add(magnitude, tiny), single)
    subnormal = builder.fsub(above, builder.bitcast(tiny, single))
    small = builder.icmp_unsigned("<", magnitude, constant(1 << 23))
    number = builder.select(small, builder.bitcast(subnormal, kind(_I32)), number)
    return builder.bitcast(builder.or_(number, sign), single)
