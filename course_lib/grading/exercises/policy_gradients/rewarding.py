"""A reward by rule: is the last number of a completion the right one?"""

import math
import re
from collections.abc import Callable, Sequence
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import CRASH, call, for_all
from course_lib.viz.tables import Cell, Table

number_reward = Exercise(
    "07.number_reward", "number_reward", "Right or wrong, by a rule", difficulty=2, importance=4, minutes=20
)


class Problem(NamedTuple):
    """What the loop's problems have. Its own are in `course_lib.rl`, whose import would bring DeepSpeed into a check."""

    question: str
    answer: str


Sample = tuple[str, str]
"""The right answer, and a completion."""

_BEFORE = ["", "The answer is ", "7 + 5 = ", "So 3 of 4, then\n", "**", "First 1,250; no: "]
_AFTER = ["", ".", "\n", "!", "**", " apples", ", I think."]
_WHOLE = st.integers(0, 999)


def _sample(written: Callable[[int], str], numbers: st.SearchStrategy[int], before: list[str] = _BEFORE) -> Any:
    """Draw a completion that ends in a number, and an answer that is this number or another one."""
    return st.tuples(numbers, numbers, st.booleans(), st.sampled_from(before), st.sampled_from(_AFTER)).map(
        lambda drawn: (str(drawn[0] if drawn[2] else drawn[1]), f"{drawn[3]}{written(drawn[0])}{drawn[4]}")
    )


_PLAIN = _sample(str, _WHOLE)
_NEGATIVE = _sample(str, st.integers(-99, -1), ["", "The answer is ", "5 - 8 = ", "x="])
_SUBTRACTED = _sample(lambda number: f"20-{number}", st.integers(0, 20), ["", "It is "])
_COMMAS = _sample("{:,}".format, st.integers(1000, 12_345_678))
_LISTED = _sample(lambda number: f"({number // 10},{number % 10})", st.integers(10, 99), [""]).map(
    lambda sample: (sample[0][-1], sample[1])
)
_DECIMAL = st.tuples(_WHOLE, st.sampled_from(["5", "25", "0", "75"]), st.booleans(), st.sampled_from(_AFTER)).map(
    lambda drawn: (
        f"{drawn[0]}.{drawn[1]}" if drawn[2] and drawn[1] != "0" else str(drawn[0]),
        f"It is {drawn[0]}.{drawn[1]}{drawn[3]}",
    )
)
_SILENT = st.tuples(_WHOLE.map(str), st.sampled_from(["", "I don't know.", "-", "...", "twelve", ","]))


@number_reward.part(4, "1.0 where the last number is the answer, 0.0 where it is another one, or none is there")
def _whole(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda sample: _compare(answer, [sample]), examples=60, sample=_PLAIN)
        for_all(lambda sample: _compare(answer, [sample]), examples=10, sample=_SILENT)


@number_reward.part(4, "a minus belongs to its number, and so do thousands commas and decimals; a full stop does not")
def _written(answer: Answer) -> None:
    with _named(answer):
        for kind in (_NEGATIVE, _SUBTRACTED, _COMMAS, _LISTED, _DECIMAL):
            for_all(lambda sample: _compare(answer, [sample]), examples=25, sample=kind)


@number_reward.part(2, "one finite float for each completion, in their order")
def _batch(answer: Answer) -> None:
    anything = st.one_of(_PLAIN, _SILENT, _NEGATIVE)
    with _named(answer):
        for_all(lambda samples: _compare(answer, samples), examples=30, samples=st.lists(anything, max_size=5))


def _numbers(text: str) -> list[Decimal]:
    """Walk through a text, character by character, and return the numbers that stand in it."""
    found: list[Decimal] = []
    place = 0
    while place < len(text):
        if not text[place].isdigit():
            place += 1
            continue
        start = place
        while place < len(text) and text[place].isdigit():
            place += 1
        while place - start <= 3 or "," in text[start:place]:
            following = text[place + 1 : place + 4]
            more = text[place + 4 : place + 5].isdigit()
            if text[place : place + 1] != "," or len(following) < 3 or not following.isdigit() or more:
                break
            place += 4
        if text[place : place + 1] == "." and text[place + 1 : place + 2].isdigit():
            place += 1
            while place < len(text) and text[place].isdigit():
                place += 1
        signed = text[start - 1 : start] == "-" and not (start > 1 and text[start - 2].isalnum())
        found.append(Decimal(text[start:place].replace(",", "")) * (-1 if signed else 1))
    return found


def _right(samples: Sequence[Sample]) -> list[float]:
    return [float(_numbers(text)[-1:] == [Decimal(answer)]) for answer, text in samples]


def _reward(answer: Answer, samples: Sequence[Sample]) -> Any:
    problems = [Problem(f"question {number}", right) for number, (right, _) in enumerate(samples)]
    return call(answer, problems, [text for _, text in samples])


