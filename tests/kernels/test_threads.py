"""The same bits from every kernel of ours for 1, 2 and 3 threads, from several Python threads at
once, and in a forked child. One subprocess does it all, so that three threads exist everywhere.
"""

import hashlib
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from fastfisher.kernels.reference import HEAD
from fastfisher.planning import TABLE
from tests import matrices

ROOT = Path(__file__).parents[2]
OURS = sorted({band.op for band in TABLE})
SLICED_SYRK = "sliced_syrk", "int7_syrk", "int16_syrk", "bf16_syrk"
SLICED_GRAM = "sliced_gram", "int7_gram", "int16_gram", "bf16_gram"
REAL = "peaks", *SLICED_SYRK, *SLICED_GRAM, "narrow"  # not of complex scores


def operands(shape, dtype):
    return matrices.gaussian(shape, dtype, matrices.generator("bits", shape, str(dtype)))


def definite(n, dtype):
    rows = operands((n + 8, n), dtype)
    return rows.conj().T @ rows


def small_problem(dtype, dual=False):
    """report, scores, weights, shift, right-hand sides, damping, share; limit and steps."""
    rows = operands((4, 900) if dual else (50, 4), dtype).real.copy()
    given = np.ones((2, rows.shape[1])), np.empty((0, len(rows)))
    limits = (1e-15, 8) * dual
    return np.zeros(HEAD + 4), rows, np.empty(0), np.empty(0), *given, 0.1, 0.0, *limits


def cases(dtype):
    """Per op, functions that run our kernel on several tasks' worth of work and return results."""
    from fastfisher.kernels.cpu import (
        batched,
        blocks,
        cholesky,
        diag,
        gram,
        layered,
        matvec,
        metric,
        moments,
        peaks,
        power,
        sliced,
        small,
        small_dual,
        syrk,
    )
    from fastfisher.kernels.cpu import triangular as triangle

    wide = np.dtype(np.complex128 if dtype.kind == "c" else np.float64)
    real, none = np.empty(0, dtype).real.dtype, np.empty(0, dtype)
    no_weights = np.empty(0, real)

    def run(kernel, result, *args):
        def call():
            y = result.copy()
            return y, kernel(y, *args)

        return call

    def square(n):
        return np.zeros((n, n), wide)

    thin, many = operands((9000, 20), dtype), operands((600, 200), dtype)
    long = np.ascontiguousarray(thin.T)
    w, m = matrices.weights(600, dtype), operands((200,), dtype)
    rows, v, u = (
        operands((1100, 4200), dtype),
        operands((2, 4200), dtype),
        operands((2, 1100), dtype),
    )
    A, x = definite(400, dtype), operands((20, 400), dtype)
    F, g = np.repeat(definite(4, dtype)[None], 1500, 0), operands((1500, 4), dtype)
    damping = matrices.weights(1500, dtype)
    status, samples = np.zeros(1500, np.int32), operands((1500, 20, 4), dtype)
    a, e = operands((3 * 90, 300), dtype), operands((3 * 90, 7), dtype)
    vectors, factor = np.zeros((2, 4200), wide), np.linalg.cholesky(A)
    units = np.full(600, 16, dtype)
    return (
        {
            "syrk": [
                run(syrk.syrk, square(20), thin, no_weights, none),
                run(syrk.syrk, square(200), many, w, m),
            ],
            "gram": [
                run(gram.gram, square(20), long, 0, 9000, no_weights, none),
                run(gram.gram, square(200), np.ascontiguousarray(many.T), 0, 600, w, none),
            ],
            "mirror": [run(syrk.mirror, definite(200, wide))],
            "spectral_norm": [run(power.spectral_norm, definite(700, wide))],
            "primal_small": [run(small.primal_small, np.zeros((2, 4)), *small_problem(dtype))],
            "dual_small": [
                run(small_dual.dual_small, np.zeros((2, 900)), *small_problem(dtype, dual=True))
            ],
            "matvec": [run(matvec.matvec, np.zeros((2, 1100), wide), rows, v, none)],
            "rmatvec": [run(matvec.rmatvec, vectors, rows, u, none)],
            "fine_rmatvec": [run(matvec.fine_rmatvec, vectors, rows, u, none)],
            "fvp": [run(matvec.fvp, vectors, rows, v, no_weights, none)],
            "wide_fvp": [
                run(matvec.wide_fvp, vectors, rows, v.astype(wide), np.empty(0), np.empty(0, wide))
            ],
            "diag": [run(diag.diag, np.zeros(4200), rows, no_weights, none)],
            "scan": [run(diag.scan, np.zeros(1100, bool), rows)],
            "cholesky": [run(cholesky.cholesky, A)],
            "solve_lower": [run(lambda y: triangle.solve_lower(A, y), x)],
            "solve_lower_adjoint": [run(lambda y: triangle.solve_lower_adjoint(A, y), x)],
            "substitute": [
                run(lambda y: triangle.substitute(factor, y), x),  # panels of right-hand sides,
                run(lambda y: triangle.substitute(factor, y), x[:7]),  # a single one,
                run(lambda y: triangle.substitute(factor, y), x[:2]),  # or none
            ],
            "inverse_diagonal": [run(triangle.inverse_diagonal, np.zeros(400), A)],
            "batched_solve": [
                run(batched.batched_solve, g, np.zeros(1500, np.int32), F, g, damping)
            ],
            "layered_diag": [run(moments.layered_diag, np.zeros((7, 300)), a, e, 3)],
            "layered_gram": [run(layered.layered_gram, square(90), a, e, 3)],
            "batched_metric_solve": [
                run(metric.batched_metric_solve, g, status, samples, no_weights, g, damping)
            ],
            "batched_syrk": [
                run(blocks.batched_syrk, np.zeros((1500, 4, 4), wide), samples, no_weights)
            ],
            "block_syrk": [
                run(blocks.block_syrk, np.zeros((700, 6, 6), wide), rows, 0, no_weights)
            ],
            "block_cholesky": [run(blocks.block_cholesky, F, status)],
            "block_solve": [run(lambda y: blocks.block_solve(F, y), operands((2, 6000), dtype))],
        }
        | (
            {op: [] for op in REAL}
            if dtype.kind == "c"
            else {
                "peaks": [
                    run(peaks.peaks, np.zeros(4200), rows, True, none, none),
                    run(peaks.peaks, np.zeros(1100), rows, False, none, none),
                ],
                "narrow": [
                    run(
                        sliced.narrow,
                        np.zeros((400, 400), np.float32),
                        A.astype(np.float64),
                        np.ones(400),
                    )
                ],
            }
            | {
                op: [run(getattr(sliced, op), square(200), many, units[:200], 2, 3, none, none)]
                for op in SLICED_SYRK
            }
            | {
                op: [run(getattr(sliced, op), square(600), many, 0, 200, units, 2, 3, none)]
                for op in SLICED_GRAM
            }
        )
    )


