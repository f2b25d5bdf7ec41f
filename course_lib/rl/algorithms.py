"""The algorithms: each is an advantage, a loss's numbers and what a step adds to them."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from course_lib.rl.advantages import (
    Advantage,
    batch_baseline,
    group_mean_baseline,
    group_relative_advantages,
    leave_one_out,
)
from course_lib.rl.losses import LossConfig
from course_lib.rl.overlong import overlong_penalty


@dataclass(frozen=True)
class Algorithm:
    """A policy-gradient algorithm, as a few decisions on a common core.

    To change one of them use `dataclasses.replace`, for example GRPO with its paper's KL term:
    `replace(ALGORITHMS["grpo"], loss=replace(ALGORITHMS["grpo"].loss, kl_coefficient=0.04))`.

    Attributes:
        name: as `ALGORITHMS` has it, or your own.
        advantage: from rewards to advantages; None where a critic makes them.
        loss: the loss's numbers.
        dynamic_sampling: how many more times a step may generate, until enough groups have a signal; 0 takes what comes.
        overlong_buffer: tokens before the limit over which a penalty grows to -1; 0 for no penalty.
        critic: advantages are those of `gae.generalized_advantages`, with the values of a `ValueTrainer`.
        gamma: the critic's discount of a token.
        lam: how far the critic's surprise is spread.
        source: the paper, and where the numbers differ from it.

    Raises:
        ValueError: there is neither advantage nor critic, or both, or a number is out of its range.
    """

    name: str
    advantage: Advantage | None
    loss: LossConfig = field(default_factory=LossConfig)
    dynamic_sampling: int = 0
    overlong_buffer: int = 0
    critic: bool = False
    gamma: float = 1.0
    lam: float = 0.95
    source: str = ""

    def __post_init__(self) -> None:
        if self.critic == (self.advantage is not None):
            raise ValueError(
                f"{self.name}: give either an advantage function or critic=True, whose values make the advantages."
            )
        for name in ("dynamic_sampling", "overlong_buffer"):
            if getattr(self, name) < 0:
                raise ValueError(f"{self.name}: {name} is {getattr(self, name)}; it must be 0 (off) or more.")
        for name in ("gamma", "lam"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{self.name}: {name} is {getattr(self, name)}; it must be in [0, 1].")

    def shape_rewards(
        self, rewards: Float[Tensor, " samples"], lengths: Int[Tensor, " samples"], max_new_tokens: int
    ) -> Float[Tensor, " samples"]:
        """Return the rewards with the penalty for overlong responses: what advantages are made from.

        Raises:
            ValueError: `overlong_buffer` is more than `max_new_tokens`.
        """
        return rewards + overlong_penalty(lengths, max_new_tokens, self.overlong_buffer)

    def decisions(self) -> dict[str, Any]:
        """Return everything that decides what a run does, JSON-ready: infinity is "inf"."""
        advantage = "generalized_advantages" if self.advantage is None else _name(self.advantage)
        loss = {name: "inf" if value == math.inf else value for name, value in asdict(self.loss).items()}
        own = ("name", "dynamic_sampling", "overlong_buffer", "critic", "gamma", "lam")
        return {name: getattr(self, name) for name in own} | {"advantage": advantage, "loss": loss}


def _name(function: Advantage) -> str:
    return getattr(function, "__name__", type(function).__name__)


_UNCLIPPED = LossConfig(clip_low=1.0, clip_high=math.inf, average="constant")

ALGORITHMS: dict[str, Algorithm] = {
    algorithm.name: algorithm
    for algorithm in (
        Algorithm(
            "reinforce",
            batch_baseline,
            _UNCLIPPED,
            source="Williams 1992, section 4: REINFORCE with the batch's mean for a baseline. A response's loss is the sum"
            " over its tokens, here over max_new_tokens.",
        ),
        Algorithm(
            "rloo",
            leave_one_out,
            _UNCLIPPED,
            source="Ahmadian et al., arXiv 2402.14740, section 2.2. The whole response is one action: its loss is the sum over"
            " its tokens, here over max_new_tokens.",
        ),
        Algorithm(
            "grpo",
            group_relative_advantages,
            LossConfig(average="sequence"),
            source="Shao et al., DeepSeekMath, arXiv 2402.03300, equations 3 and 4. Without its KL term, which needs a"
            " reference policy: the paper's kl_coefficient of 0.04 is one replace() away. The paper names no clip range;"
            " 0.2 is PPO's.",
        ),
        Algorithm(
            "dr_grpo",
            group_mean_baseline,
            LossConfig(average="constant"),
            source="Liu et al., arXiv 2503.20783, section 3.2: GRPO without its two biases, the division by the group's"
            " deviation and by the response's length.",
        ),
        Algorithm(
            "dapo",
            group_relative_advantages,
            LossConfig(clip_low=0.2, clip_high=0.28, average="token"),
            dynamic_sampling=3,
            overlong_buffer=4,
            source="Yu et al., DAPO, arXiv 2503.14476, equations 8 to 13. The paper's buffer is 4096 of 20480 tokens; 4 fits"
            " the course's short responses.",
        ),
        Algorithm(
            "gspo",
            group_relative_advantages,
            LossConfig(ratio="sequence", clip_low=3e-4, clip_high=4e-4, average="sequence"),
            source="Zheng et al., GSPO, arXiv 2507.18071, equations 5 to 7; clip range of section 5.1.",
        ),
        Algorithm(
            "ppo",
            None,
            LossConfig(average="token"),
            critic=True,
            source="Schulman et al., arXiv 1707.06347, equation 7, with the advantages of arXiv 1506.02438, equation 16.",
        ),
    )
}
"""The algorithms of lesson 07 by name."""


def find_algorithm(name_or_algorithm: str | Algorithm) -> Algorithm:
    """Return the algorithm of this name, or the algorithm itself.

    Raises:
        ValueError: there is none of this name; the message lists the names.
    """
    if isinstance(name_or_algorithm, Algorithm):
        return name_or_algorithm
    if name_or_algorithm not in ALGORITHMS:
        raise ValueError(
            f"there is no algorithm {name_or_algorithm!r}; choose one of {', '.join(ALGORITHMS)}, or make an Algorithm of your own."
        )
    return ALGORITHMS[name_or_algorithm]
