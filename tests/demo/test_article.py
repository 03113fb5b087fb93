"""The article's claims: each part at a small size, its numbers, and the run as a user sees it."""

import io
from types import SimpleNamespace

import numpy as np
import pytest

from fastfisher import cli
from fastfisher.demo import article
from fastfisher.demo.article import (
    distance,
    expansion,
    fields,
    invariance,
    kept,
    logistic,
    millions,
    steepest,
)
from fastfisher.demo.report import Part, holds
from fastfisher.errors import InputError

PARTS = (
    distance,
    expansion,
    steepest,
    SimpleNamespace(part=lambda quick, seed: logistic.part(quick, seed, repeats=20)),
    invariance,
    fields,
    SimpleNamespace(part=lambda quick, seed: kept.part(quick, seed, n=200, iterations=8)),
    SimpleNamespace(
        part=lambda quick, seed: millions.part(quick, seed, sizes=(64, 40, 8, 40, 64), n=60)
    ),
)
PICTURES = (
    "distance",
    "expansion",
    "steepest",
    "logistic",
    "invariance",
    "nonlinear",
    "fields",
    "kept",
    "curves",
    "training",
)


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    """Every part once, at sizes that take seconds."""
    directory, report, parts = tmp_path_factory.mktemp("article") / "new" / "out", io.StringIO(), []

    def keep(module):
        def part(quick, seed):
            parts.append(module.part(quick, seed))
            return parts[-1]

        return SimpleNamespace(part=part)

    code = article.run(
        quick=True, output_dir=directory, stream=report, parts=[keep(module) for module in PARTS]
    )
    return code, report.getvalue(), directory, parts


# The whole run -------------------------------------------------------------------------------


def test_every_number_comes_out_as_it_must(small_run):
    """A1-A4, K1, S1, E1-E4, D6, Y1, Y2, F5, C4, F11, M1, L1 with their negative controls."""
    code, report, _, parts = small_run
    failed = [check for part in parts for check in part.checks if not check.ok]
    assert not failed
    assert code == 0
    assert "Failed in" not in report
    count = sum(len(part.checks) for part in parts)
    assert count >= 70
    assert f"{count} of {count} checks hold" in report


def test_text_and_files_are_whole(small_run):
    _, report, directory, parts = small_run
    assert [line[:2] for line in report.splitlines() if line[1:3] == ". "] == [
        f"{index}." for index in range(1, 9)
    ]
    assert max(map(len, report.splitlines())) <= max(100, len(str(directory)) + 20)
    names = {picture.name for part in parts for picture in part.pictures}
    assert names == set(PICTURES)
    assert {path.name for path in directory.iterdir()} == {
        "article.html",
        *(f"{name}.png" for name in PICTURES),
    }
    for name in PICTURES:
        data = (directory / f"{name}.png").read_bytes()
        assert data[:8] == b"\x89PNG\r\n\x1a\n"
        assert data[-8:-4] == b"IEND"


def test_html_holds_every_picture_and_every_check(small_run):
    _, _, directory, parts = small_run
    html = (directory / "article.html").read_text(encoding="utf-8")
    assert html.count('src="data:image/png;base64,') == len(PICTURES)
    assert html.count("src=") == len(PICTURES)
    assert "http://" not in html and "https://" not in html
    for part in parts:
        assert f'<section id="{part.name}">' in html
    assert f"All {sum(len(part.checks) for part in parts)} checks hold." in html


def test_axes_are_labelled_and_a_method_has_one_colour(small_run):
    """Every axes with data says what its axes are; the natural gradient is blue everywhere."""
    colours = {}
    for part in small_run[3]:
        for picture in part.pictures:
            for ax in picture.figure.axes:
                if ax.get_label() == "<colorbar>":
                    continue
                assert ax.get_xlabel(), picture.name
                assert ax.get_ylabel() or picture.name == "kept", picture.name
                for line in ax.get_lines():
                    name = str(line.get_label()).split(":")[0]
                    if name in ("natural gradient", "gradient descent", "Adam", "KFAC"):
                        colours.setdefault(name, set()).add(line.get_color())
    assert {name: len(seen) for name, seen in colours.items()} == dict.fromkeys(colours, 1)
    assert len(colours) == 4


