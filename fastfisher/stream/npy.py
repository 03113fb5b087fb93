"""The npy format, read with suspicion: nothing is executed, allocated or written for a bad file.

A file is accepted if its header is a plain description of floats and its size is exactly what the
header says. Layout of the format: NumPy Enhancement Proposal 1.
"""

import ast
import io
import math
import mmap
import os
import stat
import warnings
from dataclasses import dataclass

import numpy as np

from ..errors import InputError
from .files import replace_file

__all__ = ["FLOATS", "INTEGERS", "NpyFile", "NpyHeader", "open_npy", "parse_header", "write_npy"]

FLOATS = frozenset({"f2", "f4", "f8", "c8", "c16"})
INTEGERS = frozenset({"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"})

_MAGIC = b"\x93NUMPY"
_LENGTH_BYTES = {b"\x01\x00": 2, b"\x02\x00": 4, b"\x03\x00": 4}  # by format version
_PROLOGUE = len(_MAGIC) + 2 + 4
_HEADER_LIMIT = 10_000
_SHAPES = {1: "(length,)", 2: "(n samples, p parameters)"}
_ONE_BYTE = {"b1", "i1", "u1"}


@dataclass(frozen=True)
class NpyHeader:
    """What a file says it holds; the data starts at byte `offset`."""

    dtype: np.dtype
    shape: tuple
    fortran_order: bool
    offset: int

    @property
    def nbytes(self):
        return math.prod(self.shape) * self.dtype.itemsize


def _read_prologue(start, name):
    """Offset and length of the header text."""
    if start[:2] in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise InputError(
            f"{name} is a zip archive or a pickle, which are not read; save it with numpy.save"
        )
    if start[: len(_MAGIC)] != _MAGIC:
        raise InputError(
            f"{name} is not an npy file: it starts with {start[:6]!r}; save it with numpy.save"
        )
    begin = len(_MAGIC) + 2
    version = start[len(_MAGIC) : begin]
    size = _LENGTH_BYTES.get(version, 0)
    if not size and len(start) >= begin:
        raise InputError(
            f"{name} has npy format version {'.'.join(map(str, version))}; expected 1.0, 2.0 or 3.0"
        )
    if not size or len(start) < begin + size:
        raise InputError(f"{name} ends inside its header; copy or save it again")
    return begin + size, int.from_bytes(start[begin : begin + size], "little")


def _literal(text, name):
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            fields = ast.literal_eval(text.decode("utf-8").strip())
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise InputError(
            f"{name} has an unreadable header; it was damaged or not written by numpy.save"
        ) from error
    if not isinstance(fields, dict) or set(fields) != {"descr", "fortran_order", "shape"}:
        raise InputError(
            f"{name} has a header that is not exactly descr, fortran_order and shape; "
            "save it with numpy.save"
        )
    return fields


def _dtype(descr, codes, name):
    if not isinstance(descr, str):
        raise InputError(f"{name} holds records; save one plain array of floats")
    order, code = descr[:1], descr[1:]
    if code in codes and order in ("<", ">") + (("|",) if code in _ONE_BYTE else ()):
        return np.dtype(descr)
    if "O" in descr:
        raise InputError(
            f"{name} holds pickled Python objects, which are never read: "
            "save a plain array, G.astype(numpy.float64)"
        )
    if code in INTEGERS:
        raise InputError(
            f"{name} holds integers (dtype {descr!r}); natural gradients need real or complex "
            "floats: save G.astype(numpy.float64)"
        )
    raise InputError(
        f"{name} has dtype {descr[:20]!r}; expected one of {', '.join(sorted(codes))} in either "
        "byte order; cast before saving"
    )


def _is_size(length):
    return type(length) is int and 0 <= length < 1 << 63


def _shape(shape, ndim, name):
    if not isinstance(shape, tuple) or len(shape) > 32 or not all(map(_is_size, shape)):
        raise InputError(f"{name} has an impossible shape in its header; it was damaged")
    if len(shape) != ndim:
        hint = "; save G.reshape(len(G), -1)" if len(shape) > ndim > 1 else ""
        raise InputError(f"{name} has shape {shape}; expected {_SHAPES[ndim]}{hint}")
    return shape


