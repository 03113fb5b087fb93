"""The door for arrays that lie on a device, and for host arrays that are to be computed there."""

import contextlib
import functools
import os
import re
import sys
from dataclasses import dataclass, replace

import numpy as np

from ..arrays import HALVES, Scores, computing_dtype
from ..errors import FisherError, InputError, MemoryLimitError
from ..kernels.cuda import compat, copies, memory, sums, vectors
from ..planning import current_options
from . import lies_on_device
from .kinds import (
    current_stream,
    device_number,
    new_array,
    ordered_by,
    package,
    pool,
    producer_stream,
)

__all__ = [
    "DeviceScores",
    "as_matrix",
    "as_rows",
    "as_scores",
    "as_weights",
    "device_view",
    "none",
    "on_host",
    "require_finite",
    "result",
    "working_with",
]


LEAST = (8, 0)  # compute capability: asynchronous copies, TF32 and float64 tensor cores


@dataclass(frozen=True)
class DeviceScores:
    """Per-sample scores G (n, p): a device array, or `Scores` of the host that come in slices.

    `dtype` is what they are computed in; bfloat16 is an array of its bits, uint16. Where a device
    array is to be multiplied, or rows of it to be read as zeros, it comes in slices as well.
    """

    data: object
    dtype: np.dtype
    origin: object = None
    factor: float = 1.0  # a power of two
    skipped: object = None  # (n,) bool on the device
    wide: bool = False  # what is made of them and weights is computed in double

    @property
    def shape(self):
        return tuple(self.data.shape)

    @property
    def streamed(self):
        return isinstance(self.data, Scores)

    @property
    def direct(self):
        """True if kernels read the scores where they lie."""
        return not self.streamed and not self.changed and self.data.is_c_contiguous()

    @property
    def changed(self):
        """True if a device array is not taken as it is."""
        return self.factor != 1 or self.skipped is not None

    @property
    def scale(self):
        """What the scores are multiplied by."""
        return self.data.scale if self.streamed else self.factor

    @property
    def stored(self):
        """The dtype in which slices come: as stored, but for halves that are multiplied, or come
        from a host that leaves rows out."""
        if not self.streamed:
            bits = np.dtype(self.data.dtype)
            return bits if self.factor == 1 or bits.itemsize > 2 else self.dtype
        plain = self.data.scale == 1 and not self.data.skipped
        return self.data.stored if plain else self.data.dtype

    @property
    def weighed(self):
        """The scores as they are read beside weights."""
        return replace(self, dtype=np.dtype(np.float64)) if self.wide else self

    def scaled(self, factor):
        """The same, multiplied by a power of two."""
        if self.streamed:
            return replace(self, data=replace(self.data, scale=self.data.scale * factor))
        return replace(self, factor=self.factor * factor)

    def without(self, bad):
        """The same with zeros for the rows where `bad` (n,) bool, of the host, is True."""
        if self.streamed:
            rows = tuple(np.flatnonzero(bad).tolist())
            return replace(self, data=replace(self.data, skipped=rows))
        return replace(self, skipped=memory.to_device(bad))


@contextlib.contextmanager
def working_with(*operands):
    """Work on the device of the operands, on the stream and from the memory pool of the first.

    The stream is that of ``options(stream=)``, else the one its owner works on now; what other
    streams have queued for the operands is waited for, on the device.
    """
    _require_own_process()
    first, *others = (x for x in operands if x is not None)
    number = device_number(first)
    for other in filter(lies_on_device, others):
        if device_number(other) not in (None, number):
            raise InputError(
                f"operands lie on different devices, {number} and {device_number(other)}; "
                "copy them to one"
            )
    asked, own = current_options().stream, current_stream(first)
    stream = own if asked is None else memory.as_stream(asked)
    with (
        memory.device(number),
        contextlib.nullcontext() if asked is None else ordered_by(first, stream),
        compat.on_stream(stream),
        compat.allocating(pool(first)),
        _out_of_memory(),
    ):
        _require_capability()
        for other in (None if asked is None else own, *map(producer_stream, (first, *others))):
            if other is not None:
                memory.wait_for(other)
        yield


@contextlib.contextmanager
def _out_of_memory():
    """MemoryLimitError in place of what the driver, CuPy and torch raise."""
    try:
        yield
    except Exception as error:
        told = f"{type(error).__name__}: {error}"
        if isinstance(error, FisherError) or "out of memory" not in _words(told):
            raise
        facts = [
            told,
            *getattr(error, "__notes__", ()),
            f"{memory.free_bytes() / 1e6:.3g} MB are free",
        ]
        raise MemoryLimitError(
            f"the device has no room for this ({'; '.join(facts)}); free arrays there, "
            "pass fewer right-hand sides, or host arrays and device='cuda', which pass in slices"
        ) from error


