"""`fastfisher demo article`: what the article and its references claim, computed and drawn.

Eight parts, each a module with a function ``part(quick, seed)``; formulas by their id in
docs/math.md.
"""

import os
import time

from ... import __version__, plots
from ...runtime import info
from ..data import start
from ..report import to_html, to_text
from . import (
    distance,
    expansion,
    fields,
    invariance,
    kept,
    logistic,
    millions,
    steepest,
)

__all__ = ["run"]

PARTS = (distance, expansion, steepest, logistic, invariance, fields, kept, millions)

TITLE = "Natural gradient descent, reproduced"
LEAD = (
    "What A. Kristiadi's article Natural Gradient Descent and its references claim, computed by "
    "fastfisher on this machine. Every number below was computed for this page; where one is "
    "known beforehand, a check says so and whether it came out."
)
SOURCES = (
    "A. Kristiadi, Natural Gradient Descent, 2018",
    "J. Martens, New insights and perspectives on the natural gradient method, JMLR 21, 2020, "
    "arXiv:1412.1193",
    "A. Ly, M. Marsman, J. Verhagen, R. Grasman, E.-J. Wagenmakers, A tutorial on Fisher "
    "information, 2017, arXiv:1705.01064",
    "R. Pascanu, Y. Bengio, Revisiting natural gradient for deep networks, 2013, arXiv:1301.3584",
    "D. P. Kingma, J. Ba, Adam: a method for stochastic optimization, 2015, arXiv:1412.6980",
    "F. Kunstner, P. Hennig, L. Balles, Limitations of the empirical Fisher approximation for "
    "natural gradient descent, 2019, arXiv:1905.12558",
    "J. Martens, R. Grosse, Optimizing neural networks with Kronecker-factored approximate "
    "curvature, 2015, arXiv:1503.05671",
    "T. George, C. Laurent, X. Bouthillier, N. Ballas, P. Vincent, Fast approximate natural "
    "gradient descent in a Kronecker-factored eigenbasis, 2018, arXiv:1806.03884",
)


def run(*, quick=False, output_dir="fastfisher-article", stream=None, seed=0, parts=PARTS):
    """Compute every part, print it, write the pictures and the report.

    Parameters
    ----------
    quick : bool
        Under a minute on two cores: fewer iterations and images in the last two parts.
    output_dir : path
        For article.html and the PNGs; made if it is not there.
    stream : text file, optional
        Where the report goes as text, standard output by default.
    seed : int
        Of all data that is drawn.
    parts : sequence of modules with ``part(quick, seed)``

    Returns
    -------
    int
        0 if every number came out as it must, else 1.

    Raises
    ------
    InputError
        The seed is not an integer >= 0.
    MissingDependencyError
        scikit-learn or Matplotlib is not installed.
    OSError
        The output directory cannot be written.
    """
    began = time.perf_counter()
    say, _, output_dir = start(output_dir, stream, seed)
    say(f"{TITLE}.\n")
    done, images = [], {}
    for index, module in enumerate(parts, start=1):
        started = time.perf_counter()
        part = module.part(quick, seed)
        for picture in part.pictures:
            path = plots.save(picture.figure, output_dir / f"{picture.name}.png")
            images[picture.name] = path.read_bytes()
        part.seconds = time.perf_counter() - started
        say(to_text(part, index))
        done.append(part)

    seconds = time.perf_counter() - began
    facts = _facts(quick, seed, seconds)
    page = output_dir / "article.html"
    _write(page, to_html(done, images, title=TITLE, lead=LEAD, facts=facts, sources=SOURCES))
    say("Written")
    for path in (page, *(output_dir / f"{name}.png" for name in images)):
        say(f"  {path}")
    failed = [(part, check) for part in done for check in part.checks if not check.ok]
    for part, check in failed:
        say(f"Failed in {part.title!r}: {check.what}: {check.got}, expected {check.expected}")
    count = sum(len(part.checks) for part in done)
    say(f"\n{count - len(failed)} of {count} checks hold; done in {seconds:.0f} s.")
    return 1 if failed else 0


def _facts(quick, seed, seconds):
    """What it ran on."""
    known = info()
    return [
        f"fastfisher {__version__}",
        f"{known['cpu']}, {known['threads']} threads",
        f"seed {seed}{', quick' if quick else ''}",
        f"{seconds:.0f} s in all",
    ]


def _write(path, text):
    """Whole or not at all."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
