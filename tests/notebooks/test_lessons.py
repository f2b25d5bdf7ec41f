"""The repository's own lessons: their notebooks are current, and each runs on the tiny policy."""

from pathlib import Path

import pytest

from nbbuild.check import check_lesson
from nbbuild.convert import assemble
from nbbuild.course import Course, Lesson
from nbbuild.execute import execute

COURSE = Course(Path(__file__).resolve().parents[2])
TINY = {"COURSE_POLICY": "tiny", "COURSE_STEPS": "2"}
each_lesson = pytest.mark.parametrize("lesson", COURSE.lessons(), ids=lambda lesson: lesson.name)


def test_each_notebook_has_a_lesson() -> None:
    assert COURSE.orphans() == []


@each_lesson
def test_notebook_is_current(lesson: Lesson) -> None:
    faults = check_lesson(COURSE, lesson)
    assert not faults, "\n".join(faults)


@each_lesson
@pytest.mark.timeout(300)
def test_lesson_runs_on_the_tiny_policy(lesson: Lesson, tmp_path: Path) -> None:
    execute(assemble(lesson), COURSE, timeout=280, env=TINY | {"COURSE_RUNS": str(tmp_path)})
    assert (tmp_path / "capstone" / "metrics.jsonl").exists() or "capstone" not in lesson.name
