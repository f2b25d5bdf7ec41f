"""What a learner wrote in the exercises, for a lesson that puts it to work: checked first, and the course's own where it fails."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from nbformat import NotebookNode

from course_lib.grading.checking import SOLUTIONS, verdict
from course_lib.grading.course import Checkout
from course_lib.grading.exercise import Exercise
from course_lib.grading.judge import Result
from course_lib.grading.notebook import load
from course_lib.grading.runner import begun, cells_to_run

YOURS, COURSES = "yours", "the course's"


@dataclass(frozen=True)
class LearnerPart:
    """A part and where it comes from.

    Attributes:
        exercise: that asked for it.
        value: what runs: the learner's own where the checks accept it, else the course's.
        yours: whether it is the learner's own.
        why: why it is not, in words; empty where it is.
    """

    exercise: Exercise
    value: Any
    yours: bool
    why: str = ""


class LearnerParts(Mapping[str, Any]):
    """The parts by name, such as `parts["my_loss"]`; shows a table of whose they are."""

    def __init__(self, parts: list[LearnerPart]):
        self.parts = {part.exercise.name: part for part in parts}

    def __getitem__(self, name: str) -> Any:
        return self.parts[name].value

    def __iter__(self) -> Iterator[str]:
        return iter(self.parts)

    def __len__(self) -> int:
        return len(self.parts)

    def __repr__(self) -> str:
        return repr(self._table())

    def _repr_html_(self) -> str:
        return str(self._table()._repr_html_())

    def _table(self) -> Any:
        from course_lib.viz.tables import Cell, Table

        rows = [(name, Cell(YOURS, "right") if part.yours else COURSES, part.why) for name, part in self.parts.items()]
        own = sum(part.yours for part in self.parts.values())
        return Table(f"{own} of {len(rows)} parts are yours", ("part", "whose", "why not yours"), rows)


def learners_parts(lesson: str, checkout: Checkout | None = None) -> LearnerParts:
    """Return what the learner wrote for a lesson's exercises, each part only where its checks accept it.

    The exercises' cells are run here, in this process: it is the reader's own code. An untouched stub, an answer that its checks
    reject and a cell that fails are replaced by the course's solution, with the reason.

    Args:
        lesson: such as `08`.
        checkout: of the course; the one that this package lies in where None is given.

    Raises:
        ValueError: the lesson has no exercises, or the checkout has no solutions to them.
    """
    checkout = checkout or Checkout()
    exercises = checkout.catalogue.exercises(lesson)
    own = _Answers(checkout.notebook(lesson))
    solutions = _Answers(replace(checkout, folder=SOLUTIONS).notebook(lesson))
    found = []
    for exercise in exercises:
        why = own.why_not(exercise) or _complaint(verdict(exercise, own.namespace[exercise.name]))
        if why and exercise.name not in solutions.namespace:
            raise ValueError(
                f"{exercise.name} is not yours ({why}), and there is no solution: `make notebooks` builds it"
            )
        answers = solutions if why else own
        found.append(LearnerPart(exercise, answers.namespace[exercise.name], not why, why))
    return LearnerParts(found)


class _Answers:
    """A notebook's answers, run in a namespace of their own."""

    def __init__(self, path: Path):
        module = ModuleType(f"answers_{path.parent.name}_{path.stem}")
        sys.modules[module.__name__] = module  # dataclasses look their module up
        self.namespace: dict[str, Any] = module.__dict__
        self.failed: dict[str, str] = {}
        self.notebook: NotebookNode | None = None
        try:
            self.notebook = load(path)
        except FileNotFoundError:
            return
        except ValueError as error:  # a merge left its marks in it, say: the other parts of the lesson go on
            self.failed[""] = str(error)
            return
        for cell in cells_to_run(self.notebook):
            try:
                exec(compile(cell.source, f"<{path.name}, cell {cell.place}>", "exec"), self.namespace)  # noqa: S102
            except (Exception, SystemExit) as error:  # noqa: BLE001  the reader's own code may raise anything
                self.failed.setdefault(cell.exercise, f"{cell} raised {type(error).__name__}: {error}")

    def why_not(self, exercise: Exercise) -> str:
        """Return why there is no answer of the learner's, or nothing."""
        if self.notebook is None:
            return self.failed.get("", "there is no notebook with it")
        if not begun(self.notebook, exercise):
            return "not begun"
        if exercise.name not in self.namespace:
            return self.failed.get(exercise.id, f"nothing is called {exercise.name}")
        return ""


def _complaint(result: Result) -> str:
    """Return what the checks found wrong, or nothing."""
    return "" if result.solved else f"the checks say: {', '.join(dict.fromkeys(result.diagnoses))}"
