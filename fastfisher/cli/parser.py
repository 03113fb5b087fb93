"""The arguments of the command, with what they mean, their units and defaults."""

import argparse
import re
import sys

from .. import __version__
from .console import say

__all__ = ["build_parser"]

_METHODS = ("auto", "primal", "dual", "cg", "mixed")
_DTYPES = ("float32", "float64", "complex64", "complex128", "float16", "bfloat16")

_EPILOG = """\
examples:
  fastfisher solve grads.npy --damping 1e-3 -o step.npy
  fastfisher solve grads.npy --damping 0.01 --relative --center --json
  fastfisher plan --n 1000 --p 200000 --dtype float32
  fastfisher demo --quick
  fastfisher demo article --output report

exit codes: 0 done; 1 a demo did not show what it must; 2 an error, told in one line on
standard error, with nothing half-written; 130 interrupted.
"""

_SOLVE_EPILOG = """\
The step is +(F + lambda I)^-1 g, no sign applied, with F = G' diag(w) G / sum(w) and ' the
conjugate transpose. Inputs are npy files of float16, float32, float64, complex64 or complex128,
in either byte order, C or Fortran order; they are mapped, never loaded whole, never changed, and
must not be shortened meanwhile. The residual is recomputed from the file. The output appears
whole or not at all.

examples:
  python -c "import numpy as np; np.save('grads.npy', np.random.randn(500, 2000))"
  fastfisher solve grads.npy --damping 1e-3 -o step.npy
  fastfisher solve grads.npy --damping 0.01 --relative --gradient g.npy --json
  fastfisher solve grads.npy --damping 1e-2 --method cg --rtol 1e-8 --maxiter 500
"""

_CALIBRATE = """\
Ours and the vendor's kernels are timed against each other, a process each, at every size where
there is a choice. The profile goes to the user's cache folder (FASTFISHER_PROFILE names another
file, "off" ignores it) and is read as long as processor, threads and versions are the same. It
changes which kernel is taken and what plans estimate, never what is promised; it is not needed.

examples:
  fastfisher calibrate
  fastfisher calibrate --quick --dry-run
"""


class _Parser(argparse.ArgumentParser):
    """argparse whose errors are one line, like every other error of the command.

    ``late`` adds the arguments that cost imports, when this parser is about to parse.
    """

    late = None

    def __init__(self, **settings):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **settings)
        # Before Python 3.14 "-1e-3" was taken for an option.
        self._negative_number_matcher = re.compile(r"-\.?\d")

    def parse_known_args(self, args=None, namespace=None):
        if self.late is not None:
            add_arguments, self.late = self.late, None
            add_arguments(self)
        return super().parse_known_args(args, namespace)

    def _print_message(self, message, file=None):
        # argparse is silent where help meets a full disk.
        if message and file is sys.stdout:
            say(message.rstrip("\n"))
        else:
            super()._print_message(message, file)

    def error(self, message):
        line = " ".join(message.split())
        self.exit(2, f"fastfisher: error: {line}; see {self.prog} --help\n")


def build_parser():
    """The parser of the whole command line."""
    parser = _Parser(
        prog="fastfisher",
        description="Damped natural gradients from per-sample scores, by the fastest route.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"fastfisher {__version__}")
    commands = parser.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True
    )

    def add(name, text, epilog=None):
        return commands.add_parser(
            name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog
        )

    _add_solve(add("solve", "natural gradient from a file of per-sample scores", _SOLVE_EPILOG))
    _add_plan(add("plan", "how a problem would be solved and at what cost, without solving it"))
    _add_json(add("info", "versions, processor, threads, memory and caches"))
    _add_calibrate(
        add("calibrate", "measure the kernels on this machine; plans then rest on it", _CALIBRATE)
    )
    demo = add("demo", "natural gradient on real images; or the article's claims, with pictures")
    demo.late = _add_demo
    return parser


def _add_demo(parser):
    from ..demo import add_arguments

    add_arguments(parser)


def _add_json(parser):
    parser.add_argument(
        "--json", action="store_true", help="print one JSON object instead of text; sizes in bytes"
    )


def _add_solve(parser):
    parser.add_argument("grads", metavar="GRADS.npy", help="per-sample scores G, shape (n, p)")
    parser.add_argument(
        "--damping",
        type=float,
        required=True,
        metavar="LAMBDA",
        help="added to the diagonal of F, >= 0, in the units of F = scores squared; no default",
    )
    parser.add_argument(
        "--relative",
        action="store_true",
        help="take --damping as a share of the mean eigenvalue: lambda = LAMBDA trace(F)/p",
    )
    parser.add_argument(
        "--gradient",
        metavar="g.npy",
        help="gradient g, shape (p,) (default: the weighted mean row, conjugated if complex)",
    )
    parser.add_argument(
        "--weights",
        metavar="w.npy",
        help="sample weights, shape (n,), floats or integers, >= 0 (default: ones)",
    )
    parser.add_argument(
        "--center", action="store_true", help="subtract the weighted mean row from G in F, not in g"
    )
    parser.add_argument(
        "--method",
        choices=_METHODS,
        default="auto",
        help="formulation (default: auto, the fewest flops that fit in memory)",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="step.npy",
        help="write the step there, shape (p,), dtype of the answer (default: a summary only)",
    )
    parser.add_argument(
        "--rtol",
        type=float,
        metavar="R",
        help="cg: relative residual to reach (default: 1e-10, in single precision 1e-5)",
    )
    parser.add_argument(
        "--maxiter",
        type=int,
        metavar="K",
        help="cg: iteration limit (default: 10 (min(n, p) + 10))",
    )
    parser.add_argument(
        "--nan-policy",
        choices=("raise", "skip"),
        default="raise",
        help="rows with NaN or Inf: an error naming the row, or left out (default: raise)",
    )
    _add_json(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="no report, no progress: errors only, JSON if asked"
    )


def _add_plan(parser):
    parser.add_argument("--n", type=int, required=True, metavar="N", help="samples, >= 0")
    parser.add_argument("--p", type=int, required=True, metavar="P", help="parameters, >= 0")
    parser.add_argument(
        "--dtype",
        choices=_DTYPES,
        default="float64",
        metavar="TYPE",
        help=f"of the scores: {', '.join(_DTYPES)} (default: float64)",
    )
    parser.add_argument(
        "--rhs", type=int, default=1, metavar="K", help="right-hand sides at once (default: 1)"
    )
    parser.add_argument(
        "--method", choices=_METHODS, default="auto", help="formulation (default: auto)"
    )
    _add_json(parser)


def _add_calibrate(parser):
    parser.add_argument(
        "--quick", action="store_true", help="fewer sizes and dtypes: 20 s instead of 3 minutes"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="measure and print, but write no profile"
    )
    _add_json(parser)
    parser.add_argument(
        "--quiet", action="store_true", help="no report, no progress: errors only, JSON if asked"
    )
