"""A report of parts: prose, tables, pictures and checks; as text, and as one HTML file."""

import base64
import html
import math
import textwrap
from dataclasses import dataclass, field

__all__ = ["Check", "Part", "Picture", "Table", "close", "holds", "number", "to_html", "to_text"]


@dataclass(frozen=True)
class Table:
    """Rows of strings under a header; all columns but the first are numbers."""

    header: tuple
    rows: list
    caption: str = ""


@dataclass(frozen=True)
class Picture:
    """A Matplotlib figure, the stem of its file, and what there is to see."""

    name: str
    figure: object
    caption: str


@dataclass(frozen=True)
class Check:
    """A number of this run beside what it must be."""

    what: str
    got: str
    expected: str
    ok: bool


def number(what, got, expected, digits=3):
    """`got` must be `expected` in every printed digit."""
    got, expected = f"{got:.{digits}f}", f"{expected:.{digits}f}"
    return Check(what, got, expected, got == expected)


def close(what, got, expected, *, within):
    """|got - expected| <= within."""
    ok = math.isfinite(got) and abs(got - expected) <= within
    return Check(what, f"{got:.6g}", f"{expected:.6g} ± {within:.2g}", bool(ok))


def holds(what, got, expected, ok):
    """Anything that a comparison in words says best."""
    got = got if isinstance(got, str) else f"{got:.3g}"
    return Check(what, got, expected, bool(ok))


@dataclass
class Part:
    """One part of the report; ``add`` takes paragraphs, tables and pictures in order."""

    name: str
    title: str
    blocks: list = field(default_factory=list)
    checks: list = field(default_factory=list)
    seconds: float = math.nan

    def add(self, *blocks):
        self.blocks.extend(" ".join(b.split()) if isinstance(b, str) else b for b in blocks)
        return self

    def check(self, *checks):
        self.checks.extend(checks)
        return self

    @property
    def ok(self):
        return all(check.ok for check in self.checks)

    @property
    def pictures(self):
        return [block for block in self.blocks if isinstance(block, Picture)]


# Text ------------------------------------------------------------------------------------------


def to_text(part, index):
    """The part as lines of at most 100 characters; pictures are files beside it."""
    lines = [f"{index}. {part.title}", ""]
    for block in part.blocks:
        if isinstance(block, str):
            lines += textwrap.wrap(block, 97, initial_indent="   ", subsequent_indent="   ")
        elif isinstance(block, Table):
            lines += _text_table(block.header, block.rows)
        else:
            continue
        lines.append("")
    marks = {True: "ok", False: "FAILED"}
    rows = [(check.what, check.got, check.expected, marks[check.ok]) for check in part.checks]
    if rows:
        lines += [*_text_table(("check", "got", "expected", ""), rows), ""]
    return "\n".join(lines)


def _text_table(header, rows):
    widths = [max(len(row[k]) for row in (header, *rows)) for k in range(len(header))]
    widths[0] = min(widths[0], max(97 - sum(width + 2 for width in widths[1:]), 24))
    lines = []
    for row in (header, *rows):
        first = textwrap.wrap(row[0], widths[0]) or [""]
        rest = "".join(
            f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True)
        )
        lines += [f"   {line}" for line in first[:-1]]
        lines.append(f"   {first[-1]:<{widths[0]}}{rest}".rstrip())
    return lines


# HTML ------------------------------------------------------------------------------------------

_STYLE = """
:root { color-scheme: light; }
body { font: 16px/1.55 system-ui, sans-serif; color: #1c1c1c; background: #fff;
  max-width: 62rem; margin: 2rem auto; padding: 0 1.2rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin-bottom: .3rem; }
h2 { font-size: 1.35rem; margin: 3rem 0 .6rem; padding-top: .8rem; border-top: 1px solid #ddd; }
p { max-width: 46rem; }
.facts, figcaption, caption, nav { color: #555; font-size: .92rem; }
figure { margin: 1.4rem 0; }
img { max-width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .92rem;
  font-variant-numeric: tabular-nums; }
caption { caption-side: bottom; text-align: left; padding-top: .4rem; }
th, td { white-space: nowrap; padding: .25rem .8rem; border-bottom: 1px solid #e4e4e4;
  text-align: right; }
th { border-bottom: 2px solid #999; font-weight: 600; }
th:first-child, td:first-child { text-align: left; }
summary { cursor: pointer; color: #00674b; }
details[open] summary { color: #555; }
.ok { color: #00674b; } .failed { color: #b00020; font-weight: 700; }
"""


def to_html(parts, images, *, title, lead, facts, sources=()):
    """One page that needs nothing else.

    Parameters
    ----------
    parts : list of Part
    images : dict of str to bytes
        The PNG of each picture's name.
    title, lead : str
    facts : list of str
        What it ran on.
    sources : list of str
        What the text refers to, listed at the end.
    """
    failed = sum(not check.ok for part in parts for check in part.checks)
    total = sum(len(part.checks) for part in parts)
    verdict = f"All {total} checks hold." if not failed else f"{failed} of {total} checks failed."
    body = [
        f"<h1>{html.escape(title)}</h1>",
        f"<p>{html.escape(lead)}</p>",
        f'<p class="{"failed" if failed else "ok"}">{verdict}</p>',
        f'<p class="facts">{html.escape("; ".join(facts))}.</p>',
        "<nav><ol>",
        *(f'<li><a href="#{part.name}">{html.escape(part.title)}</a></li>' for part in parts),
        "</ol></nav>",
    ]
    for index, part in enumerate(parts, start=1):
        body.append(f'<section id="{part.name}"><h2>{index}. {html.escape(part.title)}</h2>')
        body += [_block(block, images) for block in part.blocks]
        body.append(_checks(part.checks))
        body.append(f'<p class="facts">This part took {part.seconds:.1f} s.</p></section>')
    if sources:
        items = "".join(f"<li>{html.escape(source)}</li>" for source in sources)
        body.append(f'<section id="sources"><h2>Sources</h2><ul>{items}</ul></section>')
    return "\n".join(
        [
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>",
            *body,
            "</body></html>\n",
        ]
    )


def _block(block, images):
    if isinstance(block, str):
        return f"<p>{html.escape(block)}</p>"
    if isinstance(block, Table):
        return _html_table(block.header, block.rows, block.caption)
    data = base64.b64encode(images[block.name]).decode()
    caption = html.escape(block.caption)
    return (
        f'<figure><img src="data:image/png;base64,{data}" alt="{caption}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _html_table(header, rows, caption="", marks=None):
    def line(cells, tag, mark=""):
        cells = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
        return f"<tr{mark}>{cells}</tr>"

    marks = marks or [""] * len(rows)
    caption = f"<caption>{html.escape(caption)}</caption>" if caption else ""
    body = "".join(line(row, "td", mark) for row, mark in zip(rows, marks, strict=True))
    head = line(header, "th")
    table = f"<table>{caption}<thead>{head}</thead><tbody>{body}</tbody></table>"
    return f'<div class="wide">{table}</div>'


def _checks(checks):
    if not checks:
        return ""
    rows = [
        (check.what, check.got, check.expected, "✓" if check.ok else "✗ failed") for check in checks
    ]
    marks = ["" if check.ok else ' class="failed"' for check in checks]
    failed = sum(not check.ok for check in checks)
    summary = f"{failed} of {len(checks)} failed" if failed else f"{len(checks)} checks, all hold"
    table = _html_table(("check", "got", "expected", ""), rows, marks=marks)
    return f"<details{' open' * bool(failed)}><summary>{summary}</summary>{table}</details>"
