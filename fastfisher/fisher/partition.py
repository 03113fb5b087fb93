"""How the parameters of a block-diagonal Fisher are cut into blocks, named or not."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ..arrays import as_array
from ..errors import InputError
from ..planning import require_memory
from ..scalars import as_count

__all__ = ["Group", "Partition"]

NAMED = 5  # blocks that a message lists


@dataclass(frozen=True)
class Group:
    """All blocks of one order d: their indices, and their columns as a slice or an index array."""

    d: int
    blocks: np.ndarray
    columns: object

    def __len__(self):
        return len(self.blocks)

    def columns_of(self, lo, hi):
        """Columns of the blocks lo..hi of this group."""
        if isinstance(self.columns, slice):
            return slice(
                self.columns.start + lo * self.d,
                min(self.columns.start + hi * self.d, self.columns.stop),
            )
        return self.columns[lo * self.d : hi * self.d]


class Partition:
    """Consecutive blocks of p parameters; `groups` gathers those of one order."""

    def __init__(self, sizes, itemsize=8):
        self.names = None
        if isinstance(sizes, Mapping):
            sizes, self.names = _from_layout(sizes)
        elif isinstance(sizes, tuple) and len(sizes) == 2:
            count, size = as_count(sizes[0], "the count of blocks"), _order(sizes[1], "sizes")
            _require_sums(count, size * size, itemsize, f"{count} blocks of {size}")
            sizes = np.full(count, size, np.int64)
        else:
            sizes = _from_sequence(sizes)
        squares = int((sizes.astype(np.float64) ** 2).sum())
        _require_sums(1, squares, itemsize, f"{len(sizes)} ragged blocks")
        self.sizes = sizes
        self.starts = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)[: len(sizes)]
        self.p = int(sizes.sum())
        self.groups = tuple(self._group(int(d)) for d in np.unique(sizes))

    def __len__(self):
        return len(self.sizes)

    def __eq__(self, other):
        return np.array_equal(self.sizes, other.sizes) and self.names == other.names

    __hash__ = None

    def _group(self, d):
        blocks = np.flatnonzero(self.sizes == d)
        first = self.starts[blocks]
        if (np.diff(first) == d).all():
            return Group(d, blocks, slice(int(first[0]), int(first[-1]) + d))
        return Group(d, blocks, (first[:, np.newaxis] + np.arange(d)).ravel())

    def index(self, key):
        """Block index of an index or a name."""
        if self.names is not None and key in self.names:
            return self.names.index(key)
        if isinstance(key, str) or not hasattr(key, "__index__"):
            known = "no names" if self.names is None else ", ".join(map(repr, self.names[:NAMED]))
            raise InputError(f"there is no block {key!r}; this Fisher has {known}")
        if not 0 <= int(key) < len(self):
            raise InputError(f"there is no block {key}; expected 0 to {len(self) - 1}")
        return int(key)

    def say(self, block):
        """A block in a message: its index, and its name if it has one."""
        return f"{block}" if self.names is None else f"{block} ({self.names[block]!r})"

    def say_all(self, blocks):
        """Some blocks in a message, the first few by name."""
        first = ", ".join(self.say(int(b)) for b in blocks[:NAMED])
        return first + (", ..." if len(blocks) > NAMED else "")

    def __repr__(self):
        orders = [group.d for group in self.groups]
        if not orders:
            return "no blocks"
        span = f"{orders[0]}" if len(orders) == 1 else f"{orders[0]} to {orders[-1]}"
        return f"{len(self)} blocks of {span}"


def _require_sums(count, words, itemsize, what):
    require_memory(count * words * itemsize, f"the sums of BlockDiagonalFisher, {what},")


def _order(value, name):
    size = as_count(value, f"a block size in {name}")
    if size == 0:
        raise InputError(f"a block size in {name} is 0; expected an integer >= 1")
    return size


def _from_sequence(sizes):
    a = None if isinstance(sizes, str) else as_array(sizes, "sizes", need="a list of block sizes")
    if a is None or a.ndim != 1:
        raise InputError(
            f"sizes is {sizes!r}; expected a list of block sizes, a pair (count, size), or a "
            "layout name -> size or slice"
        )
    if a.size and a.dtype.kind not in "iu":
        raise InputError(f"sizes has dtype {a.dtype}; expected integers >= 1")
    if a.size and a.min() < 1:
        raise InputError(f"sizes[{int(np.argmin(a))}] is {a.min()}; expected integers >= 1")
    return a.astype(np.int64)


def _from_layout(layout):
    """Sizes and names in the order of the parameters; slices must follow one another."""
    if not layout:
        raise InputError("the layout is empty; expected name -> size or slice")
    sliced = [isinstance(value, slice) for value in layout.values()]
    if not any(sliced):
        sizes = [_order(value, f"the layout, {name!r}") for name, value in layout.items()]
        return np.array(sizes, np.int64), tuple(layout)
    if not all(sliced):
        raise InputError("the layout mixes sizes and slices; expected one or the other")
    names = sorted(layout, key=lambda name: (layout[name].start or 0, layout[name].stop or 0))
    sizes, end = [], 0
    for name in names:
        s = layout[name]
        start = s.start or 0
        if s.step not in (None, 1) or s.stop is None or start != end or s.stop <= start:
            raise InputError(
                f"the slice of {name!r} is {s}; expected it to start at {end}, where the one "
                "before ends, and to hold at least one parameter"
            )
        sizes.append(s.stop - start)
        end = s.stop
    return np.array(sizes, np.int64), tuple(names)
