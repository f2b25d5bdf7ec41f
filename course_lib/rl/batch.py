"""One step's samples: what was asked, what came back, what it was worth."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.rl.problem import Problem
from course_lib.rl.rollout import Rollout
from course_lib.training import Group, PackedBatch


@dataclass
class Batch:
    """The samples of one step, in the rollout's order: sample k of prompt p is row p * samples_per_prompt + k.

    Attributes:
        problems: of each sample.
        completions: the text of each sample, without special tokens.
        rollout: token ids and the sampler's logprobs.
        rewards: of each sample.
        advantages: of each sample.
        samples_per_prompt: how many samples share a prompt.
        old_logprobs: the trainer's, under the weights that the samples were drawn with; None until they are computed.
        reference_logprobs: the reference policy's; None where there is none.
    """

    problems: Sequence[Problem]
    completions: Sequence[str]
    rollout: Rollout
    rewards: Float[Tensor, " samples"]
    advantages: Float[Tensor, " samples"]
    samples_per_prompt: int
    old_logprobs: Float[Tensor, "samples longest"] | None = None
    reference_logprobs: Float[Tensor, "samples longest"] | None = None
    trained: "TrainedTokens" = field(init=False)

    def __post_init__(self) -> None:
        self.trained = TrainedTokens(self.rollout.logprobs.shape)

    @property
    def tokens(self) -> int:
        """Response tokens of the whole batch: what a token-level mean divides by."""
        return int(self.rollout.response_lengths.sum())

    def table(self) -> list[dict[str, Any]]:
        """Return a JSON-ready row a sample: question, answer, completion, reward, advantage."""
        rewards, advantages = self.rewards.tolist(), self.advantages.tolist()
        rows = zip(self.problems, self.completions, rewards, advantages, strict=True)
        return [
            {**asdict(problem), "completion": text, "reward": reward, "advantage": advantage}
            for problem, text, reward, advantage in rows
        ]

    def groups(self) -> list[Group]:
        """Return the prompts with their samples, as the trainer takes them."""
        prompts, responses, n = self.rollout.prompts(), self.rollout.responses(), self.samples_per_prompt
        starts = range(0, len(prompts), n)
        return [Group(prompts[start], responses[start : start + n], list(range(start, start + n))) for start in starts]

    def with_signal(self, groups: Sequence[Group]) -> list[Group]:
        """Return the groups that have a sample with an advantage; the others' gradient is exactly zero."""
        return [group for group in groups if bool(self.advantages[group.samples].any())]

    def padded(self, values: dict[int, Tensor]) -> Float[Tensor, "samples longest"]:
        """Return `{sample: logprobs}` in the columns of `rollout.logprobs`, 0 after the response's end."""
        table = torch.zeros_like(self.rollout.logprobs)
        for sample, logprobs in values.items():
            table[sample, : len(logprobs)] = logprobs
        return table


class TrainedTokens:
    """What the trainer saw of each response token: filled in as the micro-batches pass, read once for the metrics."""

    NAMES = ("logprobs", "entropy", "clipped", "truncated", "seen")

    def __init__(self, shape: torch.Size):
        self.tables = {name: torch.zeros(shape) for name in self.NAMES}

    def record(self, packed: PackedBatch, **values: Tensor) -> None:
        """Store a value for each token of a micro-batch."""
        place = (packed.samples.cpu(), packed.offsets.cpu())
        for name, value in values.items():
            self.tables[name][place] = value.detach().float().cpu()
        self.tables["seen"][place] = 1.0

    def __getitem__(self, name: str) -> Tensor:
        return self.tables[name]


def by_token(table: Float[Tensor, "samples longest"], packed: PackedBatch) -> Float[Tensor, " tokens"]:
    """Return the entries of a per-sample table that belong to a micro-batch's tokens, on its device."""
    return table.to(packed.targets.device)[packed.samples, packed.offsets]
