"""What is computed how: the table of kernels (table.py), what routes cost (costs.py), plans.

records.py holds what a plan is, plans.py makes it.
"""

from .plans import (
    check_device,
    check_method,
    dtype_name,
    plan,
    plan_factored,
    plan_problem,
    require_memory,
)
from .records import Plan, Problem, Stage, format_bytes
from .table import TABLE, Band, Entry, Options, choose, current_options, options

__all__ = [
    "TABLE",
    "Band",
    "Entry",
    "Options",
    "Plan",
    "Problem",
    "Stage",
    "check_device",
    "check_method",
    "choose",
    "current_options",
    "dtype_name",
    "format_bytes",
    "options",
    "plan",
    "plan_factored",
    "plan_problem",
    "require_memory",
]
