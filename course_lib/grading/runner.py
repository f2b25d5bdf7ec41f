"""Grade one notebook of exercises: run its cells in a fresh kernel, and judge each answer where its exercise ends.

The check cells of the notebook earn nothing and are not run; the grader asks the checks itself. A cell that hangs or ends
the kernel is left out when the notebook is run again for the other exercises, so it costs its own exercise alone. This keeps
an honest learner's report honest. It is no examination hall: code that runs in a kernel can do anything there.
"""

import json
import math
import os
import tempfile
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbformat import NotebookNode

from course_lib.grading.exercise import Exercise
from course_lib.grading.exercises import Catalogue
from course_lib.grading.inside import JUDGE
from course_lib.grading.judge import CRASH, NOT_STARTED, TOO_SLOW, PartResult, Result
from course_lib.grading.kernel import LimitedKernel, Run
from course_lib.grading.notebook import course_of, edited, load

MISSING = "missing"
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Limits:
    """What a learner's code may take: seconds a cell, seconds to judge an exercise, and bytes of memory."""

    cell_seconds: float = 120.0
    judge_seconds: float = 90.0
    memory: int = 6 * 2**30


@dataclass(frozen=True)
class Grade:
    """What one exercise came to: its result and the seconds that its cells and its judging took."""

    result: Result
    seconds: float = 0.0


@dataclass(frozen=True)
class _Cell:
    place: int
    source: str
    exercise: str

    def __str__(self) -> str:
        return f"cell {self.place} (`{self.source.strip().splitlines()[0][:60]}`)"


_Done = Callable[[Exercise, Grade], None]
Told = Callable[[Exercise, Grade | None], None]
"""Hears of each exercise when it is begun (None) and when its grade is there."""


def grade_notebook(
    path: Path, exercises: Sequence[Exercise], catalogue: Catalogue, limits: Limits, told: Told = lambda *_: None
) -> list[Grade]:
    """Grade these exercises of a notebook, in their order. Whatever is in the notebook, each gets a grade.

    Args:
        path: the learner's notebook.
        exercises: which exercises to grade.
        catalogue: where their checks are.
        limits: of time and memory.
        told: is told of each exercise when it is begun and when it is done.
    """
    grades: dict[str, Grade] = {}

    def done(exercise: Exercise, grade: Grade) -> None:
        grades[exercise.id] = grade
        told(exercise, grade)

    try:
        notebook = load(path)
    except (OSError, ValueError) as error:
        absent = isinstance(error, FileNotFoundError)
        message = f"there is no notebook {path.name}: `make notebooks` builds it" if absent else str(error)
        for exercise in exercises:
            done(exercise, Grade(_failed(exercise, MISSING if absent else CRASH, message)))
        return [grades[exercise.id] for exercise in exercises]
    for exercise in exercises:
        if not begun(notebook, exercise):
            message = f"{exercise.name} is not written yet: replace the `raise NotImplementedError` in it"
            done(exercise, Grade(_failed(exercise, NOT_STARTED, message)))
    _Session(path, notebook, catalogue, limits).grade(
        [exercise for exercise in exercises if exercise.id not in grades], lambda exercise: told(exercise, None), done
    )
    return [grades[exercise.id] for exercise in exercises]


