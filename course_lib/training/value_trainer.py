"""The critic of PPO: the policy's body with a head that says, before each token, what reward is still to come."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.training.engine import DeepSpeedTrainer, StepStats
from course_lib.training.packing import Group, PackedBatch, micro_batches
from course_lib.training.policy import hidden_states, sample_logprobs
from course_lib.training.score_model import ScoreModel


class ValueModel(ScoreModel):
    """A sequence classifier with one label, read where each response token is predicted."""

    def forward(self, batch: PackedBatch) -> Float[Tensor, " tokens"]:
        """Return the value of the state before each response token, in fp32."""
        predictors = hidden_states(self.model, batch).flatten(0, 1)[batch.predictors]
        values: Tensor = predictors.float() @ self.model.score.weight.float().T
        return values[:, 0]


def value_loss(
    values: Float[Tensor, " tokens"],
    old_values: Float[Tensor, " tokens"],
    returns: Float[Tensor, " tokens"],
    clip: float = 0.2,
) -> Float[Tensor, " tokens"]:
    """Return half the squared error of each value, the worse of the value's and the clipped value's.

        max((V - R)^2, (clip(V, V_old - clip, V_old + clip) - R)^2) / 2

    PPO's value clipping, as in OpenAI's baselines (Schulman et al., arXiv 1707.06347, has the squared error alone): a value
    that has come further than `clip` towards its return is pulled no further, so that several updates on one batch don't
    run away.
    """
    limited = old_values + (values - old_values).clamp(-clip, clip)
    return 0.5 * torch.maximum((values - returns) ** 2, (limited - returns) ** 2)


@dataclass(frozen=True)
class ValueStats(StepStats):
    """What one optimizer step of the critic did.

    Attributes:
        explained_variance: 1 - Var(return - value) / Var(return) over the step's tokens, before the update: 1 is a perfect
            critic, 0 one that knows no more than the mean, below 0 a harmful one; NaN where all returns are equal.
    """

    explained_variance: float


class ValueTrainer(DeepSpeedTrainer):
    """Trains a critic with DeepSpeed: a body as the policy's, and a head that gives one number a token.

    A new head is zero, so every value is 0 at first, whatever the policy: the first advantages are made of rewards alone.

    Args:
        folder: a policy's folder, which gets a new head, or a critic's that `export` wrote, which goes on with its own.
        config: the run's decisions; critics take a higher learning rate than policies.

    Raises:
        PolicyError: the folder is no causal language model.
    """

    def _module(self) -> ValueModel:
        return ValueModel.of(self.folder, scale=0.0)

    @torch.no_grad()
    def values(self, groups: Sequence[Group]) -> dict[int, Float[Tensor, " tokens"]]:
        """Return `{sample: value of the state before each of its response tokens}`, on the CPU, in fp32."""
        self.engine.eval()
        batches = self._aligned(list(micro_batches(groups, self.config.micro_batch_tokens)))
        return sample_logprobs(
            lambda packed, _: (self.engine(packed),) * 2,
            [(batch, bool(weight)) for batch, weight in batches],
            self.engine.device,
            temperature=1.0,
        )

    def step(
        self,
        groups: Sequence[Group],
        returns: Float[Tensor, "samples longest"],
        old_values: Float[Tensor, "samples longest"],
        clip: float = 0.2,
    ) -> ValueStats:
        """Take one optimizer step on the groups of this rank: the mean value loss over the response tokens of all ranks.

        Args:
            groups: as the policy's trainer takes them; their `samples` find the rows of the tables.
            returns: of each response token of the whole batch.
            old_values: what `values` returned before the batch's first update, in the same columns.
            clip: how far a value may come from its old one before it is pulled no further; infinity turns it off.

        Raises:
            ValueError: a rank has no groups.
        """
        batches = list(micro_batches(groups, self.config.micro_batch_tokens))
        own = sum(len(response) for group in groups for response in group.responses)
        tokens = self._sum_over_ranks(torch.tensor(float(own), device=self.engine.device)).clamp(min=1)
        seen: list[tuple[Tensor, Tensor]] = []

        def share(packed: PackedBatch) -> Tensor:
            values = self.engine(packed)
            target, old = (table.to(values.device)[packed.samples, packed.offsets] for table in (returns, old_values))
            seen.append((values.detach(), target))
            return value_loss(values, old, target, clip).sum() / tokens

        stats = self._step(batches, share)
        # What comes after this rank's own are copies that keep step with other ranks.
        values, targets = (torch.cat(part).double() for part in zip(*seen[: len(batches)], strict=True))
        return ValueStats(**vars(stats), explained_variance=self._explained_variance(values, targets))

    def _explained_variance(self, values: Float[Tensor, " tokens"], returns: Float[Tensor, " tokens"]) -> float:
        errors = returns - values
        count = torch.full_like(errors, 1.0)
        sums = torch.stack([part.sum() for part in (count, returns, returns**2, errors, errors**2)])
        n, total, squares, error, error_squares = self._sum_over_ranks(sums).tolist()
        variance = squares / n - (total / n) ** 2
        left = error_squares / n - (error / n) ** 2
        return 1 - left / variance if variance > 1e-12 else float("nan")
