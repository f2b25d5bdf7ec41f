"""Countdown: the parser against Python's own arithmetic, and problems that can be solved and are held out for sure."""

import random
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.rl.countdown import Countdown, countdown_match, countdown_numbers, evaluate, last_expression
from course_lib.rl.problem import Problem

PROBLEM = Problem("Make 16 from 3, 5 and 8, each used once.", "3 + 5 + 8", {"numbers": [3, 8, 5], "target": 16})


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> tuple[str, list[int]]:
    """An expression as a policy may write it, and its numbers from left to right."""
    if depth == 0 or draw(st.booleans()):
        number = draw(st.integers(0, 99))
        return str(number), [number]
    left, right = draw(expressions(depth=depth - 1)), draw(expressions(depth=depth - 1))
    sign, space = draw(st.sampled_from("+-*/")), draw(st.sampled_from(["", " "]))
    text = f"{left[0]}{space}{sign}{space}{right[0]}"
    return (f"({text})" if draw(st.booleans()) else text), left[1] + right[1]


@given(expressions())
@settings(deadline=None)
def test_the_value_is_pythons_and_exact(expression: tuple[str, list[int]]) -> None:
    text, numbers = expression
    exact = "".join(f"Fraction({part})" if part.isdigit() else part for part in split(text))
    try:
        wanted = eval(exact, {"Fraction": Fraction})
    except ZeroDivisionError:
        with pytest.raises(ValueError, match="divides by zero"):
            evaluate(text)
        return
    assert evaluate(text) == (wanted, numbers)


def split(text: str) -> list[str]:
    parts: list[str] = []
    for char in text:
        if parts and char.isdigit() and parts[-1].isdigit():
            parts[-1] += char
        else:
            parts.append(char)
    return parts


@pytest.mark.parametrize(
    "text",
    ["", "3 +", "3 5", "x", "9**9**9", "1.5", "3 // 2", "3 % 2", "True", "1 if 1 else 2", "__import__('os').getcwd()",
     "[1][0]", "1_0j", "3 == 3", "+3", "05", "(" * 300, "1/0", "'a'*9", "1+" * 150 + "1", "1, 2", "~3"],
)  # fmt: skip
def test_nothing_but_arithmetic(text: str) -> None:
    with pytest.raises(ValueError, match=r"arithmetic|number|divides|characters"):
        evaluate(text)
    assert countdown_match([PROBLEM], [text]) == [0.0]


@given(st.text(alphabet="0123456789()+-*/ =.answer<>\n\u00d7", max_size=60))
def test_no_completion_breaks_the_grader(text: str) -> None:
    (right,), (numbers,) = countdown_match([PROBLEM], [text]), countdown_numbers([PROBLEM], [text])
    assert (right, numbers) in {(0.0, 0.0), (0.0, 1.0), (1.0, 1.0)}


@pytest.mark.parametrize("filler", ["(", "(+", "1", "1+", "((1+", "- "])
def test_a_long_completion_is_read_in_no_time(filler: str) -> None:
    assert countdown_match([PROBLEM], [filler * 20_000]) == [0.0]  # minutes, with a pattern that tries all cuts


@pytest.mark.parametrize(
    ("text", "right", "numbers"),
    [
        ("3 + 5 + 8", 1.0, 1.0),
        ("8+(3+5) = 16", 1.0, 1.0),
        ("The answer is (8 + 5) + 3.", 1.0, 1.0),
        ("16 = 3 + 5 + 8", 1.0, 1.0),
        ("8 / 5 * 3 = 4.8, no: 3 + 5 + 8", 1.0, 1.0),
        ("<answer>8 + 8</answer> or 3 + 5 + 8", 0.0, 0.0),
        ("3 \u00d7 5 + 8", 0.0, 1.0),
        ("16", 0.0, 0.0),
        ("8 + 8", 0.0, 0.0),  # a number twice, others not at all
        ("3 + 5 + 8 + 0", 0.0, 0.0),
        ("11 + 5", 0.0, 0.0),
        ("- 3 + 5 + 8", 1.0, 1.0),  # a list's dash
        ("-3 + 5 + 8", 0.0, 1.0),
    ],
)
def test_what_counts(text: str, right: float, numbers: float) -> None:
    assert countdown_match([PROBLEM], [text]) == [right]
    assert countdown_numbers([PROBLEM], [text]) == [numbers]


def test_the_last_expression() -> None:
    assert last_expression("no sum here, 5 of 3") is None
    assert last_expression("7 ÷ 2 − 1 = 2.5") == "7 / 2 - 1"  # noqa: RUF001


def key(problem: Problem) -> tuple[int, ...]:
    return (*sorted(problem.metadata["numbers"]), problem.metadata["target"])


@given(
    st.integers(2, 4),
    st.integers(4, 50),
    st.sampled_from(["+", "+-", "+-*", "+-*/", "*/+"]),
    st.integers(0, 5),
)
@settings(max_examples=15, deadline=None)
def test_problems_can_be_solved_and_held_out_ones_are_not_trained(
    numbers: int, largest: int, operators: str, seed: int
) -> None:
    task = Countdown(numbers, largest, operators, size=40, held_out=5, seed=seed)
    problems = [*task.held_out, *task.training]
    assert len(task.held_out) == 5
    assert len({key(problem) for problem in problems}) == len(problems) <= 40
    assert task.grade(problems, [problem.answer for problem in problems]) == [1.0] * len(problems)
    for problem in problems:
        given = problem.metadata["numbers"]
        assert len(given) == numbers and all(1 <= number <= largest for number in given)
        assert problem.metadata["target"] >= 1
        assert set(problem.answer) & set("+-*/") <= set(operators)
        assert all(str(number) in problem.question for number in [*given, problem.metadata["target"]])
    again = Countdown(numbers, largest, operators, size=40, held_out=5, seed=seed)
    assert (again.held_out, again.training) == (task.held_out, task.training)


def test_drawing() -> None:
    task = Countdown()
    drawn = task.draw(20, random.Random(1))
    assert len(set(drawn)) == 20
    assert drawn == task.draw(20, random.Random(1)) != task.draw(20, random.Random(2))
    assert not {key(problem) for problem in drawn} & {key(problem) for problem in task.held_out}
    assert len(task.draw(2 * len(task.training) + 1, random.Random(1))) == 2 * len(task.training) + 1


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": 1}, "numbers is 1"),
        ({"largest": 0}, "largest 0"),
        ({"operators": "+^"}, r"expected some of '\+-\*/'"),
        ({"operators": ""}, "operators is ''"),
        ({"held_out": 0}, "held_out is 0"),
        ({"largest": 2, "held_out": 64}, "hold out between 1 and"),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Countdown(**options)


def test_another_tasks_problem() -> None:
    with pytest.raises(ValueError, match="'1\\+1\\?' is no countdown: its metadata has no 'target'"):
        countdown_match([Problem("1+1?", "2")], ["1 + 1"])
