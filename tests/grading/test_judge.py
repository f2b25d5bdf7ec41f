"""Judging: nothing gets out of it, nothing is left behind, and the same inputs come each time."""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st

from course_lib.grading import check
from course_lib.grading.checking import verdict
from course_lib.grading.exercise import Exercise, WrongAnswer
from course_lib.grading.judge import Result, call, for_all, judge
from course_lib.grading.progress import read_progress
from course_lib.grading.show import picture_html

ROOT = Path(__file__).resolve().parents[2]


def exercise(test: Callable[[Any], None] = lambda answer: answer()) -> Exercise:
    made = Exercise("99.x", "answer", "Something", 1, 1, 1)
    made.part(3, "it can be called")(test)
    made.part(2, "always right")(lambda answer: None)
    return made


def leave() -> None:
    sys.exit("bye")


def loop() -> None:
    while True:
        pass


def swallow() -> None:
    with contextlib.suppress(Exception):
        loop()


def stub() -> None:
    raise NotImplementedError("your turn")


def deep() -> None:
    deep()


@pytest.mark.parametrize(
    ("answer", "diagnosis"),
    [(leave, "crash"), (loop, "too-slow"), (swallow, "too-slow"), (stub, "not-started"), (deep, "crash"), (3, "crash")],
)
def test_whatever_an_answer_does_it_costs_its_own_part(answer: Any, diagnosis: str) -> None:
    began = time.monotonic()
    result = judge(exercise(), answer, seconds=0.3)
    assert [part.diagnosis for part in result.parts] == [diagnosis, ""]
    assert (result.earned, result.points) == (2, 5)
    assert time.monotonic() - began < 20


def test_a_crash_says_what_was_called_and_raised() -> None:
    result = judge(exercise(lambda answer: call(answer, 7, why="x")), lambda number, why: number / 0)
    assert result.parts[0].message.endswith("(7, why='x') raised ZeroDivisionError: division by zero")


def test_an_interrupt_is_the_learners_own() -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        judge(exercise(), interrupted)


def test_an_answer_that_remembers_is_unsteady() -> None:
    seen: list[int] = []

    def test(number: int) -> None:
        seen.append(number)
        if len(seen) == 5:
            raise WrongAnswer("wrong", "five")

    result = judge(exercise(lambda answer: for_all(test, number=st.integers())), print)
    assert result.diagnoses == ["unsteady"]


def test_the_smallest_counterexample_is_shown_and_is_the_same_each_time() -> None:
    def test(numbers: list[int]) -> None:
        if sum(numbers) > 10:
            raise WrongAnswer("large", f"the sum of {numbers} is large")

    checked = exercise(lambda answer: for_all(test, numbers=st.lists(st.integers(0, 9))))
    said = {judge(checked, print).parts[0].message for _ in range(3)}
    assert said in ({"the sum of [2, 9] is large"}, {"the sum of [9, 2] is large"})


INPUTS = """
import sys
from hypothesis import strategies as st
if len(sys.argv) > 1:  # more of the course's own modules, and so more constants that Hypothesis finds in them
    import course_lib.machine.doctor, course_lib.models.info, course_lib.grading.course
from course_lib.grading.judge import for_all
seen = []
for_all(lambda **given: seen.append(given), number=st.integers(), word=st.text(), share=st.floats())
print(hash(repr(seen)))
"""


def test_inputs_do_not_depend_on_what_is_imported_and_no_folder_is_left(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0", "COURSE_CACHE": str(tmp_path / "cache"), "PATH": ""}
    work = tmp_path / "work"
    work.mkdir()
    outputs = set()
    for more in ([], ["more"]):
        command = [sys.executable, "-W", "error::UserWarning", "-c", INPUTS, *more]
        done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, check=True)
        outputs.add(done.stdout)
        assert done.stderr == ""
    assert len(outputs) == 1
    assert list(work.iterdir()) == []


def test_what_the_course_defines_is_nobodys_answer() -> None:
    result = verdict(exercise(lambda answer: None), judge)
    assert result.earned == 0
    assert result.diagnoses == ["borrowed"] * 2
    assert "course_lib.grading.judge" in result.parts[0].message


class Drawn:
    def __init__(self, **forms: Any) -> None:
        for name, value in forms.items():
            setattr(self, name, lambda value=value: value)


def broken() -> str:
    raise RuntimeError("no display")


@pytest.mark.parametrize(
    ("picture", "shown"),
    [
        (None, ""),
        (Drawn(_repr_html_="<b>table</b>"), "<b>table</b>"),
        (Drawn(_repr_png_=(b"png", {})), "data:image/png;base64,cG5n"),
        (Drawn(_repr_png_=b"png", _repr_html_=None), "data:image/png;base64,cG5n"),
        (Drawn(_repr_mimebundle_=({"image/png": "cG5n", "text/plain": "x"}, {})), "data:image/png;base64,cG5n"),
        ([1, "<"], "<pre>[1, &#x27;&lt;&#x27;]</pre>"),
    ],
)
def test_pictures_are_embedded(picture: Any, shown: str) -> None:
    assert shown in picture_html(picture)


def test_a_picture_that_fails_costs_nothing() -> None:
    picture = Drawn()
    picture._repr_html_ = broken
    assert picture_html(picture) == ""


def result_of(answer: Any) -> Result:
    def test(given: Any) -> None:
        if given() != 1:
            raise WrongAnswer("not-one", "it gave <0>\nexpected 1")

    return judge(exercise(test), answer)


def test_a_result_reads_well_in_both_forms() -> None:
    wrong, right, untouched = result_of(lambda: 0), result_of(lambda: 1), result_of(stub)
    page = wrong._repr_html_()
    assert "it gave &lt;0&gt;<br>expected 1" in page
    assert "<b>2</b> of 5 points" in page
    assert "var(" not in page and "<svg" not in page and "<style" not in page and "<script" not in page
    assert "not-one: it gave <0> expected 1" in repr(wrong)
    assert "solved" in right._repr_html_() and "not solved" not in right._repr_html_()
    assert (untouched.started, wrong.started, right.solved) == (True, True, True)  # its second part is always right


def test_an_unknown_exercise_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"there is no exercise '01.nothing'|'77.x'"):
        check("77.x", print)


def test_check_remembers_points_but_not_in_solutions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "progress.json"))
    made = exercise()
    monkeypatch.setattr("course_lib.grading.checking.find", lambda _: made)
    (tmp_path / "solutions").mkdir()
    monkeypatch.chdir(tmp_path / "solutions")
    assert check("99.x", lambda: None).solved
    assert read_progress() == {}
    monkeypatch.chdir(tmp_path)
    check("99.x", lambda: None)
    check("99.x", leave)
    found = read_progress()["99.x"]
    assert (found.best, found.earned, found.attempts, found.solved) == (5, 2, 2, True)


def test_a_check_that_cannot_save_still_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_PROGRESS", str(tmp_path / "file" / "progress.json"))
    monkeypatch.setattr("course_lib.grading.checking.find", lambda _: exercise())
    with pytest.warns(UserWarning, match="your points were not saved"):
        assert check("99.x", lambda: None).solved
