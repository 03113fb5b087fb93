"""`fastfisher info`: what this computer and this installation are."""

from ..runtime import info
from .console import print_json, say

__all__ = ["main"]


def main(args):
    """Print the facts."""
    facts = info()
    if args.json:
        print_json(facts)
    else:
        for name, value in facts.items():
            say(f"{name:<24}{value}")
    return 0
