"""The npy loader: what it accepts is read exactly, anything else is an InputError and no more."""

import io
import os
import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastfisher.errors import InputError
from fastfisher.stream import FLOATS, INTEGERS, open_npy, write_npy
from fastfisher.stream.npy import parse_header

PLAIN = "{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }"


def npy(text=PLAIN, data=bytes(48), version=b"\x01\x00", length=None):
    """A file with this header text, padded as numpy.save does unless `length` is claimed."""
    head = text.encode() if isinstance(text, str) else text
    size = 2 if version == b"\x01\x00" else 4
    if length is None:
        head += b" " * (-(len(head) + 9 + size) % 64) + b"\n"
        length = len(head)
    return b"\x93NUMPY" + version + length.to_bytes(size, "little") + head + data


def parsed(content, **settings):
    return parse_header(content[:10_012], len(content), **{"ndim": 2} | settings)


# What is accepted ----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", "<c8", "<c16", ">f2", ">f4", ">c16"])
def test_open_npy_agrees_with_numpy_bit_for_bit(tmp_path, rng, dtype, order, version):
    a = np.array(rng.standard_normal((5, 7)), dtype=dtype, order=order)
    path = tmp_path / "G.npy"
    with open(path, "wb") as file:
        np.lib.format.write_array(file, a, version=version)
    with open_npy(path) as file:
        assert file.array.dtype == a.dtype
        assert file.array.shape == a.shape
        assert file.array.tobytes() == a.tobytes()
        assert file.header.fortran_order == (order == "F")
        assert not file.array.flags.writeable


@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (0, 0), (1, 1), (0, 2**40)])
def test_open_npy_takes_empty_arrays(tmp_path, shape):
    path = tmp_path / "G.npy"
    np.save(path, np.empty(shape if max(shape) < 9 else (0, 2**40)))
    with open_npy(path) as file:
        assert file.array.shape == shape


@pytest.mark.parametrize("dtype", ["bool", "i1", "u1", "i8", ">u4"])
def test_open_npy_takes_integers_only_where_asked(tmp_path, dtype):
    path = tmp_path / "w.npy"
    np.save(path, np.ones(4, dtype))
    with open_npy(path, ndim=1, codes=FLOATS | INTEGERS) as file:
        assert file.array.tolist() == [1, 1, 1, 1]
    with pytest.raises(InputError, match=r"holds integers.*save G\.astype\(numpy\.float64\)"):
        open_npy(path, ndim=1)


def test_open_npy_follows_links_and_outlives_its_file(tmp_path):
    np.save(tmp_path / "G.npy", np.eye(3))
    os.symlink(tmp_path / "G.npy", tmp_path / "link.npy")
    with open_npy(tmp_path / "link.npy") as file:
        assert file.is_same_file(tmp_path / "G.npy")
        assert not file.is_same_file(tmp_path / "missing.npy")
    os.unlink(tmp_path / "G.npy")
    assert file.array.trace() == 3


def test_write_then_open_is_identity(tmp_path, rng):
    for dtype in ("float16", "float32", ">f8", "complex128"):
        a = rng.standard_normal((4, 3)).astype(dtype).T
        write_npy(tmp_path / "x.npy", a)
        assert np.load(tmp_path / "x.npy").tobytes() == a.tobytes()
        with open_npy(tmp_path / "x.npy") as file:
            assert np.array_equal(file.array, a)
    with pytest.raises(InputError, match="holds pickled Python objects"):
        write_npy(tmp_path / "x.npy", np.array([None]))


def test_mapping_a_huge_file_allocates_nothing(tmp_path):
    shape = (2**10, 2**20)  # 8 GiB of a hole
    head = npy(str({"descr": "<f8", "fortran_order": False, "shape": shape}), b"")
    path = tmp_path / "hole.npy"
    path.write_bytes(head)
    try:
        os.truncate(path, len(head) + 8 * 2**30)
    except OSError as error:
        pytest.skip(f"no sparse files here: {error}")
    tracemalloc.start()
    with open_npy(path) as file:
        assert file.array[-1, -1] == 0
        peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


# What is refused -----------------------------------------------------------------------------


def header(**changes):
    return str({"descr": "<f8", "fortran_order": False, "shape": (3, 2)} | changes)


def archive(savez):
    buffer = io.BytesIO()
    savez(buffer)
    return buffer.getvalue()


