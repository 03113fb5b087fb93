"""How a block of threads makes a tile of C, as data; nothing here needs CUDA.

The order of sums, and so the bits, depends on `SUM`, `shares` and the tiling: on sizes, and on the
capability of the device for float64.
"""

from dataclasses import dataclass

from ..slicing import stretch_terms
from . import SLICE_BYTES

__all__ = [
    "SUM",
    "Tiling",
    "layered_tiling",
    "plain_tiling",
    "shares",
    "sliced_bytes",
    "sliced_stretch",
    "sliced_tiling",
    "sliced_words",
    "tensor_tiling",
    "tiny_tiling",
]

SUM = 4096  # terms that a block sums before they are added to C, or to its share of it
BLOCKS = 512  # blocks of threads wanted: sums are cut until there are as many
LEAST = 256  # terms of a share, at least


@dataclass(frozen=True)
class Tiling:
    """A tile of C, and who makes which part of it.

    Parts are of a warp where there is an `instruction` (m, n, k) of tensor cores, else of a thread.
    """

    rows: int
    columns: int
    depth: int  # terms in shared memory at a time, of which there are two such stages
    part_rows: int
    part_columns: int
    instruction: tuple[int, int, int] | None = None
    block: int = 256  # terms summed in float32 before they are added in double

    @property
    def parts(self):
        return self.rows // self.part_rows * (self.columns // self.part_columns)

    @property
    def threads(self):
        return self.parts * (32 if self.instruction else 1)

    @property
    def sums(self):
        """Elements of C in the registers of a thread."""
        return self.rows * self.columns // self.threads


def tensor_tiling(order, dtype, capability, changed):
    """For tensor cores: float64, or float32 as products of three TF32 numbers.

    Tensor cores cut sums of TF32 off, so blocks are short. The largest tile of float64 leaves no
    registers for scores that are shifted or scaled.
    """
    if dtype == "float64":
        instruction = (16, 8, 8) if capability >= (9, 0) else (8, 8, 4)
        if order <= 32:
            return Tiling(32, 32, 32, 16, 16, instruction)
        if order <= 64:
            return Tiling(64, 64, 16, 32, 16, instruction)
        if changed:
            return Tiling(128, 64, 8, 32, 32, instruction)
        return Tiling(128, 128, 8, 64, 32, instruction)
    if order <= 32:
        return Tiling(32, 32, 32, 16, 16, (16, 8, 8), 32)
    if order <= 64:
        return Tiling(64, 64, 16, 32, 16, (16, 8, 8), 32)
    return Tiling(128, 64, 16, 32, 32, (16, 8, 8), 32)


def plain_tiling(order, dtype):
    """For ordinary multiply-adds."""
    if order <= 32:
        return Tiling(32, 32, 32, 4, 4)
    if order <= 64:
        return Tiling(64, 64, 16, 4, 4)
    return Tiling(128, 64, 16 if dtype == "float32" else 8, 8, 4)


def layered_tiling(tokens, dtype, capability):
    """For two sums per element of C, which meet in shared memory where samples have tokens."""
    block, instruction = 32, (16, 8, 8)
    if dtype == "float64":
        block, instruction = 256, (16, 8, 8) if capability >= (9, 0) else (8, 8, 4)
    if tokens == 1:
        return Tiling(64, 64, 16, 32, 16, instruction, block)
    return Tiling(64, 32, 8, 16, 16, instruction, block)


def sliced_tiling(simulated):
    """Words of four bytes: a read of shared memory per product, two blocks to a multiprocessor."""
    if simulated:  # one warp
        return Tiling(16, 8, 8, 16, 8, (16, 8, 8))
    return Tiling(128, 128, 16, 64, 64, (16, 8, 8))


def sliced_words(order):
    """Words from one row of them to the next: four are copied at a time."""
    return -(-order // 4) * 4


def sliced_stretch(order, slices):
    """Terms that are cut into slices and multiplied at once."""
    return stretch_terms(SLICE_BYTES // (sliced_words(order) * slices))


def sliced_bytes(order, length, slices):
    """Bytes of the slices of a stretch of `length` terms at most."""
    terms = min(sliced_stretch(order, slices), length)
    return slices * 4 * -(-terms // 4) * sliced_words(order)


def tiny_tiling():
    """For the simulator, where a thread costs a tenth of a millisecond."""
    return Tiling(8, 8, 8, 4, 4, block=16)


def shares(order, length):
    """Terms of a share of the sums: as many as make enough blocks of threads."""
    side = 32 if order <= 32 else 64 if order <= 64 else 128
    across = -(-order // side)
    most = -(-length * across * (across + 1) // (2 * BLOCKS))
    return max(LEAST, -(-most // 32) * 32)
