"""A lesson's source to a notebook, the same bytes every time, keeping the outputs of cells that did not change."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbformat import NotebookNode

from nbbuild.course import BuildError, Lesson
from nbbuild.exercises import exercise_cells

# Written whole rather than taken from the kernel that ran: a patch release of Python must not make notebooks differ.
METADATA: dict[str, Any] = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {
        "codemirror_mode": {"name": "ipython", "version": 3},
        "file_extension": ".py",
        "mimetype": "text/x-python",
        "name": "python",
        "nbconvert_exporter": "python",
        "pygments_lexer": "ipython3",
    },
}
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"


def read_lesson(lesson: Lesson) -> list[NotebookNode]:
    """Read the cells of a lesson, or of one of its exercise notebooks.

    Raises:
        BuildError: jupytext cannot read the source, or its exercises are not what the catalogue says.
    """
    try:
        notebook = jupytext.reads(lesson.source.read_text(encoding="utf-8"), fmt="py:percent")
    except Exception as error:
        raise BuildError(
            f"lessons/{lesson.source.name} is not in jupytext's percent format ({_first_line(error)}); "
            "expected cells that start with '# %%' or '# %% [markdown]'"
        ) from error
    if lesson.kind == "lesson":
        return list(notebook.cells)
    return exercise_cells(notebook.cells, lesson.name, lesson.kind, lesson.catalogue)


def cell_ids(lesson_name: str, cells: Sequence[NotebookNode]) -> list[str]:
    """Name each cell by a hash of its lesson, its source and how many equal cells come before it.

    A cell's position is left out, so that a cell put in before it does not change its id.
    """
    seen: Counter[tuple[str, str]] = Counter()
    ids = []
    for cell in cells:
        key = (cell.cell_type, cell.source)
        text = "\0".join([lesson_name, *key, str(seen[key])])
        ids.append(hashlib.sha256(text.encode()).hexdigest()[:12])
        seen[key] += 1
    return ids


def assemble(lesson: Lesson, previous: NotebookNode | None = None) -> NotebookNode:
    """Build a lesson's notebook, with the outputs of the previous one for cells whose source is the same.

    Args:
        lesson: the lesson to read.
        previous: the notebook as it was built or executed before, or None to start without outputs.
    """
    cells = read_lesson(lesson)
    # Ids are worked out anew for the previous cells: an editor keeps a cell's id when its source changes.
    kept = dict(zip(cell_ids(lesson.name, previous.cells), previous.cells, strict=True)) if previous else {}
    for cell, id_ in zip(cells, cell_ids(lesson.name, cells), strict=True):
        cell.id = id_
        if cell.cell_type == "code":
            before = kept.get(id_, NotebookNode(execution_count=None, outputs=[]))
            cell.execution_count, cell.outputs = before.execution_count, before.outputs
    notebook = NotebookNode(cells=cells, metadata=previous.metadata if previous else {}, nbformat=4, nbformat_minor=5)
    fix_metadata(notebook)
    return notebook


def fix_metadata(notebook: NotebookNode) -> None:
    """Set the notebook's metadata to the course's, keeping the saved state of widgets where an output shows one."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = any(WIDGET_VIEW in output.get("data", {}) for output in outputs)
    widgets = {"widgets": notebook.metadata.widgets} if shown and "widgets" in notebook.metadata else {}
    notebook.metadata = nbformat.from_dict({**METADATA, **widgets})


def render(notebook: NotebookNode) -> str:
    """Return the notebook's file content."""
    text: str = nbformat.writes(notebook)
    return text if text.endswith("\n") else text + "\n"


def load(path: Path) -> NotebookNode | None:
    """Read a notebook, or return None where there is none.

    Raises:
        BuildError: the file is not a notebook.
    """
    if not path.exists():
        return None
    try:
        notebook: NotebookNode = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
    except Exception as error:
        raise BuildError(
            f"{path.parent.name}/{path.name} is not a notebook ({_first_line(error)}); "
            "restore it with git, or delete and rebuild it"
        ) from error
    return notebook


def save(notebook: NotebookNode, path: Path) -> bool:
    """Write a notebook in one step, so that a broken-off build leaves the old one whole. Return whether it changed."""
    return save_text(render(notebook), path)


def save_text(text: str, path: Path) -> bool:
    """Write a file in one step. Return whether it changed."""
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f"{path.name}.tmp")
    draft.write_text(text, encoding="utf-8")
    draft.replace(path)
    return True


def describe(notebook: NotebookNode, index: int) -> str:
    """Name a cell in a message: its place, counted from 1, and its first line."""
    source = notebook.cells[index].source.strip()
    return f"cell {index + 1} ({source.splitlines()[0][:60] if source else 'empty'!r})"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
