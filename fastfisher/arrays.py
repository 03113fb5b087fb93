"""The door: arrays of any origin in, checked NumPy operands inside, the same kind of array out.

Nothing here copies a whole operand: scores whose layout the kernels cannot read are copied slice
by slice while they are used; half precision they read as it is. Inputs are never changed.
"""

import bisect
import sys
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from .errors import InputError
from .kernels.cpu.splitting import SLICE_BYTES
from .kernels.storage import HALVES, widened
from .scalars import as_choice, as_real

__all__ = [
    "LARGE",
    "WIDEST",
    "Scores",
    "all_finite",
    "as_answer",
    "as_damping_vector",
    "as_rows",
    "as_scores",
    "as_vectors",
    "as_weights",
    "check_policy",
    "far",
    "output",
    "to_origin",
]

COMPUTED = ("float32", "float64", "complex64", "complex128")
_NATIVE = frozenset(map(np.dtype, COMPUTED))
WIDEST = 2.0**100  # weights from here on, or up to the inverse of it, may need double precision
LARGE = 2.0**16  # scores up to which such small weights leave nothing that single precision holds
WIDENED = 1 << 16  # elements of half precision from which a kernel converts them


@dataclass(frozen=True)
class Scores:
    """Per-sample scores G (n, p): a view of the caller's data and the dtype they are computed in.

    What is read is ``scale`` times the data, with the rows `skipped` (sorted) as zeros. `weighed`
    says that their weights lose nothing in this dtype (passes.weighed).
    """

    data: np.ndarray
    dtype: np.dtype
    origin: object = None
    scale: float = 1.0
    skipped: tuple = ()
    weighed: bool = False

    @property
    def shape(self):
        return self.data.shape

    @property
    def stored(self):
        """The dtype that our kernels read: theirs, or half precision where that is single."""
        own = self.data.dtype
        halves = own.itemsize == 2 and self.dtype == np.float32
        return own.newbyteorder("=") if halves else self.dtype

    @property
    def direct(self):
        """True if our kernels can read the caller's memory as it is."""
        return self.scale == 1 and not self.skipped and _readable(self.data, self.stored)

    @property
    def slice_rows(self):
        """Rows per slice; set by p and dtype alone, so that all layouts share their bits."""
        return whole_blocks(SLICE_BYTES // max(self.data.shape[1] * self.dtype.itemsize, 1), 16)

    @property
    def slice_columns(self):
        """Columns per slice, likewise."""
        return whole_blocks(SLICE_BYTES // max(self.data.shape[0] * self.dtype.itemsize, 1), 256)

    def part(self, lo, hi):
        """The scores of rows lo..hi; nothing is copied."""
        skipped = tuple(row - lo for row in self.skipped if lo <= row < hi)
        return replace(self, data=self.data[lo:hi], skipped=skipped)

    def rows(self, lo, hi, *, halves=False):
        """Rows lo..hi, C-ordered in the computing dtype: a view where possible, else a copy.

        Half precision stays what it is if the kernel reads `halves`.
        """
        return self._block(self.data[lo:hi], lo, hi, halves)

    def columns(self, lo, hi, *, rows=None, halves=False):
        """Columns lo..hi likewise, of all rows or of (first, last)."""
        first, last = rows or (0, len(self.data))
        return self._block(self.data[first:last, lo:hi], first, last, halves)

    def _block(self, part, lo, hi, halves):
        first = last = 0
        if self.skipped:
            first, last = bisect.bisect_left(self.skipped, lo), bisect.bisect_left(self.skipped, hi)
        if self.scale == 1 and first == last:
            return contiguous(part, self.stored if halves else self.dtype)
        narrows = part.dtype.kind in "fc" and part.dtype.itemsize > self.dtype.itemsize
        if narrows:  # scaled first: the values themselves may not fit
            block = np.empty(part.shape, self.dtype)  # and no copy in their own dtype
            np.multiply(part, self.scale, out=block, casting="unsafe")
        else:
            block = np.array(contiguous(part, self.dtype))
        block[[row - lo for row in self.skipped[first:last]]] = 0
        if not narrows:
            block *= block.real.dtype.type(self.scale)
        return block


def far(sizes, limit):
    """True where a size other than 0 is not between 1 / limit and limit."""
    return (sizes != 0) & ~((1 / limit < sizes) & (sizes < limit))


def whole_blocks(lines, least):
    """A slice length rounded down to whole kernel blocks, whose edges then stay in place."""
    step = 4096 if lines >= 4096 else 256 if lines >= 256 else 16 if lines >= 16 else least
    return max(int(lines) // step * step, least)


def _readable(a, dtype):
    # `dtype` is native, and what equals it is.
    flags = a.flags
    return a.dtype == dtype and flags.c_contiguous and flags.aligned


FEW = 1 << 12  # elements up to which looking through bytes is quicker than a reduction
_AS_IT_IS = nullcontext()


def all_finite(a):
    """True if no element is NaN or Inf."""
    finite = np.isfinite(a)
    return b"\0" not in finite.tobytes() if finite.size <= FEW else bool(finite.all())


def as_answer(values, dtype, what):
    """What was computed from finite operands, in the dtype of an answer; InputError where that
    overflows. What underflows is rounded to what the dtype has there."""
    with np.errstate(over="ignore", invalid="ignore"):
        answer = values.astype(dtype, copy=False)
    if not all_finite(answer):
        raise InputError(
            f"{what} overflows {answer.dtype}; divide by a power of two what it is made of, or "
            "use float64"
        )
    return answer


class _Alias:
    """Hands the memory of a read-only array to NumPy as writable; kernels only read it."""

    def __init__(self, a):
        self.array = a
        pointer, _ = a.__array_interface__["data"]
        self.__array_interface__ = {**a.__array_interface__, "data": (pointer, False)}


def _writable_view(a):
    # Numba compiles read-only arrays anew; the same memory under a writable view costs nothing.
    return a if a.flags.writeable or not a.size else np.asarray(_Alias(a)).view(a.dtype)


def contiguous(a, dtype):
    """`a` as kernels want it: C order, aligned, native, `dtype`; a copy only where it must be."""
    if a.flags.carray and a.dtype == dtype:
        return a
    if _readable(a, dtype):
        return _writable_view(a)
    if a.size >= WIDENED and dtype == np.float32 and a.dtype.name in HALVES:
        return _widened(np.ascontiguousarray(a, a.dtype.newbyteorder("=")))
    if a.dtype.name == "bfloat16" and a.dtype != dtype:
        bits = np.ascontiguousarray(a).view(np.uint16)
        return widened(bits, a.dtype.name).astype(dtype, copy=False)
    return np.array(a, dtype=dtype, order="C", copy=True)


def _widened(a):
    from .kernels.cpu.widen import widen  # brings the compiler along

    out = np.empty(a.shape, np.float32)
    widen(out, a)
    return out


def _foreign(x):
    """The top-level package an array comes from, or None for NumPy and plain sequences."""
    if isinstance(x, np.ndarray | np.generic | list | tuple | int | float | complex):
        return None
    return type(x).__module__.partition(".")[0]


def _from_dlpack(x, name):
    try:
        device = x.__dlpack_device__()
    except Exception as error:
        raise InputError(f"{name} has no readable DLPack device: {error}") from error
    if int(device[0]) not in (1, 3, 11):  # host, pinned host, managed
        raise InputError(
            f"{name} lies on device {tuple(map(int, device))} of {_foreign(x)}, but this is "
            "computed on the host; pass a host copy (torch: .cpu(), cupy: .get())"
        )
    if getattr(x, "requires_grad", False):
        raise InputError(f"{name} requires grad and cannot be shared; pass {name}.detach()")
    try:
        return np.from_dlpack(x)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if "bfloat16" in str(getattr(x, "dtype", "")):
            raise InputError(
                f"{name} is bfloat16, which DLPack cannot hand to NumPy; "
                f"cast it to float32 (torch: {name}.float())"
            ) from error
        raise InputError(
            f"{name} of type {type(x).__name__} could not be shared through DLPack ({error}); "
            "pass a dense host array without lazy conjugation (torch: .resolve_conj())"
        ) from error


def as_array(x, name, *, need="an array"):
    """A NumPy view of anything that is an array; sequences of numbers are copied into one."""
    if type(x) is np.ndarray:
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise InputError(
            f"{name} is a masked array; drop the masked rows or fill them, and pass weights"
        )
    if isinstance(x, np.ndarray):
        a = np.asarray(x)
    elif x is None or isinstance(x, str | bytes | dict | set):
        raise InputError(f"{name} is {type(x).__name__}; expected {need}")
    elif hasattr(x, "toarray"):
        raise InputError(f"{name} is sparse; the kernels are dense: pass {name}.toarray()")
    elif hasattr(type(x), "__dlpack__") and not isinstance(x, np.generic):
        a = _from_dlpack(x, name)
    elif hasattr(type(x), "__cuda_ndarray__") or hasattr(type(x), "__cuda_array_interface__"):
        raise InputError(
            f"{name} lies on a CUDA device, but this is computed on the host; pass a host copy "
            "(numba: .copy_to_host())"
        )
    else:
        try:
            a = np.asarray(x)
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{name} of type {type(x).__name__} is no array: {error}; expected {need}"
            ) from error
    return a


def computing_dtype(dtype, name):
    """The dtype that data of `dtype` is computed in; InputError if there is none."""
    if dtype in _NATIVE:
        return dtype
    native = dtype.newbyteorder("=")
    if native.name in COMPUTED:
        return native
    if native.name in HALVES:
        return np.dtype(np.float32)
    if dtype.kind in "iub":
        raise InputError(
            f"{name} has dtype {dtype}; natural gradients need real or complex floats: pass "
            f"{name}.astype(numpy.float64)"
        )
    raise InputError(
        f"{name} has dtype {dtype}; expected one of {', '.join(COMPUTED)}"
        f" (or {', '.join(HALVES)} as storage); cast it first"
    )


def as_scores(G, name="G"):
    """Check per-sample scores (n, p) without copying them."""
    a = as_array(G, name, need="per-sample scores of shape (n, p)")
    dtype = computing_dtype(a.dtype, name)
    if a.ndim != 2:
        hint = f"; pass {name}.reshape(len({name}), -1)" if a.ndim > 2 else ""
        raise InputError(
            f"{name} has shape {a.shape}; expected two dimensions, (n samples, p parameters){hint}"
        )
    return Scores(a, dtype, G)


def as_rows(b, size, dtype, name, *, axis="p"):
    """Check b (size,) or (size, k) but for what is not finite.

    Return it as rows (k, size), cast to `dtype`, or to its complex counterpart if b is complex; as
    rows of its own dtype; and whether it was one vector.
    """
    a = as_array(b, name, need=f"shape ({axis},) or ({axis}, k)")
    wanted = computing_dtype(a.dtype, name)
    if a.ndim not in (1, 2) or a.shape[0] != size:
        raise InputError(
            f"{name} has shape {a.shape}; expected ({size},) or ({size}, k), for {axis} = {size}"
        )
    if wanted.kind == "c":
        dtype = np.result_type(dtype, np.complex64)
    given, dtype = a[np.newaxis] if a.ndim == 1 else a.T, np.dtype(dtype)
    narrowed = dtype.itemsize < wanted.itemsize
    with np.errstate(over="ignore") if narrowed else _AS_IT_IS:
        rows = contiguous(given, dtype)
    if narrowed and (given.any(axis=1) & ~rows.any(axis=1)).any():
        raise InputError(f"{name} vanishes in {rows.dtype}; multiply it by a power of two")
    return rows, given, a.ndim == 1


def as_vectors(b, size, dtype, name, *, axis="p"):
    """Check b (size,) or (size, k); return it as rows (k, size), and whether it was one vector.

    Cast to `dtype`, or to its complex counterpart if b is complex.
    """
    rows, given, single = as_rows(b, size, dtype, name, axis=axis)
    if not all_finite(rows):
        bad = int(np.flatnonzero(~np.isfinite(rows).all(axis=0))[0])
        if np.isfinite(given[:, bad]).all():
            raise InputError(
                f"{name} overflows {rows.dtype} at index {bad}; divide it by a power of two"
            )
        raise InputError(f"{name} is not finite at index {bad}; remove or repair it")
    return rows, single


def as_weights(weights, n):
    """Check sample weights: (n,) real, finite, non-negative; float64, or None for ones."""
    if weights is None:
        return None
    a = as_array(weights, "weights", need="one real number per sample")
    if a.dtype.kind not in "fiub" and a.dtype.name != "bfloat16":
        raise InputError(f"weights has dtype {a.dtype}; expected real numbers")
    if a.shape != (n,):
        raise InputError(f"weights has shape {a.shape} but G has {n} rows; pass one weight per row")
    w = np.array(a, dtype=np.float64)
    good = np.isfinite(w) & (w >= 0)
    if not good.all():
        bad = np.flatnonzero(~good)
        raise InputError(
            f"weights[{bad[0]}] is {w[bad[0]]}; weights must be finite and not negative"
        )
    return w


def as_damping_vector(damping, n, *, spread=True):
    """One damping per system: a number or (n,) numbers, finite and not negative.

    Without `spread` a number is (1,).
    """
    if np.isscalar(damping) or getattr(damping, "ndim", None) == 0:
        return np.full(n if spread else 1, as_real(damping, "damping"))
    a = as_array(damping, "damping", need=f"a number or shape ({n},)")
    if a.shape != (n,) or a.dtype.kind not in "fiu":
        raise InputError(f"damping has shape {a.shape}, dtype {a.dtype}; expected ({n},) reals")
    d = np.array(a, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(d) & (d >= 0)))
    if bad.size:
        raise InputError(f"damping[{bad[0]}] is {d[bad[0]]}; expected finite and not negative")
    return d


def check_policy(nan_policy):
    """InputError unless it says what becomes of rows that are not finite."""
    as_choice(nan_policy, "nan_policy", ("raise", "skip", "propagate"))


def output(out, shape, dtype, inputs):
    """Check a caller's `out=`: shape, dtype, C order, writable, no overlap with the inputs."""
    if out is None:
        return np.empty(shape, dtype)
    if not isinstance(out, np.ndarray) or out.shape != shape or out.dtype != dtype:
        came = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
        raise InputError(f"out is {came}; expected a NumPy array of {np.dtype(dtype)} {shape}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise InputError("out must be C-ordered, aligned and writable; pass numpy.empty(shape)")
    if any(np.may_share_memory(out, a) for a in inputs if a is not None):
        raise InputError("out shares memory with an input; pass an array of its own")
    return out


def to_origin(x, origin):
    """Return NumPy array `x` as an array of the library `origin` came from."""
    if type(origin) is np.ndarray:
        return x
    package = _foreign(origin)
    if package is None or isinstance(origin, np.ndarray):
        return x
    if package == "torch":
        return sys.modules["torch"].from_numpy(x) if x.ndim else x
    namespace = getattr(origin, "__array_namespace__", None)
    if namespace is not None and hasattr(origin, "__dlpack__"):
        module, x = namespace(), np.ascontiguousarray(x)  # not everybody takes other orders
        return module.from_dlpack(x) if hasattr(module, "from_dlpack") else module.asarray(x)
    return x
