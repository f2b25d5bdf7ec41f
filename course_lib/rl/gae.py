"""Generalized advantage estimation: one reward at the end of a response, and a critic's opinion at every token before."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def generalized_advantages(
    rewards: Float[Tensor, " samples"],
    values: Float[Tensor, "samples longest"],
    mask: Bool[Tensor, "samples longest"],
    gamma: float = 1.0,
    lam: float = 0.95,
) -> tuple[Float[Tensor, "samples longest"], Float[Tensor, "samples longest"]]:
    """Return each response token's advantage, and the return that its value should have foretold; 0 outside the mask.

        delta_t     = reward_t + gamma * V_{t+1} - V_t                  the surprise of token t
        advantage_t = delta_t + gamma * lam * advantage_{t+1}           Schulman et al., arXiv 1506.02438, equation 16
        return_t    = advantage_t + V_t

    The reward comes with a response's last token, and what follows that token is worth 0, whether the response ended or was
    cut. With `lam` 1 an advantage is the discounted reward minus the value: no bias, much variance; with `lam` 0 it is the
    one-step surprise: little variance, and all of the critic's bias.

    Args:
        rewards: of each sample.
        values: the critic's value of the state before each response token.
        mask: True on the response's tokens, which begin in column 0.
        gamma: discount of a token; 1 for language models, where a long answer is not worth less.
        lam: how far a surprise is spread over the tokens before it.

    Raises:
        ValueError: shapes don't fit, or `gamma` or `lam` is not in [0, 1].
    """
    if values.shape != mask.shape or rewards.shape != values.shape[:1]:
        raise ValueError(
            f"rewards {tuple(rewards.shape)}, values {tuple(values.shape)} and mask {tuple(mask.shape)} don't fit; expected"
            " [samples], [samples, longest] and [samples, longest]."
        )
    if not (0 <= gamma <= 1 and 0 <= lam <= 1):
        raise ValueError(f"gamma is {gamma} and lam is {lam}; both must be in [0, 1].")
    last = mask.sum(dim=1) - 1
    advantages = torch.zeros_like(values)
    advantage = next_value = torch.zeros_like(rewards)
    for t in reversed(range(values.shape[1])):
        delta = torch.where(last == t, rewards, 0.0) + gamma * next_value - values[:, t]
        advantage = torch.where(mask[:, t], delta + gamma * lam * advantage, 0.0)
        next_value = torch.where(mask[:, t], values[:, t], 0.0)
        advantages[:, t] = advantage
    return advantages, torch.where(mask, advantages + values, 0.0)


def whiten(
    advantages: Float[Tensor, "samples longest"], mask: Bool[Tensor, "samples longest"]
) -> Float[Tensor, "samples longest"]:
    """Return the advantages with mean 0 and standard deviation 1 over the mask's tokens, and 0 outside it.

    PPO's paper has no such step, and nearly all of its implementations do (Huang et al. 2022, "The 37 implementation details
    of PPO", detail 7): it makes the step's size independent of the reward's.
    """
    real = advantages[mask]
    if len(real) < 2 or not bool(real.std() > 0):
        return torch.zeros_like(advantages)
    return torch.where(mask, (advantages - real.mean()) / real.std(), 0.0)
