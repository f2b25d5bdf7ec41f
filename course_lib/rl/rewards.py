"""Rewards by rule: what a completion is worth, decided by a function of the problem and the text."""

import math
import numbers
import re
from collections.abc import Callable, Sequence
from typing import Any

from course_lib.rl.problem import Problem

Reward = Callable[[Sequence[Problem], Sequence[str]], Sequence[float]]
"""`reward(problems, completions)`: one finite number for each completion."""


class RewardError(RuntimeError):
    """A reward function failed; the message names the sample that it failed on."""


def exact_match(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Return 1.0 where the completion, without surrounding white space, is the answer and nothing else, else 0.0."""
    return [float(text.strip() == problem.answer) for problem, text in zip(problems, completions, strict=True)]


def number_match(problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Return 1.0 where the last number in the completion is the answer, whatever is said around it, else 0.0.

    This is the usual rule for tasks with a number for an answer: a model may restate the question ("7 + 5 = 12") before it
    answers, and a small one has to, because it adds well only after having written the sum down.
    """
    found = (re.findall(r"\d+", text) for text in completions)
    return [
        float(bool(numbers_in) and numbers_in[-1] == problem.answer)
        for problem, numbers_in in zip(problems, found, strict=True)
    ]


def compute_rewards(reward: Reward, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
    """Call `reward` and check what it returns.

    Raises:
        RewardError: it raised, returned the wrong number of rewards, or something that is not a finite number.
    """
    name = getattr(reward, "__name__", type(reward).__name__)
    try:
        values: list[Any] = list(reward(problems, completions))
    except Exception as error:
        culprit = _first_failing(reward, problems, completions)
        raise RewardError(f"the reward {name} raised {type(error).__name__}: {error}. {culprit}") from error
    if len(values) != len(completions):
        raise RewardError(
            f"the reward {name} returned {len(values)} values for {len(completions)} completions; return one each."
        )
    for problem, text, value in zip(problems, completions, values, strict=True):
        if not isinstance(value, numbers.Real) or not math.isfinite(value):
            raise RewardError(
                f"the reward {name} returned {value!r}, which is not a finite number, for the completion {text!r}"
                f" of {problem.question!r}."
            )
    return [float(value) for value in values]


def _first_failing(reward: Reward, problems: Sequence[Problem], completions: Sequence[str]) -> str:
    for problem, text in zip(problems, completions, strict=True):
        try:
            reward([problem], [text])
        except Exception:  # noqa: BLE001  the reward is the learner's own code and may raise anything
            return f"The first sample it fails on: the completion {text!r} of {problem.question!r}."
    return "It fails on no sample alone, only on the batch."
