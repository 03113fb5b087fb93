"""State files: safetensors with a checked header, written so that a crash leaves old or new."""

import hashlib
import json
import os
import tempfile
from pathlib import Path

import numpy as np

from ..errors import StateError

__all__ = ["read_state", "take", "write_state"]

FORMAT = 1
KEY = "fastfisher"


def _digest(header, arrays):
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]))
    return digest.hexdigest()


def _as_real(a):
    """safetensors has no complex128: store pairs of reals."""
    a = np.ascontiguousarray(a)
    return a.view(a.real.dtype).reshape(*a.shape, 2) if a.dtype.kind == "c" else a


def write_state(path, header, arrays):
    """Write header (JSON values) and arrays to `path`: temporary file, fsync, rename, fsync."""
    from safetensors.numpy import save

    from .. import __version__

    stored = {name: _as_real(a) for name, a in arrays.items()}
    complex_ = sorted(name for name, a in arrays.items() if a.dtype.kind == "c")
    meta = {
        "format": FORMAT,
        "version": __version__,
        "complex": complex_,
        **header,
    }
    meta["sha256"] = _digest(meta, stored)
    payload = save(stored, metadata={KEY: json.dumps(meta)})
    path = Path(path)
    handle, temporary = tempfile.mkstemp(prefix=path.name + ".", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as f:
            f.write(payload)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def take(arrays, name, shape, dtype):
    """The array `name` of a state, which must have this shape and dtype."""
    a = arrays[name]
    if a.shape != shape or a.dtype != dtype:
        raise ValueError(f"{name} is {a.dtype} {a.shape}, expected {np.dtype(dtype)} {shape}")
    return a


def read_state(path):
    """Header and arrays of a state file; StateError if it is none or was damaged."""
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    if not path.is_file():
        raise StateError(f"{path} is no file; expected a state written by Fisher.save")
    try:
        with safe_open(path, framework="numpy") as f:
            meta = (f.metadata() or {}).get(KEY)
            arrays = {name: f.get_tensor(name) for name in f.keys()}
        header = json.loads(meta) if meta is not None else None
    except (SafetensorError, ValueError, TypeError) as error:
        raise StateError(f"{path} is no readable state file: {error}") from error
    if not isinstance(header, dict) or "format" not in header:
        raise StateError(f"{path} is a safetensors file but not a fastfisher state")
    if header["format"] != FORMAT:
        raise StateError(
            f"{path} has state format {header['format']} (written by fastfisher "
            f"{header.get('version')}); this version reads format {FORMAT}"
        )
    if header.pop("sha256", None) != _digest(header, arrays):
        raise StateError(f"{path} is damaged: its checksum does not match its contents")
    for name in header.get("complex", ()):
        pairs = arrays[name]
        complex_ = np.complex64 if pairs.dtype == np.float32 else np.complex128
        arrays[name] = pairs.view(complex_).reshape(pairs.shape[:-1])
    return header, arrays
