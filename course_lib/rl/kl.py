"""Estimators of the KL divergence from samples of the policy (Schulman, "Approximating KL divergence", 2020).

All three take the log-probabilities of a token that the policy sampled, and estimate KL(policy || other). With
`d = other - logprob`:

    estimator        value           average of the value      average of the gradient, as a loss
    k1               -d              KL(policy || other)       0: it pushes nowhere
    k2               d^2 / 2         near it for small d       that of KL(policy || other)
    k3               exp(d) - d - 1  KL(policy || other)       that of KL(other || policy), the other way round

So a good estimate is one thing and a good loss another: the gradient of an estimate leaves out that the policy also decides
which tokens are sampled. To measure, use k3, which varies less than k1 and is never negative. To hold on to a reference
policy, k2 and k3 both pull towards it.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

Tokens = Float[Tensor, " tokens"]


def k1(logprobs: Tokens, other_logprobs: Tokens) -> Tokens:
    """Return `-d`: unbiased; negative for about every second token."""
    return logprobs - other_logprobs


def k2(logprobs: Tokens, other_logprobs: Tokens) -> Tokens:
    """Return `d^2 / 2`: biased, never negative; its gradient is, on average, that of KL(policy || other)."""
    return 0.5 * (other_logprobs - logprobs) ** 2


def k3(logprobs: Tokens, other_logprobs: Tokens) -> Tokens:
    """Return `exp(d) - d - 1`: unbiased and never negative. GRPO's KL term (arXiv 2402.03300, equation 4)."""
    difference = other_logprobs - logprobs
    return torch.expm1(difference) - difference


KL_ESTIMATORS: dict[str, Callable[[Tokens, Tokens], Tokens]] = {"k1": k1, "k2": k2, "k3": k3}
"""The estimators by name."""
