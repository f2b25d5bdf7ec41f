"""Rewards: what a completion is worth, by a function of the problem and the text; and what happens when that function fails."""

import math
import numbers
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, get_args, runtime_checkable

from course_lib.rl.problem import Problem

Reward = Callable[[Sequence[Problem], Sequence[str]], Sequence[float]]
"""`reward(problems, completions)`: one finite number for each completion."""

OnError = Literal["stop", "go_on"]
"""What to do where a reward fails: stop the run, or leave the faulty samples out and go on."""

_LARGEST = 3.4028234663852886e38  # of float32, which advantages are computed in


class RewardError(RuntimeError):
    """A reward function failed; the message names the sample that it failed on."""


@dataclass(frozen=True)
class RewardFault:
    """A sample that got no reward, because the reward function failed on it.

    Attributes:
        index: of the sample in the batch.
        question: that was asked.
        completion: that came back.
        what: what the reward did, in words.
    """

    index: int
    question: str
    completion: str
    what: str

    @property
    def sample(self) -> str:
        """The sample, in words."""
        return f"the completion {self.completion!r} of {self.question!r}"

    def moved(self, index: int) -> "RewardFault":
        """Return the fault of the same sample at another place, in a batch that was joined or cut."""
        return replace(self, index=index)

    def __str__(self) -> str:
        return f"{self.what}, for {self.sample}"


@dataclass
class Judged:
    """What a batch of completions is worth.

    Attributes:
        rewards: of each sample; NaN where the reward failed on it.
        parts: the value of each part of a `Mixture`, before its weight, of each sample; empty for a plain reward.
        faults: the samples that it failed on, in the batch's order.
    """

    rewards: list[float]
    parts: dict[str, list[float]] = field(default_factory=dict)
    faults: list[RewardFault] = field(default_factory=list)


@runtime_checkable
class CompositeReward(Protocol):
    """A reward that is made of others, such as `Mixture`: it judges its parts itself, so that each is logged and checked."""

    def judge_parts(self, problems: Sequence[Problem], completions: Sequence[str], on_error: OnError) -> Judged:
        """Return the total, the parts, and what failed."""
        ...


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


def reward_name(reward: object) -> str:
    """Return the name that messages call a reward by, or any other function that was passed in."""
    return str(getattr(reward, "__name__", type(reward).__name__))


def compute_rewards(
    reward: Reward, problems: Sequence[Problem], completions: Sequence[str], on_error: OnError = "stop"
) -> Judged:
    """Call `reward` on the batch and check what it returns.

    With `on_error` "go_on" a sample that the reward fails on gets NaN and a `RewardFault`, and all others keep their reward:
    where the call fails as a whole, the samples are judged one by one. Where it fails on none of them alone, only on the
    batch, no number of it can be believed, and every sample is faulty.

    Raises:
        RewardError: with `on_error` "stop", it raised, returned the wrong number of rewards, or something that is not a
            finite number. The message names the first sample that it fails on.
        ValueError: `on_error` is neither.
    """
    if on_error not in get_args(OnError):
        raise ValueError(f"on_error is {on_error!r}; expected 'stop' or 'go_on'.")
    composite: Any = reward
    if isinstance(composite, CompositeReward):
        return composite.judge_parts(problems, completions, on_error)
    try:
        values = _call(reward, problems, completions)
        faults = _not_finite(reward, problems, completions, values)
    except RewardError as whole:
        values, faults = _one_by_one(reward, problems, completions, first_only=on_error == "stop")
        culprit = (
            f"The first sample it fails on: {faults[0].sample}"
            if faults
            else f"It fails on no sample alone, only on the batch of {len(completions)}"
        )
        if on_error == "stop":
            raise RewardError(f"{whole}. {culprit}.") from whole.__cause__
        faults = faults or _faults(problems, completions, f"{whole}. {culprit}")
    if faults and on_error == "stop":
        raise RewardError(f"{faults[0]}.")
    faulty = {fault.index for fault in faults}
    return Judged([math.nan if index in faulty else float(value) for index, value in enumerate(values)], faults=faults)


def _call(reward: Reward, problems: Sequence[Problem], completions: Sequence[str]) -> list[Any]:
    """Return what the reward returns, as a list with one entry a completion; a RewardError says why it can't be had."""
    said = f"the reward {reward_name(reward)}"
    try:
        given: Any = reward(problems, completions)
    except Exception as error:
        raise RewardError(f"{said} raised {type(error).__name__}: {error}") from error
    try:
        values = list(given.tolist() if hasattr(given, "tolist") else given)  # an array's entries are no plain numbers
    except TypeError:
        raise RewardError(f"{said} returned {given!r}; return a list with one number for each completion") from None
    if len(values) != len(completions):
        count = "1 completion" if len(completions) == 1 else f"{len(completions)} completions"
        raise RewardError(f"{said} returned {len(values)} values for {count}; return one each")
    return values


def _not_finite(
    reward: Reward, problems: Sequence[Problem], completions: Sequence[str], values: Sequence[Any]
) -> list[RewardFault]:
    said = f"the reward {reward_name(reward)} returned"
    return [
        replace(fault, what=f"{said} {value!r}, which is not a finite number of 32 bits")
        for fault, value in zip(_faults(problems, completions, ""), values, strict=True)
        if not (isinstance(value, numbers.Real) and abs(value) <= _LARGEST)  # type: ignore[operator]  # a Real compares
    ]


def _one_by_one(
    reward: Reward, problems: Sequence[Problem], completions: Sequence[str], first_only: bool
) -> tuple[list[Any], list[RewardFault]]:
    """Return each sample's reward and the faults, up to the first fault where asked."""
    values: list[Any] = []
    faults: list[RewardFault] = []
    for alone in _faults(problems, completions, ""):
        problem, text = [problems[alone.index]], [alone.completion]
        try:
            values += _call(reward, problem, text)
            faults += [replace(alone, what=fault.what) for fault in _not_finite(reward, problem, text, values[-1:])]
        except RewardError as error:
            values.append(math.nan)
            faults.append(replace(alone, what=str(error)))
        if faults and first_only:
            break
    return values, faults


def _faults(problems: Sequence[Problem], completions: Sequence[str], what: str) -> list[RewardFault]:
    """Return a fault for every sample."""
    samples = enumerate(zip(problems, completions, strict=True))
    return [RewardFault(index, problem.question, text, what) for index, (problem, text) in samples]
