"""Every exercise of the course, by lesson. A lesson's module defines `EXERCISES` in the order of its notebook."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

from course_lib.grading.exercise import Exercise

LESSONS = {
    "01": "kv_cache",
    "02": "fragmentation",
    "03": "paged_attention",
    "04": "scheduling",
    "05": "serving",
    "06": "training",
    "07": "policy_gradients",
    "08": "capstone",
}
"""Each lesson that has exercises, and the module of this package that holds their checks."""


@dataclass(frozen=True)
class Catalogue:
    """The exercises of a course, whose checks are imported when they are asked for.

    Attributes:
        modules: each lesson's number, and the full name of the module that defines its `EXERCISES`.
    """

    modules: Mapping[str, str]

    def lessons(self) -> tuple[str, ...]:
        """Return the numbers of the lessons that have exercises."""
        return tuple(self.modules)

    def exercises(self, lesson: str | None = None) -> tuple[Exercise, ...]:
        """Return the exercises of a lesson such as `01`, or of all lessons, in order.

        Raises:
            ValueError: no lesson with exercises has that number.
        """
        if lesson is None:
            return tuple(exercise for number in self.lessons() for exercise in self.exercises(number))
        if lesson not in self.modules:
            raise ValueError(f"lesson {lesson} has no exercises; lessons that have some: {', '.join(self.lessons())}")
        return tuple(import_module(self.modules[lesson]).EXERCISES)

    def find(self, exercise_id: str) -> Exercise:
        """Return the exercise with this id.

        Raises:
            ValueError: there is none.
        """
        lesson = exercise_id.partition(".")[0]
        if lesson not in self.modules:
            known = ", ".join(exercise.id for exercise in self.exercises())
            raise ValueError(f"there is no exercise {exercise_id!r}; the course has: {known}")
        for exercise in self.exercises(lesson):
            if exercise.id == exercise_id:
                return exercise
        known = ", ".join(exercise.id for exercise in self.exercises(lesson))
        raise ValueError(f"there is no exercise {exercise_id!r}; lesson {lesson} has: {known}")


COURSE = Catalogue({number: f"{__name__}.{module}" for number, module in LESSONS.items()})
"""This course's exercises."""


def exercises(lesson: str | None = None) -> tuple[Exercise, ...]:
    """Return the exercises of a lesson such as `01`, or of all lessons, in order (see `Catalogue.exercises`)."""
    return COURSE.exercises(lesson)


def find(exercise_id: str) -> Exercise:
    """Return the exercise with this id (see `Catalogue.find`)."""
    return COURSE.find(exercise_id)
