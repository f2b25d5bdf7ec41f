"""The contract of every exercise: all points for the solution, none for the stub, each wrong answer its own diagnosis."""

import time
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from course_lib.grading.exercise import Exercise
from course_lib.grading.exercises import COURSE, LESSONS
from course_lib.grading.judge import Result, judge
from course_lib.grading.notebook import course_of
from nbbuild import wrong_page
from nbbuild.convert import assemble
from nbbuild.course import Course, Kind, Lesson
from nbbuild.exercises import solution_lines
from wrong_answers import Wrong, wrong_answers

CHECKOUT = Course(Path(__file__).resolve().parents[2])
EXERCISES = list(COURSE.exercises())
WRONG = wrong_answers()
MIN_WRONG = 5
CPU_SECONDS = 30
GENERAL = {"not-started", "too-slow", "unsteady", "borrowed", "missing"}

each_exercise = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda exercise: exercise.id)
each_wrong = pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: f"{wrong.exercise}-{wrong.diagnosis}")


@cache
def notebook(lesson: str, kind: Kind) -> Lesson:
    found = [item for item in CHECKOUT.pick([lesson]) if item.kind == kind]
    assert found, f"lessons/{lesson}_*_exercises.py is not there"
    return found[0]


@cache
def namespace(lesson: str, kind: Kind) -> dict[str, Any]:
    """Run a notebook's imports and answers, as a kernel does, and return its names."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in assemble(notebook(lesson, kind)).cells:
        if cell.cell_type == "code" and course_of(cell).get("role", "answer") == "answer":
            exec(compile(cell.source, f"<{lesson} {kind}>", "exec"), names)
    return names


def answer(exercise: Exercise, kind: Kind) -> Result:
    began = time.process_time()
    result = judge(exercise, namespace(exercise.lesson, kind)[exercise.name])
    assert time.process_time() - began < CPU_SECONDS
    return result


def test_every_lesson_of_the_list_has_its_exercises() -> None:
    assert list(COURSE.lessons()) == list(LESSONS)
    assert {lesson: len(COURSE.exercises(lesson)) in range(4, 11) for lesson in LESSONS} == dict.fromkeys(LESSONS, True)


def test_ids_and_names_are_unique() -> None:
    assert [name for name, count in Counter(exercise.id for exercise in EXERCISES).items() if count > 1] == []
    names = Counter((exercise.lesson, exercise.name) for exercise in EXERCISES)
    assert [name for name, count in names.items() if count > 1] == []


@each_exercise
def test_the_facts_of_an_exercise_make_sense(exercise: Exercise) -> None:
    assert exercise.difficulty in range(1, 6) and exercise.importance in range(1, 6)
    assert 1 <= exercise.minutes <= 60
    assert 2 <= len(exercise.parts) <= 4 and 8 <= exercise.points <= 12
    assert len({part.asks for part in exercise.parts}) == len(exercise.parts)


@each_exercise
def test_the_solution_gets_all_points(exercise: Exercise) -> None:
    result = answer(exercise, "solution")
    assert result.solved, repr(result)


@each_exercise
def test_the_untouched_stub_gets_none_and_is_not_started(exercise: Exercise) -> None:
    result = answer(exercise, "exercise")
    assert (result.earned, result.started) == (0, False), repr(result)


@each_wrong
def test_a_wrong_answer_gets_its_own_diagnosis_first(wrong: Wrong) -> None:
    result, seconds = wrong_page.judged(wrong)
    assert result.earned < result.points, "it was accepted"
    assert result.diagnoses[0] == wrong.diagnosis, repr(result)
    assert all(len(part.message) > 20 for part in result.parts if part.diagnosis), repr(result)
    assert seconds < CPU_SECONDS


@each_exercise
def test_wrong_answers_are_enough_and_told_apart(exercise: Exercise) -> None:
    found = Counter(wrong.diagnosis for wrong in WRONG if wrong.exercise == exercise.id)
    assert found.total() >= MIN_WRONG
    assert [name for name, count in found.items() if count > 1] == []
    assert not found.keys() & GENERAL


def test_every_wrong_answer_belongs_to_an_exercise() -> None:
    assert {wrong.exercise for wrong in WRONG} <= {exercise.id for exercise in EXERCISES}


@pytest.mark.parametrize("lesson", COURSE.lessons())
def test_a_stub_notebook_holds_no_line_of_a_solution(lesson: str) -> None:
    source = notebook(lesson, "exercise").source.read_text(encoding="utf-8")
    told = "\n".join(cell.source for cell in assemble(notebook(lesson, "exercise")).cells)
    lines = {line for line in solution_lines(source) if len(line) > 12 and not line.startswith("#")}
    assert len(lines) >= len(COURSE.exercises(lesson))
    assert [line for line in sorted(lines) if line in told] == []


def test_the_page_of_wrong_answers_is_current() -> None:
    assert wrong_page.faults(CHECKOUT) == []