def _words(text):
    """CUDA_ERROR_OUT_OF_MEMORY, OutOfMemoryError and the like, in one spelling."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|_", " ", text).lower()


_first = {}  # "user": the process that was the first to use a device


def _require_own_process():
    """InputError in a child of a process that has used CUDA: what it inherits is of no use."""
    if _first.setdefault("user", os.getpid()) != os.getpid():
        raise InputError(
            "this process was forked from one that had used CUDA, so it cannot; start it by "
            "multiprocessing's 'spawn' or 'forkserver', or use CUDA in the children only"
        )


def _require_capability():
    """InputError on a device that lacks the instructions of the kernels."""
    if compat.capability() < LEAST:
        found, least = (".".join(map(str, c)) for c in (compat.capability(), LEAST))
        raise InputError(
            f"this GPU has compute capability {found}; the kernels need {least} or later: "
            "pass host arrays"
        )


@contextlib.contextmanager
def on_host():
    """Work on the current device for operands of the host."""
    _require_own_process()
    _require_capability()
    asked = current_options().stream
    stream = 0 if asked is None else memory.as_stream(asked)
    with compat.on_stream(stream), _out_of_memory():
        yield


@functools.cache
def none(dtype, ndim=1):
    """The empty device array that means "none" to kernels."""
    return compat.cuda.device_array((0,) * ndim, np.dtype(dtype))


def device_view(x, name):
    """A device array over the memory of x; InputError if x lies on the host or is complex."""
    if not lies_on_device(x):
        raise InputError(
            f"{name} lies on the host ({type(x).__name__}) but other operands on a device; copy it "
            'there (cupy.asarray, torch: .cuda()), or pass host arrays and device="cuda"'
        )
    if getattr(x, "requires_grad", False):
        raise InputError(f"{name} requires grad and cannot be shared; pass {name}.detach()")
    if package(x) == "torch" and str(x.dtype) == "torch.bfloat16":
        return memory.view(x.view(sys.modules["torch"].int16)).view(np.uint16), "bfloat16"
    if hasattr(type(x), "__cuda_ndarray__") or hasattr(type(x), "__cuda_array_interface__"):
        a = memory.view(x)
    else:
        a = memory.view_dlpack(x, compat.current_stream())
    if a.dtype.kind == "c":
        raise InputError(
            f"{name} has dtype {a.dtype}; complex arrays are computed on the host: pass a host copy"
        )
    return a, a.dtype.name


def as_scores(G, name="G"):
    """Check scores (n, p) on a device, without copying them; or `Scores` of the host."""
    if isinstance(G, Scores):
        if G.dtype.kind == "c":
            raise InputError(f"{name} has dtype {G.dtype}; complex scores need device='cpu'")
        return DeviceScores(G, G.dtype, G.origin)
    a, stored = device_view(G, name)
    dtype = np.dtype(np.float32) if stored == "bfloat16" else computing_dtype(a.dtype, name)
    if a.ndim != 2:
        raise InputError(
            f"{name} has shape {tuple(a.shape)}; expected two dimensions, (n samples, p parameters)"
        )
    return DeviceScores(a, dtype, G)


def _floats(x, name):
    """A device array of floats as they are computed in: x, or a device copy of halves."""
    a, stored = device_view(x, name)
    if stored not in HALVES:
        computing_dtype(a.dtype, name)
        return a
    if not a.is_c_contiguous():
        raise InputError(f"{name} is {stored}, strided; pass a C-ordered array")
    out = compat.empty(tuple(a.shape), np.dtype(np.float32))
    copies.changed(out.reshape(1, a.size), a.reshape(1, a.size), 1.0, none(bool))
    return out


def as_rows(b, size, name, *, dtype=np.float64, axis="p"):
    """Vectors (size,) or (size, k) of a device, copied to rows (k, size) of `dtype`; whether one.

    They are examined where a solve looks at its report, not here.
    """
    a = _floats(b, name)
    if a.ndim not in (1, 2) or a.shape[0] != size:
        raise InputError(
            f"{name} has shape {tuple(a.shape)}; expected ({size},) or ({size}, k), "
            f"for {axis} = {size}"
        )
    single = a.ndim == 1
    columns = a.reshape(size, 1) if single and a.is_c_contiguous() else a
    k = 1 if single else a.shape[1]
    rows = compat.empty((k, size), np.dtype(dtype))
    if single and columns is a:
        vectors.take_one(rows, a)
    else:
        vectors.take(rows, columns, none(np.float64))
    return rows, single


def as_weights(w, n):
    """Weights (n,) of a device, copied to a row (1, n) in double; not examined."""
    rows, single = as_rows(w, n, "weights", axis="n")
    if not single:
        raise InputError(f"weights has shape {tuple(w.shape)}; expected ({n},)")
    return rows


def as_matrix(A, name, shape):
    """A device array of this number of dimensions in C order (a device copy where it must be)."""
    a = _floats(A, name)
    if a.ndim != len(shape):
        raise InputError(f"{name} has shape {tuple(a.shape)}; expected ({', '.join(shape)})")
    if a.is_c_contiguous():
        return a
    if a.ndim != 2:
        raise InputError(f"{name} is strided; pass a C-ordered array")
    out = compat.empty(tuple(a.shape), a.dtype)
    memory.gather(out, a)
    return out


def require_finite(answer, what, **given):
    """InputError where an answer (C order) overflowed, or what was given (rows) is not finite.
    Waits."""
    largest = compat.empty((1,), np.float64)

    def finite(x):
        sums.largest(largest, x.reshape(1, x.size))
        return not x.size or np.isfinite(memory.to_host(largest)[0])

    if finite(answer):
        return
    for name, rows in given.items():
        if not finite(rows):
            raise InputError(f"{name} is not finite; repair it")
    raise InputError(
        f"{what} overflows {answer.dtype}; divide by a power of two what it is made of, or use "
        "float64"
    )


def result(origin, shape, dtype):
    """(array of the kind of `origin`, its device view) for an answer."""
    return new_array(origin, shape, dtype)
