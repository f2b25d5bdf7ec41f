"""Whether the committed notebooks are what the lessons and a clean run would give."""

from pathlib import Path

from nbformat import NotebookNode

from nbbuild import wrong_page
from nbbuild.convert import assemble, describe, load, render
from nbbuild.course import EXERCISES_SUFFIX, FOLDERS, BuildError, Course, Lesson
from nbbuild.execute import needs_run
from nbbuild.keep import exercise_fault
from nbbuild.lint import lint
from nbbuild.outputs import leaks, oversize

COMMAND = "python tools/build_notebooks.py"


def check(course: Course) -> list[str]:
    """List everything that is not current in a checkout, each with what to do; empty when all is well."""
    faults = [fault for lesson in course.pick([]) for fault in check_lesson(course, lesson)]
    faults += wrong_page.faults(course) if wrong_page.wanted(course) else []
    for path in course.orphans():
        faults.append(f"{course.relative(path)}: no lesson builds it; write {_source_of(path)} or delete it")
    return faults


def check_lesson(course: Course, lesson: Lesson) -> list[str]:
    """List what is wrong with one lesson and its notebook."""
    source, target = course.relative(lesson.source), course.relative(lesson.notebook)
    if lesson.kind == "exercise":
        return check_exercises(course, lesson)
    try:
        notebook = load(lesson.notebook)
        built = assemble(lesson, notebook)
    except BuildError as error:
        return [str(error)]
    faults = [f"{source}: {fault}" for fault in lint(built.cells, lesson.notebook.parent, course.root)]
    if notebook is None:
        return [*faults, f"{target}: not built from {source}; run: {COMMAND} --execute {_argument(lesson)}"]
    if render(built) != lesson.notebook.read_text(encoding="utf-8"):
        faults.append(f"{target}: differs from {source}; run: {COMMAND}")
    rerun = f"run: {COMMAND} --execute {_argument(lesson)}"
    faults += [f"{target}: {fault}; {rerun}" for fault in run_faults(built)]
    return faults + [f"{target}: {fault}; then {rerun}" for fault in leaks(notebook) + oversize(notebook)]


def check_exercises(course: Course, lesson: Lesson) -> list[str]:
    """List what is wrong with one exercise notebook; a learner's work in it is not."""
    source, target = course.relative(lesson.source), course.relative(lesson.notebook)
    try:
        built = assemble(lesson)
        fault, _ = exercise_fault(lesson, course.root)
    except BuildError as error:
        return [f"{source}: {error}"]
    faults = [f"{source}: {fault}" for fault in lint(built.cells, lesson.notebook.parent, course.root)]
    return [*faults, f"{target}: {fault}; it is built from {source}; run: {COMMAND}"] if fault else faults


def run_faults(notebook: NotebookNode) -> list[str]:
    """List how a notebook differs from one whose cells all ran once, in order and without an error."""
    cells = [(index, cell) for index, cell in enumerate(notebook.cells) if needs_run(cell)]
    faults = [f"{describe(notebook, i)} has not been run" for i, cell in cells if cell.execution_count is None]
    # A gap in the counts means that a cell was taken out, or moved, after the run that the outputs come from.
    if not faults and [cell.execution_count for _, cell in cells] != list(range(1, len(cells) + 1)):
        faults.append("its cells were not run once each, from first to last, in a fresh kernel")
    for index, cell in cells:
        expected = "raises-exception" in cell.metadata.get("tags", [])
        if not expected and any(output.output_type == "error" for output in cell.outputs):
            faults.append(f"{describe(notebook, index)} holds an error")
    return faults


def _argument(lesson: Lesson) -> str:
    return lesson.name if lesson.kind == "lesson" else f"{lesson.notebook.parent.name}/{lesson.notebook.name}"


def _source_of(notebook: Path) -> str:
    ending = EXERCISES_SUFFIX if notebook.parent.name == FOLDERS["solution"] else ""
    return f"lessons/{notebook.stem}{ending}.py"
