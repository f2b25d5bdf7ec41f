"""Carry a learner's work over into a newer build of an exercise notebook, so that no byte of it is lost.

The newer build gives the cells and their order. Of the learner's notebook it keeps

- the source of each cell that they edited, in its place; an answer first of all;
- each cell that they added, behind the cell that it stood behind;
- each cell that they edited and that the newer course no longer has, in the same way;
- outputs of cells whose source is the same, and everything that the editor noted in the metadata.

Cells of the course that they deleted come back.
"""

import copy
from collections import defaultdict
from datetime import datetime
from pathlib import Path

from nbformat import NotebookNode

from course_lib.grading.notebook import built_cells, course_of, edited
from course_lib.grading.saving import save_bytes

BACKUPS = ".backup"
_TOP = ""  # the anchor of cells before the first one of the course


def carry_over(mine: NotebookNode, newer: NotebookNode) -> NotebookNode:
    """Return the newer build with the learner's work in it; `mine` itself where there is nothing new in the build.

    Args:
        mine: the learner's notebook.
        newer: the exercise notebook as the course builds it now.
    """
    old, new = built_cells(mine.cells), built_cells(newer.cells)
    outdated = any(key not in new and not edited(cell) for key, cell in old.items())
    if not outdated and all(key in old and _same_build(old[key], cell) for key, cell in new.items()):
        return mine
    of_course = {id(cell) for cell in old.values()}
    taken = {cell.id for cell in newer.cells}
    kept: dict[str, list[NotebookNode]] = defaultdict(list)
    anchor = _TOP
    for cell in mine.cells:
        key = course_of(cell).get("key", "")
        if id(cell) not in of_course:
            kept[anchor].append(_with_own_id(_as_own(cell), taken))
        elif key in new:
            anchor = key
        elif edited(cell):
            kept[anchor].append(_with_own_id(cell, taken))
    cells = list(kept[_TOP])
    for key, cell in new.items():
        cells += [_merge(old[key], cell) if key in old else cell, *kept[key]]
    merged = NotebookNode(copy.deepcopy({**mine, "cells": cells}))
    merged.nbformat, merged.nbformat_minor = newer.nbformat, newer.nbformat_minor
    return merged


def changed_stubs(mine: NotebookNode, newer: NotebookNode) -> list[str]:
    """Return the ids of the exercises whose stub is a new one while the learner's answer to the old one is kept."""
    old = built_cells(mine.cells)
    return [
        course_of(cell)["exercise"]
        for key, cell in built_cells(newer.cells).items()
        if course_of(cell).get("role") == "answer"
        and key in old
        and edited(old[key])
        and not _same_build(old[key], cell)
    ]


def back_up(content: bytes, notebook: Path) -> Path:
    """Write a copy of a notebook's content beside it, in `.backup/`, under a name that no other copy has."""
    stamp = datetime.now().astimezone().strftime("%Y-%m-%d_%H%M%S")
    folder = notebook.parent / BACKUPS
    names = (f"{notebook.stem}-{stamp}{'' if again == 0 else f'-{again}'}.ipynb" for again in range(10_000))
    copy_path = next(folder / name for name in names if not (folder / name).exists())
    save_bytes(content, copy_path)
    return copy_path


def _same_build(one: NotebookNode, other: NotebookNode) -> bool:
    return course_of(one).get("built") == course_of(other).get("built")


def _merge(mine: NotebookNode, newer: NotebookNode) -> NotebookNode:
    """Return the learner's cell where it was edited or says the same, and the newer one elsewhere."""
    if not edited(mine) and mine.source != newer.source:
        return newer
    metadata = {**mine.metadata, "course": newer.metadata["course"]}
    return NotebookNode({**mine, "id": newer.id, "metadata": NotebookNode(metadata)})


def _as_own(cell: NotebookNode) -> NotebookNode:
    """Return the cell without the course's mark: an editor copies it when a cell is split or pasted."""
    metadata = {name: value for name, value in cell.metadata.items() if name != "course"}
    return NotebookNode({**cell, "metadata": NotebookNode(metadata)})


def _with_own_id(cell: NotebookNode, taken: set[str]) -> NotebookNode:
    """Return the cell with an id that no other has, and note it as taken."""
    name = cell.get("id") or "own-0"
    if name in taken:
        name = next(other for number in range(len(taken) + 1) if (other := f"own-{number}") not in taken)
    taken.add(name)
    return NotebookNode({**cell, "id": name})
