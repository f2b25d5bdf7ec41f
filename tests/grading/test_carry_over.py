"""Whatever a learner did to a notebook, and whatever the newer course looks like: nothing that they wrote is lost."""

import copy
from collections import Counter
from pathlib import Path
from typing import Any

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from course_lib.grading.carry_over import back_up, carry_over, changed_stubs
from course_lib.grading.notebook import built_cells, course_of, edited, load, mark, read, save, untouched

SOURCES = st.sampled_from(["", "a = 1", "def f(): ...", "# mine", "prose\n", "\u00e9\u2028x", "b = 2\n\n"])
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12) | SOURCES
KEYS = ["text/1", "text/2", "x.a/task", "x.a/answer", "x.a/check", "x.b/task", "x.b/answer", "x.b/check"]


def build(cells: list[tuple[str, str]]) -> NotebookNode:
    """Build an exercise notebook of (key, source) pairs, as the builder does."""
    made = []
    for number, (key, source) in enumerate(cells):
        exercise, _, role = key.partition("/")
        code = role in ("answer", "check")
        cell = (new_code_cell if code else new_markdown_cell)(source, id=f"id-{number}")
        mark(cell, key, source, *((exercise, role) if exercise != "text" else ()))
        made.append(cell)
    return new_notebook(cells=made)


@st.composite
def builds(draw: st.DrawFn) -> NotebookNode:
    keys = draw(st.lists(st.sampled_from(KEYS), unique=True))
    return build([(key, draw(SOURCES)) for key in keys])


@st.composite
def learners(draw: st.DrawFn) -> tuple[NotebookNode, NotebookNode]:
    """A build, and what a learner made of it in an editor."""
    built = draw(builds())
    mine = copy.deepcopy(built)
    for _ in range(draw(st.integers(0, 8))):
        what = draw(
            st.sampled_from(["edit", "add", "delete", "paste", "split", "move", "run", "type", "image", "note"])
        )
        place = draw(st.integers(0, len(mine.cells)))
        if what == "add":
            mine.cells.insert(place, draw(st.sampled_from([new_code_cell, new_markdown_cell]))(draw(TEXT)))
        elif mine.cells:
            change(mine.cells, place % len(mine.cells), what, draw(TEXT))
    return built, mine


def change(cells: list[NotebookNode], at: int, what: str, text: str) -> None:
    """Do to a cell what an editor lets a learner do."""
    cell = cells[at]
    if what == "edit":
        cell.source = text
    elif what == "delete":
        del cells[at]
    elif what == "paste":
        cells.append(NotebookNode(copy.deepcopy(cell), id=f"pasted-{len(cells)}-{at}"))
    elif what == "split":  # both halves keep the metadata
        middle = len(cell.source) // 2
        cells.insert(at + 1, NotebookNode(copy.deepcopy(cell), id=f"half-{len(cells)}", source=cell.source[middle:]))
        cell.source = cell.source[:middle]
    elif what == "move":
        cells.insert(len(text) % len(cells), cells.pop(at))
    elif what == "run" and cell.cell_type == "code":
        cell.execution_count, cell.outputs = 3, [new_output("stream", text=text)]
    elif what == "type" and cell.cell_type == "code":
        new = new_markdown_cell(cell.source, id=cell.id, metadata=cell.metadata)
        cells[at] = new
    elif what == "image":
        cell.attachments = {"image.png": {"image/png": text}}
    elif what == "note":
        cell.metadata["tags"] = [text.replace(",", "") or "note"]  # as Jupyter allows them


def written(cell: NotebookNode) -> str:
    """What of a cell may be a learner's: all but its id and the course's own mark."""
    metadata = {name: value for name, value in cell.metadata.items() if name != "course"}
    return repr([cell.cell_type, cell.source, cell.get("outputs"), cell.get("attachments"), metadata])


def learners_cells(notebook: NotebookNode) -> Counter[str]:
    """The cells that the learner edited or added."""
    of_course = {id(cell) for cell in built_cells(notebook.cells).values()}
    return Counter(written(cell) for cell in notebook.cells if id(cell) not in of_course or edited(cell))


