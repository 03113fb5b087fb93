"""Every operation, ours and the vendors', under pytest-benchmark: ``python -m pytest bench``.

For the history of our own kernels: save with ``--benchmark-autosave`` and compare two states with
``--benchmark-compare``. All contenders share one process here and disturb each other, so a claim
against a vendor is taken from ``python -m bench.grid`` only. With ``--benchmark-disable`` each
body runs once, and its result still has to pass the accuracy gate.
"""

from . import environment
from .contenders import chosen_kernel
from .contenders import contender as function_of
from .gates import error, gate
from .inputs import inputs


def test_kernel(benchmark, case, contender):
    benchmark.group = case.id
    operands = inputs(case)
    result = benchmark.pedantic(
        function_of(case, contender), args=operands, rounds=9, warmup_rounds=2
    )
    distance = error(case, operands, result)
    benchmark.extra_info |= {
        "contender": contender,
        "kernel": chosen_kernel(case) if contender == "fastfisher" else contender,
        "flops": case.flops,
        "bytes": case.bytes,
        "error_u": distance,
        "gate_u": gate(case),
    } | environment.contender(contender)
    assert distance <= gate(case), (
        f"{case.id} by {contender}: {distance:.3g} u, the gate is {gate(case):.3g} u"
    )
