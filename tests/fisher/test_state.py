"""State files: identity to the bit, refusal of what is damaged or foreign, atomic writing."""

import json
import os

import numpy as np
import pytest
import safetensors.numpy

import fastfisher as ff
from fastfisher.errors import StateError
from fastfisher.fisher import state as state_module
from tests import matrices
from tests.fisher.rows import LayeredRows

KINDS = {
    "dense": lambda **k: ff.DenseFisher(6, **k),
    "diagonal": lambda **k: ff.DiagonalFisher(6, **k),
    "block": lambda **k: ff.BlockDiagonalFisher({"in": 2, "out": 4}, **k),
    "gram": lambda **k: ff.GramFisher(**k),
    "layered": lambda **k: LayeredRows(**k),
    "window": lambda **k: ff.WindowFisher(10, 6, **k),
}
over_kinds = pytest.mark.parametrize("make", KINDS.values(), ids=KINDS.keys())


def filled(make, dtype="float64", **settings):
    G = matrices.scores(9, 6, dtype)
    w = np.linspace(0.1, 2, 9)
    return make(dtype=dtype, **settings).update(G, w).update(G[:4], decay=0.7)


def facts(F):
    mean = F.mean.tobytes()  # whatever waits is in
    arrays = {name: (a.tobytes(), a.dtype, a.shape) for name, a in F._arrays().items()}
    return (
        type(F),
        repr(F),
        arrays,
        F.weight,
        F.n_samples,
        F.n_skipped,
        F.decayed,
        F.center,
        F.kind,
        F.dtype,
        mean,
        F.matrix().tobytes(),
    )


@over_kinds
@pytest.mark.parametrize("dtype", matrices.DTYPES, ids=str)
@pytest.mark.parametrize("center", [False, True], ids=["raw", "centred"])
def test_save_and_load_are_identity_to_the_bit(make, dtype, center, tmp_path):
    F = filled(make, dtype, center=center, kind="empirical")
    path = tmp_path / "state.safetensors"
    before = facts(F)
    assert F.save(path) is None
    assert facts(F) == before
    again = ff.load(path)
    assert facts(again) == before
    again.save(tmp_path / "again.safetensors")
    assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    G = matrices.scores(5, 6, dtype, seed=3)
    assert facts(again.update(G)) == facts(F.update(G)), "a resumed run is the unbroken one"


@over_kinds
def test_an_empty_fisher_is_saved_too(make, tmp_path):
    F = make()
    F.save(tmp_path / "empty.safetensors")
    again = ff.load(tmp_path / "empty.safetensors")
    assert again.n_samples == 0 and type(again) is type(F)
    assert (
        again.update(np.ones((2, 6))).matrix().tobytes()
        == F.update(np.ones((2, 6))).matrix().tobytes()
    )


def test_a_loaded_gram_fisher_that_was_empty_is_still_open_to_any_width(tmp_path):
    ff.GramFisher().save(tmp_path / "open.safetensors")
    F = ff.load(tmp_path / "open.safetensors")
    assert F.update(np.ones((2, 5), np.float32)).p == 5


def test_save_takes_text_and_path_and_load_likewise(tmp_path):
    F = filled(KINDS["dense"])
    F.save(str(tmp_path / "a"))
    assert facts(ff.load(str(tmp_path / "a"))) == facts(F)


def test_saved_files_are_private_or_follow_the_umask(tmp_path):
    F = filled(KINDS["dense"])
    F.save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_mode & 0o400


# Damage ------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "state.safetensors"
    filled(KINDS["dense"]).save(path)
    return path


def test_every_flipped_bit_is_found(saved, rng):
    data = bytearray(saved.read_bytes())
    for position in sorted(
        {*range(0, 16), *rng.integers(0, len(data), 150).tolist(), len(data) - 1}
    ):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        saved.write_bytes(damaged)
        try:
            again = ff.load(saved)
        except StateError:
            continue
        # Only a byte that carries no meaning (padding, spaces) may pass.
        saved.write_bytes(data)
        assert facts(again) == facts(ff.load(saved)), position


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 100, -8, -1])
def test_a_truncated_file_is_refused(saved, keep):
    data = saved.read_bytes()
    saved.write_bytes(data[:keep])
    with pytest.raises(StateError, match=r"no readable state file|damaged"):
        ff.load(saved)


def test_trailing_bytes_are_refused(saved):
    saved.write_bytes(saved.read_bytes() + b"\0")
    with pytest.raises(StateError):
        ff.load(saved)


