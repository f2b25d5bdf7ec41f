"""Group-relative advantages, as in GRPO, and Dr. GRPO's without the deviation."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import WRONG_VALUE, Comparison
from course_lib.grading.exercises.policy_gradients.rewards import CASES, Rewards, reward_groups
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.exercises.training.naming import several
from course_lib.grading.judge import call

group_advantages = Exercise(
    "07.group_advantages", "group_advantages", "Better than the group", difficulty=3, importance=5, minutes=20
)

_NOISE = 0.3
"""How far from 0 the advantages of equal rewards may be: what rounding leaves, over an epsilon of 1e-6."""


@dataclass(frozen=True)
class _Unscaled(Rewards):
    """Rewards whose advantages are asked for without the deviation."""

    def arguments(self) -> tuple[Any, ...]:
        return (self.tensor, False)

    def __str__(self) -> str:
        return f"{super().__str__()}, normalize=False"


@group_advantages.part(4, "each reward minus its group's mean, over its group's standard deviation")
@one_thread()
def _groups(answer: Answer) -> None:
    _GROUP.for_all(answer, 60, reward_groups(4).map(Rewards))


@group_advantages.part(2, "with normalize=False the mean alone is subtracted (Dr. GRPO)")
@one_thread()
def _unscaled(answer: Answer) -> None:
    _GROUP.for_all(answer, 40, reward_groups(3).map(_Unscaled))


@group_advantages.part(4, "a group of equal rewards says nothing: advantage 0, and the other groups do not notice")
@one_thread()
def _equal(answer: Answer) -> None:
    for reward in (1.0, 0.0, 0.7, 0.1, -0.3):
        for samples in (2, 3, 6, 7, 11):
            _silent(answer, torch.tensor([[reward] * samples, [0.0] * (samples - 1) + [1.0]]))


def _silent(answer: Answer, rewards: Tensor) -> None:
    reward, samples = float(rewards[0, 0]), rewards.shape[1]
    got = call(answer, rewards.clone())
    given = f"{several(samples, 'sample')} that all got {reward:g}"
    if not isinstance(got, Tensor) or got.shape != rewards.shape:
        raise WrongAnswer(
            "no-tensor", f"{given}: a tensor of shape {list(rewards.shape)} was expected, and {got!r} came"
        )
    far = got[0].abs().max()
    if not bool(got.isfinite().all()):
        why = (
            "the deviation is 0, and 0 / 0 is NaN: one such group, and every weight of the policy is NaN after the step"
        )
        raise WrongAnswer("nan", f"{given}: the advantages are {_short(got[0])}; {why}")
    if far > _NOISE:
        mean = float(rewards[0].mean())
        said = f"{given}: the advantages are {_short(got[0])}, expected 0"
        if mean == reward:
            why = "below the line stands next to nothing there, and above it no 0"
            raise WrongAnswer("equal-group-explodes", f"{said}; {why}")
        why = f"as float32 each of them is {reward:.9f} and their mean {mean:.9f}. That is rounding, and over next to nothing"
        raise WrongAnswer("rounding-as-signal", f"{said}; {why} it is as large as a real signal")
    if not _GROUP.close(got[1], _group(rewards[1:])[0]):
        with _GROUP.named(answer):
            said = f"{given}, and another group {_short(rewards[1])}: that one's advantages are {_short(got[1])}"
            raise WrongAnswer(WRONG_VALUE, f"{said}, expected {_short(_group(rewards[1:])[0])}")


def _short(row: Tensor) -> list[float]:
    return [round(number, 4) for number in row.tolist()]


def _group(rewards: Tensor, normalize: bool = True) -> Tensor:
    """Shao et al. (arXiv 2402.03300), section 4.1.2; Liu et al. (arXiv 2503.20783), section 3.1: one group at a time."""
    advantages = torch.zeros_like(rewards)
    for number, row in enumerate(rewards.tolist()):
        mean = sum(row) / len(row)
        deviation = (sum((reward - mean) ** 2 for reward in row) / (len(row) - 1)) ** 0.5
        for sample, reward in enumerate(row):
            advantages[number, sample] = (reward - mean) / (deviation if normalize else 1.0)
    return advantages


@dataclass(frozen=True)
class _Sketch:
    """An advantage that is right as it is here; each other value is a mistake that people make."""

    mean_over: int | None = 1
    std_over: int | None = 1
    centred: bool = True
    correction: int = 1
    power: float = 1.0
    eps: float = 0.0
    floor: float = 0.0
    sign: int = 1
    scales: bool | None = None

    def __call__(self, rewards: Tensor, normalize: bool = True) -> Tensor:
        mean = rewards.mean() if self.mean_over is None else rewards.mean(self.mean_over, keepdim=True)
        if self.std_over is None:
            deviation = rewards.std(correction=self.correction)
        else:
            deviation = rewards.std(self.std_over, keepdim=True, correction=self.correction)
        centred = (rewards - mean) * self.sign if self.centred else rewards
        if not (normalize if self.scales is None else self.scales):
            return centred
        return centred / (deviation**self.power + self.eps).clamp(min=self.floor)


def _std_first(rewards: Tensor, normalize: bool = True) -> Tensor:
    deviation = rewards.std(1, keepdim=True) if normalize else 1.0
    return rewards / deviation - rewards.mean(1, keepdim=True)


_RIGHT = _Sketch()
_GROUP = Comparison(
    _group,
    [
        Mistake(
            "batch-std",
            "the deviation is the whole batch's: a group of rewards that hardly differ gets a signal as weak as it looks there",
            replace(_RIGHT, std_over=None),
        ),
        Mistake(
            "batch-mean",
            "the mean is the whole batch's: every answer to an easy prompt looks good, and every one to a hard prompt bad",
            replace(_RIGHT, mean_over=None),
        ),
        Mistake(
            "whole-batch",
            "mean and deviation are the whole batch's, and nobody is compared with its siblings",
            replace(_RIGHT, mean_over=None, std_over=None),
        ),
        Mistake(
            "across-groups",
            "samples were compared down the columns, with those of other prompts: a row is a group",
            replace(_RIGHT, mean_over=0, std_over=0),
        ),
        Mistake(
            "never-normalises",
            "the deviation was not divided by, and with normalize=True it is",
            replace(_RIGHT, scales=False),
        ),
        Mistake(
            "always-normalises", "with normalize=False the mean alone is to be subtracted", replace(_RIGHT, scales=True)
        ),
        Mistake("variance", "the variance was divided by, and not its root", replace(_RIGHT, power=2.0)),
        Mistake(
            "not-centred",
            "the rewards were divided and their mean not subtracted: all are good then",
            replace(_RIGHT, centred=False),
        ),
        Mistake("mean-not-divided", "the reward was divided by the deviation, and the mean was not", _std_first),
        Mistake(
            "population-std",
            "the squares were averaged over n; this exercise takes n - 1, as torch.std does by itself and TRL and verl do",
            replace(_RIGHT, correction=0),
        ),
        Mistake("wrong-sign", "what is better than its group gets less than 0", replace(_RIGHT, sign=-1)),
        Mistake(
            "large-epsilon",
            "what was added to the deviation is no small number: it shrinks every advantage",
            replace(_RIGHT, eps=1.0),
        ),
        Mistake(
            "large-epsilon",
            "what was added to the deviation is no small number: it shrinks every advantage",
            replace(_RIGHT, eps=0.1),
        ),
        Mistake(
            "deviation-at-least-1",
            "deviations below 1 were taken for 1, and rewards of 0 and 1 have no larger ones",
            replace(_RIGHT, floor=1.0),
        ),
    ],
    (*CASES, *(_Unscaled(case.rows) for case in CASES[:2])),
    "take one group, and do it by hand: subtract its mean, divide by its deviation",
    rtol=2e-3,
)
