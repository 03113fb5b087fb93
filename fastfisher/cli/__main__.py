"""``python -m fastfisher.cli`` is the `fastfisher` command."""

import sys

from . import main

if __name__ == "__main__":
    sys.exit(main())
