"""The part of the grader that runs in the learner's kernel: it judges what is there under the exercise's name."""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from course_lib.grading.checking import verdict
from course_lib.grading.judge import Result
from course_lib.grading.show import picture_html

# The grader runs this text in the kernel. Checks that a cell tampered with, or a `check` of the learner's own, are of no
# avail: the modules are read anew from their files, and the verdict goes into a file whose name the cells never saw.
JUDGE = """
import sys as _sys
for _name in [name for name in _sys.modules if name.startswith(("course_lib.grading", {module!r}))]:
    del _sys.modules[_name]
from course_lib.grading.inside import judge_here as _judge_here
_judge_here(_sys.modules["__main__"].__dict__, {module!r}, {exercise!r}, {verdict!r}, {seconds!r})
"""


def judge_here(namespace: Mapping[str, Any], module: str, exercise_id: str, path: str, seconds: float) -> None:
    """Judge an exercise and write its verdict, `{"parts": [...]}`, or `{"missing": name}` where there is no answer.

    Args:
        namespace: the kernel's variables.
        module: the module with the exercise's checks.
        exercise_id: which exercise.
        path: where the verdict goes.
        seconds: how long one part may take.
    """
    exercise = next(exercise for exercise in import_module(module).EXERCISES if exercise.id == exercise_id)
    if exercise.name in namespace:
        content = as_json(verdict(exercise, namespace[exercise.name], seconds))
    else:
        content = {"missing": exercise.name}
    Path(path).write_text(json.dumps(content), encoding="utf-8")


def as_json(result: Result) -> dict[str, Any]:
    """Return a result in plain values, its pictures as HTML. Points are left out: the grader has its own catalogue."""
    return {
        "parts": [
            {
                "asks": part.asks,
                "right": part.earned == part.points and not part.diagnosis,
                "diagnosis": part.diagnosis,
                "message": part.message,
                "picture": picture_html(part.picture),
            }
            for part in result.parts
        ]
    }
