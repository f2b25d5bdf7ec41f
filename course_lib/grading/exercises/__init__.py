"""Every exercise of the course, by lesson. A lesson's module defines `EXERCISES` in the order of its notebook."""

from functools import cache
from importlib import import_module

from course_lib.grading.exercise import Exercise

LESSONS = {"01": "kv_cache", "02": "fragmentation", "03": "paged_attention"}
"""Each lesson that has exercises, and the module of this package that holds their checks."""


@cache
def exercises(lesson: str | None = None) -> tuple[Exercise, ...]:
    """Return the exercises of a lesson such as `01`, or of all lessons, in order.

    Raises:
        ValueError: no lesson with exercises has that number.
    """
    if lesson is None:
        return tuple(exercise for number in LESSONS for exercise in exercises(number))
    if lesson not in LESSONS:
        raise ValueError(f"lesson {lesson} has no exercises; lessons that have some: {', '.join(LESSONS)}")
    module = import_module(f"course_lib.grading.exercises.{LESSONS[lesson]}")
    found: tuple[Exercise, ...] = module.EXERCISES
    return found


def find(exercise_id: str) -> Exercise:
    """Return the exercise with this id.

    Raises:
        ValueError: there is none.
    """
    lesson = exercise_id.partition(".")[0]
    for exercise in exercises(lesson):
        if exercise.id == exercise_id:
            return exercise
    known = ", ".join(exercise.id for exercise in exercises(lesson))
    raise ValueError(f"there is no exercise {exercise_id!r}; lesson {lesson} has: {known}")
