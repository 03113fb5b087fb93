"""`fastfisher plan`: how a problem would be solved."""

import dataclasses

from ..planning import plan
from .console import print_json, say

__all__ = ["main", "plan_facts"]


def main(args):
    """Print the plan."""
    made = plan(args.n, args.p, rhs=args.rhs, dtype=args.dtype, method=args.method)
    if args.json:
        print_json(plan_facts(made))
    else:
        say(made)
    return 0


def plan_facts(plan):
    """A plan and its totals as a dict for JSON."""
    return dataclasses.asdict(plan) | {
        "flops": plan.flops,
        "bytes": plan.bytes,
        "seconds": plan.seconds,
        "reproducible": plan.reproducible,
    }
