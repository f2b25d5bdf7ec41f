"""REINFORCE leave-one-out: a baseline from the other samples of the prompt."""

from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake
from course_lib.grading.exercises.policy_gradients.comparing import WRONG_VALUE, Comparison
from course_lib.grading.exercises.policy_gradients.rewards import CASES, Rewards, reward_groups
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.judge import call

leave_one_out = Exercise(
    "07.leave_one_out", "leave_one_out", "Better than the others", difficulty=2, importance=3, minutes=15
)


@leave_one_out.part(4, "one group: each reward minus the mean of the other samples' rewards")
@one_thread()
def _alone(answer: Answer) -> None:
    _LEAVE_ONE_OUT.for_all(answer, 40, reward_groups(1).map(Rewards))


@leave_one_out.part(3, "several groups: nobody is compared with the samples of another prompt")
@one_thread()
def _apart(answer: Answer) -> None:
    _LEAVE_ONE_OUT.for_all(answer, 40, reward_groups(4).map(Rewards))


@leave_one_out.part(3, "a sample's baseline does not move with its own reward")
@one_thread()
def _own(answer: Answer) -> None:
    """What keeps the gradient unbiased: the baseline must not know what the sample got."""
    before, after = (torch.tensor([[own, 0.5, 2.0], [1.0, 0.0, 3.0]]) for own in (1.0, 9.0))
    baselines = [float((rewards - call(answer, rewards.clone()))[0, 0]) for rewards in (before, after)]
    if abs(baselines[0] - baselines[1]) < 1e-4:
        return
    with _LEAVE_ONE_OUT.named(answer):
        said = f"a sample's reward went from 1 to 9, and its baseline from {baselines[0]:.4f} to {baselines[1]:.4f}"
        raise WrongAnswer(WRONG_VALUE, f"{said}: then the baseline takes back a part of what the sample earned")


def _leave_one_out(rewards: Tensor) -> Tensor:
    """Kool et al. (2019, "Buy 4 REINFORCE samples, get a baseline for free!"), arXiv 2402.14740: the others, one by one."""
    advantages = torch.zeros_like(rewards)
    groups, samples = rewards.shape
    for group, sample in product(range(groups), range(samples)):
        others = [float(rewards[group, other]) for other in range(samples) if other != sample]
        advantages[group, sample] = float(rewards[group, sample]) - sum(others) / len(others)
    return advantages


def _others_of_the_batch(rewards: Tensor) -> Tensor:
    return (rewards.numel() * rewards - rewards.sum()) / (rewards.numel() - 1)


def _baseline(sums: Callable[[Tensor, int], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the advantage over a baseline that is made of the rewards and the number of samples."""
    return lambda rewards: rewards - sums(rewards, rewards.shape[1])


_LEAVE_ONE_OUT = Comparison(
    _leave_one_out,
    [
        Mistake(
            "includes-itself",
            "the group's mean was subtracted, and the sample itself is in it",
            _baseline(lambda rewards, _: rewards.mean(1, keepdim=True)),
        ),
        Mistake(
            "divides-by-all",
            "the sample was taken out of the sum, and is still counted in the number that the sum is divided by",
            _baseline(lambda rewards, samples: (rewards.sum(1, keepdim=True) - rewards) / samples),
        ),
        Mistake(
            "keeps-itself-in-the-sum",
            "the sum of all was divided by the number of the others",
            _baseline(lambda rewards, samples: rewards.sum(1, keepdim=True) / (samples - 1)),
        ),
        Mistake(
            "others-not-averaged",
            "the others' rewards were added up and not averaged",
            _baseline(lambda rewards, _: rewards.sum(1, keepdim=True) - rewards),
        ),
        Mistake(
            "others-of-the-batch",
            "the baseline is the mean of all other samples, whatever their prompt: an easy prompt then looks like a good answer",
            _others_of_the_batch,
        ),
        Mistake("batch-mean", "the mean of the whole batch was subtracted", lambda rewards: rewards - rewards.mean()),
        Mistake(
            "across-groups",
            "samples were compared down the columns, with those of other prompts: a row is a group",
            lambda rewards: _leave_one_out(rewards.T).T,
        ),
        Mistake(
            "across-groups",
            "the column's mean was subtracted, and a row is a group",
            lambda rewards: rewards - rewards.mean(0, keepdim=True),
        ),
        Mistake("wrong-sign", "a sample that is better than the others gets less than 0", lambda r: -_leave_one_out(r)),
        Mistake(
            "baseline-only",
            "this is the baseline; the advantage is the reward minus it",
            lambda r: r - _leave_one_out(r),
        ),
        Mistake(
            "normalised",
            "the result was divided by the standard deviation, as in GRPO; REINFORCE leave-one-out does not",
            lambda rewards: _leave_one_out(rewards) / rewards.std(1, keepdim=True),
        ),
        Mistake(
            "best-of-the-others",
            "the best of the others was subtracted, and not their mean",
            lambda rewards: torch.stack(
                [
                    rewards[:, n] - torch.cat((rewards[:, :n], rewards[:, n + 1 :]), 1).amax(1)
                    for n in range(rewards.shape[1])
                ],
                1,
            ),
        ),
    ],
    CASES,
    "take one sample, and do it by hand: who are the others, and how many?",
)
