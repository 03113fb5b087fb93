"""Files that are written whole or not at all."""

import contextlib
import errno
import os
import secrets
import stat

__all__ = ["check_target", "replace_file"]

# What posix_fallocate answers where the file system cannot reserve space.
_NO_RESERVATION = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL}


def check_target(path):
    """Raise the OSError that `replace_file` would meet, without touching anything.

    Parameters
    ----------
    path : path
        The file that is to be written; its folder must exist.

    Returns
    -------
    str
        The real path behind `path`, links resolved.

    Raises
    ------
    OSError
        If the folder is missing or closed to this user, or if `path` is anything but a regular
        file that this user may write. A device, FIFO or folder is never replaced.
    """
    if not os.path.basename(os.fspath(path)):  # realpath would drop the slash
        raise OSError(errno.EISDIR, "it names a folder", path)
    path = os.path.realpath(path)
    folder = os.path.dirname(path)
    if not os.path.isdir(folder):
        if os.path.exists(folder):
            raise OSError(errno.ENOTDIR, "its parent is no folder", path)
        raise OSError(errno.ENOENT, "its folder does not exist", path)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OSError(errno.EACCES, "its folder may not be written to", path)
    if os.path.exists(path):
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise OSError(errno.EINVAL, "it exists and is no regular file", path)
        if not os.access(path, os.W_OK):
            raise OSError(errno.EACCES, "it exists and is write-protected", path)
    return path


def replace_file(path, *parts):
    """Write `parts` to `path` so that it holds either its old content or all of the new.

    A temporary file beside the target is reserved, written and synced, then renamed over it, and
    the folder is synced. Whatever fails before the rename, the temporary file is removed and the
    target unchanged; only a killed process leaves a ``.fastfisher-*.partial`` behind. An existing
    file keeps its mode.

    Parameters
    ----------
    path : path
        Target file.
    *parts : bytes-like
        Written one after the other.

    Raises
    ------
    OSError
        From `check_target`, or for a full disk, a file size limit or a failing device.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     target = pathlib.Path(folder, "a")
    ...     replace_file(target, b"one ", b"two")
    ...     target.read_bytes(), len(list(target.parent.iterdir()))
    (b'one two', 1)
    """
    path = check_target(path)
    folder = os.path.dirname(path)
    partial = os.path.join(folder, f".fastfisher-{secrets.token_hex(8)}.partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    flags |= getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    try:
        with os.fdopen(os.open(partial, flags, 0o666), "wb") as file:
            with contextlib.suppress(FileNotFoundError):
                os.chmod(partial, stat.S_IMODE(os.stat(path).st_mode))
            _reserve(file.fileno(), sum(memoryview(part).nbytes for part in parts))
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(folder)


def _reserve(descriptor, size):
    """Claim the space now, so that a full disk is an exception before the first byte."""
    if size and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(descriptor, 0, size)
        except OSError as error:
            if error.errno not in _NO_RESERVATION:
                raise


def _sync_folder(folder):
    """Make the rename durable, where folders can be synced."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _NO_RESERVATION:
            raise
    finally:
        os.close(descriptor)