def digest(calls):
    bits = hashlib.sha256()
    for call in calls:
        array, value = call()
        bits.update(np.tril(array).tobytes() if array.ndim == 2 else array.tobytes())
        bits.update(repr(value).encode())
    return bits.hexdigest()


def digests():
    return {
        f"{op} {dtype}": digest(calls)
        for dtype in matrices.DTYPES
        for op, calls in cases(dtype).items()
    }


def main():
    """What the subprocess prints: the bits of each run."""
    from fastfisher.kernels.cpu import threads

    found = {"runs": {}}
    for count in (3, 1, 2):
        threads.set_num_threads(count)
        found["runs"][f"{count} threads"] = digests()
    threads.set_num_threads(2)
    one = cases(np.dtype("float64"))
    alone = {op: digest(calls) for op, calls in one.items()}
    with ThreadPoolExecutor(4) as pool:
        together = {op: list(pool.map(digest, [calls] * 12)) for op, calls in one.items()}
    found["concurrent"] = [op for op in alone if set(together[op]) != {alone[op]}]
    if hasattr(os, "fork"):
        child = os.fork()
        if child == 0:
            os._exit(0 if {op: digest(calls) for op, calls in one.items()} == alone else 1)
        found["forked"] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(json.dumps(found))


@pytest.fixture(scope="module")
def found():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"from {__name__} import main; main()"],
        env={**os.environ, "NUMBA_NUM_THREADS": "3", "PYTHONPATH": str(ROOT)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_every_op_of_the_table_is_among_the_cases():
    assert sorted(cases(np.dtype("float64"))) == OURS


@pytest.mark.parametrize("op", OURS)
def test_law_26_2_same_bits_for_1_2_and_3_threads(op, found):
    runs = found["runs"]
    for dtype in matrices.DTYPES:
        bits = {threads: run[f"{op} {dtype}"] for threads, run in runs.items()}
        assert len(set(bits.values())) == 1, f"{dtype}: {bits}"


def test_calls_from_several_python_threads_have_the_same_bits(found):
    assert found["concurrent"] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_forked_child_computes_the_same_bits(found):
    assert found["forked"] == 0
