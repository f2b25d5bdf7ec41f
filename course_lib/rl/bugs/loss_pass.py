"""From samples to the loss of a step: a plain policy-gradient loop's code, whose decisions can be made wrong."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from course_lib.rl.batch import Batch, by_token
from course_lib.rl.losses import LossConfig, ResponseTokens, policy_gradient_loss
from course_lib.training import PackedBatch, Policy, token_logprobs

IGNORED = -100
"""The label of a token that is not to be learned: PyTorch's `ignore_index`."""

PLAIN = LossConfig(clip_low=1.0, clip_high=math.inf, truncate_at=0.0)
"""-ratio * advantage, without clipping or truncation: what changes a token's weight is then a fault."""


class LossPass:
    """The decisions between samples and the loss of a step, made right. Each is one that people get wrong."""

    def mask(self, batch: Batch, eos_id: int) -> Bool[Tensor, "samples longest"]:  # noqa: ARG002  a bug uses it
        """Return which tokens are the responses': by their place, never by their value."""
        return batch.rollout.response_mask

    def targets(self, labels: Int[Tensor, "samples length"]) -> Int[Tensor, "samples length-1"]:
        """Return what each token is to predict, with 0 where nothing is to be learned: `gather` can't take -100."""
        targets = labels[:, 1:].clone()
        targets[targets == IGNORED] = 0
        return targets

    def share(self, loss: Float[Tensor, " kept"], tokens: int, passes: int) -> Float[Tensor, ""]:  # noqa: ARG002
        """Return a micro-batch's share of the loss: over all `passes` the shares add up to the mean over `tokens`."""
        return loss.sum() / tokens


class StepLoss:
    """A batch's loss, for `PolicyTrainer.step`.

    Args:
        decisions: made right, or with a bug.
        batch: samples with advantages.
        eos_id: the tokenizer's end-of-sequence token.
        passes: micro-batches of the step.
        reference: a policy whose logprobs are computed before the update, from padded rows and their labels, as loops with a
            KL term do; None skips that pass. (The term's coefficient is 0 here: it is the pass that matters.)
        temperature: of the logprobs.
    """

    def __init__(
        self,
        decisions: LossPass,
        batch: Batch,
        eos_id: int,
        passes: int,
        reference: Policy | None = None,
        temperature: float = 1.0,
    ):
        self.decisions, self.batch, self.passes = decisions, batch, passes
        ids, mask = batch.rollout.input_ids, decisions.mask(batch, eos_id)
        start = ids.shape[1] - mask.shape[1]
        labels = torch.full_like(ids, IGNORED)
        labels[:, start:] = torch.where(mask, ids[:, start:], IGNORED)
        self.kept = mask
        self.reference = None if reference is None else self._logprobs(reference, labels, start, temperature)
        self.tokens = int((labels != IGNORED).sum())

    def __call__(self, packed: PackedBatch, logprobs: Float[Tensor, " tokens"], _: Tensor) -> Float[Tensor, ""]:
        """Return a micro-batch's share of the step's loss."""
        tokens = ResponseTokens(
            logprobs=logprobs,
            old_logprobs=logprobs.detach(),
            sampler_logprobs=by_token(self.batch.rollout.logprobs, packed),
            advantages=self.batch.advantages.to(packed.samples.device)[packed.samples],
            samples=packed.samples,
            reference_logprobs=None if self.reference is None else by_token(self.reference, packed),
        )
        loss = policy_gradient_loss(tokens, PLAIN).loss
        return self.decisions.share(loss[by_token(self.kept, packed)], self.tokens, self.passes)

    @torch.no_grad()
    def _logprobs(
        self, policy: Policy, labels: Int[Tensor, "samples length"], start: int, temperature: float
    ) -> Float[Tensor, "samples longest"]:
        rollout, device = self.batch.rollout, policy.model.device
        attended = rollout.attention_mask.to(device)
        targets = self.decisions.targets(labels)
        hidden = policy.model.base_model(
            input_ids=rollout.input_ids.to(device),
            attention_mask=attended,
            position_ids=(attended.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state[:, start - 1 : -1]
        wanted = targets[:, start - 1 :].to(device)
        logprobs, _ = token_logprobs(hidden.flatten(0, 1), policy.model.lm_head.weight, wanted.flatten(), temperature)
        return logprobs.view(wanted.shape).cpu()
