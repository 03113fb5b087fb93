"""Fisher matrices of a device in the CUDA simulator, beside those of the host."""

from unittest import mock

import numpy as np

import fastfisher as ff
from tests import matrices
from tests.solvers.device_arrays import TALL, WIDE, there
from tests.solvers.device_refusals import message_of
from tests.solvers.device_traffic import Traffic

__all__ = ["held", "kept"]


def _crowded(F, arrays, *batch):
    """What is said where the device has no room for the first array that an update asks for, the
    second, ...: (each message, whether F then was as before)."""
    from fastfisher.kernels.cuda import compat

    def facts():
        kept = [None if x is None else x.copy_to_host().tolist() for x in arrays(F._held)]
        return [F.n_samples, F.weight, F.decayed, F.p, *kept]

    before, room, allocate = facts(), 0, compat._pooled

    def limited(shape, dtype):
        nonlocal left
        if left == 0:
            raise RuntimeError("CUDA_ERROR_OUT_OF_MEMORY")
        left -= 1
        return allocate(shape, dtype)

    messages, same = [], True
    while True:
        left = room
        with mock.patch.object(compat, "_pooled", limited):
            message = message_of(lambda: F.update(*batch, decay=0.5))
        if message.startswith("nothing was refused"):
            return messages, same
        messages.append(message)
        same &= facts() == before
        room += 1


def held():
    """What a DeviceFisher answers, beside a DenseFisher."""
    rng = matrices.generator("held")
    G, H, w = rng.standard_normal(TALL), rng.standard_normal((2, 3)), rng.uniform(0.5, 2, 5)
    b, dampings = rng.standard_normal(3), [0.1, 5.0]
    none = np.empty((0, 3))
    F = ff.DenseFisher(3).update(G, w).update(H, decay=0.5).update(none, decay=0.25)
    D = ff.DeviceFisher(3).update(there(none), decay=0.5)  # nothing to decay
    D.update(there(G), there(w)).update(there(H), decay=0.5).update(there(none), decay=0.25)
    with Traffic() as traffic:
        path = D.path(there(b), dampings)
    P = F.path(b, dampings)
    pairs = {
        "matrix": (D.matrix(), F.matrix()),
        "diagonal": (D.diagonal(), F.diagonal()),
        "mean": (D.mean, F.mean),
        "product": (D @ there(b), F @ b),
        "solve": (D.solve(damping=0.1).x, F.solve(damping=0.1).x),
        "cutoff": (
            D.solve(there(b), damping=ff.HardCutoff(0.3)).x,
            F.solve(b, damping=ff.HardCutoff(0.3)).x,
        ),
        "x": (path.x(), P.x()),
        "one x": (path.x(1), P.x(1)),
    }
    values = {name: (x.copy_to_host(), y) for name, (x, y) in pairs.items()}
    for name in ("norms", "kl", "logdet", "inner", "effective_dimension", "misfits"):
        values[name] = getattr(path, name), getattr(P, name)
    goal = 0.7 * float(P.norms[0])
    values["trust"] = path.damping_for(norm=goal), P.damping_for(norm=goal)
    factor, kept = D.factor(ff.Marquardt(0.1)), F.factor(ff.Marquardt(0.1))
    for name, *given in (("solve", b), ("whiten", b), ("inv_diagonal",), ("inv_quad", H)):
        made = getattr(factor, name)(*map(there, given))
        values[f"factor.{name}"] = made.copy_to_host(), getattr(kept, name)(*given)
    draws = [f.sample(np.random.default_rng(0), 2) for f in (factor, kept)]
    values["factor.sample"] = draws[0].copy_to_host(), draws[1]
    values["factor.logdet"] = factor.logdet(), kept.logdet()
    host = D.to_host()
    values["to_host"], values["host mean"] = (host.matrix(), F.matrix()), (host.mean, F.mean)
    values["eigvalsh"], values["trace"] = (D.eigvalsh(), F.eigvalsh()), (D.trace(), F.trace())
    hole = np.vstack([G, np.full((1, 3), np.inf)])
    skipped = ff.DeviceFisher(3).update(there(hole), nan_policy="skip")
    values["skipped"] = skipped.matrix().copy_to_host(), G.T @ G / 5
    with ff.options(ladder=ff.Ladder(cutoff=ff.HardCutoff(1e-9))):
        climbed = [
            one.solve(rhs, damping=0.0)
            for one, rhs in (
                (ff.DeviceFisher(3).update(there(H)), there(b)),
                (ff.DenseFisher(3).update(H), b),
            )
        ]
    values["climbed"] = climbed[0].x.copy_to_host(), climbed[1].x
    centred = [
        kind(3, center=True).update(move(G + 100.0), move(w)).update(move(H), decay=0.5)
        for kind, move in ((ff.DeviceFisher, there), (ff.DenseFisher, lambda x: x))
    ]
    values["centred"] = centred[0].matrix().copy_to_host(), centred[1].matrix()
    values["centred mean"] = centred[0].mean.copy_to_host(), centred[1].mean
    apart = [ff.DeviceFisher(3, center=True).update(there(x)) for x in (G, H + 5.0)]
    values["centred merge"] = (
        apart[0].merge(apart[1]).to_host().matrix(),
        np.cov(np.vstack([G, H + 5.0]).T, bias=True),
    )
    merged = ff.DeviceFisher(3).update(there(G)).merge(ff.DeviceFisher(3).update(there(H)))
    values["merge"] = merged.matrix().copy_to_host(), ff.DenseFisher(3).update(G).update(H).matrix()
    crowded = ff.DeviceFisher(3, center=True).update(there(G), there(w))
    before = D.matrix().copy_to_host()
    single = ff.DeviceFisher(3, dtype="float32").update(there(1e-6 * np.eye(3, dtype=np.float32)))
    refusals = {}
    for name, call in {
        "host": lambda: D.update(G),
        "nan": lambda: D.update(there(np.full((2, 3), np.nan))),
        "weights": lambda: D.update(there(G), there(-w)),
        "host Fisher": lambda: ff.DenseFisher(3).update(there(G)),
        "empty": lambda: ff.DeviceFisher(3).solve(damping=1.0),
        "factor": lambda: D.factor(ff.HardCutoff(0.1)),
        "singular": lambda: ff.DeviceFisher(3).update(there(H)).factor(0.0),
        "decayed": lambda: merged.merge(D),
        "centring": lambda: merged.merge(ff.DeviceFisher(3, center=True)),
        "factor overflows": lambda: single.factor(0.0).solve(there(np.full(3, 1e30, np.float32))),
        "path overflows": lambda: single.path(there(np.full(3, 1e30, np.float32)), [0.0]).x(0),
        "factor nan": lambda: single.factor(1.0).solve(there(np.full(3, np.nan, np.float32))),
        "indefinite": lambda: ff.DeviceFisher(3).update(there(H[:1])).path(there(b), [0.0]),
    }.items():
        refusals[name] = message_of(call)
    return {
        "errors": _errors(values),
        "crowded": _crowded(crowded, lambda x: [x.sums, x.first], there(H), there(w[:2])),
        "refusals": refusals,
        "waits": traffic.waits,
        "unchanged": bool(np.array_equal(before, D.matrix().copy_to_host())),
        "facts": [
            D.n_samples == F.n_samples,
            bool(np.isclose(D.weight, F.weight)),
            (skipped.n_samples, skipped.n_skipped, skipped.weight) == (5, 1, 5.0),
            host.n_samples == D.n_samples and host.decayed,
            [s.rung for s in climbed] == ["eigen"] * 2,
            factor.rung == "cholesky" and factor.damping == kept.damping,
        ],
    }


