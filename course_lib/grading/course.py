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
            names: lessons (`01`, `1`, `01_kv_cache`) and exercises (`01.kv_bytes`); `08` has none where the course has no
                milestones, and is a name all the same.

        Raises:
            ValueError: a name fits nothing.
        """
        everything = self.catalogue.exercises()
        picked: set[str] = set()
        for name in names:
            lesson = _lesson(name)
            found = {exercise.id for exercise in everything if name == exercise.id or lesson == exercise.lesson}
            if not found and lesson != CAPSTONE:
                lessons = ", ".join(dict.fromkeys((*self.catalogue.lessons(), CAPSTONE)))
                raise ValueError(f"nothing to grade is called {name!r}; give lessons ({lessons}) or exercises")
            picked |= found
        return [exercise for exercise in everything if not names or exercise.id in picked]


def asks_for_run(names: Sequence[str]) -> bool:
    """Whether these names ask for a capstone run: that of lesson 08 does, and none does, too."""
    return not names or any(_lesson(name) == CAPSTONE for name in names)


def grade(
    checkout: Checkout,
    names: Sequence[str] = (),
    limits: Limits | None = None,
    told: Callable[[Exercise, Grade | None], None] = lambda *_: None,
) -> Report:
    """Grade exercises and the newest capstone run; no names means both, as far as there are any.

    Args:
        checkout: what to grade.
        names: lessons and exercises (see `Checkout.pick`); `08` is for its milestones and the newest run.
        limits: of time and memory for an exercise's code.
        told: is told of each exercise when it is begun (None) and when its grade is there.

    Raises:
        ValueError: a name fits nothing.
    """
    began = time.monotonic()
    picked = checkout.pick(names)
    lessons = []
    for lesson in dict.fromkeys(exercise.lesson for exercise in picked):
        notebook = checkout.notebook(lesson)
        chosen = [exercise for exercise in picked if exercise.lesson == lesson]
        grades = grade_notebook(notebook, chosen, checkout.catalogue, limits or Limits(), told)
        lessons.append(LessonGrades(lesson, notebook.relative_to(checkout.root).as_posix(), tuple(grades)))
    run = None
    if asks_for_run(names):
        # The command leaves its runs in the working folder, the notebook in the checkout.
        run = newest_run(Path("runs")) or newest_run(checkout.root / "runs")
    capstone = tuple(grade_run(run)) if run else ()
    name = f"runs/{run.name}" if run else ""
    return Report(tuple(lessons), capstone, name, time.monotonic() - began)


def _lesson(name: str) -> str:
    """Return the number of the lesson that a name such as `1`, `01` or `01_kv_cache` means."""
    return name.partition("_")[0].zfill(2)