def _compare(answer: Answer, samples: Sequence[Sample]) -> None:
    right = _right(samples)
    try:
        got = _reward(answer, samples)
    except WrongAnswer as wrong:
        silent = [text for _, text in samples if not _numbers(text)]
        if wrong.diagnosis != CRASH or not silent:
            raise
        said = f"a completion without any number, {silent[0]!r}, earns 0.0, and a run must not end with it"
        raise WrongAnswer("no-number", f"{wrong.message}: {said}") from None
    if not isinstance(got, list | tuple) or len(got) != len(samples):
        came = several(len(got), "reward") if isinstance(got, list | tuple) else type(got).__name__
        said = f"{several(len(samples), 'completion')}: a list of as many rewards was expected, and {came} came"
        raise WrongAnswer("wrong-length", said)
    for reward, expected, (answered, text) in zip(got, right, samples, strict=True):
        said = f"the completion {text!r} where {answered} is right"
        if not isinstance(reward, float | int) or not math.isfinite(reward):
            why = "it would make the whole group's mean, and every advantage in it, NaN"
            raise WrongAnswer("not-finite", f"{said}: a finite number was expected, and {reward!r} came; {why}")
        if reward != expected:
            raise WrongAnswer(
                "wrong-value", f"{said}: the reward is {reward}, expected {expected}", _picture(samples, got)
            )


def _picture(samples: Sequence[Sample], got: Sequence[float]) -> Table:
    rows: list[list[Cell | str]] = [
        [answer, repr(text), Cell(str(reward), "right" if reward == right else "wrong"), str(right)]
        for (answer, text), reward, right in zip(samples, got, _right(samples), strict=True)
    ]
    return Table("Completions and their rewards", [">right answer", "completion", ">yours", ">expected"], rows)


def _finds(
    pattern: str, place: int = -1, clean: Callable[[str], str] = lambda text: text
) -> Callable[..., list[float]]:
    """Return a reward that looks for numbers with a regular expression, and takes the one at a place."""

    def reward(samples: Sequence[Sample]) -> list[float]:
        rewards = []
        for answer, text in samples:
            found = [number for number in re.findall(pattern, clean(text)) if any(map(str.isdigit, number))]
            value = float(found[place].replace(",", "").rstrip(".")) if found else None
            rewards.append(float(value == float(answer)))
        return rewards

    return reward


def _as_text(samples: Sequence[Sample]) -> list[float]:
    found = [(answer, re.findall(_NUMBER, text)) for answer, text in samples]
    return [float(bool(numbers) and numbers[-1] == answer) for answer, numbers in found]


_DIGITS = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)"
_FRACTION = r"(?:\.\d+)?"
_SIGN = r"(?:(?<![^\W_])-)?"
_NUMBER = _SIGN + _DIGITS + _FRACTION


def _named(answer: Answer) -> Any:
    samples = [
        ("12", "7 + 5 = 12"), ("7", "7 + 5 = 12"), ("12", "12 apples and 3"), ("-3", "5 - 8 = -3"), ("3", "-3"),
        ("7", "20-7"), ("-7", "20-7"), ("1234567", "It is 1,234,567."), ("567", "1,234,567"), ("4", "(3,4)"),
        ("34", "(3,4)"), ("2.5", "2.5"), ("5", "2.5!"), ("25", "2.5"), ("2", "2.5"), ("12", "12.0"), ("2", "12"), ("5", "5"),
    ]  # fmt: skip
    hint = "which number of the completion is the last one, and does it equal the answer?"
    return named("wrong-value", partial(_reward, answer), _right, _MISTAKES, [(samples,)], _same, hint)


def _same(one: Any, other: list[float]) -> bool:
    return isinstance(one, list | tuple) and list(one) == other


_MISTAKES = [
    Mistake(
        "first-number",
        "the first number was taken; a model that writes the sum down first has restated the question there",
        _finds(_NUMBER, place=0),
    ),
    Mistake(
        "anywhere",
        "it was enough that the answer stands somewhere: a model learns to say many numbers, and 2 stands in 12",
        lambda samples: [float(answer in text) for answer, text in samples],
    ),
    Mistake(
        "whole-completion",
        "the completion had to be the number and nothing else",
        lambda samples: [float(answer == text.strip()) for answer, text in samples],
    ),
    Mistake("loses-the-sign", "the minus was lost: -3 counts as 3", _finds(_DIGITS + _FRACTION)),
    Mistake("loses-the-sign", "the minus was lost, and commas and decimals cut a number into pieces", _finds(r"\d+")),
    Mistake(
        "subtraction-as-sign",
        "a minus between two numbers subtracts: 20-7 ends in 7, and not in -7",
        _finds("-?" + _DIGITS + _FRACTION),
    ),
    Mistake(
        "cut-at-commas", "a number was cut at its commas: 1,234 ends in 234 then", _finds(_SIGN + r"\d+" + _FRACTION)
    ),
    Mistake(
        "joined-at-commas",
        "every comma was dropped, and (3,4) became 34; a comma inside a number has three digits behind it",
        _finds(_SIGN + r"\d+" + _FRACTION, clean=lambda text: text.replace(",", "")),
    ),
    Mistake(
        "joined-at-commas", "a comma inside a number has three digits behind it", _finds(_SIGN + r"[\d,]+" + _FRACTION)
    ),
    Mistake("cut-at-the-point", "a number was cut at its decimal point: 2.5 ends in 5 then", _finds(_SIGN + _DIGITS)),
    Mistake("compares-text", "texts were compared, and 12.0 or 1,234 is written otherwise than 12 or 1234", _as_text),
]