def rewrite(path, change=lambda header: None, arrays=lambda arrays: None):
    """Change the header or the arrays and repair the checksum, as an editor would not."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as f:
        header = json.loads(f.metadata()[state_module.KEY])
        tensors = {name: f.get_tensor(name) for name in f.keys()}
    arrays(tensors)
    change(header)
    header.pop("sha256")
    header["sha256"] = state_module._digest(header, tensors)
    safetensors.numpy.save_file(tensors, path, metadata={state_module.KEY: json.dumps(header)})


def test_the_checksum_covers_the_header_too(saved):
    """A flipped digit of the weight would scale F."""
    data = saved.read_bytes()
    at = data.index(b"weight") + 20
    digit = data[at : at + 1]
    saved.write_bytes(data[:at] + (b"5" if digit != b"5" else b"6") + data[at + 1 :])
    with pytest.raises(StateError, match="checksum"):
        ff.load(saved)


def test_a_newer_format_is_refused_naming_both_sides(saved):
    rewrite(saved, lambda h: h.update(format=99, version="7.0"))
    with pytest.raises(
        StateError, match=r"format 99 \(written by fastfisher 7\.0\).*reads format 1"
    ):
        ff.load(saved)


@pytest.mark.parametrize("name", ["HyperFisher", "Fisher"])
def test_an_unknown_class_or_a_base_is_refused_by_name(name, saved):
    rewrite(saved, lambda h: h.update({"class": name}))
    with pytest.raises(StateError, match=f"'{name}', which this version does not know"):
        ff.load(saved)


@pytest.mark.parametrize("name", ["class", "format"])
def test_abstract_or_missing_classes_are_refused(saved, name):
    rewrite(saved, lambda h: h.pop(name))
    with pytest.raises(StateError):
        ff.load(saved)


@pytest.mark.parametrize(
    "field", ["dtype", "center", "kind", "n_samples", "n_skipped", "weight", "decayed"]
)
def test_a_missing_field_is_refused(saved, field):
    rewrite(saved, lambda h: h.pop(field))
    with pytest.raises(StateError, match=f"lacks or spoils a field.*{field}"):
        ff.load(saved)


@pytest.mark.parametrize(
    "field",
    [
        dict(dtype="int8"),
        dict(dtype="nonsense"),
        dict(weight="many"),
        dict(weight=3.5),
        dict(n_samples="10"),
        dict(n_samples=-3),
        dict(weight=(-1.0).hex()),
        dict(weight=float("nan").hex()),
    ],
    ids=str,
)
def test_a_spoiled_field_is_refused(saved, field):
    rewrite(saved, lambda h: h.update(field))
    with pytest.raises(StateError):
        ff.load(saved)


def test_arrays_that_do_not_fit_each_other_are_refused(saved):
    def cut(arrays):
        arrays["sums"] = np.ascontiguousarray(arrays["sums"][:3, :3])

    rewrite(saved, arrays=cut)
    with pytest.raises(StateError):
        ff.load(saved)


def test_an_array_that_would_be_broadcast_is_refused(saved):
    def flatten(arrays):
        arrays["sums"] = np.ones((1, 1))

    rewrite(saved, arrays=flatten)
    with pytest.raises(StateError):
        ff.load(saved)


def test_a_missing_array_is_refused(saved):
    rewrite(saved, arrays=lambda arrays: arrays.pop("mean"))
    with pytest.raises(StateError):
        ff.load(saved)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign"
    safetensors.numpy.save_file({"x": np.ones(3)}, path)
    with pytest.raises(StateError, match="a safetensors file but not a fastfisher state"):
        ff.load(path)
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(StateError, match="no readable state file"):
        ff.load(tmp_path / "a.npy")
    path.write_bytes(b"PK\x03\x04" + b"\0" * 100)
    with pytest.raises(StateError):
        ff.load(path)
    with pytest.raises(StateError, match="is no file"):
        ff.load(tmp_path)
    with pytest.raises((StateError, FileNotFoundError), match=r"no file|No such file"):
        ff.load(tmp_path / "missing")


def test_the_gram_state_is_checked_too(tmp_path):
    path = tmp_path / "gram"
    filled(KINDS["gram"]).save(path)

    def cut(arrays):
        arrays["weights"] = arrays["weights"][:2].copy()

    rewrite(path, arrays=cut)
    with pytest.raises(StateError):
        ff.load(path)


# Atomic writing ----------------------------------------------------------------------------------


def test_a_failed_write_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()
    F = filled(KINDS["gram"])
    for name in ("fsync", "replace"):

        def fail(*args, name=name, **kwargs):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left"):
                F.save(saved)
        assert saved.read_bytes() == before
        assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupted_write_leaves_the_old_file_and_no_other(saved, monkeypatch):
    before = saved.read_bytes()

    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        filled(KINDS["gram"]).save(saved)
    assert saved.read_bytes() == before and os.listdir(saved.parent) == [saved.name]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no always-full device here")
def test_a_full_disk_is_an_error(tmp_path):
    """Through RLIMIT_FSIZE in a child, the file limit standing in for a full disk."""
    import subprocess
    import sys

    code = """
import os, resource, signal, sys
import numpy as np
import fastfisher as ff
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
F = ff.DenseFisher(200).update(np.ones((3, 200)))
F.save("a"); before = open("a", "rb").read()
F.update(np.ones((1, 200)))
resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))
try:
    F.save("a")
except OSError:
    pass
else:
    raise SystemExit("the write did not fail")
assert open("a", "rb").read() == before and os.listdir(".") == ["a"], os.listdir(".")
"""
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_saving_into_a_missing_folder_says_so(tmp_path):
    with pytest.raises(FileNotFoundError):
        filled(KINDS["dense"]).save(tmp_path / "missing" / "a")
