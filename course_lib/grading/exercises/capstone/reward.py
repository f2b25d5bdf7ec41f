"""A reward for sums with a little for the form: whatever the policy says."""

import math
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.rewarding import Problem
from course_lib.grading.exercises.training.naming import named, several
from course_lib.grading.judge import CRASH, call, for_all
from course_lib.viz.tables import Cell, Table

my_reward = Exercise("08.reward", "my_reward", "A little for the form", difficulty=2, importance=4, minutes=15)

Sample = tuple[str, str]
"""The right answer, and a completion."""

_FORM = 0.1
_WRONG = "wrong-value"
_SUM = st.integers(0, 40)
_BEFORE = ["", "The answer is ", "7 + 5 = ", "**", "So 3 of 4, then\n", "= "]
_AFTER = ["", ".", "\n", "!", "**", " apples"]
_SPOKEN = st.tuples(_SUM, _SUM, st.booleans(), st.sampled_from(_BEFORE), st.sampled_from(_AFTER)).map(
    lambda drawn: (str(drawn[0] if drawn[2] else drawn[1]), f"{drawn[3]}{drawn[0]}{drawn[4]}")
)
_RESTATED = st.tuples(_SUM, _SUM).map(lambda drawn: (str(drawn[0]), f"{drawn[0]} + {drawn[1]} = {sum(drawn)}"))
_SILENT = st.tuples(_SUM.map(str), st.sampled_from(["", "I don't know.", "twelve", "\n", "+ =", "²", "½ and ①"]))
_ENDLESS = st.tuples(_SUM.map(str), st.sampled_from(["7" * 5000, "12" * 3000 + "!", "1 + 1 = " + "0" * 6000 + "1"]))
_ANYTHING = st.one_of(_SPOKEN, _SPOKEN, _SILENT)


@my_reward.part(4, "1.0 where the last number is the answer, 0.1 where another one is, 0.0 where none is there")
def _values(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda sample: _compare(answer, [sample]), examples=80, sample=_SPOKEN)
        for_all(lambda sample: _compare(answer, [sample]), examples=20, sample=_RESTATED)
        for_all(lambda sample: _compare(answer, [sample]), examples=15, sample=_SILENT)


@my_reward.part(3, "one finite float for each completion, in their order")
def _batch(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda samples: _compare(answer, samples), examples=40, samples=st.lists(_ANYTHING, max_size=5))


@my_reward.part(3, "nothing that a policy may say ends the run, not even a number of 6,000 digits")
def _robust(answer: Answer) -> None:
    with _named(answer):
        for_all(lambda sample: _compare(answer, [sample]), examples=10, sample=_ENDLESS)
        for_all(lambda text: _finite(answer, text), examples=80, text=st.text(max_size=30))


def _right(samples: Sequence[Sample]) -> list[float]:
    rewards = []
    for answer, text in samples:
        number = ""
        for place, sign in enumerate(text):
            if sign in "0123456789":
                goes_on = place > 0 and text[place - 1] in "0123456789"
                number = number + sign if goes_on else sign
        same = number.lstrip("0") == answer.lstrip("0")  # as long numbers as these are no int
        rewards.append((1.0 if same else _FORM) if number else 0.0)
    return rewards


def _reward(answer: Answer, samples: Sequence[Sample]) -> Any:
    problems = [Problem(f"question {number}", right) for number, (right, _) in enumerate(samples)]
    return call(answer, problems, [text for _, text in samples])


def _compare(answer: Answer, samples: Sequence[Sample]) -> None:
    right = _right(samples)
    got = _checked(answer, samples)
    for reward, expected, (answered, text) in zip(got, right, samples, strict=True):
        if not math.isclose(reward, expected, abs_tol=1e-6):
            said = (
                f"the completion {_short(text)} where {answered} is right: the reward is {reward}, expected {expected}"
            )
            raise WrongAnswer(_WRONG, said, _picture(samples, got))


def _finite(answer: Answer, text: str) -> None:
    """Any text at all: digits of other scripts may count or not."""
    [reward] = _checked(answer, [("12", text)])
    if reward not in (0.0, _FORM, 1.0):
        raise WrongAnswer(_WRONG, f"the completion {_short(text)}: the reward is {reward}; expected 0.0, 0.1 or 1.0")


