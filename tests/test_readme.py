"""Every code block of README.md runs, or is checked for what it calls."""

import re
import shlex
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, re.S)
PYTHON = [text for language, text in BLOCKS if language == "python"]
SHELL = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


def test_readme_python_blocks_run_in_order(capsys):
    namespace = {}
    for text in PYTHON:
        exec(compile(text, "README.md", "exec"), namespace)
    printed = capsys.readouterr().out
    promised = re.search(r"# (converged dual) ", README).group(1)
    assert promised in printed


def test_readme_has_only_python_and_shell_blocks():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}
    assert README.count("```") == 2 * len(BLOCKS)


@pytest.mark.parametrize("line", [line for line in SHELL if "fastfisher " in line])
def test_readme_commands_parse(line):
    """The arguments shown for the command line are arguments it takes."""
    from fastfisher.cli import build_parser

    words = shlex.split(line, comments=True)
    words = words[next(i for i, word in enumerate(words) if word.endswith("fastfisher")) + 1 :]
    assert build_parser().parse_args(words)


def test_readme_names_the_two_commands_and_their_extras():
    commands = "\n".join(SHELL)
    assert 'pip install ".[demo]"' in commands and "fastfisher demo" in commands
    assert 'pip install ".[test]"' in commands and "-m pytest" in commands
    extras = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for extra in re.findall(r'"\.\[(\w+)\]"', README):
        assert re.search(rf"^{extra} = \[", extras, re.M)


def test_readme_links_exist():
    root = Path(__file__).parents[1]
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (root / target).exists(), target
