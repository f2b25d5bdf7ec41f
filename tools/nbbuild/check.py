"""Whether the committed notebooks are what the lessons and a clean run would give."""

from nbformat import NotebookNode

from nbbuild.convert import assemble, describe, load, render
from nbbuild.course import BuildError, Course, Lesson
from nbbuild.execute import needs_run
from nbbuild.lint import lint
from nbbuild.outputs import leaks, oversize

COMMAND = "python tools/build_notebooks.py"


def check(course: Course) -> list[str]:
    """List everything that is not current in a checkout, each with what to do; empty when all is well."""
    faults = [fault for lesson in course.lessons() for fault in check_lesson(course, lesson)]
    for path in course.orphans():
        faults.append(f"{course.relative(path)}: no lesson builds it; write lessons/{path.stem}.py or delete it")
    return faults


def check_lesson(course: Course, lesson: Lesson) -> list[str]:
    """List what is wrong with one lesson and its notebook."""
    source, target = course.relative(lesson.source), course.relative(lesson.notebook)
    try:
        notebook = load(lesson.notebook)
        built = assemble(lesson, notebook)
    except BuildError as error:
        return [str(error)]
    faults = [f"{source}: {fault}" for fault in lint(built.cells, course.notebooks_dir, course.root)]
    if notebook is None:
        return [*faults, f"{target}: not built from {source}; run: {COMMAND} --execute {lesson.name}"]
    if render(built) != lesson.notebook.read_text(encoding="utf-8"):
        faults.append(f"{target}: differs from {source}; run: {COMMAND}")
    rerun = f"run: {COMMAND} --execute {lesson.name}"
    faults += [f"{target}: {fault}; {rerun}" for fault in run_faults(built)]
    return faults + [f"{target}: {fault}; then {rerun}" for fault in leaks(notebook) + oversize(notebook)]


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
