"""The rules of a lesson reject lessons that break them, and no others."""

from pathlib import Path

import pytest

from nbbuild.lint import lint

from .conftest import INTRO, cells_of

ROOT = Path(__file__).resolve().parents[2]
LONG_CELL = "\n".join(f"a{i} = {i}" for i in range(16))
LONG_FUNCTION = "def f():\n" + "\n".join(f"    a{i} = {i}" for i in range(5))


def faults(*cells: tuple[str, str]) -> list[str]:
    return lint(cells_of(*cells), ROOT / "notebooks", ROOT)


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        ([], "cell 1: expected a markdown cell that starts with the title"),
        ([("md", "## A part\n\nProse."), INTRO], "cell 1: expected a markdown cell that starts with the title"),
        ([("md", "Prose without a title.")], "cell 1: expected a markdown cell that starts with the title"),
        ([INTRO, ("code", LONG_CELL)], "cell 2: 16 lines of code, expected at most 15"),
        ([INTRO, ("code", LONG_FUNCTION)], "cell 2: defines f() in 6 lines, expected at most 5"),
        ([INTRO, ("code", "class A: pass")], "cell 2: defines the class A"),
        ([INTRO, ("code", "if True:\n    class A: pass")], "cell 2: defines the class A"),
        ([INTRO, ("code", "a = = 1")], "cell 2: not Python"),
        ([("md", "# Title"), ("code", "a = 1")], "cell 2: code before any prose under 'Title'"),
        (
            [INTRO, ("md", "## Part"), ("code", "a = 1"), ("code", "b = 1")],
            "cell 3: code before any prose under 'Part'",
        ),
        (
            [INTRO, ("md", "[a](../course_lib/nothing.py)")],
            "cell 2: the link ../course_lib/nothing.py leads to no file",
        ),
        ([INTRO, ("md", '<img src="none.png">')], "cell 2: the link none.png leads to no file"),
        ([INTRO, ("md", "[ref]: none.md")], "cell 2: the link none.md leads to no file"),
        ([INTRO, ("md", "[a](/etc/passwd)")], "cell 2: the link /etc/passwd leads to no file"),
        ([INTRO, ("md", "[a](../../..)")], "cell 2: the link ../../.. leads to no file"),
    ],
)
def test_a_bad_lesson_is_reported_once(cells: list[tuple[str, str]], expected: str) -> None:
    found = faults(*cells)
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize(
    "cells",
    [
        [INTRO, ("code", "# a comment\n\n" * 20 + LONG_CELL.rsplit("\n", 1)[0])],
        [INTRO, ("code", LONG_FUNCTION.rsplit("\n", 1)[0])],
        [INTRO, ("code", "%matplotlib inline\n!ls\nawait thing()\nx = [i async for i in y]")],
        [INTRO, ("code", "a = 1"), ("code", "b = 2"), ("md", "## Part\n\nWhy."), ("code", "c = 3")],
        [INTRO, ("md", "[a](../tools/build_notebooks.py#L3) [b](https://x.org) [c](#part) `[d](none.md)`")],
        [INTRO, ("md", "```\n# not a heading [a](none.md)\n```"), ("code", "a = 1")],
    ],
)
def test_a_good_lesson_passes(cells: list[tuple[str, str]]) -> None:
    assert faults(*cells) == []
