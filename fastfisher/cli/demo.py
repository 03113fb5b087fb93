"""`fastfisher demo`: natural gradient made visible."""

from .. import demo
from .console import Output

__all__ = ["main"]


def main(args):
    """Run the demo; its report goes where the others' go."""
    return demo.main(args, stream=Output())