REFUSED = {
    "empty": (b"", "is not an npy file"),
    "text": (b"1.0, 2.0\n3.0, 4.0\n", "is not an npy file: it starts with b'1.0, 2'"),
    "npz": (archive(lambda f: np.savez(f, np.eye(2))), "is a zip archive or a pickle"),
    "pickle": (archive(np.eye(2).dump), "is a zip archive or a pickle"),
    "objects": (npy(header(descr="|O")), "holds pickled Python objects, which are never read"),
    "records": (npy(header(descr=[("a", "<f8")])), "holds records"),
    "integers": (npy(header(descr="<i8")), r"holds integers \(dtype '<i8'\)"),
    "longdouble": (npy(header(descr="<f16")), "has dtype '<f16'; expected one of c16, c8"),
    "text elements": (npy(header(descr="<U2")), "has dtype '<U2'"),
    "native order": (npy(header(descr="=f8")), "has dtype '=f8'"),
    "no order": (npy(header(descr="f8")), "has dtype 'f8'"),
    "vector": (npy(header(shape=(6,))), r"has shape \(6,\); expected \(n samples, p parameters\)"),
    "cube": (npy(header(shape=(3, 1, 2))), r"has shape \(3, 1, 2\).*save G\.reshape\(len\(G\), -1"),
    "scalar": (npy(header(shape=())), r"has shape \(\); expected"),
    "half a version": (npy()[:7], "ends inside its header"),
    "version": (npy(version=b"\x04\x00"), r"has npy format version 4\.0; expected 1\.0, 2\.0"),
    "cut in the prologue": (npy()[:9], "ends inside its header"),
    "cut in the header": (npy()[:60], "ends inside its header"),
    "cut in the data": (npy()[:-1], "has 1 bytes less than its header says.*truncated"),
    "trailing byte": (npy() + b"x", "has 1 bytes more than its header says.*appended to"),
    "long header": (npy(PLAIN + " " * 10_001), "has a header of .* bytes; at most 10000"),
    "claimed header": (npy(version=b"\x02\x00", length=2**32 - 1), "has a header of 4294967295"),
    "negative": (npy(header(shape=(-1, 2))), "has an impossible shape"),
    "bool": (npy(header(shape=(True, 6))), "has an impossible shape"),
    "float": (npy(header(shape=(3.0, 2))), "has an impossible shape"),
    "list": (npy(header(shape=[3, 2])), "has an impossible shape"),
    "2^63": (npy(header(shape=(2**63, 0))), "has an impossible shape"),
    "overflow to 0": (npy(header(shape=(2**32, 2**32)), b""), "bytes less than its header says"),
    "order": (npy(header(fortran_order=1)), "has a fortran_order that is no bool"),
    "extra key": (npy(header(more=1)), "not exactly descr, fortran_order and shape"),
    "missing key": (npy("{'descr': '<f8', 'shape': (3, 2)}"), "not exactly descr"),
    "no dict": (npy("[1, 2]"), "not exactly descr"),
    "call": (npy("__import__('os').abort()"), "has an unreadable header"),
    "unhashable": (npy("{[]: 1}"), "has an unreadable header"),
    "parentheses": (npy("(" * 9000), "has an unreadable header"),
    "closed parentheses": (npy("(" * 4000 + "1" + ")" * 4000), "has an unreadable header"),
    "minus signs": (npy("-" * 9000 + "1"), "has an unreadable header"),
    "a long sum": (npy("1" + "+1" * 4000), "has an unreadable header"),
    "many digits": (npy(PLAIN.replace("3", "9" * 9000)), "has an unreadable header"),
    "hex digits": (npy(PLAIN.replace("3", "0x" + "f" * 9000)), "has an impossible shape"),
    "bad escape": (npy(PLAIN.replace("<f8", r"\d")), "has an unreadable header"),
    "null byte": (npy(PLAIN.replace(" ", "\0", 1)), "has an unreadable header"),
    "no text": (npy(b"\xff\xfe" + PLAIN.encode()), "has an unreadable header"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused_with_a_reason_and_untouched(tmp_path, case):
    content, reason = REFUSED[case]
    path = tmp_path / "bad.npy"
    path.write_bytes(content)
    before = os.stat(path)
    tracemalloc.start()
    with pytest.raises(InputError, match=reason) as caught:
        open_npy(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 250
    assert peak < 8 << 20
    assert path.read_bytes() == content
    assert os.stat(path).st_mtime_ns == before.st_mtime_ns


def test_the_valid_file_behind_the_refusals_is_accepted():
    assert parsed(npy()).shape == (3, 2)
    assert parsed(npy(header())).offset == 128


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/null"])
def test_devices_are_refused(path):
    if not os.path.exists(path):
        pytest.skip("no such device here")
    with pytest.raises(InputError, match="is not a regular file"):
        open_npy(path)


def test_folders_and_fifos_are_refused_without_waiting(tmp_path):
    with pytest.raises(InputError, match="is a folder"):
        open_npy(tmp_path)
    if not hasattr(os, "mkfifo"):
        pytest.skip("no FIFOs here")
    os.mkfifo(tmp_path / "fifo.npy")
    with pytest.raises(InputError, match="is not a regular file"):
        open_npy(tmp_path / "fifo.npy")


def test_missing_file_is_an_os_error_with_its_name(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"missing\.npy"):
        open_npy(tmp_path / "missing.npy")


@pytest.mark.parametrize("change", ["append", "rewrite"])
def test_a_change_while_it_is_read_is_noticed(tmp_path, change):
    path = tmp_path / "G.npy"
    np.save(path, np.eye(4))
    os.utime(path, (1, 1))
    with open_npy(path) as file:
        file.check_unchanged()
        with open(path, "r+b") as writer:
            writer.seek(0, os.SEEK_END if change == "append" else os.SEEK_SET)
            writer.write(b"\x93")
        with pytest.raises(InputError, match="was changed while it was read"):
            file.check_unchanged()


# Mutations -----------------------------------------------------------------------------------


def outcome(content, **settings):
    """The header, or None where it was refused; whatever else is raised is the test's failure."""
    try:
        found = parsed(content, **settings)
    except InputError as error:
        assert "\n" not in str(error)
        return None
    assert len(found.shape) == 2
    assert found.offset + found.nbytes == len(content)
    assert found.dtype.kind in "fc"
    return found


def test_every_bit_flip_is_refused_or_still_describes_the_file():
    content = npy()
    accepted = 0
    for position in range(len(content) - 48):
        for bit in range(8):
            flipped = bytearray(content)
            flipped[position] ^= 1 << bit
            accepted += outcome(bytes(flipped)) is not None
    # '<' and '>' differ in one bit; so do a blank and some characters that mean nothing.
    assert accepted < 0.1 * 8 * len(content)


def test_every_truncation_is_refused():
    content = npy()
    assert not any(outcome(content[:size]) for size in range(len(content)))


WORDS = [
    *"{}()[],:'\"\\+-*/.<>|=#@\n\t \0",
    *("descr", "fortran_order", "shape", "<f8", ">c16", "|O", "True", "False", "None", "0", "1"),
    *("3", "2", "9" * 30, "-1", "0x", "1e9", "1j", "1or", "b'", "f'", "lambda", "é", "\ud7ff"),
]


@given(st.lists(st.sampled_from([*WORDS, PLAIN, header()]), max_size=40), st.integers(0, 100))
def test_random_headers_raise_nothing_but_input_error(words, size):
    outcome(npy("".join(words), bytes(size)))


@given(
    st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), min_size=1, max_size=6),
    st.integers(0, 60),
)
def test_random_bytes_in_a_header_raise_nothing_but_input_error(changes, size):
    content = bytearray(npy(data=bytes(size)))
    for position, value in changes:
        content[position] = value
    outcome(bytes(content))


@given(st.binary(max_size=200))
def test_random_files_raise_nothing_but_input_error(content):
    outcome(content)
    outcome(b"\x93NUMPY\x01\x00" + content)


@given(
    st.tuples(st.integers(-2, 2**70), st.integers(-2, 2**70)),
    st.sampled_from(["<f2", ">f4", "<f8", "<c8", ">c16"]),
    st.booleans(),
)
def test_random_shapes_are_accepted_only_at_the_exact_size(shape, descr, fortran_order):
    text = header(shape=shape, descr=descr, fortran_order=fortran_order)
    found = outcome(npy(text, bytes(48)))
    exact = min(shape) >= 0 and shape[0] * shape[1] * int(descr[2:]) == 48
    assert (found is not None) == exact
