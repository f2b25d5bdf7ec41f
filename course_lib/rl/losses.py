"""The policy-gradient loss, token by token, and how tokens are averaged: what all algorithms have in common."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.rl.kl import KL_ESTIMATORS

Average = Literal["token", "sequence", "constant"]


@dataclass(frozen=True)
class ResponseTokens:
    """What a loss sees: the response tokens of a micro-batch, whole responses one after another; no prompt, no padding.

    Attributes:
        logprobs: under the weights being trained; the only one with a gradient.
        old_logprobs: by the trainer, under the weights that the samples were drawn with.
        sampler_logprobs: by the engine that drew them.
        advantages: of each token; the same for all tokens of a sample, unless a critic made them.
        samples: the row of the batch that each token belongs to.
        reference_logprobs: under the reference policy; None where there is none.
    """

    logprobs: Float[Tensor, " tokens"]
    old_logprobs: Float[Tensor, " tokens"]
    sampler_logprobs: Float[Tensor, " tokens"]
    advantages: Float[Tensor, " tokens"]
    samples: Int[Tensor, " tokens"]
    reference_logprobs: Float[Tensor, " tokens"] | None = None

    def __repr__(self) -> str:
        return f"ResponseTokens({len(self.logprobs)} tokens of {len(self.samples.unique())} samples)"


@dataclass(frozen=True)
class LossConfig:
    """What tells one algorithm's loss from another's.

    Attributes:
        ratio: "token" gives each token its own ratio (PPO, GRPO); "sequence" gives all tokens of a response the geometric
            mean of theirs (GSPO).
        clip_low: where the ratio is below 1 - clip_low it is pushed no further down; 1 turns it off.
        clip_high: where the ratio is above 1 + clip_high it is pushed no further up; infinity turns it off.
        average: how token losses become the step's loss; see `token_weights`.
        truncate_at: the trainer/sampler importance weight of a token is cut here; 0 turns the correction off.
        mask_above: a sequence whose trainer/sampler ratio (geometric mean over its tokens) is above this or below one over
            this is left out; 0 turns it off.
        kl_coefficient: weight of the KL divergence to the reference policy; 0 needs no reference.
        kl_estimator: which of `kl.KL_ESTIMATORS` stands in the loss.

    Raises:
        ValueError: a number is out of its range, or a name is not known.
    """

    ratio: Literal["token", "sequence"] = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    average: Average = "token"
    truncate_at: float = 2.0
    mask_above: float = 0.0
    kl_coefficient: float = 0.0
    kl_estimator: Literal["k1", "k2", "k3"] = "k3"

    def __post_init__(self) -> None:
        wanted = {
            "ratio": (self.ratio in ("token", "sequence"), "'token' or 'sequence'"),
            "clip_low": (0 <= self.clip_low <= 1, "from 0 to 1, where 1 turns it off"),
            "clip_high": (self.clip_high >= 0, "0 or more; math.inf turns it off"),
            "average": (self.average in ("token", "sequence", "constant"), "'token', 'sequence' or 'constant'"),
            "truncate_at": (0 <= self.truncate_at < math.inf, "0 (off) or more, and finite"),
            "mask_above": (self.mask_above == 0 or 1 < self.mask_above < math.inf, "0 (off) or above 1, and finite"),
            "kl_coefficient": (0 <= self.kl_coefficient < math.inf, "0 or more, and finite"),
            "kl_estimator": (self.kl_estimator in KL_ESTIMATORS, f"one of {', '.join(KL_ESTIMATORS)}"),
        }
        for name, (holds, what) in wanted.items():
            if not holds:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it must be {what}.")


@dataclass(frozen=True)
class TokenLoss:
    """The loss of each token, not yet averaged, and what was done to it.

    Attributes:
        loss: with a gradient to `ResponseTokens.logprobs`.
        clipped: 1 where the ratio's clip took the gradient away, else 0.
        truncated: 1 where the importance weight was cut, else 0.
        masked: 1 on the tokens of a sequence that was left out, else 0.
    """

    loss: Float[Tensor, " tokens"]
    clipped: Float[Tensor, " tokens"]
    truncated: Float[Tensor, " tokens"]
    masked: Float[Tensor, " tokens"]


def policy_gradient_loss(tokens: ResponseTokens, config: LossConfig) -> TokenLoss:
    """Return the clipped, importance-corrected policy-gradient loss of each token.

        ratio  = exp(logprobs - old_logprobs)                               how far this step has moved the policy
        weight = min(exp(old_logprobs - sampler_logprobs), truncate_at)     how far trainer and sampler disagree
        loss   = -weight * min(ratio * A, clip(ratio, 1 - low, 1 + high) * A)  +  kl_coefficient * KL

    The clipped objective is PPO's (Schulman et al., arXiv 1707.06347, equation 7); with `ratio="sequence"` the ratio is
    GSPO's (Zheng et al., arXiv 2507.18071, equation 7): all tokens of a response share one objective, and its gradient
    reaches every token's logprob. The weight is the truncated importance sampling of Yao et al. (2025, "Your efficient RL
    framework secretly brings you off-policy RL training"): the tokens were drawn from the sampler's probabilities, which
    differ from the trainer's by rounding; under a sequence's shared ratio the gradient of each of its tokens gets the mean of
    their weights. A masked sequence keeps its place in the average, with a loss of 0.

    Raises:
        ValueError: `kl_coefficient` is above 0 and there are no `reference_logprobs`.
    """
    log_ratio = tokens.logprobs - tokens.old_logprobs
    if config.ratio == "sequence":
        log_ratio = sequence_mean(log_ratio, tokens.samples)
    ratio = torch.exp(log_ratio)
    plain = ratio * tokens.advantages
    limited = ratio.clamp(1 - config.clip_low, 1 + config.clip_high) * tokens.advantages
    weight, truncated, masked = _mismatch(tokens, config)
    loss = -weight * torch.minimum(plain, limited)
    if config.kl_coefficient:
        if tokens.reference_logprobs is None:
            raise ValueError(
                f"kl_coefficient is {config.kl_coefficient}, but there are no reference_logprobs; give them or use 0."
            )
        divergence = KL_ESTIMATORS[config.kl_estimator](tokens.logprobs, tokens.reference_logprobs)
        loss = loss + config.kl_coefficient * divergence
    return TokenLoss(loss.masked_fill(masked, 0.0), (limited < plain).float(), truncated.float(), masked.float())


def _mismatch(tokens: ResponseTokens, config: LossConfig) -> tuple[Tensor, Tensor, Tensor]:
    """Return each token's trainer/sampler weight, whether it was truncated, and whether its sequence is left out."""
    disagreement = tokens.old_logprobs - tokens.sampler_logprobs
    weight = torch.ones_like(disagreement)
    truncated = masked = torch.zeros_like(disagreement, dtype=torch.bool)
    if config.truncate_at:
        mismatch = torch.exp(disagreement)
        truncated, weight = mismatch > config.truncate_at, mismatch.clamp(max=config.truncate_at)
    if config.mask_above:
        masked = sequence_mean(disagreement, tokens.samples).abs() > math.log(config.mask_above)
    return weight, truncated, masked


