"""The policy-gradient loss, token by token."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class LossConfig:
    """What the loss does with a ratio, and how far the policy may drift.

    Attributes:
        clip_low: a token whose probability fell below (1 - clip_low) of the old policy's stops pushing it down further.
        clip_high: a token whose probability rose above (1 + clip_high) of the old policy's stops pushing it up further.
        truncate_at: the trainer/sampler importance weight is cut here; 0 turns the correction off.
        kl_coefficient: weight of the KL divergence to the reference policy; 0 needs no reference.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    truncate_at: float = 2.0
    kl_coefficient: float = 0.0

    def __post_init__(self) -> None:
        others = (self.clip_high, self.truncate_at, self.kl_coefficient)
        if not (0 <= self.clip_low < 1 and all(value >= 0 for value in others)):
            raise ValueError(
                f"{self}: clip_low must be in [0, 1), and clip_high, truncate_at and kl_coefficient must be 0 or more."
            )


@dataclass(frozen=True)
class TokenLoss:
    """The loss of each token, and what was done to it."""

    loss: Float[Tensor, " tokens"]
    clipped: Float[Tensor, " tokens"]
    truncated: Float[Tensor, " tokens"]


def policy_gradient_loss(
    logprobs: Float[Tensor, " tokens"],
    old_logprobs: Float[Tensor, " tokens"],
    sampler_logprobs: Float[Tensor, " tokens"],
    advantages: Float[Tensor, " tokens"],
    config: LossConfig,
    reference_logprobs: Float[Tensor, " tokens"] | None = None,
) -> TokenLoss:
    """Return the clipped, importance-corrected policy-gradient loss of each token.

        ratio  = exp(logprobs - old_logprobs)                                     how far this step has moved the policy
        weight = min(exp(old_logprobs - sampler_logprobs), truncate_at)           how far trainer and sampler disagree
        loss   = -weight * min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)  +  kl_coefficient * k3

    The clipped objective is PPO's (Schulman et al., arXiv 1707.06347, equation 7). The weight is the truncated importance
    sampling of Yao et al. (2025, "Your efficient RL framework secretly brings you off-policy RL training"): the tokens were
    drawn from the sampler's probabilities, which differ from the trainer's by rounding. k3 is Schulman's estimator
    exp(d) - d - 1 of the KL divergence with d = reference - logprob ("Approximating KL divergence", 2020).

    Args:
        logprobs: under the weights being trained; the only input with a gradient.
        old_logprobs: by the trainer, under the weights that the samples were drawn with.
        sampler_logprobs: by the engine that drew them.
        advantages: of each token's sample.
        config: the thresholds.
        reference_logprobs: under the reference policy; needed where `kl_coefficient` is above 0.

    Raises:
        ValueError: `kl_coefficient` is above 0 and there are no `reference_logprobs`.
    """
    ratio = torch.exp(logprobs - old_logprobs)
    plain = ratio * advantages
    limited = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * advantages
    gain = torch.minimum(plain, limited)
    truncated = torch.zeros_like(gain)
    if config.truncate_at:
        mismatch = torch.exp(old_logprobs - sampler_logprobs)
        truncated = (mismatch > config.truncate_at).float()
        gain = gain * mismatch.clamp(max=config.truncate_at)
    loss = -gain
    if config.kl_coefficient:
        if reference_logprobs is None:
            raise ValueError(
                f"kl_coefficient is {config.kl_coefficient}, but there are no reference_logprobs; give them or use 0."
            )
        loss = loss + config.kl_coefficient * k3(logprobs, reference_logprobs)
    return TokenLoss(loss, (limited < plain).float(), truncated)


def k3(logprobs: Float[Tensor, " tokens"], other_logprobs: Float[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return exp(d) - d - 1 with d = other - logprobs: an estimate of KL(policy || other) from the policy's own samples.

    It is unbiased and never negative.
    """
    difference = other_logprobs - logprobs
    return torch.expm1(difference) - difference
