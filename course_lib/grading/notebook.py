"""Exercise notebooks as the course built them and as the learner left them: whose cell is it, and was it edited?

A built cell carries in its metadata what the course needs to know it again:

    "course": {"key": "01.kv_bytes/answer", "built": "3f2a...", "exercise": "01.kv_bytes", "role": "answer"}

`key` names the cell across versions of the course, `built` is the hash of the source that the course gave it. A cell
without this, and any further cell with the same key (an editor copies metadata when a cell is split or pasted), is the
learner's own. A solution's answer carries the hash of the stub, so that it counts as an exercise that somebody solved.
"""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from course_lib.grading.saving import save_bytes

ROLES = ("task", "answer", "try", "check")
"""What a cell of an exercise is for: its text, the stub to fill, a look at what it does, and the check."""


def source_hash(source: str) -> str:
    """Return the short hash by which an edited source is recognised."""
    return hashlib.sha256(source.encode()).hexdigest()[:16]


def mark(cell: NotebookNode, key: str, built: str, exercise: str = "", role: str = "") -> None:
    """Put into a cell's metadata that the course built it."""
    course = {"key": key, "built": source_hash(built)}
    cell.metadata["course"] = course | ({"exercise": exercise, "role": role} if exercise else {})


def course_of(cell: NotebookNode) -> dict[str, str]:
    """Return what the course wrote into a cell's metadata; empty for a cell that the learner added."""
    found = cell.metadata.get("course")
    if not isinstance(found, dict) or not isinstance(found.get("key"), str):
        return {}
    return {name: value for name, value in found.items() if isinstance(value, str)}


def built_cells(cells: Iterable[NotebookNode]) -> dict[str, NotebookNode]:
    """Return the course's cells by their keys; every other cell is the learner's own."""
    found: dict[str, NotebookNode] = {}
    for cell in cells:
        if key := course_of(cell).get("key"):
            found.setdefault(key, cell)
    return found


def edited(cell: NotebookNode) -> bool:
    """Whether a cell holds anything but the source that the course gave it."""
    return course_of(cell).get("built") != source_hash(cell.source) or bool(cell.get("attachments"))


def untouched(notebook: NotebookNode) -> bool:
    """Whether a notebook holds nothing of a learner's: no edit, no cell of their own, no output."""
    ran = any(cell.get("outputs") or cell.get("execution_count") for cell in notebook.cells)
    own = len(built_cells(notebook.cells)) < len(notebook.cells)
    return not own and not ran and not any(edited(cell) for cell in notebook.cells)


def load(path: Path) -> NotebookNode:
    """Read a notebook's file.

    Raises:
        ValueError: it is not a notebook, for example because a merge left its marks in it.
    """
    return read(path.read_bytes(), path.name)


def read(content: bytes, name: str) -> NotebookNode:
    """Read a notebook from a file's content; `name` is for the message.

    Raises:
        ValueError: it is not a notebook.
    """
    try:
        text = content.decode()
        # Not nbformat.reads, which mends and validates: a learner's notebook is kept as it is.
        modern = json.loads(text)["nbformat"] == 4  # the format that every editor has written since 2015
        notebook: NotebookNode = nbformat.v4.reads(text) if modern else nbformat.reads(text, as_version=4)
        for cell in notebook.cells:
            cell.setdefault("metadata", NotebookNode())
            cell.source = str(cell.source)
    except Exception as error:
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"{name} is not a notebook ({said}); restore it from a copy, or delete it to start anew"
        ) from error
    return notebook


def save(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook in one step: a broken-off save leaves the old file whole."""
    content: str = nbformat.v4.writes(notebook)
    save_bytes((content.rstrip("\n") + "\n").encode(), path)
