"""A policy of two numbers that shows what averaging over tokens does to the length of responses."""

from dataclasses import dataclass

import torch

from course_lib.rl.advantages import group_mean_baseline
from course_lib.rl.losses import Average, token_weights


@dataclass(frozen=True)
class LengthDrift:
    """The mean length of wrong and of right responses, before each step and after the last, in tokens."""

    wrong: list[float]
    right: list[float]

    def __repr__(self) -> str:
        return f"LengthDrift(wrong {self.wrong[0]:.1f} to {self.wrong[-1]:.1f}, right {self.right[0]:.1f} to {self.right[-1]:.1f})"


def length_drift(
    average: Average, group: int, *, steps: int = 100, length: int = 10, samples: int = 1024, seed: int = 0
) -> LengthDrift:
    """Train a policy that decides only when to stop, where stopping has nothing to do with the reward.

    Half of its responses are right, by chance. After each token it stops with a probability of its own for right and for wrong
    responses, so that a response of n tokens has the logprob `(n - 1) * log(1 - stop) + log(stop)`. The policy gradient of the
    expected reward by both stop logits is 0: an average that moves the lengths is biased. It is the length bias of Liu et al.
    (Dr. GRPO, arXiv 2503.20783, section 3.1), alone.

    Args:
        average: how token losses become a step's loss, as `token_weights` has it.
        group: responses that are compared and averaged together, as if they were a step's whole batch.
        steps: of gradient ascent at a learning rate of 1.
        length: mean length of all responses at the beginning, in tokens; also what "constant" divides by.
        samples: responses a step; the gradients of `samples / group` groups are averaged, to have less noise.
        seed: of the samples.

    Raises:
        ValueError: a group has fewer than two responses, or more than there are samples.
    """
    if not 2 <= group <= samples:
        raise ValueError(f"group is {group} and samples {samples}; a group has two responses or more, and at most all.")
    random = torch.Generator().manual_seed(seed)
    stop = torch.full((2,), 1 / length).logit()
    path = [1 / stop.sigmoid()]
    for _ in range(steps):
        right = torch.randint(2, (samples // group, group), generator=random)
        chance = stop.sigmoid()[right]
        uniform = torch.rand(right.shape, generator=random)
        tokens = (torch.log1p(-uniform) / torch.log1p(-chance)).ceil().clamp(min=1)
        weights = torch.stack([token_weights(row, average, max_new_tokens=length) for row in tokens])
        scores = 1 - tokens * chance  # d logprob / d stop logit
        pushes = group_mean_baseline(right.float()) * weights * scores
        stop = stop + torch.stack([pushes[right == kind].sum() for kind in (0, 1)]) / len(right)
        path.append(1 / stop.sigmoid())
    return LengthDrift([float(wrong) for wrong, _ in path], [float(good) for _, good in path])