def parse_header(start, size, *, ndim, codes=FLOATS, name="the file"):
    """The header of an npy file of `size` bytes that begins with the bytes `start`.

    Parameters
    ----------
    start : bytes
        At least the first 10,012 bytes of the file, or all of it.
    size : int
        Size of the whole file.
    ndim : int
        Number of dimensions it must have.
    codes : set of str
        Kinds and sizes of elements allowed: `FLOATS`, `INTEGERS` or both.
    name : str
        What messages call the file.

    Returns
    -------
    NpyHeader

    Raises
    ------
    InputError
        For anything else than an npy file with a plain header whose size is exactly right.
    """
    begin, length = _read_prologue(start, name)
    if length > _HEADER_LIMIT:
        raise InputError(
            f"{name} has a header of {length} bytes; at most {_HEADER_LIMIT} are read: "
            "it was damaged or not written by numpy.save"
        )
    offset = begin + length
    if size < offset or len(start) < offset:
        raise InputError(f"{name} ends inside its header; copy or save it again")
    fields = _literal(start[begin:offset], name)
    if type(fields["fortran_order"]) is not bool:
        raise InputError(f"{name} has a fortran_order that is no bool; it was damaged")
    header = NpyHeader(
        _dtype(fields["descr"], codes, name),
        _shape(fields["shape"], ndim, name),
        fields["fortran_order"],
        offset,
    )
    surplus = size - offset - header.nbytes
    if surplus:
        what = f"{surplus} bytes more" if surplus > 0 else f"{-surplus} bytes less"
        raise InputError(
            f"{name} has {what} than its header says ({header.dtype.name}, shape "
            f"{header.shape}); it was {'appended to' if surplus > 0 else 'truncated'}: "
            "copy or save it again"
        )
    return header


class NpyFile:
    """A read-only array in a mapped file; a context manager that closes the file.

    Attributes
    ----------
    path : str
    header : NpyHeader
    array : numpy.ndarray
        Read-only, backed by the page cache; valid after the file is closed.
    """

    def __init__(self, path, header, array, descriptor):
        self.path, self.header, self.array = path, header, array
        self._descriptor = descriptor
        self._stamp = _stamp(descriptor)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._descriptor)

    def check_unchanged(self):
        """Raise InputError if the file was written to or resized since it was opened."""
        if _stamp(self._descriptor) != self._stamp:
            raise InputError(
                f"{self.path!r} was changed while it was read, so the result cannot be trusted; "
                "run again when nothing writes to it"
            )

    def is_same_file(self, path):
        """True if `path` leads to this very file."""
        try:
            return os.path.samestat(os.fstat(self._descriptor), os.stat(path))
        except OSError:
            return False


def _stamp(descriptor):
    info = os.fstat(descriptor)
    return info.st_size, info.st_mtime_ns


def open_npy(path, *, ndim=2, codes=FLOATS):
    """Map an npy file read-only, once its header and size have been checked.

    Parameters
    ----------
    path : path
        A regular file (links are followed); FIFOs, devices and folders are refused.
    ndim : {1, 2}
        Dimensions the array must have.
    codes : set of str
        Element types allowed: `FLOATS` (default), `INTEGERS` or both; either byte order.

    Returns
    -------
    NpyFile
        Use it in a ``with`` statement.

    Raises
    ------
    InputError
        If the file is not a plain npy array of that kind, or its size is not exactly right.
    OSError
        If it cannot be opened or mapped.

    Notes
    -----
    Costs one page of reading; nothing is allocated for the data. While the array is in use the
    file must not shrink: the operating system ends a process that reads a mapping past its end.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "G.npy")
    ...     write_npy(path, np.ones((3, 2)))
    ...     with open_npy(path) as file:
    ...         file.array.sum()
    np.float64(6.0)
    """
    path = os.fspath(path)
    name = repr(path)
    flags = os.O_RDONLY
    for flag in ("O_CLOEXEC", "O_NONBLOCK", "O_BINARY"):  # a FIFO must not make open() wait
        flags |= getattr(os, flag, 0)
    descriptor = os.open(path, flags)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            kind = "a folder" if stat.S_ISDIR(info.st_mode) else "not a regular file"
            raise InputError(f"{name} is {kind}; expected an npy file")
        with open(descriptor, "rb", closefd=False) as file:
            start = file.read(_PROLOGUE + _HEADER_LIMIT)
        header = parse_header(start, info.st_size, ndim=ndim, codes=codes, name=name)
        return NpyFile(path, header, _mapped(descriptor, info.st_size, header, name), descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def _mapped(descriptor, size, header, name):
    try:
        return np.ndarray(
            header.shape,
            header.dtype,
            mmap.mmap(descriptor, size, access=mmap.ACCESS_READ),
            offset=header.offset,
            order="F" if header.fortran_order else "C",
        )
    except (ValueError, OverflowError) as error:  # resized meanwhile, or beyond any index
        raise InputError(f"{name} cannot be mapped: {error}") from error


def write_npy(path, array):
    """Write an array as an npy file, whole or not at all (see `replace_file`).

    Parameters
    ----------
    path : path
        Target; taken as it is, no suffix is added.
    array : array
        Of floats; any layout, written in C order.

    Raises
    ------
    InputError
        For a dtype that `open_npy` would refuse.
    OSError
        As `replace_file`.
    """
    array = np.ascontiguousarray(array)
    _dtype(array.dtype.str, FLOATS, "the array")
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(array))
    replace_file(path, head.getvalue(), array.reshape(-1).view(np.uint8))
