"""Advantages: how much better a sample was than what was to be expected, from the rewards of its siblings alone."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Advantage = Callable[[Float[Tensor, "groups samples"]], Float[Tensor, "groups samples"]]
"""From the rewards of a step, a row a prompt, to the advantages."""


def batch_baseline(rewards: Float[Tensor, "groups samples"]) -> Float[Tensor, "groups samples"]:
    """Return each reward minus the mean of the whole batch: REINFORCE with a baseline (Williams 1992, section 4).

    The baseline takes no notice of the prompt, so every sample of an easy prompt looks good and every one of a hard prompt
    looks bad. A batch whose rewards are all equal has advantage 0.
    """
    return _centred(rewards, rewards.mean(), rewards.amax() - rewards.amin())


def leave_one_out(rewards: Float[Tensor, "groups samples"]) -> Float[Tensor, "groups samples"]:
    """Return each reward minus the mean of its siblings' (RLOO: Ahmadian et al., arXiv 2402.14740, section 2.2).

    A baseline that does not contain the sample's own reward leaves the gradient unbiased. It is `samples / (samples - 1)`
    times the distance from the group's mean.

    Raises:
        ValueError: a group has fewer than two samples.
    """
    n = _group_size(rewards)
    return group_mean_baseline(rewards) * (n / (n - 1))


def group_mean_baseline(rewards: Float[Tensor, "groups samples"]) -> Float[Tensor, "groups samples"]:
    """Return each reward minus its group's mean: Dr. GRPO's advantage (Liu et al., arXiv 2503.20783, section 3.2).

    Raises:
        ValueError: a group has fewer than two samples.
    """
    return group_relative_advantages(rewards, normalize=False)


def group_relative_advantages(
    rewards: Float[Tensor, "groups samples"], normalize: bool = True
) -> Float[Tensor, "groups samples"]:
    """Return each reward minus its group's mean, over its group's standard deviation where `normalize`.

    GRPO divides by the deviation (Shao et al., DeepSeekMath, arXiv 2402.03300, section 4.1.2); Dr. GRPO does not, because
    it weighs up questions that are nearly always or nearly never solved (Liu et al., arXiv 2503.20783, section 3.1). A
    group whose samples all got the same reward has advantage 0: it says nothing about which sample was better.

    Raises:
        ValueError: a group has fewer than two samples, which leaves nothing to compare.
    """
    _group_size(rewards)
    deviation = rewards.std(dim=1, keepdim=True)
    centred = _centred(rewards, rewards.mean(dim=1, keepdim=True), deviation)
    return centred / torch.where(deviation > 0, deviation, 1.0) if normalize else centred


def _centred(rewards: Tensor, mean: Tensor, spread: Tensor) -> Tensor:
    # Equal rewards may leave a spread of rounding errors, whose size goes with the rewards': noise, and no signal.
    size = rewards.abs().amax() if spread.dim() == 0 else rewards.abs().amax(dim=1, keepdim=True)
    return torch.where(spread > 1e-6 * size, rewards - mean, 0.0)


def _group_size(rewards: Tensor) -> int:
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards have shape {tuple(rewards.shape)}; expected [groups, samples] with 2 samples a group or more, because a"
            " group-relative advantage compares the samples of one prompt."
        )
    return rewards.shape[1]
