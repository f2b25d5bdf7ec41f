"""An audit of a step's loss: how much does each token's logprob get of the gradient?"""

from dataclasses import dataclass, replace
from unittest.mock import patch

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.rl.batch import Batch
from course_lib.training import LossFunction, PackedBatch, PolicyTrainer, StepStats


@dataclass(frozen=True)
class TokenWeights:
    """What each response token of a batch weighs in the loss of a step.

    Attributes:
        weights: -(d loss / d logprob) / advantage of each response token, times the number of response tokens: 1 everywhere
            where the loss is the mean over all of them. Columns as in `Rollout.logprobs`, 0 after a response's end.
        batch: the samples.
        stats: of the step.
    """

    weights: Float[Tensor, "samples longest"]
    batch: Batch
    stats: StepStats

    @property
    def of_tokens(self) -> Float[Tensor, " tokens"]:
        """The weights of all response tokens, one sample after another."""
        return self.weights[self.batch.rollout.response_mask]

    @property
    def total(self) -> float:
        """What the tokens' shares of the loss add up to: 1 where it is a mean."""
        return float(self.of_tokens.mean())

    @property
    def trained(self) -> int:
        """Response tokens that got any gradient."""
        return int((self.of_tokens != 0).sum())

    @property
    def ends(self) -> Float[Tensor, " finished"]:
        """The weights of the EOS tokens that the policy sampled: the last token of each response that ended by itself."""
        finished = self.batch.rollout.finished
        last = self.batch.rollout.response_lengths[finished] - 1
        return self.weights[finished].gather(1, last[:, None])[:, 0]

    def __repr__(self) -> str:
        return (
            f"TokenWeights({self.trained} of {self.batch.tokens} tokens trained, the shares add up to {self.total:.3f})"
        )


def audit_step(trainer: PolicyTrainer, batch: Batch, loss: LossFunction, temperature: float = 1.0) -> TokenWeights:
    """Take the trainer's own step at a learning rate of 0, and return what each token weighs in its loss.

    The weights stay what they are; AdamW's moments don't.

    Args:
        trainer: takes the step; it is one process.
        batch: samples, each with an advantage that is not 0: what has none has no weight that could be told.
        loss: of a micro-batch, as for `PolicyTrainer.step`.
        temperature: of the logprobs.

    Raises:
        ValueError: an advantage is 0.
    """
    if bool((batch.advantages == 0).any()):
        raise ValueError("an audit needs an advantage other than 0 for every sample: give them +1 and -1, for example.")
    weights = torch.zeros_like(batch.rollout.logprobs)

    def watched(packed: PackedBatch, logprobs: Tensor, entropy: Tensor) -> Tensor:
        def record(grad: Tensor) -> None:
            advantages = batch.advantages[packed.samples.cpu()]
            weights[packed.samples.cpu(), packed.offsets.cpu()] = -grad.float().cpu() / advantages * batch.tokens

        logprobs.register_hook(record)
        return loss(packed, logprobs, entropy)

    with patch.object(trainer, "config", replace(trainer.config, learning_rate=0.0)):
        stats = trainer.step(batch.groups(), watched, temperature)
    return TokenWeights(weights, batch, stats)
