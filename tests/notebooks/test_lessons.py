"""The repository's own notebooks: they are current, and each lesson and each solution runs on the tiny policy."""

from pathlib import Path

import pytest

from nbbuild.check import check_lesson
from nbbuild.convert import assemble
from nbbuild.course import Course, Lesson
from nbbuild.execute import execute
from nbbuild.keep import exercise_fault

COURSE = Course(Path(__file__).resolve().parents[2])
TINY = {"COURSE_POLICY": "tiny", "COURSE_STEPS": "2"}


def each(lessons: list[Lesson]) -> pytest.MarkDecorator:
    names = [f"{lesson.notebook.parent.name}/{lesson.name}" for lesson in lessons]
    return pytest.mark.parametrize("lesson", lessons, ids=names)


def test_each_notebook_has_a_lesson() -> None:
    assert COURSE.orphans() == []


@each(COURSE.pick([]))
def test_notebook_is_current(lesson: Lesson) -> None:
    faults = check_lesson(COURSE, lesson)
    assert not faults, "\n".join(faults)
    if lesson.kind == "exercise":
        _, notice = exercise_fault(lesson, COURSE.root)
        if notice:
            pytest.skip(f"{COURSE.relative(lesson.notebook)} {notice}")


@each([lesson for lesson in COURSE.pick([]) if lesson.kind != "exercise"])
@pytest.mark.timeout(300)
def test_it_runs_on_the_tiny_policy(lesson: Lesson, tmp_path: Path) -> None:
    env = TINY | {"COURSE_RUNS": str(tmp_path)}
    execute(assemble(lesson), COURSE, timeout=280, env=env, folder=lesson.notebook.parent.name)
    runs_the_loop = lesson.kind == "lesson" and "capstone" in lesson.name
    assert (tmp_path / "capstone" / "metrics.jsonl").exists() or not runs_the_loop
