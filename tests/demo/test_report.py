"""The report: text within 100 columns, one HTML file that needs nothing else, checks that fail."""

from html.parser import HTMLParser

import numpy as np
import pytest

from fastfisher import plots
from fastfisher.demo.report import (
    Check,
    Part,
    Picture,
    Table,
    close,
    holds,
    number,
    to_html,
    to_text,
)

NASTY = '<script>alert("1 & 2")</script>'


def sample(tmp_path, **changes):
    fig, (ax,) = plots.figure()
    ax.plot([0, 1])
    part = Part("first", f"Title {NASTY}")
    part.add(
        f"""A paragraph
        of {NASTY}.""",
        Table(("", "a", NASTY), [("row", "1", NASTY)], f"Caption {NASTY}"),
        Picture("drawn", fig, f"Seen {NASTY}"),
    )
    part.check(number("pi", np.pi, 3.14159, 3), holds("word", "yes", "yes", True))
    part.seconds = 0.25
    image = plots.save(fig, tmp_path / "drawn.png").read_bytes()
    return part, {"drawn": image}


class Tags(HTMLParser):
    """Every tag in order, attributes, and whether tags close in order."""

    VOID = ("meta", "img", "br", "link")

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.open, self.text = [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def page(tmp_path, **changes):
    part, images = sample(tmp_path)
    part.checks = changes.pop("checks", part.checks)
    return to_html(
        [part], images, title=f"T {NASTY}", lead=f"L {NASTY}", facts=[NASTY], sources=[NASTY]
    )


def test_html_is_well_formed_and_escapes_what_it_is_given(tmp_path):
    html = Tags(page(tmp_path))
    assert not html.open
    assert "script" not in html.tags
    assert sum(NASTY in text for text in html.text) >= 7, "shown, not run"
    assert html.tags.count("table") == 2, "the table and the checks"
    assert {"caption", "thead", "figure", "figcaption", "h2", "section"} <= set(html.tags)


def test_html_needs_nothing_else(tmp_path):
    html = Tags(page(tmp_path))
    sources = [value for tag, name, value in html.attributes if name in ("src", "href")]
    assert len(sources) == 2
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert "#first" in sources
    assert "link" not in html.tags
    assert "url(" not in page(tmp_path)
    assert ("meta", "charset", "utf-8") in html.attributes


def test_html_says_whether_all_checks_hold(tmp_path):
    assert "All 2 checks hold." in page(tmp_path)
    bad = page(tmp_path, checks=[Check("a", "1", "2", False), Check("b", "1", "1", True)])
    assert "1 of 2 checks failed." in bad
    assert "✗ failed" in bad
    assert 'class="failed"' in bad
    assert "<details open><summary>1 of 2 failed" in bad
    assert "<details><summary>2 checks, all hold" in page(tmp_path)


def test_text_is_at_most_100_columns(tmp_path):
    part, _ = sample(tmp_path)
    part.title = "Short"
    part.add("word " * 60)
    part.check(holds("a check whose name is far longer than the line allows " * 3, 1.0, "1", True))
    lines = to_text(part, 3).splitlines()
    assert lines[0] == "3. Short"
    assert max(map(len, lines)) <= 100
    assert any(line.endswith("ok") for line in lines)


@pytest.mark.parametrize(
    ("check", "ok"),
    [
        (number("", 2.0004, 2.0), True),
        (number("", 2.0006, 2.0), False),
        (number("", float("nan"), 2.0), False),
        (close("", 1.1, 1.0, within=0.2), True),
        (close("", 1.3, 1.0, within=0.2), False),
        (close("", float("nan"), 1.0, within=0.2), False),
        (close("", float("inf"), 1.0, within=0.2), False),
        (holds("", 1.0, "", np.bool_(True)), True),
        (holds("", 1.0, "", np.bool_(False)), False),
    ],
)
def test_checks_can_fail(check, ok):
    assert check.ok is ok
    assert Part("a", "b").check(check).ok is ok
