"""Building is repeatable, ids survive edits elsewhere, and outputs follow their cells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat import NotebookNode, validate

from build_notebooks import main
from nbbuild.convert import WIDGET_VIEW, assemble, cell_ids, render, save
from nbbuild.course import BuildError

from .conftest import INTRO, Workshop, cells_of, percent, stream

CELL = st.tuples(st.sampled_from(["md", "code"]), st.sampled_from(["", "a = 1", "b = 2", "print(a)", "# note"]))


def test_two_builds_give_the_same_bytes(workshop: Workshop) -> None:
    assert main([], workshop.course.root) == 0
    first = workshop.lesson.notebook.read_bytes()
    workshop.lesson.notebook.unlink()
    assert main([], workshop.course.root) == 0
    assert workshop.lesson.notebook.read_bytes() == first
    validate(workshop.notebook)
    assert b"0x" not in first and str(workshop.course.root).encode() not in first


@given(st.lists(CELL, max_size=8), CELL, st.integers(min_value=0, max_value=8))
def test_ids_are_unique_and_survive_an_insertion(before: list[tuple[str, str]], new: tuple[str, str], at: int) -> None:
    after = [*before[:at], new, *before[at:]]
    ids, ids_after = cell_ids("01_demo", cells_of(*before)), cell_ids("01_demo", cells_of(*after))
    assert len(set(ids_after)) == len(ids_after)
    assert set(ids) < set(ids_after)
    # Cells that differ from the new one keep their own ids, not just somebody's.
    named = dict(zip(ids_after, after, strict=True))
    assert all(named[id_] == cell for id_, cell in zip(ids, before, strict=True))


def test_ids_differ_between_lessons() -> None:
    cells = cells_of(("code", "a = 1"))
    assert cell_ids("01_demo", cells) != cell_ids("02_demo", cells)


def test_outputs_follow_unchanged_cells_and_leave_changed_ones(workshop: Workshop) -> None:
    workshop.write("a = 1", "print(a)", "print(a)")
    main([], workshop.course.root)
    workshop.pretend_run()
    workshop.write("new = 0", "a = 2", "print(a)", "print(a)")
    main([], workshop.course.root)
    code = workshop.notebook.cells[1:]
    assert [cell.execution_count for cell in code] == [None, None, 2, 3]
    assert [[output.text for output in cell.outputs] for cell in code] == [[], [], *[["ran print(a)\n"]] * 2]


def test_a_source_edited_in_the_notebook_does_not_keep_its_outputs(workshop: Workshop) -> None:
    main([], workshop.course.root)
    workshop.pretend_run()
    edited = workshop.notebook
    edited.cells[2].source = "print(a + 1)"  # as JupyterLab saves it: another source, the old id
    assert assemble(workshop.lesson, edited).cells[2].outputs == []


def test_widget_state_stays_as_long_as_a_widget_is_shown(workshop: Workshop) -> None:
    main([], workshop.course.root)
    notebook = workshop.notebook
    data = {WIDGET_VIEW: {"model_id": "m"}, "text/plain": "slider"}
    notebook.cells[2].outputs = [NotebookNode(output_type="display_data", data=data, metadata={})]
    notebook.metadata.widgets = {"application/vnd.jupyter.widget-state+json": {"state": {"m": {}}}}
    save(notebook, workshop.lesson.notebook)
    assert assemble(workshop.lesson, notebook).metadata.widgets == notebook.metadata.widgets
    notebook.cells[2].outputs = [stream("no widget")]
    assert "widgets" not in assemble(workshop.lesson, notebook).metadata


def test_an_editors_own_metadata_is_not_kept(workshop: Workshop) -> None:
    main([], workshop.course.root)
    built = render(workshop.notebook)
    opened = workshop.notebook
    opened.metadata.language_info.version = "3.11.99"
    assert render(assemble(workshop.lesson, opened)) == built


def test_exercise_sources_build_no_lesson(workshop: Workshop) -> None:
    (workshop.course.lessons_dir / "01_demo_exercises.py").write_text(percent([INTRO]))
    assert [lesson.name for lesson in workshop.course.lessons()] == ["01_demo"]


@pytest.mark.parametrize("name", ["01", "01_demo", "lessons/01_demo.py", "notebooks/01_demo.ipynb"])
def test_a_lesson_is_found_by_name_number_or_path(workshop: Workshop, name: str) -> None:
    assert workshop.course.pick([name]) == workshop.course.lessons()


def test_an_unknown_name_lists_the_known_ones(workshop: Workshop) -> None:
    with pytest.raises(BuildError, match="'02'; expected one of: 01_demo"):
        workshop.course.pick(["02"])


def test_a_broken_notebook_is_named_and_left_alone(workshop: Workshop, capsys: pytest.CaptureFixture[str]) -> None:
    workshop.lesson.notebook.write_text("{ half a noteb")
    assert main([], workshop.course.root) == 1
    assert "notebooks/01_demo.ipynb is not a notebook" in capsys.readouterr().err
    assert workshop.lesson.notebook.read_text() == "{ half a noteb"
