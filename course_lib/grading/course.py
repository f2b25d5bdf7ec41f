"""Where a checkout keeps its exercises, and grading any part of them."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from course_lib.grading.exercise import Exercise
from course_lib.grading.exercises import COURSE, Catalogue
from course_lib.grading.grade_report import LessonGrades, Report
from course_lib.grading.report import CAPSTONE, grade_run, newest_run
from course_lib.grading.runner import Grade, Limits, grade_notebook

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Checkout:
    """A checkout of the course: its root, the exercises that there are, and the folder of the notebooks to grade."""

    root: Path = ROOT
    catalogue: Catalogue = COURSE
    folder: str = "exercises"

    def notebook(self, lesson: str) -> Path:
        """Return where the notebook of a lesson such as `01` is, or would be. A learner's copies beside it don't count."""
        sources = sorted(self.root.glob(f"lessons/{lesson}_*_exercises.py"))
        name = sources[0].stem.removesuffix("_exercises") if sources else lesson
        return self.root / self.folder / f"{name}.ipynb"

    def pick(self, names: Sequence[str]) -> list[Exercise]:
        """Return the exercises with these names, in the course's order; no names means all.

        Args:
            names: lessons (`01`, `1`, `01_kv_cache`) and exercises (`01.kv_bytes`).

        Raises:
            ValueError: a name fits nothing.
        """
        everything = self.catalogue.exercises()
        picked: set[str] = set()
        for name in names:
            number = name.partition("_")[0].zfill(2)
            found = {exercise.id for exercise in everything if name == exercise.id or number == exercise.lesson}
            if not found:
                lessons = ", ".join(self.catalogue.lessons())
                raise ValueError(
                    f"nothing to grade is called {name!r}; give lessons ({lessons}, {CAPSTONE}) or exercises"
                )
            picked |= found
        return [exercise for exercise in everything if not names or exercise.id in picked]


def grade(
    checkout: Checkout,
    names: Sequence[str] = (),
    limits: Limits | None = None,
    told: Callable[[Exercise, Grade | None], None] = lambda *_: None,
) -> Report:
    """Grade exercises and the newest capstone run; no names means both, as far as there are any.

    Args:
        checkout: what to grade.
        names: lessons and exercises (see `Checkout.pick`), and `08` for the capstone.
        limits: of time and memory for an exercise's code.
        told: is told of each exercise when it is begun (None) and when its grade is there.

    Raises:
        ValueError: a name fits nothing.
    """
    began = time.monotonic()
    of_exercises = [name for name in names if not name.startswith(CAPSTONE)]
    picked = checkout.pick(of_exercises) if of_exercises or not names else []
    lessons = []
    for lesson in dict.fromkeys(exercise.lesson for exercise in picked):
        notebook = checkout.notebook(lesson)
        chosen = [exercise for exercise in picked if exercise.lesson == lesson]
        grades = grade_notebook(notebook, chosen, checkout.catalogue, limits or Limits(), told)
        lessons.append(LessonGrades(lesson, notebook.relative_to(checkout.root).as_posix(), tuple(grades)))
    run = None
    if len(of_exercises) < len(names) or not names:
        # The command leaves its runs in the working folder, the notebook in the checkout.
        run = newest_run(Path("runs")) or newest_run(checkout.root / "runs")
    capstone = tuple(grade_run(run)) if run else ()
    name = f"runs/{run.name}" if run else ""
    return Report(tuple(lessons), capstone, name, time.monotonic() - began)
