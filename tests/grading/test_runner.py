"""Grading a notebook: sabotage costs its own exercise alone, and nobody gets points but for an answer."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from demo_course import ANSWERS, CATALOGUE, edit, find, read
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from course_lib.grading import runner
from course_lib.grading.judge import Result
from course_lib.grading.kernel import LimitedKernel
from course_lib.grading.runner import Limits, grade_notebook
from nbbuild.course import Course

pytestmark = pytest.mark.timeout(240)
LIMITS = Limits(cell_seconds=15, judge_seconds=15, memory=2**30)
LOOP = Limits(cell_seconds=8, judge_seconds=4, memory=2**30)  # each is waited for; a first cell imports for 2 s


@pytest.fixture
def path(course: Course) -> Path:
    return course.root / "exercises" / "91_demo.ipynb"


def grade(path: Path, limits: Limits = LIMITS) -> dict[str, Result]:
    exercises = CATALOGUE.exercises()
    grades = grade_notebook(path, exercises, CATALOGUE, limits)
    assert [grade.result.exercise for grade in grades] == list(exercises)
    return {grade.result.exercise.id.removeprefix("91."): grade.result for grade in grades}


def rewrite(path: Path, change: Callable[[NotebookNode], Any]) -> None:
    notebook = read(path)
    change(notebook)
    nbformat.write(notebook, path)


def no_kernel(*_: Any) -> None:
    raise AssertionError("a kernel was started")


def test_the_solutions_get_all_points(course: Course) -> None:
    found = grade(course.root / "solutions" / "91_demo.ipynb")
    assert [result.earned for result in found.values()] == [10, 10, 10]


def test_untouched_stubs_are_not_started_and_need_no_kernel(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "LimitedKernel", no_kernel)
    found = grade(path)
    assert [(result.earned, result.started) for result in found.values()] == [(0, False)] * 3


# What a learner may do to the stack's answer. Nothing of it may cost the other two exercises anything.
SABOTAGE = {
    "ended": ("import os\nos._exit(1)", "missing", "(`import os`) ended the kernel"),
    "ended by the answer": (
        "import os\nclass Stack:\n    def __init__(self):\n        os._exit(1)",
        "crash",
        "Stack ended the kernel while it was judged",
    ),
    "left": ("import sys\nsys.exit('bye')", "missing", "raised SystemExit: bye"),
    "exit": ("class Stack: ...\nexit()", "missing", "ended the kernel"),
    "loop": ("while True: pass", "missing", "was not finished after 8 s"),
    "loop that does not listen": (
        "import time\nwhile True:\n    try: time.sleep(99)\n    except BaseException: pass",
        "missing",
        "was not finished after 8 s",
    ),
    "loop in the answer": ("class Stack:\n    def __init__(self):\n        while True: pass", "too-slow", "after 4 s"),
    "loop in the answer that does not listen": (
        "import time\nclass Stack:\n def __init__(self):\n  while True:\n   try: time.sleep(99)\n   except BaseException: pass",
        "too-slow",
        "Stack was not finished after 14.8 s",  # it swallows the judge's limit: this is the grader's own
    ),
    "memory": ("hoard = []\nwhile True: hoard.append(bytearray(10**7))", "missing", "took more than 1 GiB of memory"),
    "syntax": ("class Stack(:", "missing", "raised SyntaxError"),
    "error": ("1 / 0\nclass Stack: ...", "missing", "raised ZeroDivisionError: division by zero"),
    "renamed": ("class Stapel(list): push = list.append", "missing", "was its cell deleted or renamed?"),
    "emptied": ("", "missing", "was its cell deleted or renamed?"),
    "input": ("input('name? ')", "missing", "raised StdinNotImplementedError"),
    "flood": ("class Stack: ...\nfor _ in range(200_000): print('x' * 80)", "crash", "no attribute 'push'"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SABOTAGE)
def test_sabotage_costs_its_own_exercise_alone(case: str, path: Path) -> None:
    source, diagnosis, said = SABOTAGE[case]
    edit(path, double=ANSWERS["double"], stack=source, total=ANSWERS["total"])
    found = grade(path, LOOP if case.startswith("loop") else LIMITS)
    assert (found["double"].earned, found["stack"].earned, found["total"].earned) == (10, 0, 10)
    assert found["stack"].diagnoses[0] == diagnosis
    assert said in found["stack"].parts[0].message


def test_a_deleted_exercise_and_a_stray_cell_cost_nothing_else(path: Path) -> None:
    edit(path, double=ANSWERS["double"], total=ANSWERS["total"])

    def cut(notebook: NotebookNode) -> None:
        notebook.cells = [c for c in notebook.cells if c.metadata["course"].get("exercise") != "91.stack"]
        notebook.cells.insert(0, new_code_cell("import os\nos._exit(1)"))

    rewrite(path, cut)
    found = grade(path)
    assert (found["double"].earned, found["total"].earned) == (10, 10)
    assert found["stack"].diagnoses == ["missing"]


CHEATS = {
    "prints": "print('10 of 10 points')\nprint({'parts': []})",
    "its own check": "def check(*_): return 'solved: 10 of 10'\ncheck('91.double', 1)",
    "patched judge": "import course_lib.grading.judge as j\nj.judge = j.for_all = j.call = lambda *_, **__: None",
    "patched checks": "import demo_checks\ndemo_checks.EXERCISES[0].parts.clear()",
    "patched parts": "import demo_checks as d\nfor e in d.EXERCISES: e.parts[:] = [type(e.parts[0])(1, 'x', print)]",
    "fewer parts": "import demo_checks as d\ndel d.EXERCISES[0].parts[1]",
    "shadowed names": "globals = print = list = lambda *_: {}\njudge_here = _judge_here = print",
}


@pytest.mark.slow
@pytest.mark.parametrize(("role", "cheat"), [*(("answer", cheat) for cheat in CHEATS), ("check", "its own check")])
def test_nothing_but_an_answer_gets_points(cheat: str, role: str, path: Path) -> None:
    wrong = "def double(number): return number ** 2\n"

    def cheat_at_it(notebook: NotebookNode) -> None:
        find(notebook, "91.double", "answer").source = wrong
        find(notebook, "91.double", role).source = wrong + CHEATS[cheat]

    rewrite(path, cheat_at_it)
    found = grade(path)
    assert (found["double"].earned, found["double"].points) == (4, 10)
    assert found["double"].parts[1].diagnosis == "squared"


def test_an_answer_in_a_cell_of_ones_own_counts(path: Path) -> None:
    def add(notebook: NotebookNode) -> None:
        place = notebook.cells.index(find(notebook, "91.double", "answer"))
        notebook.cells.insert(place + 1, new_code_cell(ANSWERS["double"]))

    rewrite(path, add)
    assert grade(path)["double"].solved


def test_answers_count_without_the_courses_marks(path: Path) -> None:
    edit(path, **{name.lower(): source for name, source in ANSWERS.items()})

    def strip(notebook: NotebookNode) -> None:
        for cell in notebook.cells:
            cell.metadata.clear()

    rewrite(path, strip)
    found = grade(path)
    assert [result.earned for result in found.values()] == [10, 10, 10], "\n".join(map(str, found.values()))


def test_a_cell_right_after_an_error_runs(tmp_path: Path) -> None:
    with LimitedKernel(tmp_path, LIMITS.memory, {}) as kernel:
        # By itself a race that is rarely lost: here the kernel never hears that it may go on.
        kernel.run("get_ipython().kernel._post_dummy_stop_aborting_message = lambda *_: None", 20)
        assert [kernel.run(code, 20).status for code in ("1 / 0", "x = 1")] == ["error", "ok"]


def test_a_notebook_that_is_missing_or_broken_is_told(path: Path) -> None:
    path.write_text("{")
    assert "is not a notebook" in grade(path)["total"].parts[0].message
    path.unlink()
    assert "there is no notebook 91_demo.ipynb" in grade(path)["total"].parts[0].message


def test_the_graders_runs_are_no_attempts(path: Path, course: Course) -> None:
    edit(
        path,
        double=ANSWERS["double"] + "\nfrom course_lib.grading.progress import record\nrecord({'91.double': (9, 9)})",
    )
    assert grade(path)["double"].solved
    assert not (course.root.parent / "progress.json").exists()