def _checked(answer: Answer, samples: Sequence[Sample]) -> list[float]:
    """Return the rewards, of which there is one each, and all are finite."""
    try:
        got = _reward(answer, samples)
    except WrongAnswer as wrong:
        if wrong.diagnosis != CRASH:
            raise
        for named_so, why, cause in (
            (
                "too-many-digits",
                "Python makes no int of more than 4,300 digits",
                any(len(t) > 4000 for _, t in samples),
            ),
            (
                "no-number",
                "a completion without any number earns 0.0, and must not end a run",
                not all(_right(samples)),
            ),
        ):
            if cause:
                raise WrongAnswer(named_so, f"{wrong.message}; {why}") from None
        raise
    if not isinstance(got, list | tuple) or len(got) != len(samples):
        came = several(len(got), "reward") if isinstance(got, list | tuple) else type(got).__name__
        said = f"{several(len(samples), 'completion')}: a list of as many rewards was expected, and {came} came"
        raise WrongAnswer("wrong-length", said)
    for reward, (answered, text) in zip(got, samples, strict=True):
        if not isinstance(reward, float | int) or not math.isfinite(reward):
            said = f"the completion {_short(text)} where {answered} is right: a finite number was expected, {reward!r} came"
            raise WrongAnswer("not-finite", f"{said}; it makes the group's mean, and all advantages in it, NaN")
    return list(got)


def _picture(samples: Sequence[Sample], got: Sequence[float]) -> Table:
    rows: list[list[Cell | str]] = [
        [answer, _short(text), Cell(f"{reward:g}", "right" if reward == right else "wrong"), f"{right:g}"]
        for (answer, text), reward, right in zip(samples, got, _right(samples), strict=True)
    ]
    return Table("Completions and their rewards", [">right answer", "completion", ">yours", ">expected"], rows)


def _short(text: str) -> str:
    return repr(text) if len(text) <= 40 else f"{text[:20]!r}... of {len(text):,} characters"


def _with(
    right: float = 1.0, form: float = _FORM, silent: float = 0.0, place: int = -1
) -> Callable[[Sequence[Sample]], list[float]]:
    """Return a reward of these values."""

    def reward(samples: Sequence[Sample]) -> list[float]:
        found = [(answer, re.findall(r"[0-9]+", text)) for answer, text in samples]
        return [(right if of[place] == answer else form) if of else silent for answer, of in found]

    return reward


def _anywhere(samples: Sequence[Sample]) -> list[float]:
    return [1.0 if answer in text else _FORM * bool(re.search("[0-9]", text)) for answer, text in samples]


def _alone(samples: Sequence[Sample]) -> list[float]:
    return [1.0 if answer == text.strip() else _FORM * bool(re.search("[0-9]", text)) for answer, text in samples]


_SAMPLES = [
    ("12", "7 + 5 = 12"), ("7", "7 + 5 = 12"), ("12", "12 apples and 3"), ("2", "12"), ("5", "5"), ("3", "4"), ("1", "none"),
    ("9", ""), ("8", "8."),
]  # fmt: skip
_MISTAKES = [
    Mistake("nothing-for-the-form", "a number that is wrong earns 0.1, and silence 0.0", _with(form=0.0)),
    Mistake("pays-for-silence", "who says no number at all earns nothing", _with(silent=_FORM)),
    Mistake("adds-up", "the right answer earns 1.0 in all, its form included", _with(right=1.0 + _FORM)),
    Mistake("form-is-all", "every number earns the same: the policy learns to say any", _with(right=_FORM)),
    Mistake("form-is-all", "every number earns the same: the policy learns to say any", _with(form=1.0)),
    Mistake("punishes", "a wrong number earned less than silence: saying nothing is the safe way", _with(form=-_FORM)),
    Mistake(
        "first-number",
        "the first number was taken, and a model that writes the sum down restates it there",
        _with(place=0),
    ),
    Mistake("anywhere", "it was enough that the answer stands somewhere: 2 stands in 12", _anywhere),
    Mistake("whole-completion", "the completion had to be the number and nothing else", _alone),
]


def _named(answer: Answer) -> AbstractContextManager[None]:
    hint = "which number is the last one, and is it the answer?"
    return named(_WRONG, partial(_reward, answer), _right, _MISTAKES, [(_SAMPLES,)], _same, hint)


def _same(one: Any, other: Any) -> bool:
    return isinstance(one, list | tuple) and [round(value, 6) for value in one] == [round(value, 6) for value in other]
