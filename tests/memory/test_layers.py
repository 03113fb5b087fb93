"""Promise: peak memory of layers is what the plan printed, +10 %."""

from itertools import pairwise

import pytest

from tests.memory.meter import check, measured, only_linux

pytestmark = only_linux

LAYERED = """
    kind, n, net, tokens, dtype, settings = json.loads(sys.argv[1])
    center, form = settings.pop("center", False), settings.pop("form", None)

    def made(n, net, t):
        middle = (t,) if t else ()
        pairs = []
        for d_in, d_out in zip(net, net[1:]):
            pair = [np.empty((n, *middle, d), dtype) for d in (d_in, d_out)]
            for x in pair:
                x[:] = rng.standard_normal(x.shape[-1])
                x *= np.linspace(0.5, 1, n, dtype=dtype).reshape(n, *[1] * (x.ndim - 1))
            pairs.append(pair)
        if kind == "layered":
            F = ff.LayeredFisher(center=center)
        else:
            widths = list(zip(net, net[1:]))
            F = ff.KroneckerFisher(widths, dtype=dtype, corrected=kind == "corrected")
        return F.update(pairs)

    def call(F):
        side = {"coef": np.ones(F.n_samples)} if form == "coef" else {}
        return F.solve(damping=1e-1, **side)

    call(made(500, (60, 50, 40), tokens))
    F = made(n, net, tokens)
    measure(lambda: call(F))
"""


@pytest.mark.parametrize(
    ("kind", "n", "net", "tokens", "dtype", "settings"),
    [
        ("layered", 1200, (700, 600, 500), None, "float64", {}),
        ("layered", 500, (900, 800, 700), None, "float32", {"center": True}),
        ("layered", 1200, (400, 300), 3, "float64", {"form": "coef"}),
        ("layered", 700, (60, 300, 50), 12, "float64", {}),
        ("layered", 200, (1000, 1000), None, "complex128", {}),
        ("kronecker", 300, (900, 600, 700), None, "float64", {}),
        ("corrected", 300, (1200, 800), None, "float32", {}),
    ],
    ids=str,
)
def test_peak_memory_of_layers_is_what_the_plan_printed(kind, n, net, tokens, dtype, settings):
    (found,) = measured(LAYERED, kind, n, net, tokens, dtype, settings)
    check(*found)


def test_the_step_of_an_autoencoder_of_2_8_million_parameters_takes_no_gigabyte():
    """n = 1000: the explicit scores are 22.6 GB."""
    net = (784, 1000, 500, 250, 30, 250, 500, 1000, 784)
    ((peak, planned, plan),) = measured(LAYERED, "layered", 1000, net, None, "float64", {})
    check(peak, planned, plan)
    kept = 8 * 1000 * sum(a + b for a, b in pairwise(net))
    assert kept + peak < 0.5e9 and "2833000 parameters" in plan
