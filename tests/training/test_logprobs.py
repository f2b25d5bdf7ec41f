"""`token_logprobs` against the whole softmax in fp64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from course_lib.training import token_logprobs


def whole(hidden: Tensor, weight: Tensor, targets: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Logprobs and entropy from all logits at once, in the precision of the inputs."""
    logits = hidden @ weight.T / temperature
    logprobs = torch.log_softmax(logits, dim=1).gather(1, targets[:, None])[:, 0]
    return logprobs, torch.distributions.Categorical(logits=logits, validate_args=False).entropy()


def inputs(tokens: int, width: int, vocabulary: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(seed)
    hidden = torch.randn(tokens, width, generator=chance)
    weight = torch.randn(vocabulary, width, generator=chance)
    targets = torch.randint(0, vocabulary, (tokens,), generator=chance)
    return hidden, weight, targets


@settings(deadline=None)
@given(
    tokens=st.integers(0, 9),
    width=st.integers(1, 12),
    vocabulary=st.integers(1, 60),
    chunk=st.integers(1, 80),
    temperature=st.floats(0.05, 20),
    seed=st.integers(0, 10_000),
)
def test_values_and_gradients_are_those_of_the_whole_softmax(
    tokens: int, width: int, vocabulary: int, chunk: int, temperature: float, seed: int
) -> None:
    hidden, weight, targets = inputs(tokens, width, vocabulary, seed)
    hidden.requires_grad_()
    weight.requires_grad_()
    exact = [hidden.detach().double().requires_grad_(), weight.detach().double().requires_grad_()]
    pull = torch.linspace(-1, 2, tokens)  # a different gradient for each token

    logprobs, entropy = token_logprobs(hidden, weight, targets, temperature, chunk)
    (logprobs * pull).sum().backward()
    expected, expected_entropy = whole(*exact, targets, temperature)
    (expected * pull).sum().backward()

    # Logits reach 100 / temperature here, and fp32 keeps 7 digits of them.
    scale = 1e-5 * (1 + 10 / temperature)
    for found, truth in (
        (logprobs, expected),
        (entropy, expected_entropy),
        (hidden.grad, exact[0].grad),
        (weight.grad, exact[1].grad),
    ):
        assert found.dtype == torch.float32
        torch.testing.assert_close(found.double(), truth, atol=10 * scale, rtol=1e-4)


@pytest.mark.parametrize("chunk", [1, 7, 50, 64, 1000])
def test_any_chunk_gives_the_same(chunk: int) -> None:
    hidden, weight, targets = inputs(6, 8, 50)
    torch.testing.assert_close(
        token_logprobs(hidden, weight, targets, chunk=chunk),
        token_logprobs(hidden, weight, targets),
        atol=2e-6,
        rtol=1e-6,
    )


@pytest.mark.parametrize("targets", [[0, 0], [49, 49], [24, 25], [0, 49]])
def test_targets_at_the_edges_of_a_chunk(targets: list[int]) -> None:
    hidden, weight, _ = inputs(2, 8, 50)
    found, _ = token_logprobs(hidden, weight, torch.tensor(targets), chunk=25)
    torch.testing.assert_close(found, whole(hidden, weight, torch.tensor(targets), 1.0)[0])


@pytest.mark.parametrize("chunk", [1, 3, 16])
@pytest.mark.parametrize("logits", [[1e4, -1e4, 0, 9e3], [-1e4, -1e4, -1e4, 1e4], [1e4] * 4, [-1e4] * 4])
def test_extreme_logits(logits: list[float], chunk: int) -> None:
    hidden = torch.ones(4, 1, requires_grad=True)
    weight = torch.tensor(logits)[:, None].requires_grad_()
    targets = torch.arange(4)
    logprobs, entropy = token_logprobs(hidden, weight, targets, chunk=chunk)
    logprobs.sum().backward()
    expected, expected_entropy = whole(hidden.detach().double(), weight.detach().double(), targets, 1.0)
    # fp32 resolves a logit of 1e4 to 0.001.
    torch.testing.assert_close(logprobs.double(), expected, atol=4e-3, rtol=0)
    torch.testing.assert_close(entropy.double(), expected_entropy, atol=4e-3, rtol=0)
    assert (logprobs <= 0).all()
    assert hidden.grad.isfinite().all() and weight.grad.isfinite().all()


def test_bf16_inputs_give_fp32_logprobs_and_bf16_gradients() -> None:
    hidden, weight, targets = inputs(5, 16, 40)
    low = [hidden.bfloat16().requires_grad_(), weight.bfloat16().requires_grad_()]
    exact = [part.detach().double().requires_grad_() for part in low]
    logprobs, entropy = token_logprobs(*low, targets, chunk=9)
    expected, _ = whole(*exact, targets, 1.0)
    assert (logprobs.dtype, entropy.dtype) == (torch.float32, torch.float32)
    torch.testing.assert_close(logprobs.double(), expected, atol=0.05, rtol=0)  # logits of about 8, in steps of 1/32
    logprobs.sum().backward()
    expected.sum().backward()
    for found, truth in zip(low, exact, strict=True):
        assert found.grad.dtype == torch.bfloat16
        assert (found.grad.double() - truth.grad).norm() < 0.02 * truth.grad.norm()


def test_only_logprobs_carry_a_gradient() -> None:
    hidden, weight, targets = inputs(3, 4, 10)
    logprobs, entropy = token_logprobs(hidden.requires_grad_(), weight, targets)
    assert logprobs.requires_grad
    assert not entropy.requires_grad


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_refuses_a_temperature_that_is_not_above_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match=r"temperature is .*above 0"):
        token_logprobs(*inputs(2, 3, 4), temperature=temperature)
