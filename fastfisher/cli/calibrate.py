"""`fastfisher calibrate`: measure the kernels on this machine, and write the profile."""

from ..calibration import calibrate
from .console import Progress, print_json, say

__all__ = ["main"]


def main(args):
    """Measure, print, write."""
    with Progress(args.quiet) as progress:
        made = calibrate(quick=args.quick, dry_run=args.dry_run, progress=progress)
    if args.json:
        print_json(facts(made))
    elif not args.quiet:
        say(made)
    return 0


def facts(made):
    """A calibration as a dict for JSON."""
    return {
        "machine": made.rates.machine,
        "date": made.rates.date,
        "seconds": made.seconds,
        "bandwidth": made.rates.bandwidth,
        "overhead": made.rates.overhead,
        "path": None if made.path is None else str(made.path),
        "rows": [vars(row) for row in made.rows],
    }
