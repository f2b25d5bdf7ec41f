"""The learner's own parts for the loop: taken where the checks accept them, the course's where not, and the table says which."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from demo_course import ANSWERS, CATALOGUE, edit

from course_lib.grading import learners_parts
from course_lib.grading.course import Checkout
from nbbuild.course import Course

NOTEBOOK = "exercises/91_demo.ipynb"


@pytest.fixture
def checkout(course: Course) -> Checkout:
    return Checkout(course.root, CATALOGUE)


def whose(checkout: Checkout) -> dict[str, str]:
    """Return of each part why it is not the learner's; empty where it is."""
    return {name: part.why for name, part in learners_parts("91", checkout).parts.items()}


def test_what_the_checks_accept_is_the_learners_and_all_else_the_courses(checkout: Checkout) -> None:
    edit(checkout.root / NOTEBOOK, double=ANSWERS["double"], total="def total(numbers):\n    return 41")
    parts = learners_parts("91", checkout)
    assert [part.yours for part in parts.parts.values()] == [True, False, False]
    assert parts.parts["Stack"].why == "not begun"
    assert parts.parts["total"].why.startswith("the checks say: ")
    assert parts["double"].__module__ == "answers_exercises_91_demo"
    assert parts["total"]([1, 2, 3]) == 6  # the course's
    assert parts["Stack"].__module__ == "answers_solutions_91_demo"
    assert list(parts) == ["double", "Stack", "total"] and len(parts) == 3
    assert "1 of 3 parts are yours" in repr(parts) and "not begun" in parts._repr_html_()


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("raise SystemExit(3)", "raised SystemExit: 3"),
        ("def total(:", "raised SyntaxError"),
        ("total_of = sum", "nothing is called total"),
        ("from course_lib.grading.progress import record as total", "borrowed"),
    ],
)
def test_a_cell_that_fails_costs_its_own_part_alone(checkout: Checkout, source: str, why: str) -> None:
    edit(checkout.root / NOTEBOOK, total=source, double=ANSWERS["double"])
    found = whose(checkout)
    assert why in found["total"]
    assert found["double"] == ""


@pytest.mark.parametrize(("content", "why"), [(None, "no notebook"), ("<<<<<<< HEAD", "not a notebook")])
def test_without_a_notebook_everything_is_the_courses(checkout: Checkout, content: str | None, why: str) -> None:
    path: Any = checkout.root / NOTEBOOK
    path.unlink()
    if content:
        path.write_text(content)
    assert all(why in said for said in whose(checkout).values())


def test_without_a_solution_there_is_an_error_that_says_so(checkout: Checkout) -> None:
    (checkout.root / "solutions" / "91_demo.ipynb").unlink()
    with pytest.raises(ValueError, match=r"double is not yours \(not begun\), and there is no solution"):
        learners_parts("91", checkout)
    with pytest.raises(ValueError, match="lesson 92 has no exercises"):
        learners_parts("92", checkout)


def test_the_first_cell_of_an_exercise_does_not_wait_for_what_the_capstone_needs() -> None:
    code = "import sys, course_lib.grading; print([name for name in ('jupyter_client', 'deepspeed') if name in sys.modules])"
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
    )
    assert ran.stdout.strip() == "[]"
