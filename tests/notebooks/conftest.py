"""A course of one lesson in a temporary folder, for tests that break it."""

import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

from nbbuild.convert import load, save
from nbbuild.course import Course, Lesson

INTRO = ("md", "# A title\n\nA sentence that says why.")


@dataclass(frozen=True)
class Workshop:
    """A course with the one lesson `01_demo`."""

    course: Course

    @property
    def lesson(self) -> Lesson:
        return self.course.lessons()[0]

    @property
    def notebook(self) -> NotebookNode:
        notebook = load(self.course.notebooks_dir / "01_demo.ipynb")
        assert notebook is not None
        return notebook

    def write(self, *code: str, intro: tuple[str, str] = INTRO) -> None:
        """Write the lesson: an introduction and these code cells."""
        text = percent([intro, *[("code", source) for source in code]])
        (self.course.lessons_dir / "01_demo.py").write_text(text)

    def pretend_run(self) -> None:
        """Give each cell the output of a run, without running it."""
        notebook = self.notebook
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        for count, cell in enumerate(code, start=1):
            cell.execution_count = count
            cell.outputs = [stream(f"ran {cell.source}\n")]
        save(notebook, self.lesson.notebook)


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    (tmp_path / "lessons").mkdir()
    (tmp_path / "notebooks").mkdir()
    workshop = Workshop(Course(tmp_path))
    workshop.write("a = 1", "print(a)")
    return workshop


def percent(cells: Iterable[tuple[str, str]]) -> str:
    """Write cells in jupytext's percent format."""
    parts = []
    for kind, source in cells:
        if kind == "md":
            commented = "\n".join(f"# {line}".rstrip() for line in source.splitlines())
            parts.append(f"# %% [markdown]\n{commented}\n")
        else:
            parts.append(f"# %%\n{source}\n")
    return "\n".join(parts)


def cells_of(*cells: tuple[str, str]) -> list[NotebookNode]:
    """Make notebook cells of ('md' | 'code', source) pairs."""
    return [new_markdown_cell(source) if kind == "md" else new_code_cell(source) for kind, source in cells]


def stream(text: str, name: str = "stdout") -> NotebookNode:
    """Make what a cell prints."""
    return NotebookNode(output_type="stream", name=name, text=text)
