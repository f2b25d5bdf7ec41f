"""Free-form mathematics by math-verify: in the main thread and in others, within its time, and without a word."""

import threading
import time
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.rl import math_reward
from course_lib.rl.math_reward import math_match
from course_lib.rl.problem import Problem
from course_lib.rl.rewards import RewardError, compute_rewards

CASES = [
    ("12", "The answer is 12.", 1.0),
    ("12", "7 + 5 = 12", 1.0),
    ("12", r"so $\boxed{12}$, and not 13", 1.0),
    ("12", "13", 0.0),
    ("12", "", 0.0),
    ("1/2", "0.5", 1.0),
    (r"\frac{1}{2}", "0.5", 1.0),
    ("0.5", r"$\frac{2}{4}$", 1.0),
    (r"$\frac{1}{2}$", r"$\frac{1}{3}$", 0.0),
    ("1,234", "1234", 1.0),
    ("-3", "$-3$", 1.0),
    ("-3", "3", 0.0),
    ("x+1", "$1+x$", 1.0),
    ("x+1", "1", 0.0),  # without dollars around the answer, it would be read as 1
    ("(x+1)^2", "$x^2+2x+1$", 1.0),
    (r"\sqrt{8}", r"$2\sqrt{2}$", 1.0),
]


def problems(answers: Sequence[str]) -> list[Problem]:
    return [Problem("?", answer) for answer in answers]


def test_equal_however_it_is_written() -> None:
    answers, texts, values = zip(*CASES, strict=True)
    assert dict(zip(CASES, math_match(problems(answers), texts), strict=True)) == dict(zip(CASES, values, strict=True))


@given(st.integers(-999, 999), st.integers(1, 99), st.integers(1, 9), st.booleans())
@settings(max_examples=25, deadline=None)
def test_fractions_in_any_terms(top: int, bottom: int, factor: int, wrong: bool) -> None:
    text = rf"$\frac{{{top * factor + wrong}}}{{{bottom * factor}}}$"
    assert math_match(problems([rf"\frac{{{top}}}{{{bottom}}}"]), [text]) == [float(not wrong)]


def test_another_thread_gets_the_same(capfd: Any) -> None:
    answers, texts, values = zip(*CASES, strict=True)
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(math_match(problems(answers), texts)))
    thread.start()
    thread.join()
    assert found == [list(values)]
    assert capfd.readouterr() == ("", "")


def test_a_formula_that_would_take_for_ever(monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    monkeypatch.setattr(math_reward, "_SECONDS", 1)
    start = time.monotonic()
    texts = ["$9^{9^{9}}$", r"$\binom{1000000000}{100000000}$", "12"]
    assert math_match(problems(["12"] * 3), texts) == [0.0, 0.0, 1.0]
    assert time.monotonic() - start < 60  # 2 s on a quiet machine
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("in_thread", [False, True])
def test_an_answer_that_is_no_formula(in_thread: bool) -> None:
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            compute_rewards(math_match, problems(["12", "yes, no?"]), ["12", "yes"])
        except RewardError as error:
            caught.append(error)

    if in_thread:
        thread = threading.Thread(target=ask)
        thread.start()
        thread.join()
    else:
        ask()
    assert "math-verify finds no formula in the answer 'yes, no?'" in str(caught[0])


def test_the_program_failing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_reward.math_check, "__file__", "there_is_no_such_file.py")
    with pytest.raises(RuntimeError, match=r"process failed: .*there_is_no_such_file"):
        math_reward._in_a_process(["1"], ["1"])