def sequence_mean(values: Float[Tensor, " tokens"], samples: Int[Tensor, " tokens"]) -> Float[Tensor, " tokens"]:
    """Return at each token the mean of `values` over the tokens of its sample."""
    _, row, count = samples.unique(return_inverse=True, return_counts=True)
    total = values.new_zeros(len(count)).index_add(0, row, values)
    return (total / count)[row]


def token_weights(lengths: Int[Tensor, " samples"], average: Average, max_new_tokens: int) -> Float[Tensor, " samples"]:
    """Return the weight of each of a sample's tokens, so that weight * loss, summed over all tokens, is the step's loss.

        token     1 / sum(lengths)                every token counts alike, a long response more (DAPO, equation 8)
        sequence  1 / (samples * length)          every response counts alike, a long one's tokens less (GRPO, equation 3)
        constant  1 / (samples * max_new_tokens)  the policy gradient itself, up to a constant (Dr. GRPO, section 3.2)

    The sum may run over micro-batches and ranks: the weights are those of the whole step's samples. DAPO's equation divides
    by the tokens of one prompt's group; over all groups at once, as here, every token of the step counts alike, which is what
    its authors' code and verl do.

    Args:
        lengths: response tokens of all the step's samples; a response may be empty.
        average: which of the three.
        max_new_tokens: the longest response that could have been sampled; "constant" alone uses it.

    Raises:
        ValueError: there is no such average.
    """
    count = torch.full(lengths.shape, float(len(lengths)))
    if average == "token":
        return 1 / lengths.sum().clamp(min=1).expand(lengths.shape)
    if average == "sequence":
        return 1 / (count * lengths.clamp(min=1))
    if average == "constant":
        return 1 / (count * max_new_tokens)
    raise ValueError(f"average is {average!r}; it must be 'token', 'sequence' or 'constant'.")