# Numbers of the parts ------------------------------------------------------------------------


def table(parts, index, number=0):
    tables = [block for block in parts[index].blocks if hasattr(block, "rows")]
    return {row[0]: row[1:] for row in tables[number].rows}


def test_distance_A1_shows_both_readings(small_run):
    rows = table(small_run[3], 0)
    assert rows["σ = 2"][:2] == ("0.1995", "2.000")
    assert rows["σ = 0.5"][:2] == ("0.7979", "32.000")
    assert rows["σ² = 2"][:2] == ("0.2821", "4.000")
    assert rows["σ² = 0.5"][:2] == ("0.5642", "16.000")
    assert any("Erratum" in block for block in small_run[3][0].blocks if isinstance(block, str))


def test_expansion_K1_slopes_are_two_three_four(small_run):
    for row in table(small_run[3], 1).values():
        np.testing.assert_allclose([float(cell) for cell in row], [2, 2, 3, 4], atol=0.15)


def test_logistic_E1_is_near_the_published_loss(small_run):
    rows = table(small_run[3], 3)
    natural, _, descent = (float(cell.split()[0]) for cell in rows["α = 0.2"][:3])
    assert abs(natural - 0.1823) < 0.05
    assert abs(descent - 0.4058) < 0.05


def test_kept_C4_orders_the_methods_by_what_they_keep(small_run):
    rows = table(small_run[3], 6)
    distance_of = [float(rows[name][0]) for name in ("exact F", "EKFAC", "KFAC", "diagonal")]
    assert distance_of == sorted(distance_of)


def test_millions_counts_its_parameters():
    assert millions._count(millions.SIZES) == 2_837_314
    assert millions._bytes(8 * 2_837_314**2) == "64.4 TB"
    assert millions._bytes(1500) == "1.5 KB"
    assert millions._duration(0.5) == "0.50 s"
    assert millions._duration(86400 * 400) == "1.1 years"


# The run as a user sees it -------------------------------------------------------------------


def failing(quick, seed):
    return Part("bad", "Bad").check(holds("a law", "broken", "kept", False))


def test_exit_code_says_that_a_check_failed(tmp_path):
    report = io.StringIO()
    code = article.run(
        output_dir=tmp_path, stream=report, parts=[SimpleNamespace(part=failing), distance]
    )
    assert code == 1
    assert "Failed in 'Bad': a law: broken, expected kept" in report.getvalue()
    assert "1 of 23 checks failed." in (tmp_path / "article.html").read_text(encoding="utf-8")


def test_command_line_reaches_the_article(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(article, "run", lambda stream, **given: seen.append(given) or 1)
    argv = ["demo", "article", "--quick", "--output", str(tmp_path), "--seed", "3"]
    assert cli.main(argv) == 1
    assert cli.main(["demo", "article"]) == 1
    assert seen == [
        {"quick": True, "seed": 3, "output_dir": str(tmp_path)},
        {"quick": False, "seed": 0},
    ]


def test_command_line_refuses_what_is_no_demo(capsys):
    assert cli.main(["demo", "artikel"]) == 2
    assert "invalid choice: 'artikel'" in capsys.readouterr().err


def test_command_exits_with_2_and_one_line_where_it_cannot_run(tmp_path, capsys):
    blocker = tmp_path / "file"
    blocker.write_text("here first")
    for argv in (["--output", str(blocker)], ["--seed", "-1"], ["--seed", "one"]):
        assert cli.main(["demo", "article", "--quick", *argv]) == 2
        assert "error: " in capsys.readouterr().err.splitlines()[-1]
    assert blocker.read_text() == "here first"


def test_seed_is_checked():
    with pytest.raises(InputError, match="seed is -1, expected an integer >= 0"):
        article.run(seed=-1)