@settings(max_examples=400, deadline=None)
@given(learners(), builds())
def test_nothing_that_the_learner_wrote_is_lost(
    learner: tuple[NotebookNode, NotebookNode], newer: NotebookNode
) -> None:
    _, mine = learner
    before = copy.deepcopy(mine)
    merged = carry_over(mine, newer)
    assert mine == before
    assert not learners_cells(mine) - Counter(map(written, merged.cells))
    # The newer course is all there, once, with its own text where the learner did not write.
    found = built_cells(merged.cells)
    old = built_cells(mine.cells)
    for key, cell in built_cells(newer.cells).items():
        assert course_of(found[key])["built"] == course_of(cell)["built"]
        assert found[key].source == (old[key] if key in old and edited(old[key]) else cell).source
    obsolete = [key for key in found if key not in built_cells(newer.cells)]
    assert all(edited(found[key]) for key in obsolete)
    assert len({cell.id for cell in merged.cells}) == len(merged.cells) or merged is mine


@settings(deadline=None)
@given(learners(), builds())
def test_a_second_carrying_over_changes_nothing(
    learner: tuple[NotebookNode, NotebookNode], newer: NotebookNode
) -> None:
    once = carry_over(learner[1], newer)
    assert carry_over(once, newer) is once
    assert read(nbformat.v4.writes(once).encode(), "") == once


@settings(deadline=None)
@given(learners())
def test_with_nothing_new_the_notebook_stays_as_it_is(learner: tuple[NotebookNode, NotebookNode]) -> None:
    built, mine = learner
    deleted = built_cells(built.cells).keys() - built_cells(mine.cells).keys()
    merged = carry_over(mine, built)
    assert (merged is mine) == (not deleted)
    assert built_cells(merged.cells).keys() == built_cells(built.cells).keys()


@settings(deadline=None)
@given(builds(), builds())
def test_an_untouched_notebook_becomes_the_newer_one(built: NotebookNode, newer: NotebookNode) -> None:
    assert untouched(built)
    assert [written(cell) for cell in carry_over(built, newer).cells] == [written(cell) for cell in newer.cells]


@settings(deadline=None)
@given(builds(), builds(), st.data())
def test_added_cells_stay_behind_the_cell_that_they_stood_behind(
    built: NotebookNode, newer: NotebookNode, data: st.DataObject
) -> None:
    mine = copy.deepcopy(built)
    place = data.draw(st.integers(0, len(mine.cells)))
    mine.cells[place:place] = [new_code_cell("one"), new_code_cell("two")]
    before = [course_of(cell)["key"] for cell in mine.cells[:place]]
    merged = carry_over(mine, newer)
    sources = [cell.source for cell in merged.cells]
    at = sources.index("one")
    assert sources[at + 1] == "two"
    anchors = [key for key in before if key in built_cells(newer.cells)]
    assert (course_of(merged.cells[at - 1])["key"] if at else None) == (anchors[-1] if anchors else None)


def test_a_new_stub_under_an_old_answer_is_told() -> None:
    mine = build([("x.a/answer", "old stub"), ("x.b/answer", "old stub")])
    mine.cells[0].source = "my answer"
    newer = build([("x.a/answer", "new stub"), ("x.b/answer", "new stub")])
    assert changed_stubs(mine, newer) == ["x.a"]
    assert [cell.source for cell in carry_over(mine, newer).cells] == ["my answer", "new stub"]


def test_two_backups_in_one_second_are_two_files(tmp_path: Path) -> None:
    notebook = tmp_path / "01_x.ipynb"
    copies = {back_up(content, notebook) for content in (b"one", b"two")}
    assert {path.read_bytes() for path in copies} == {b"one", b"two"}
    assert {path.parent for path in copies} == {tmp_path / ".backup"}


BROKEN = [b"", b"<<<<<<< HEAD\n{}", b"[]", b'{"nbformat": 4}', b"\xff\xfe", b'{"nbformat": 4, "cells": 3}']


@pytest.mark.parametrize("content", BROKEN)
def test_what_is_no_notebook_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match=r"^01.ipynb is not a notebook \("):
        read(content, "01.ipynb")


def test_a_save_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "01.ipynb"
    save(build([("text/1", "old")]), path)

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save(build([("text/1", "new")]), path)
    assert load(path).cells[0].source == "old"
    assert [found.name for found in tmp_path.iterdir()] == ["01.ipynb"]
