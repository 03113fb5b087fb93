"""What is computed how: the table of kernels as data (table.py), and plans from it (plans.py)."""

from .plans import (
    Plan,
    Problem,
    Stage,
    check_device,
    check_method,
    plan,
    plan_factored,
    plan_problem,
    require_memory,
)
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
    "options",
    "plan",
    "plan_factored",
    "plan_problem",
    "require_memory",
]
