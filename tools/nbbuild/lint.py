"""What keeps a lesson a lesson: short cells, prose before code, machinery in `course_lib`, links that resolve."""

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from IPython.core.inputtransformer2 import TransformerManager
from nbformat import NotebookNode

MAX_CELL_LINES = 15
MAX_FUNCTION_LINES = 5
FENCED = re.compile(r"^(```|~~~).*?^\1", re.DOTALL | re.MULTILINE)
INLINE_CODE = re.compile(r"`[^`\n]*`")
LINK = re.compile(r"\]\(\s*<?([^)\s>]+)|(?:src|href)=[\"']([^\"']+)[\"']|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
SCHEME = re.compile(r"^(?:[a-z][a-z0-9+.-]*:|//)", re.IGNORECASE)


def lint(cells: Sequence[NotebookNode], folder: Path, root: Path) -> list[str]:
    """List what breaks the course's rules, one message a fault. An exercise's answer may be long and may be a class.

    Args:
        cells: the cells of a lesson, or of a notebook of exercises.
        folder: the folder that links are relative to, which is the built notebook's.
        root: the repository's root, which no link may leave.
    """
    faults = list(_title_faults(cells)) + list(_prose_faults(cells))
    for number, cell in enumerate(cells, start=1):
        if cell.cell_type == "code" and cell.metadata.get("course", {}).get("role") != "answer":
            faults += [f"cell {number}: {fault}" for fault in _code_faults(cell.source)]
        elif cell.cell_type == "markdown":
            faults += [f"cell {number}: {fault}" for fault in _link_faults(cell.source, folder, root)]
    return faults


def _title_faults(cells: Sequence[NotebookNode]) -> Iterator[str]:
    if not cells or cells[0].cell_type != "markdown" or not cells[0].source.startswith("# "):
        yield "cell 1: expected a markdown cell that starts with the title ('# ...')"


def _prose_faults(cells: Sequence[NotebookNode]) -> Iterator[str]:
    """Under each heading, at least a sentence comes before the first code."""
    heading, explained, told = "the start of the lesson", False, False
    for number, cell in enumerate(cells, start=1):
        if cell.cell_type == "code" and cell.source.strip() and not explained and not told:
            yield f"cell {number}: code before any prose under {heading!r}; say why before how"
            told = True  # once a section
        if cell.cell_type == "markdown":
            for line in FENCED.sub("text", cell.source).splitlines():
                if re.match(r"#{1,6} ", line):
                    heading, explained, told = line.lstrip("# "), False, False
                elif line.strip():
                    explained = True


def _code_faults(source: str) -> Iterator[str]:
    if (size := _lines_of_code(source.splitlines())) > MAX_CELL_LINES:
        yield f"{size} lines of code, expected at most {MAX_CELL_LINES}; split the cell or move code to course_lib"
    try:
        tree = ast.parse(TransformerManager().transform_cell(source))  # magics and shell lines become Python
    except SyntaxError as error:
        yield f"not Python: {error.msg} (line {error.lineno})"
        return
    lines = source.splitlines()
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            yield f"defines the class {node.name}; a lesson calls course_lib, so move it there"
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            if (size := _lines_of_code(lines[node.lineno - 1 : node.end_lineno])) > MAX_FUNCTION_LINES:
                yield (
                    f"defines {node.name}() in {size} lines, expected at most {MAX_FUNCTION_LINES}; "
                    "a lesson calls course_lib, so move it there"
                )


def _link_faults(source: str, folder: Path, root: Path) -> Iterator[str]:
    prose = INLINE_CODE.sub("", FENCED.sub("", source))
    for groups in LINK.findall(prose):
        link = next(filter(None, groups))
        path = link.split("#")[0].split("?")[0]
        if not path or SCHEME.match(link):
            continue
        target = (folder / path).resolve()
        if path.startswith("/") or not target.is_relative_to(root.resolve()) or not target.exists():
            yield f"the link {link} leads to no file of the repository; paths are relative to {folder.name}/"


def _lines_of_code(lines: Sequence[str]) -> int:
    return sum(1 for line in lines if line.strip() and not line.lstrip().startswith("#"))
