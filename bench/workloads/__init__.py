"""Whole jobs from the literature: the expression its own code uses beside ours.

Sizes are reduced so that the expression's temporaries fit and a run takes seconds. Results must
agree with the same expression, or a stabler one for the same numbers, in double precision.
"""

import numpy as np

from ..cases import AUTOENCODER, OPS, Case
from . import influence, networks, physics, statistics

_FOUND = influence.WORKLOADS | networks.WORKLOADS | physics.WORKLOADS | statistics.WORKLOADS
WORKLOADS = {name: _FOUND[name] for name in sorted(_FOUND, key=lambda name: int(name[1:]))}

for _name, _workload in WORKLOADS.items():
    OPS[_name] = _workload.cost

FULL = [
    Case("w1", "s", (20_000, 1024, 200)),
    Case("w2", "s", (128, 400_000, 50)),
    Case("w3", "d", (20_000, 5)),
    Case("w4", "z", (512, 20_000)),
    Case("w4", "s", (1024, 50_000)),
    Case("w5", "s", (512, 100_000)),
    Case("w6", "z", (4000, 1000)),
    Case("w7", "d", (900, 129)),
    Case("w7", "d", (1500, 300)),
    Case("w8", "s", (2048, 100_000)),
    Case("w9", "s", (4000, 256, 256)),
    Case("w9", "d", (2000, 192, 384)),
    Case("w10", "s", (16_384, 1024)),
    Case("w11", "d", (4000, 1000)),
    Case("w12", "s", (512, 100_000)),
    Case("w13", "s", (4000, 5700)),
    Case("w14", "d", (1_000_000, 20)),
    Case("w14", "d", (200_000, 100)),
    Case("w15", "d", (20_000, 11)),
    Case("w15", "d", (20_000, 15)),
    Case("w16", "s", (1000, 100_000, 20)),
    Case("w17", "d", (256, *AUTOENCODER)),
    Case("w17", "s", (512, *AUTOENCODER)),
    Case("w18", "d", (4000, 1000)),
    Case("w19", "d", (2000, 1000)),
    Case("w20", "d", (10_000, 1000, 8)),
    Case("w21", "d", (256, 100_000)),
    Case("w21", "d", (1024, 100_000)),
    Case("w21", "s", (2048, 100_000)),
]

QUICK = [
    Case("w1", "s", (500, 64, 8)),
    Case("w2", "s", (16, 2000, 10)),
    Case("w3", "d", (500, 5)),
    Case("w4", "z", (64, 500)),
    Case("w5", "s", (64, 500)),
    Case("w6", "z", (400, 50)),
    Case("w7", "d", (200, 29)),
    Case("w8", "s", (64, 2000)),
    Case("w9", "d", (200, 24, 32)),
    Case("w10", "s", (1000, 64)),
    Case("w11", "d", (400, 50)),
    Case("w12", "s", (32, 2000)),
    Case("w13", "s", (400, 100)),
    Case("w14", "d", (2000, 10)),
    Case("w15", "d", (300, 5)),
    Case("w16", "s", (100, 1000, 4)),
    Case("w17", "d", (64, 32, 16, 32)),
    Case("w18", "d", (200, 30)),
    Case("w19", "d", (100, 30)),
    Case("w20", "d", (400, 60, 4)),
    Case("w21", "d", (32, 1000)),
]


def error(case, operands, result):
    """Norm-wise distance from the truth in double, in u."""
    workload = WORKLOADS[case.op]
    truth = (workload.truth or workload.peer)(*map(_in_double, operands))
    distance = np.linalg.norm(np.ravel(result - truth)) / np.linalg.norm(np.ravel(truth))
    return distance / (np.finfo(case.dtype_computed).eps / 2)


def _in_double(operand):
    if isinstance(operand, list):
        return [tuple(map(_in_double, pair)) for pair in operand]
    if isinstance(operand, int):  # a size
        return operand
    return operand.astype(np.complex128 if operand.dtype.kind == "c" else np.float64)
