"""A weighted sum of rewards, each of which is logged by itself."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import Judged, OnError, Reward, RewardError, RewardFault, compute_rewards


class Mixture:
    """The weighted sum of several rewards.

        Mixture({"correct": (1.0, number_match), "brief": (0.2, brevity(10, 80))})

    A run logs the mean of each part before its weight: only so does one see which of them the policy is after. A part of
    weight 0 is watched and counts for nothing. A mixture may be a part of another one: its parts are called `outer/inner`.

    With group-relative advantages the weights decide within a group: a part whose values are the same for all samples of a
    prompt adds nothing to their advantages, whatever its weight.

    Args:
        parts: `{name: (weight, reward)}`.

    Raises:
        ValueError: there is no part, a name is empty or has a "/", a weight is no finite number, or a reward can't be called.
    """

    def __init__(self, parts: Mapping[str, tuple[float, Reward]]):
        if not parts:
            raise ValueError('a mixture needs a part: {"correct": (1.0, number_match)}')
        for name, part in parts.items():
            _check(name, part)
        self.parts = dict(parts)
        self.__name__ = repr(self)  # in a run's decisions: it isn't resumed with other weights

    def __call__(self, problems: Sequence[Problem], completions: Sequence[str]) -> list[float]:
        """Return the weighted sum for each completion.

        Raises:
            RewardError: a part failed.
        """
        return self.judge_parts(problems, completions).rewards

    def judge_parts(
        self, problems: Sequence[Problem], completions: Sequence[str], on_error: OnError = "stop"
    ) -> Judged:
        """Return the weighted sum, each part's values, and what failed. A sample that one part fails on has no sum.

        Raises:
            RewardError: with `on_error` "stop", a part failed; the message names the part and the sample.
        """
        totals = [0.0] * len(completions)
        parts: dict[str, list[float]] = {}
        faults: dict[int, RewardFault] = {}
        for name, (weight, reward) in self.parts.items():
            try:
                judged = compute_rewards(reward, problems, completions, on_error)
            except RewardError as error:
                raise RewardError(f"the mixture's part {name!r}: {error}") from error.__cause__
            totals = [total + weight * value for total, value in zip(totals, judged.rewards, strict=True)]
            parts |= {name: judged.rewards} | {f"{name}/{inner}": values for inner, values in judged.parts.items()}
            for fault in judged.faults:
                before = f"{faults[fault.index].what}; " if fault.index in faults else ""
                what = f"{before}the mixture's part {name!r}: {fault.what}"
                faults[fault.index] = RewardFault(fault.index, fault.question, fault.completion, what)
        return Judged(totals, parts, [faults[index] for index in sorted(faults)])

    def __repr__(self) -> str:
        return f"Mixture({' + '.join(f'{weight:g} {name}' for name, (weight, _) in self.parts.items())})"


def _check(name: Any, part: Any) -> None:
    if not isinstance(name, str) or not name or "/" in name:
        raise ValueError(f"a mixture's part is named {name!r}; expected text without '/'")
    said = f"the mixture's part {name!r}"
    if not isinstance(part, tuple) or len(part) != 2:
        raise ValueError(f"{said} is {part!r}; expected (weight, reward)")
    weight, reward = part
    if not isinstance(weight, int | float) or not math.isfinite(weight):
        raise ValueError(f"{said} has the weight {weight!r}; expected a finite number")
    if not callable(reward):
        raise ValueError(f"{said} has the reward {reward!r}; expected reward(problems, completions)")  # noqa: TRY004
