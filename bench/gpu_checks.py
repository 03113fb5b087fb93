"""Checks of `bench.gpu` that are the cases of the tests, on whatever device there is.

Every op of the contract, whoever does it, by the cases of the CPU; tensor cores and half precision
on tiny tiles; solves beside those of the host.
"""

__all__ = ["of_tests"]

TINY = {
    "ops": ("mirror", "block_syrk"),
    "products": ("tensor_cores_m8n8k4",),
    "solves": ("primal",),
}
SOLVE_GATE, CG_GATE = 200.0, 1e6  # as in tests/solvers/test_device.py, in units of u


def of_tests(tiny):
    """Yield (name, a function of no arguments that returns (error, gate) in units of u)."""
    from fastfisher.planning.device import CUDA_TABLE
    from tests.kernels import every_op
    from tests.kernels.cuda import products, simulated
    from tests.solvers import device_cases
    from tests.tolerances import LIMITS

    for op in TINY["ops"] if tiny else simulated.OPS:
        for which, entry in enumerate(next(b.entries for b in CUDA_TABLE if b.op == op)):
            for dtype in ("float64",) if tiny else ("float64", "float32"):

                def examined(op=op, dtype=dtype, which=which):
                    found = simulated.examine([op], [dtype], tiny=tiny, which=which)[op]
                    if found["digest"] is None:
                        raise RuntimeError(found["case"])
                    return found["error"], LIMITS[every_op.LIMIT]

                yield f"{entry.name} {dtype}, cases of the tests", examined
    for name in TINY["products"] if tiny else products.CHECKS:

        def made(name=name):
            error = products.run([name])[name]
            if not isinstance(error, float):
                raise RuntimeError(error)
            return error, products.CHECKS[name][1]

        yield name.replace("_", " "), made
    for name in TINY["solves"] if tiny else device_cases.CASES:

        def solved(name=name):
            facts = device_cases.solve_case(name)
            if facts["status"] != "converged" or not facts["like"]:
                raise RuntimeError(str(facts))
            return facts["error"], CG_GATE if name.startswith("cg") else SOLVE_GATE

        yield f"solve {name}", solved
