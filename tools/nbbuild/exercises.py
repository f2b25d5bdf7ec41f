"""One source of exercises to two notebooks: stubs for the learner, and solutions."""

import re
from collections import Counter
from collections.abc import Sequence

from nbformat import NotebookNode

from course_lib.grading.exercise import Exercise
from course_lib.grading.exercises import Catalogue
from course_lib.grading.notebook import mark, source_hash
from nbbuild.course import BuildError, Kind

BEGIN, END = "# SOLUTION", "# END SOLUTION"
STUB = 'raise NotImplementedError("your turn")'
MIN_HINTS = 2
HINT = re.compile(r"<details>\s*<summary>\s*Hint", re.IGNORECASE)
DOTS = 5


def exercise_cells(cells: Sequence[NotebookNode], lesson: str, kind: Kind, catalogue: Catalogue) -> list[NotebookNode]:
    """Return the cells of a lesson's exercise or solution notebook, marked for the grader and for `carry_over`.

    Args:
        cells: the source's cells; those of an exercise carry its id as the metadata `exercise`. Changed in place.
        lesson: the lesson's name, `01_kv_cache`.
        kind: `exercise` leaves a stub where the solution is, `solution` leaves the solution.
        catalogue: what the exercises are worth.

    Raises:
        BuildError: markers without a partner, an exercise that the catalogue does not have, or one of the catalogue that is
            not here or not complete: heading, hints, expected result, stub, check.
    """
    try:
        known = {exercise.id: exercise for exercise in catalogue.exercises(lesson.partition("_")[0])}
    except ValueError as error:
        raise BuildError(f"{error}; name the lesson in course_lib/grading/exercises/__init__.py") from error
    found: dict[str, list[str]] = {}
    seen: Counter[str] = Counter()
    for number, cell in enumerate(cells, start=1):
        exercise_id = cell.metadata.pop("exercise", "")
        cell.metadata.pop("lines_to_next_cell", None)  # jupytext's note on the source's blank lines
        source, role = cell.source, _role(cell, exercise_id)
        if role == "answer":
            source, cell.source = stub(source, number), solution(source, number)
        elif cell.cell_type == "code" and _holds_marks(source):
            raise BuildError(
                f'cell {number} holds a solution and says of which exercise not; write: # %% exercise="NN.name"'
            )
        if exercise_id:
            exercise = known.get(exercise_id)
            if exercise is None:
                raise BuildError(
                    f"cell {number}: the catalogue has no exercise {exercise_id!r}; it has: {', '.join(known)}"
                )
            if role == "task":
                cell.source = source = _with_facts(cell.source, exercise, number)
            found.setdefault(exercise_id, []).append(role)
            key = f"{exercise_id}/{role}"
        else:
            key = f"text/{cell.cell_type}/{source_hash(cell.source)}"
        seen[key] += 1
        mark(cell, key if seen[key] == 1 else f"{key}/{seen[key]}", source, exercise_id, role)
        if kind == "exercise":
            cell.source = source
    for exercise in known.values():
        _refuse_incomplete(exercise, found.get(exercise.id), cells)
    return list(cells)


def stub(source: str, number: int = 0) -> str:
    """Return the cell with a `raise NotImplementedError` in place of each solution. `number` is for the message."""
    lines: list[str] = []
    for line, role in _read(source, number):
        if role == "begin":
            lines.append(line[: len(line) - len(line.lstrip())] + STUB)
        elif role == "text":
            lines.append(line)
    return "\n".join(lines)


def solution(source: str, number: int = 0) -> str:
    """Return the cell without the lines that mark its solution. `number` is for the message."""
    return "\n".join(line for line, role in _read(source, number) if role in ("text", "solution"))


def solution_lines(source: str) -> list[str]:
    """Return the lines that only the solution has, without their indentation."""
    return [line.strip() for line, role in _read(source, 0) if role == "solution" and line.strip()]


def _read(source: str, number: int) -> list[tuple[str, str]]:
    """Tell for each line what it is: text, begin, solution or end."""
    told: list[tuple[str, str]] = []
    inside = False
    for line in source.splitlines():
        text = line.strip()
        if text == BEGIN:
            if inside:
                raise BuildError(f"cell {number}: a second '{BEGIN}' before '{END}'")
            told.append((line, "begin"))
            inside = True
        elif text == END:
            if not inside:
                raise BuildError(f"cell {number}: '{END}' without '{BEGIN}' before it")
            if told[-1][1] == "begin":
                raise BuildError(f"cell {number}: nothing between '{BEGIN}' and '{END}'")
            told.append((line, "end"))
            inside = False
        else:
            told.append((line, "solution" if inside else "text"))
    if inside:
        raise BuildError(f"cell {number}: '{BEGIN}' without '{END}' after it")
    return told


def _role(cell: NotebookNode, exercise_id: str) -> str:
    if not exercise_id:
        return ""
    if cell.cell_type != "code":
        return "task"
    if _holds_marks(cell.source):
        return "answer"
    return (
        "check"
        if re.search(rf"""^(?:\w+ = )?check\(\s*["']{re.escape(exercise_id)}["']""", cell.source, re.MULTILINE)
        else "try"
    )


def _holds_marks(source: str) -> bool:
    return any(line.strip() in (BEGIN, END) for line in source.splitlines())


def _with_facts(source: str, exercise: Exercise, number: int) -> str:
    """Put the line with difficulty, importance, minutes and points under the heading; other cells of text stay as they are."""
    heading, _, rest = source.partition("\n")
    if not heading.startswith("#"):
        return source
    if not heading.startswith("## "):
        raise BuildError(f"cell {number}: an exercise starts with '## <title>', not with {heading!r}")
    return f"{heading}\n\n{facts(exercise)}\n\n{rest.strip()}"


def facts(exercise: Exercise) -> str:
    """Return the line under an exercise's heading."""
    scales = {"Difficulty": exercise.difficulty, "Importance": exercise.importance}
    said = [f"**{name}** {'●' * dots}{'○' * (DOTS - dots)}" for name, dots in scales.items()]
    return "> " + " · ".join([*said, f"**{exercise.minutes} minutes**", f"**{exercise.points} points**"])


def _refuse_incomplete(exercise: Exercise, roles: Sequence[str] | None, cells: Sequence[NotebookNode]) -> None:
    if roles is None:
        raise BuildError(f"exercise {exercise.id} of the catalogue has no cells here")
    text = "\n".join(
        cell.source
        for cell in cells
        if cell.cell_type == "markdown" and cell.metadata["course"].get("exercise") == exercise.id
    )
    missing = {
        "a text that starts with '## <title>'": not text.startswith("## "),
        f"{MIN_HINTS} hints that unfold (<details><summary>Hint 1: ...)": len(HINT.findall(text)) < MIN_HINTS,
        "an **Expected** result": "**Expected" not in text,
        f"a code cell with a stub and '{BEGIN}'": "answer" not in roles,
        f'a code cell with check("{exercise.id}", {exercise.name})': "check" not in roles,
    }
    if faults := [what for what, lacks in missing.items() if lacks]:
        raise BuildError(f"exercise {exercise.id} lacks {'; '.join(faults)}")