class _Session:
    """The runs of one notebook, as many as it takes to judge each exercise once."""

    def __init__(self, path: Path, notebook: NotebookNode, catalogue: Catalogue, limits: Limits):
        self.folder = path.resolve().parent
        self.catalogue = catalogue
        self.limits = limits
        self.cells = list(cells_to_run(notebook))
        self.left_out: set[int] = set()  # cells that took the kernel with them, by place
        self.trouble: dict[str, str] = {}  # of each exercise the first cell that did not work, in words
        self.ran = 0  # of the cells, in this kernel
        self.seconds: dict[str, float] = {}  # by exercise, in this kernel

    def grade(self, exercises: Sequence[Exercise], begin: Callable[[Exercise], None], done: _Done) -> None:
        """Judge each of the exercises once."""
        # In the notebook's order; one without any cell comes last, when everything has run.
        ends = {cell.exercise: cell.place for cell in self.cells}
        waiting = sorted(exercises, key=lambda exercise: ends.get(exercise.id, math.inf))
        with tempfile.TemporaryDirectory() as scratch:
            # A check that a cell calls is not an attempt of the learner's, so it has a progress file of its own.
            path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
            env = {"COURSE_PROGRESS": f"{scratch}/progress.json", "PYTHONPATH": path}
            while waiting:
                self.ran, self.seconds = 0, {}
                try:
                    with LimitedKernel(self.folder, self.limits.memory, env) as kernel:
                        while waiting and kernel.alive:
                            exercise = waiting[0]
                            begin(exercise)
                            if self._run_cells(ends.get(exercise.id, math.inf), kernel):
                                done(exercise, self._judge(exercise, kernel, Path(scratch)))
                                del waiting[0]
                except RuntimeError as error:
                    for exercise in waiting:
                        done(exercise, Grade(_failed(exercise, CRASH, str(error))))
                    return

    def _run_cells(self, end: float, kernel: LimitedKernel) -> bool:
        """Run the cells up to a place that did not run yet; return whether the kernel lived through it."""
        while self.ran < len(self.cells) and self.cells[self.ran].place <= end:
            cell = self.cells[self.ran]
            self.ran += 1
            if cell.place in self.left_out:
                continue
            run = kernel.run(cell.source, self.limits.cell_seconds)
            self.seconds[cell.exercise] = self.seconds.get(cell.exercise, 0.0) + run.seconds
            if run.status != "ok":
                self.trouble.setdefault(cell.exercise, f"{cell} {run.said}")
            if not kernel.alive:
                self.left_out.add(cell.place)
                return False
        return True

    def _judge(self, exercise: Exercise, kernel: LimitedKernel, scratch: Path) -> Grade:
        verdict = Path(tempfile.mkdtemp(dir=scratch), "verdict.json")
        limit = self.limits.judge_seconds
        code = JUDGE.format(
            module=self.catalogue.modules[exercise.lesson],
            exercise=exercise.id,
            verdict=str(verdict),
            seconds=limit / max(1, len(exercise.parts)),
        )
        run = kernel.run(code, limit * 1.2 + 10)
        seconds = self.seconds.get(exercise.id, 0.0) + run.seconds
        return Grade(self._result(exercise, run, verdict), seconds)

    def _result(self, exercise: Exercise, run: Run, verdict: Path) -> Result:
        trouble = self.trouble.get(exercise.id, "")
        if run.status != "ok" or not verdict.exists():
            diagnosis = TOO_SLOW if run.status == "too-slow" else CRASH
            return _failed(exercise, diagnosis, f"{exercise.name} {run.said or 'left no verdict'} while it was judged")
        found = json.loads(verdict.read_text(encoding="utf-8"))
        if "missing" in found:
            why = trouble or "was its cell deleted or renamed?"
            return _failed(exercise, MISSING, f"nothing is called {exercise.name} here: {why}")
        return _result(exercise, found["parts"], trouble)


def cells_to_run(notebook: NotebookNode) -> Iterator[_Cell]:
    """Yield the code cells that can define an answer, each with the exercise whose section it stands in.

    What the course wrote to try an answer out, or to check it, is left out as long as it is as the course wrote it.
    """
    section = ""
    for place, cell in enumerate(notebook.cells, start=1):
        course = course_of(cell)
        section = course.get("exercise", "" if course else section)
        if cell.cell_type != "code" or not cell.source.strip():
            continue
        if course.get("role") in ("try", "check") and not edited(cell):
            continue
        yield _Cell(place, cell.source, section)


def begun(notebook: NotebookNode, exercise: Exercise) -> bool:
    """Whether any cell but the untouched stub may define the answer."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    stubs = [cell for cell in cells if course_of(cell).get("exercise") == exercise.id and not edited(cell)]
    if not any(course_of(cell).get("role") == "answer" for cell in stubs):
        return True  # edited, or deleted: what is there is judged
    return any(exercise.name in cell.source and edited(cell) for cell in cells)


def _result(exercise: Exercise, parts: Collection[dict[str, Any]], trouble: str) -> Result:
    """Return the kernel's verdict with the points of this process's own catalogue."""
    found = {str(part["asks"]): part for part in parts}
    results = []
    for part in exercise.parts:
        said = found.get(part.asks, {"right": False, "diagnosis": CRASH, "message": "it was not judged", "picture": ""})
        earned = part.points if said["right"] is True else 0
        diagnosis, message, picture = (str(said[name]) for name in ("diagnosis", "message", "picture"))
        results.append(PartResult(part.asks, part.points, earned, diagnosis, message, picture or None))
    if trouble and results:
        first = next((place for place, result in enumerate(results) if result.diagnosis), None)
        if first is not None:
            noted = f"{results[first].message} ({trouble})"
            results[first] = replace(results[first], message=noted)
    return Result(exercise, tuple(results))


def _failed(exercise: Exercise, diagnosis: str, message: str) -> Result:
    return Result(exercise, tuple(PartResult(part.asks, part.points, 0, diagnosis, message) for part in exercise.parts))
