"""Solves of one system for many dampings; a large matrix, rough or exact, is formed once."""

from dataclasses import replace

import numpy as np

from ..damping import Tikhonov
from ..passes import sums_dtype
from ..planning import mixed_side
from .refine import MixedSolver
from .solve import solve_system

__all__ = ["solve_sweep"]


def solve_sweep(system, plan, dampings, b, coef, *, single):
    """A Solution for each of some damping objects, in their order.

    Plain numbers are solved for from the largest down: once the rough matrix of the mixed route
    does not hold one, the exact matrix takes its place for the rest.
    """
    order = range(len(dampings))
    if all(type(damping) is Tikhonov for damping in dampings):
        order = sorted(order, key=lambda i: -dampings[i].lam)
    needing = [damping for damping in dampings if damping.needs]
    system = replace(system, damping=needing[0] if needing else dampings[0])
    rough, found = None, {}
    if len(dampings) > 1:
        keeper = Keeper()
        system = replace(system, kept_gram=keeper.gram, kept_fisher=keeper.fisher)
    if plan.method == "mixed":
        rough = MixedSolver(system, plan.problem, mixed_side(plan.problem))
    exact = replace(plan, method=mixed_side(plan.problem)) if rough else plan
    for i in order:
        one = replace(system, damping=dampings[i])
        found[i] = solve_system(one, plan if rough else exact, b, coef, single=single, rough=rough)
        if rough and not found[i].rung.endswith("+cg"):
            rough = None
        if found[i].plan is not plan:
            found[i] = replace(found[i], plan=plan, method=plan.method)
    return tuple(found[i] for i in range(len(dampings)))


class Keeper:
    """The raw sums of a system, formed when first wanted; a copy for everyone who factors it."""

    def __init__(self):
        self._sums = None

    def gram(self, system):
        return self._kept(system, system.n, system.add_gram)

    def fisher(self, system):
        return self._kept(system, system.p, system.add_syrk)

    def _kept(self, system, order, add):
        if self._sums is None:
            self._sums = np.zeros((order, order), sums_dtype(system.dtype))
            add(self._sums)
        return self._sums.copy()
