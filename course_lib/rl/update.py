"""The second half of a step: the trainer learns from judged samples."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.rl.algorithms import Algorithm
from course_lib.rl.batch import Batch, by_token
from course_lib.rl.config import LoopConfig
from course_lib.rl.losses import LossConfig, ResponseTokens, TokenLoss, policy_gradient_loss, token_weights
from course_lib.rl.world import World
from course_lib.training import FrozenPolicy, Group, PackedBatch, PolicyTrainer, StepStats, ValueStats, ValueTrainer

Loss = Callable[[ResponseTokens, LossConfig], TokenLoss | Tensor]
"""A function like `losses.policy_gradient_loss`; one of your own may return just each token's loss."""


@dataclass(frozen=True)
class UpdateStats:
    """What a batch's last update did: to the policy, and to the critic where there is one."""

    policy: StepStats
    critic: ValueStats | None = None


@dataclass(frozen=True)
class LossTables:
    """What the loss reads of a batch, on the trainer's device.

    They are moved once for all micro-batches: each copy of a table to a GPU lets the host wait for what was launched before it.

    Attributes:
        weights: of each sample's tokens, as `token_weights` gives them.
        sampler: the sampler's logprobs.
        advantages: of each sample, or of each response token.
        old: the trainer's logprobs before the first update, where there are several.
        reference: the reference policy's logprobs, where there is one.
    """

    weights: Tensor
    sampler: Tensor
    advantages: Tensor
    old: Tensor | None
    reference: Tensor | None

    @classmethod
    def of(cls, batch: Batch, weights: Tensor, device: torch.device | str) -> "LossTables":
        """Return a batch's tables on a device."""
        old, reference = (
            None if table is None else table.to(device) for table in (batch.old_logprobs, batch.reference_logprobs)
        )
        return cls(weights.to(device), batch.rollout.logprobs.to(device), batch.advantages.to(device), old, reference)


class Updater:
    """Takes optimizer steps on a batch. Every rank trains on a share of its groups, and DeepSpeed adds the gradients up.

    Args:
        trainer: holds the policy that is trained.
        algorithm: its loss's thresholds and average.
        loss: the loss of each token.
        critic: trained beside the policy, where the algorithm wants one.
        reference: what the KL term holds on to.
        config: the loop's numbers.
        world: this rank among the others.
    """

    def __init__(
        self,
        trainer: PolicyTrainer,
        algorithm: Algorithm,
        loss: Loss,
        critic: ValueTrainer | None,
        reference: FrozenPolicy | None,
        config: LoopConfig,
        world: World,
    ):
        self.trainer, self.algorithm, self.loss, self.critic = trainer, algorithm, loss, critic
        self.reference, self.config, self.world = reference, config, world

    def update(self, batch: Batch) -> UpdateStats | None:
        """Train on judged samples and return what the last update did, or None where no group has a signal."""
        mine = self._share(batch)
        if mine is None:
            return None
        if self.reference is not None:
            batch.reference_logprobs = batch.padded(self.reference.logprobs(mine, self.config.temperature))
        if self.config.updates_per_batch > 1:
            batch.old_logprobs = batch.padded(self.trainer.logprobs(mine, self.config.temperature))
        weights = token_weights(batch.rollout.response_lengths, self.algorithm.loss.average, self.config.max_new_tokens)
        tables = LossTables.of(batch, weights, self.trainer.engine.device)
        critic = None
        for _ in range(self.config.updates_per_batch):
            batch.trained.clear()
            policy = self.trainer.step(mine, lambda *seen: self._part(batch, tables, *seen), self.config.temperature)
            if self.critic is not None and batch.returns is not None and batch.values is not None:
                critic = self.critic.step(mine, batch.returns, batch.values)
        # A sample belongs to one rank alone; all others hold zeros for it.
        partial = (*batch.trained, batch.old_logprobs, batch.reference_logprobs)
        self.world.sum(table for table in partial if table is not None)
        return UpdateStats(policy, critic)

    def _share(self, batch: Batch) -> Sequence[Group] | None:
        """Return this rank's groups, or None where there is nothing to learn."""
        groups = sorted(batch.groups(), key=lambda group: group.length, reverse=True)
        # A group whose rewards are all equal has no gradient: leave it out, unless a KL term, a critic or a loss of the
        # learner's own may want it.
        plain = self.loss is policy_gradient_loss and not self.algorithm.loss.kl_coefficient and self.critic is None
        chosen = batch.with_signal(groups) if plain else groups
        if not chosen:
            return None
        if len(chosen) < self.world.size:  # a rank without work would leave the others waiting
            numbers = {group.samples[0] for group in chosen}
            chosen = chosen + [group for group in groups if group.samples[0] not in numbers]
        return self.world.deal(chosen)

    def _part(self, batch: Batch, tables: LossTables, packed: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        """Return a micro-batch's part of the loss: the parts add up to one average over the batch, however it is cut."""
        tokens = ResponseTokens(
            logprobs=logprobs,
            old_logprobs=logprobs.detach() if tables.old is None else by_token(tables.old, packed),
            sampler_logprobs=by_token(tables.sampler, packed),
            advantages=by_token(tables.advantages, packed),
            samples=packed.samples,
            reference_logprobs=None if tables.reference is None else by_token(tables.reference, packed),
        )
        token = as_token_loss(self.loss(tokens, self.algorithm.loss), tokens)
        batch.trained.record(
            packed,
            logprobs=logprobs,
            entropy=entropy,
            clipped=token.clipped,
            truncated=token.truncated,
            masked=token.masked,
        )
        return (token.loss * by_token(tables.weights, packed)).sum()


def as_token_loss(found: TokenLoss | Tensor, tokens: ResponseTokens) -> TokenLoss:
    """Return what a loss function returned as a `TokenLoss`.

    Raises:
        ValueError: it is neither that nor one number a token.
    """
    if isinstance(found, TokenLoss):
        return found
    if not isinstance(found, Tensor) or found.shape != tokens.logprobs.shape:
        what = f"a tensor of shape {tuple(found.shape)}" if isinstance(found, Tensor) else f"a {type(found).__name__}"
        raise ValueError(
            f"the loss returned {what}; expected the loss of each token, of shape {tuple(tokens.logprobs.shape)}: the loop"
            " averages it."
        )
    nothing = torch.zeros_like(tokens.logprobs)
    return TokenLoss(found, nothing, nothing, nothing)
