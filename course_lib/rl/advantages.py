"""Advantages: how much better a sample was than its siblings."""

import torch
from jaxtyping import Float
from torch import Tensor


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
    if rewards.dim() != 2 or rewards.shape[1] < 2:
        raise ValueError(
            f"rewards have shape {tuple(rewards.shape)}; expected [groups, samples] with 2 samples a group or more, because a"
            " group-relative advantage compares the samples of one prompt."
        )
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    deviation = rewards.std(dim=1, keepdim=True)
    # Equal rewards may leave a deviation of rounding errors, whose size goes with the rewards': noise, and no signal.
    differ = deviation > 1e-6 * rewards.abs().amax(dim=1, keepdim=True)
    if normalize:
        centred = centred / torch.where(differ, deviation, 1.0)
    return torch.where(differ, centred, 0.0)
