"""What data-parallel ranks are given in an exercise, and what PyTorch's AdamW makes of it."""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.grading.exercises.training.naming import several

LR, BF16 = 0.05, torch.bfloat16


@dataclass(frozen=True)
class Job:
    """What the ranks are given: the weights, and for each step every rank's own gradient."""

    weights: Tensor
    gradients: list[list[Tensor]]

    @classmethod
    def draw(cls, numel: int, ranks: int, steps: int, seed: int) -> "Job":
        """Draw weights and gradients around 0."""
        chance = torch.Generator().manual_seed(seed)
        weights = torch.randn(numel, generator=chance).to(BF16)
        # Steps differ in scale, so that an optimizer without a memory goes elsewhere.
        drawn = [[torch.randn(numel, generator=chance) * 4.0**-step for _ in range(ranks)] for step in range(steps)]
        return cls(weights, [[one.to(BF16) for one in step] for step in drawn])

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.gradients[0])

    def __str__(self) -> str:
        return f"{several(len(self.weights), 'weight')}, {several(self.ranks, 'rank')}"


def adamw(job: Job) -> list[Tensor]:
    """Let PyTorch's AdamW train all of it in fp32, and round after each step."""
    master = torch.nn.Parameter(job.weights.float())
    adam, found = torch.optim.AdamW([master], lr=LR), []
    for gradients in job.gradients:
        master.grad = torch.stack([one.float() for one in gradients]).mean(0).to(BF16).float()
        adam.step()
        found.append(master.detach().to(BF16))
    return found
