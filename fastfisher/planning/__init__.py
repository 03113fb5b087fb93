"""What is computed how: the table of kernels, what routes cost (costs.py), plans.

table.py is data, choices.py says which entry is taken; records.py holds what a plan is, plans.py
makes it; rates.py is the cost model, profiles.py finds the user's own measurements for it; units.py
foretells what multiplies slices.
"""

from .choices import (
    Choice,
    Options,
    by_rates,
    choose,
    current_options,
    decide,
    forget_choices,
    options,
    solve_flops,
)
from .costs import mixed_costs, mixed_side
from .device import NORM_STEPS, device_mixed_costs
from .layered import plan_kronecker, plan_layered
from .plans import (
    check_device,
    check_method,
    dtype_name,
    forget_plans,
    plan,
    plan_factored,
    plan_problem,
    require_memory,
)
from .profiles import current_rates, fingerprint, profile, profile_path
from .rates import CACHED, SOLVE, Rates
from .records import Plan, Problem, Stage, format_bytes, format_seconds
from .structured import plan_batched, plan_blocks
from .table import SIDED, TABLE, Band, Entry
from .units import integer_unit, normwise_pays

__all__ = [
    "CACHED",
    "NORM_STEPS",
    "SIDED",
    "SOLVE",
    "TABLE",
    "Band",
    "Choice",
    "Entry",
    "Options",
    "Plan",
    "Problem",
    "Rates",
    "Stage",
    "by_rates",
    "check_device",
    "check_method",
    "choose",
    "current_options",
    "current_rates",
    "decide",
    "device_mixed_costs",
    "dtype_name",
    "fingerprint",
    "forget_profile",
    "format_bytes",
    "format_seconds",
    "integer_unit",
    "mixed_costs",
    "mixed_side",
    "normwise_pays",
    "options",
    "plan",
    "plan_batched",
    "plan_blocks",
    "plan_factored",
    "plan_kronecker",
    "plan_layered",
    "plan_problem",
    "profile",
    "profile_path",
    "require_memory",
    "solve_flops",
]


def forget_profile():
    """Read the profile anew at the next choice, and forget what was chosen by the old one."""
    profile.cache_clear()
    forget_choices()
    forget_plans()
