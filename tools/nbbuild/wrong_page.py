"""docs/wrong_answers.md: what each wrong answer is told, measured by judging them all."""

import re
import time
from functools import cache
from itertools import groupby

from course_lib.grading.exercises import COURSE
from course_lib.grading.judge import Result, judge
from nbbuild.convert import save_text
from nbbuild.course import Course
from wrong_answers import Wrong, wrong_answers

PAGE = "docs/wrong_answers.md"
NUMBER = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")
LONGEST = 300


def wanted(course: Course) -> bool:
    """Whether this is the course that the wrong answers belong to, and has any: a course in a test does not."""
    return course.catalogue is COURSE and (course.root / "tools" / "wrong_answers").is_dir() and bool(wrong_answers())


def page() -> str:
    """Judge all wrong answers and return the page."""
    answers = sorted(wrong_answers(), key=lambda wrong: _places()[wrong.exercise])
    count = len({wrong.exercise for wrong in answers})
    lines = [
        "# Wrong answers, and what they are told",
        "",
        f"{len(answers)} wrong answers to {count} exercises, each judged by its exercise's checks.",
        "The first diagnosis that they give has to be the mistake's own: a test holds the checks to it, to all points for the",
        "solution, and to none for the untouched stub. The message is the one of that diagnosis, and the points are what the",
        "answer gets all the same. Built by `make notebooks`; numbers in the messages may differ a little between machines.",
    ]
    for exercise_id, group in groupby(answers, key=lambda wrong: wrong.exercise):
        exercise = COURSE.find(exercise_id)
        lines += ["", f"## {exercise_id}: {exercise.title}", ""]
        lines += ["| wrong answer | points | diagnosis | message |", "|---|---:|---|---|"]
        lines += [_row(wrong) for wrong in group]
    return "\n".join(lines) + "\n"


@cache
def judged(wrong: Wrong) -> tuple[Result, float]:
    """Judge a wrong answer, once a process; return the result and the processor's seconds."""
    began = time.process_time()
    return judge(COURSE.find(wrong.exercise), wrong.answer), time.process_time() - began


def write(course: Course) -> bool:
    """Write the page where it is not current; return whether it was written."""
    now = page()
    return not _current(course, now) and save_text(now, course.root / PAGE)


def faults(course: Course) -> list[str]:
    """List what is wrong with the page as it stands."""
    if _current(course, page()):
        return []
    return [f"{PAGE}: differs from what the checks say to tools/wrong_answers; run: python tools/build_notebooks.py"]


def _current(course: Course, now: str) -> bool:
    """Whether the page says the same as `now`, numbers apart: they may depend on the machine."""
    path = course.root / PAGE
    there = path.read_text(encoding="utf-8") if path.exists() else ""
    return NUMBER.sub("#", there) == NUMBER.sub("#", now)


def _row(wrong: Wrong) -> str:
    result, _ = judged(wrong)
    first = next((part for part in result.parts if part.diagnosis), None)
    diagnosis, message = (first.diagnosis, first.message) if first else ("", "accepted")
    return f"| {_text(wrong.says)} | {result.earned} of {result.points} | `{diagnosis}` | {_text(message)} |"


def _text(said: str) -> str:
    """Return text for a cell of a Markdown table."""
    line = " ".join(said.split())
    line = line if len(line) <= LONGEST else line[: LONGEST - 1] + "…"
    return re.sub(r"([|*_<`\\])", r"\\\1", line)


def _places() -> dict[str, int]:
    return {exercise.id: place for place, exercise in enumerate(COURSE.exercises())}
