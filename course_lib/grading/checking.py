"""`check(...)`, the last cell of each exercise."""

import warnings
from pathlib import Path

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises import find
from course_lib.grading.judge import BORROWED, SECONDS_A_PART, PartResult, Result, judge
from course_lib.grading.progress import record

SOLUTIONS = "solutions"


def check(exercise_id: str, answer: Answer) -> Result:
    """Judge an answer, remember its points in the progress file, and return the result, which a notebook draws.

    Args:
        exercise_id: such as `01.kv_bytes`.
        answer: the function or class that the exercise asks for.

    Raises:
        ValueError: there is no such exercise.
    """
    result = verdict(find(exercise_id), answer)
    # A reader of solutions/ has not solved anything; Jupyter runs a notebook in its own folder.
    if result.started and Path.cwd().name != SOLUTIONS:
        try:
            record({exercise_id: (result.earned, result.points)})
        except OSError as error:
            warnings.warn(f"your points were not saved for `course progress`: {error}", stacklevel=2)
    return result


def verdict(exercise: Exercise, answer: Answer, seconds: float = SECONDS_A_PART) -> Result:
    """Judge an answer of the learner's own; what course_lib itself defines is nobody's answer."""
    home = str(getattr(answer, "__module__", ""))
    if home.partition(".")[0] != __name__.partition(".")[0]:
        return judge(exercise, answer, seconds)
    message = (
        f"{exercise.name} is here what {home} defines: run the cell with your own {exercise.name} after the imports"
    )
    return Result(exercise, tuple(PartResult(part.asks, part.points, 0, BORROWED, message) for part in exercise.parts))
