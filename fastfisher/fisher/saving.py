"""Fisher objects to files and back; state.py is the format."""

from inspect import isabstract

from ..arrays import as_real
from ..errors import StateError
from ..scalars import as_count
from .state import read_state, write_state

__all__ = ["Saved", "load"]

_CLASSES = {}  # name -> class, filled as subclasses are defined; what `load` may create


class Saved:
    """What of a Fisher object is written, and restored."""

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        _CLASSES[cls.__name__] = cls

    def save(self, path):
        """Write the state to a safetensors file, atomically.

        Raises
        ------
        OSError
            If the file cannot be written; an existing file is then left as it was.
        """
        header = {
            "class": type(self).__name__,
            "dtype": self.dtype.name,
            "center": self.center,
            "kind": self.kind,
            "n_samples": self.n_samples,
            "n_skipped": self.n_skipped,
            "weight": self.weight.hex(),
            "decayed": self.decayed,
            **self._facts(),
        }
        write_state(path, header, self._arrays())

    def _facts(self):
        """More of the state that a header can hold."""
        return {}

    def _restore(self, header, arrays):
        """What is not set by `_from_arrays`."""
        self.n_samples = as_count(header["n_samples"], "n_samples")
        self.n_skipped = as_count(header["n_skipped"], "n_skipped")
        self.weight = as_real(float.fromhex(header["weight"]), "weight")
        self.decayed = bool(header["decayed"])
        return self


def load(path):
    """Read a Fisher object that `save` wrote.

    Parameters
    ----------
    path : str or os.PathLike
        The safetensors file.

    Returns
    -------
    Fisher
        An object of the class that was saved, equal to it to the bit.

    Raises
    ------
    StateError
        If the file is no such state, is damaged, or comes from a newer format.
    OSError
        If it cannot be read.
    """
    header, arrays = read_state(path)
    cls = _CLASSES.get(header.get("class"))
    if cls is None or isabstract(cls):
        raise StateError(
            f"{path} holds a {header.get('class')!r}, which this version does not know"
        )
    try:
        return cls._from_arrays(header, arrays)._restore(header, arrays)
    except (KeyError, TypeError, ValueError) as error:
        raise StateError(f"{path} lacks or spoils a field of its state: {error}") from error
