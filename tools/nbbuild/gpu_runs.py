"""notebooks_gpu/: the lessons as a GPU ran them, beside notebooks/, which a CPU ran.

CI has no GPU. So a run that its lesson has outgrown is no fault: it stays as it was, and the folder's README says so.
"""

import time
from dataclasses import replace
from datetime import UTC, datetime

from nbformat import NotebookNode, from_dict
from nbformat.v4 import new_markdown_cell

from course_lib.machine import versions
from nbbuild.check import COMMAND, run_faults
from nbbuild.convert import WIDGET_VIEW, assemble, cell_ids, fix_metadata, load, render, save, save_text
from nbbuild.course import GPU_FOLDER, BuildError, Course, Lesson
from nbbuild.execute import execute, needs_run
from nbbuild.outputs import clean, leaks, oversize, refuse_unfit

PAGE = f"{GPU_FOLDER}/README.md"
HEAD = """\
# Lessons as run on a GPU

The same cells as in [notebooks/](../notebooks/), with the outputs of a GPU. Each notebook says at its top which machine it was,
and with what versions. Widgets are shown as pictures. A run that is out of date was made from an earlier text of its lesson.

| lesson | machine | engines | date | seconds | |
|---|---|---|---|---:|---|
"""
TAIL = f"""
On a machine with a GPU, `{COMMAND} --execute 01 --gpu` makes the run of lesson 01.
`{COMMAND}` builds this page, and brings the prose of runs up to date.
"""


def gpu_lessons(course: Course) -> list[Lesson]:
    """List the lessons, each with the notebook of its run on a GPU, which need not be there."""
    return [replace(lesson, notebook=course.root / GPU_FOLDER / lesson.notebook.name) for lesson in course.lessons()]


def run_on_gpu(course: Course, lesson: Lesson, timeout: float) -> None:
    """Run a lesson on this machine's GPU, and store it with a first cell that names GPU, versions and date.

    Raises:
        BuildError: this machine has no GPU, or a cell failed; the notebook on disk stays as it was.
    """
    found = versions()
    if found["tier"] != "gpu":
        raise BuildError(f"--gpu wants the gpu tier on a machine with an NVIDIA GPU; this is the {found['tier']} tier")
    print(f"{course.relative(lesson.notebook)}: running", flush=True)
    lesson.notebook.parent.mkdir(exist_ok=True)
    notebook, began = assemble(lesson), time.monotonic()
    execute(notebook, course, timeout, folder=GPU_FOLDER)
    seconds = round(time.monotonic() - began)
    _drop_widgets(notebook)
    clean(notebook, course.root)
    _stamp(notebook, lesson, {"date": datetime.now(UTC).date().isoformat(), "seconds": seconds, "machine": found})
    refuse_unfit(notebook, course.relative(lesson.notebook))
    save(notebook, lesson.notebook)


def refresh(course: Course) -> bool:
    """Bring prose up to date in runs whose code has not changed, and write the README. Return whether anything changed."""
    changed = False
    for lesson in gpu_lessons(course):
        if (notebook := load(lesson.notebook)) is not None and (built := _rebuilt(lesson, notebook)) is not None:
            changed |= save(built, lesson.notebook)
    if (course.root / GPU_FOLDER).is_dir():
        changed |= save_text(page(course), course.root / PAGE)
    return changed


def faults(course: Course) -> list[str]:
    """List what is wrong with the runs as they are on disk; that one is out of date is said in the README instead."""
    if not (course.root / GPU_FOLDER).is_dir():
        return []
    found = []
    for lesson in gpu_lessons(course):
        notebook, target = load(lesson.notebook), course.relative(lesson.notebook)
        if notebook is None:
            continue
        if _facts(notebook) is None:
            found.append(f"{target}: does not say where it was run; run: {COMMAND} --execute {lesson.name} --gpu")
            continue
        built = _rebuilt(lesson, notebook)
        if built is not None and render(built) != lesson.notebook.read_text(encoding="utf-8"):
            found.append(f"{target}: its text differs from {course.relative(lesson.source)}; run: {COMMAND}")
        found += [f"{target}: {fault}" for fault in leaks(notebook) + oversize(notebook)]
    on_disk = course.root / PAGE
    if not on_disk.exists() or on_disk.read_text(encoding="utf-8") != page(course):
        found.append(f"{PAGE}: does not say which runs are out of date; run: {COMMAND}")
    return found


def page(course: Course) -> str:
    """Return the folder's README: where and when each lesson was run, and whether it has changed since."""
    return HEAD + "\n".join(_row(lesson) for lesson in gpu_lessons(course)) + "\n" + TAIL


def _row(lesson: Lesson) -> str:
    notebook = load(lesson.notebook)
    facts = _facts(notebook) if notebook is not None else None
    if notebook is None or facts is None:
        return f"| {lesson.name} | | | | | no run |"
    state = "current" if _rebuilt(lesson, notebook) is not None else f"out of date: {_changes(lesson, notebook)}"
    link, machine = f"[{lesson.name}]({lesson.notebook.name})", facts["machine"]["machine"]
    return f"| {link} | {machine} | {_engines(facts)} | {facts['date']} | {facts['seconds']} | {state} |"


def _changes(lesson: Lesson, notebook: NotebookNode) -> str:
    """Say how many code cells differ: those of today's lesson that did not run, or else those that it no longer has."""
    ran = [cell for cell in notebook.cells if needs_run(cell)]
    today = [cell for cell in assemble(lesson).cells if needs_run(cell)]
    names, known = cell_ids(lesson.name, today), cell_ids(lesson.name, ran)
    new, gone = len(set(names) - set(known)), len(set(known) - set(names))
    return (
        f"{new} of {len(today)} code cells are new" if new else f"{gone or 'some'} code cells were taken out or moved"
    )


def _rebuilt(lesson: Lesson, notebook: NotebookNode) -> NotebookNode | None:
    """Return the run with today's prose, or None where today's code is not what ran."""
    facts = _facts(notebook)
    built = assemble(lesson, notebook)
    if facts is None or run_faults(built):
        return None
    _stamp(built, lesson, facts)
    return built


def _stamp(notebook: NotebookNode, lesson: Lesson, facts: dict[str, object]) -> None:
    """Put the cell that says where and when this was run after the title."""
    facts = from_dict(facts)
    text = (
        f"> **As run on {facts['machine']['machine']}** on {facts['date']}, in {facts['seconds']} s, with {_engines(facts)}. "
        f"[The same lesson as run on a CPU](../notebooks/{lesson.notebook.name})."
    )
    cell = new_markdown_cell(text, id=cell_ids(lesson.name, [new_markdown_cell(text)])[0])
    cell.metadata = from_dict({"course": {"gpu_run": facts}})
    notebook.cells.insert(1, cell)


def _facts(notebook: NotebookNode) -> NotebookNode | None:
    runs = (cell.metadata.get("course", {}).get("gpu_run") for cell in notebook.cells)
    return next(filter(None, runs), None)


def _engines(facts: NotebookNode) -> str:
    found = facts["machine"]
    return ", ".join(f"{name} {found[name]}" for name in found if name not in ("machine", "tier"))


def _drop_widgets(notebook: NotebookNode) -> None:
    """Keep the picture that stands beside each widget: without a kernel it shows the same, and its state is large."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if len(output.get("data", {})) > 1:
                output["data"].pop(WIDGET_VIEW, None)
    fix_metadata(notebook)
