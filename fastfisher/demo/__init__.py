"""`fastfisher demo`: the main job on real images, and the article's claims made visible.

Each demo is a module that is imported when it runs; scikit-learn brings the data, so nothing is
downloaded, and Matplotlib draws the pictures.
"""

import importlib

__all__ = ["add_arguments", "main"]

_DEMOS = ("digits", "article")


def add_arguments(parser):
    """The options of `fastfisher demo` on an argparse parser."""
    parser.add_argument(
        "name",
        nargs="?",
        choices=_DEMOS,
        default="digits",
        help="digits: natural gradient beside gradient descent and Adam on images (default); "
        "article: what the article on natural gradient descent and its references claim, as "
        "pictures and numbers in one HTML report",
    )
    parser.add_argument(
        "--quick", action="store_true", help="smaller: under 20 s for digits, 60 s for article"
    )
    parser.add_argument(
        "--output",
        metavar="DIR",
        help="directory for what is written (default: fastfisher-demo, fastfisher-article)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")


def main(args, stream=None):
    """Run with parsed options and return the exit code; the report goes to the stream."""
    given = {} if args.output is None else {"output_dir": args.output}
    run = importlib.import_module(f"{__name__}.{args.name}").run
    return run(quick=args.quick, seed=args.seed, stream=stream, **given)
