"""k1, k2 and k3 on a small categorical policy, where expectations are finite sums: no sampling, no luck."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.rl.kl import KL_ESTIMATORS, k1, k2, k3

LOGIT = st.floats(-1.5, 1.5)
LOGITS = st.lists(st.tuples(LOGIT, LOGIT), min_size=2, max_size=8)
LOGPROB = st.floats(-6, -0.01)


def policies(logits: list[tuple[float, float]]) -> tuple[Tensor, Tensor, Tensor]:
    """The logits of a policy, its logprobs and another policy's."""
    own, other = torch.tensor(logits, dtype=torch.float64).unbind(1)
    own = own.clone().requires_grad_()
    return own, torch.log_softmax(own, 0), torch.log_softmax(other, 0)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    return (p.exp() * (p - q)).sum()


def gradient(value: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(value, logits)[0]


@given(LOGITS)
def test_k1_and_k3_are_unbiased(logits: list[tuple[float, float]]) -> None:
    _, policy, other = policies(logits)
    wanted = float(divergence(policy, other).detach())
    for estimator in (k1, k3):
        assert float((policy.exp() * estimator(policy, other)).sum().detach()) == pytest.approx(wanted, abs=1e-12)


@given(LOGITS, st.floats(0.001, 0.05))
def test_k2_is_near_for_policies_that_are_near(logits: list[tuple[float, float]], step: float) -> None:
    """Its bias is of third order in the difference, the divergence itself of second."""
    own, other = torch.tensor(logits, dtype=torch.float64).unbind(1)
    policy, near = torch.log_softmax(own, 0), torch.log_softmax(own + step * (other - own), 0)
    bias = (policy.exp() * k2(policy, near)).sum() - divergence(policy, near)
    assert abs(float(bias)) <= float((policy - near).abs().amax()) ** 3 + 1e-15


def test_k2_is_biased() -> None:
    _, policy, other = policies([(1.0, -1.0), (-1.0, 1.0)])
    assert abs(float(((policy.exp() * k2(policy, other)).sum() - divergence(policy, other)).detach())) > 0.1


def expected_gradient(estimator: Callable[[Tensor, Tensor], Tensor], logits: Tensor, other: Tensor) -> Tensor:
    """What a loss of the estimator pushes by on average: the tokens were drawn, so their probabilities are constants."""
    policy = torch.log_softmax(logits, 0)
    return gradient((policy.detach().exp() * estimator(policy, other)).sum(), logits)


@given(LOGITS)
def test_gradients_of_the_estimators_as_losses(logits: list[tuple[float, float]]) -> None:
    own, policy, other = policies(logits)
    towards = gradient(divergence(policy, other), own)
    backward = gradient(divergence(other, torch.log_softmax(own, 0)), own)
    torch.testing.assert_close(expected_gradient(k1, own, other), torch.zeros_like(own), atol=1e-12, rtol=0)
    torch.testing.assert_close(expected_gradient(k2, own, other), towards, atol=1e-12, rtol=1e-9)
    torch.testing.assert_close(expected_gradient(k3, own, other), backward, atol=1e-12, rtol=1e-9)


@given(LOGITS)
def test_k3_varies_less_than_k1_near_the_reference(logits: list[tuple[float, float]]) -> None:
    _, policy, other = policies([(a, a + 0.2 * (b - a)) for a, b in logits])
    assume(float((policy - other).abs().amax().detach()) > 1e-3)
    weight = policy.exp()

    def variance(values: Tensor) -> float:
        return float(((weight * values**2).sum() - (weight * values).sum() ** 2).detach())

    assert variance(k3(policy, other)) < variance(k1(policy, other))


@given(st.lists(st.tuples(LOGPROB, LOGPROB), min_size=1, max_size=8))
def test_never_negative_and_zero_at_the_reference(pairs: list[tuple[float, float]]) -> None:
    policy, other = torch.tensor(pairs, dtype=torch.float64).unbind(1)
    assert bool((k2(policy, other) >= 0).all()) and bool((k3(policy, other) >= 0).all())
    for estimator in KL_ESTIMATORS.values():
        assert torch.equal(estimator(policy, policy), torch.zeros(len(pairs), dtype=torch.float64))
