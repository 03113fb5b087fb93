"""Writing whole or not at all: after any failure the target and its folder are as before."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fastfisher.stream import check_target, replace_file, write_npy

ROOT = Path(__file__).parents[2]
OLD, NEW = b"old content", b"new content, longer"


@pytest.fixture
def target(tmp_path):
    path = tmp_path / "step.npy"
    path.write_bytes(OLD)
    return path


def failing(code):
    def call(*_, **__):
        raise OSError(code, os.strerror(code))

    return call


def test_replace_file_writes_all_parts_and_leaves_nothing_else(target):
    replace_file(target, b"new content", np.frombuffer(b", longer", np.uint8))
    assert target.read_bytes() == NEW
    assert os.listdir(target.parent) == ["step.npy"]


def test_replace_file_creates_a_file_that_was_not_there(tmp_path):
    replace_file(tmp_path / "new", NEW)
    assert (tmp_path / "new").read_bytes() == NEW
    replace_file(tmp_path / "empty")
    assert (tmp_path / "empty").read_bytes() == b""


def test_replace_file_keeps_the_mode_and_writes_through_links(target):
    os.chmod(target, 0o640)
    link = target.parent / "link"
    link.symlink_to(target)
    replace_file(link, NEW)
    assert link.is_symlink()
    assert target.read_bytes() == NEW
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o640


STEPS = {"fsync": errno.EIO, "replace": errno.EACCES, "posix_fallocate": errno.ENOSPC}


@pytest.mark.parametrize("step", STEPS)
def test_failure_at_any_step_leaves_target_and_folder_as_before(target, monkeypatch, step):
    if not hasattr(os, step):
        pytest.skip(f"no os.{step} here")
    monkeypatch.setattr(os, step, failing(STEPS[step]))
    with pytest.raises(OSError, match=os.strerror(STEPS[step])):
        write_npy(target, np.ones(5))
    assert target.read_bytes() == OLD
    assert os.listdir(target.parent) == ["step.npy"]


@pytest.mark.parametrize("code", [errno.EOPNOTSUPP, errno.EINVAL])
def test_file_systems_without_reservations_are_written_all_the_same(target, monkeypatch, code):
    monkeypatch.setattr(os, "posix_fallocate", failing(code), raising=False)
    replace_file(target, NEW)
    assert target.read_bytes() == NEW


# One process: forks a child per step, which is killed just before it, or limited in file size.
KILLS = """
import os, resource, signal, sys
from fastfisher.stream import replace_file

def child(step):
    if step == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    else:
        setattr(os, step, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
    try:
        replace_file(sys.argv[1], b"x" * 5000)
    except OSError as error:
        os._exit(error.errno)
    os._exit(0)

folder = os.path.dirname(sys.argv[1])
for step in ("posix_fallocate", "fsync", "replace", "limit"):
    child_pid = os.fork() or child(step)
    code = os.waitstatus_to_exitcode(os.waitpid(child_pid, 0)[1])
    with open(sys.argv[1], "rb") as file:
        partial = sum(name.endswith(".partial") for name in os.listdir(folder))
        print(step, code, file.read().decode(), partial)
"""


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="needs Linux")
def test_a_killed_or_limited_writer_leaves_the_old_file(target):
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(target)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "posix_fallocate -9 old content 1",
        "fsync -9 old content 2",
        "replace -9 old content 3",
        f"limit {errno.EFBIG} old content 3",  # an exception, so its temporary file is gone
    ]


def test_what_is_no_regular_file_is_never_replaced(tmp_path):
    with pytest.raises(OSError, match="it exists and is no regular file"):
        replace_file(tmp_path, NEW)
    if os.path.exists("/dev/full"):
        with pytest.raises(OSError, match="it exists and is no regular file"):
            check_target("/dev/full")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "fifo")
        with pytest.raises(OSError, match="it exists and is no regular file"):
            replace_file(tmp_path / "fifo", NEW)


def test_missing_and_closed_folders_are_named(tmp_path, target, monkeypatch):
    with pytest.raises(FileNotFoundError, match="its folder does not exist"):
        replace_file(tmp_path / "missing" / "step.npy", NEW)
    with pytest.raises(NotADirectoryError, match="its parent is no folder"):
        replace_file(target / "step.npy", NEW)
    # os.access as an ordinary user would see it; the suite may run as root.
    monkeypatch.setattr(os, "access", lambda path, mode: path != str(target))
    with pytest.raises(PermissionError, match="it exists and is write-protected"):
        replace_file(target, NEW)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="its folder may not be written to"):
        replace_file(target, NEW)
    assert target.read_bytes() == OLD
