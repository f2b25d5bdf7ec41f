"""The checks of a course of three small exercises, for tests of the machinery."""

from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all

double = Exercise("91.double", "double", "Twice a number", difficulty=1, importance=2, minutes=3)
stack = Exercise("91.stack", "Stack", "A stack", difficulty=2, importance=5, minutes=10)
total = Exercise("91.total", "total", "The sum of a list", difficulty=3, importance=3, minutes=5)
EXERCISES = [double, stack, total]


@double.part(4, "zero stays zero")
def zero(answer: Any) -> None:
    if call(answer, 0) != 0:
        raise WrongAnswer("not-zero", f"double(0) is {call(answer, 0)}, expected 0")


@double.part(6, "every number is doubled")
def doubled(answer: Any) -> None:
    def test(number: int) -> None:
        if (got := call(answer, number)) != 2 * number:
            name = "squared" if got == number**2 else "not-doubled"
            raise WrongAnswer(name, f"double({number}) is {got}, expected {2 * number}")

    for_all(test, number=st.integers())


@stack.part(10, "the last thing in is the first out")
def last_in_first_out(answer: Any) -> None:
    def test(things: list[int]) -> None:
        made = call(answer)
        for thing in things:
            call(made.push, thing)
        got = [call(made.pop) for _ in things]
        if got != things[::-1]:
            raise WrongAnswer("queue", f"after push of {things}, pop gave {got}")

    for_all(test, things=st.lists(st.integers(0, 9)))


@total.part(5, "an empty list has the sum 0")
def empty(answer: Any) -> None:
    if call(answer, []) != 0:
        raise WrongAnswer("empty", "total([]) is not 0")


@total.part(5, "every list is summed")
def summed(answer: Any) -> None:
    def test(numbers: list[int]) -> None:
        if (got := call(answer, numbers)) != sum(numbers):
            raise WrongAnswer("other-sum", f"total({numbers}) is {got}, expected {sum(numbers)}")

    for_all(test, numbers=st.lists(st.integers()))