def _errors(pairs):
    return {name: float(np.abs(x - y).max() / np.abs(y).max()) for name, (x, y) in pairs.items()}


def kept():
    """What a DeviceGramFisher answers, beside a GramFisher."""
    rng = matrices.generator("kept")
    G, H, w = rng.standard_normal(WIDE), rng.standard_normal((1, 5)), rng.uniform(0.5, 2, 3)
    b, coef, half = rng.standard_normal(5), rng.standard_normal(4), G.astype(np.float16)
    hole = np.vstack([H, np.full((1, 5), np.nan)])
    D, F = (
        kind(center=True).update(move(G), move(w)).update(move(H), decay=0.5)
        for kind, move in ((ff.DeviceGramFisher, there), (ff.GramFisher, lambda x: x))
    )
    found = {
        "solve": (D.solve(there(b), damping=0.1).x, F.solve(b, damping=0.1).x),
        "coef": (D.solve(coef=there(coef), damping=0.1).x, F.solve(coef=coef, damping=0.1).x),
        "product": (D @ there(b), F @ b),
        "gram": (D.gram(), F.gram()),
        "matrix": (D.matrix(), F.matrix()),
        "diagonal": (D.diagonal(), F.diagonal()),
        "mean": (D.mean, F.mean),
    }
    pairs = {name: (x.copy_to_host(), y) for name, (x, y) in found.items()}
    pairs["eigvalsh"], pairs["trace"] = (D.eigvalsh(), F.eigvalsh()), (D.trace(), F.trace())
    plain, again = (ff.DeviceGramFisher().update(there(half)) for _ in range(2))
    plain.merge(again)
    with Traffic() as traffic:
        made = plain.solve(damping=0.1)
    expected = ff.GramFisher().update(half).solve(damping=0.1).x
    pairs["halves, merged"] = made.x.copy_to_host(), expected
    skipped = ff.DeviceGramFisher().update(there(hole), nan_policy="skip")
    pairs["skipped"] = skipped.diagonal().copy_to_host(), H[0] ** 2
    crowded = ff.DeviceGramFisher().update(there(G)).update(there(H))
    before, refusals = D.gram().copy_to_host(), {}
    for name, call in {
        "host": lambda: D.update(G),
        "nan": lambda: D.update(there(hole), decay=0.5),
        "width": lambda: D.update(there(G[:, :2].copy())),
        "dtype": lambda: D.update(there(half)),
        "both": lambda: D.solve(there(b), coef=there(coef), damping=0.1),
        "empty": lambda: ff.DeviceGramFisher().solve(damping=1.0),
        "decayed": lambda: D.merge(D),
        "kinds": lambda: plain.merge(ff.DeviceFisher(5, dtype="float32")),
    }.items():
        refusals[name] = message_of(call)
    return {
        "errors": _errors(pairs),
        "crowded": _crowded(crowded, lambda x: [rows for *_, rows in x._batches], there(H)),
        "refusals": refusals,
        "unchanged": bool(np.array_equal(before, D.gram().copy_to_host())),
        "traffic": [traffic.to_device, traffic.to_host, traffic.waits],
        "facts": [
            D.n_samples == F.n_samples == 4,
            bool(np.isclose(D.weight, F.weight)),
            (skipped.n_samples, skipped.n_skipped, skipped.weight) == (1, 1, 1.0),
            made.method == "dual" and str(plain.dtype) == "float32" and plain.p == 5,
        ],
    }
