"""The loss against the papers' formulas, token by token in plain Python, and its gradient against differences."""

import math
from typing import Any

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from course_lib.rl import LossConfig, policy_gradient_loss
from course_lib.rl.losses import k3

LOGPROB = st.floats(-6, -0.01)
NEAR = st.floats(-1.5, 1.5)
TOKEN = st.tuples(LOGPROB, NEAR, NEAR, st.floats(-3, 3), NEAR)
TOKENS = st.lists(TOKEN, min_size=1, max_size=6)
CONFIG = st.builds(
    LossConfig,
    clip_low=st.floats(0, 0.9),
    clip_high=st.floats(0, 0.9),
    truncate_at=st.one_of(st.just(0.0), st.floats(0.5, 4)),
    kl_coefficient=st.one_of(st.just(0.0), st.floats(0.01, 1)),
)


def paper(token: tuple[float, ...], config: LossConfig) -> float:
    """PPO's equation 7, truncated importance sampling and Schulman's k3, for one token."""
    new, to_old, to_sampler, advantage, to_reference = token
    old = new + to_old
    ratio = math.exp(new - old)
    inside = max(1 - config.clip_low, min(ratio, 1 + config.clip_high))
    objective = min(ratio * advantage, inside * advantage)
    weight = math.exp(old - (old + to_sampler))
    if config.truncate_at:
        objective *= min(weight, config.truncate_at)
    log_ratio = to_reference  # of the reference to the policy
    return -objective + config.kl_coefficient * (math.exp(log_ratio) - 1 - log_ratio)


def tensors(tokens: list[tuple[float, ...]]) -> dict[str, torch.Tensor]:
    new, to_old, to_sampler, advantages, to_reference = torch.tensor(tokens, dtype=torch.float64).T
    old = new + to_old
    return {
        "logprobs": new.clone().requires_grad_(),
        "old_logprobs": old,
        "sampler_logprobs": old + to_sampler,
        "advantages": advantages,
        "reference_logprobs": new + to_reference,
    }


@given(TOKENS, CONFIG)
def test_equals_the_papers(tokens: list[tuple[float, ...]], config: LossConfig) -> None:
    found = policy_gradient_loss(config=config, **tensors(tokens))
    assert found.loss.tolist() == pytest.approx([paper(token, config) for token in tokens], rel=1e-6, abs=1e-6)


@given(TOKENS, CONFIG)
def test_gradient_equals_differences(tokens: list[tuple[float, ...]], config: LossConfig) -> None:
    for _, to_old, *_ in tokens:  # not on a kink, where the two sides differ
        ratio = math.exp(-to_old)
        assume(min(abs(ratio - 1 + config.clip_low), abs(ratio - 1 - config.clip_high)) > 1e-3)
    values = tensors(tokens)
    policy_gradient_loss(config=config, **values).loss.sum().backward()
    gradient = values.pop("logprobs").grad
    assert gradient is not None
    for index, token in enumerate(tokens):

        def loss(shift: float, index: int = index, token: tuple[float, ...] = token) -> float:
            moved = torch.full((len(tokens),), token[0] + shift, dtype=torch.float64)
            return float(policy_gradient_loss(moved, config=config, **values).loss[index])

        slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
        assert float(gradient[index]) == pytest.approx(slope, rel=1e-4, abs=1e-6)


@given(TOKENS, CONFIG)
def test_marks_are_zero_or_one_and_constant(tokens: list[tuple[float, ...]], config: LossConfig) -> None:
    found = policy_gradient_loss(config=config, **tensors(tokens))
    for mark in (found.clipped, found.truncated):
        assert not mark.requires_grad
        assert set(mark.tolist()) <= {0.0, 1.0}


@given(st.floats(0.01, 0.5), st.floats(0.01, 3), st.booleans(), st.floats(0.05, 0.4))
def test_clipped_side_has_no_gradient(beyond: float, size: float, up: bool, clip: float) -> None:
    config = LossConfig(clip_low=clip, clip_high=clip)
    ratio = 1 + clip + beyond if up else (1 - clip) * (1 - beyond)
    for advantage, clipped in ((size if up else -size, True), (-size if up else size, False)):
        logprobs = torch.tensor([math.log(ratio) - 5], dtype=torch.float64, requires_grad=True)
        old = torch.tensor([-5.0], dtype=torch.float64)
        found = policy_gradient_loss(logprobs, old, old, torch.tensor([advantage]), config)
        found.loss.sum().backward()
        assert logprobs.grad is not None
        assert bool(found.clipped) == clipped
        assert (float(logprobs.grad) == 0) == clipped


@given(NEAR, st.floats(0.5, 4))
def test_weight_is_truncated_and_counted(disagreement: float, limit: float) -> None:
    weight = math.exp(disagreement)
    assume(abs(weight - limit) > 1e-4)
    old = torch.tensor([-2.0], dtype=torch.float64)
    found = policy_gradient_loss(old, old, old - disagreement, torch.ones(1), LossConfig(truncate_at=limit))
    assert float(found.loss) == pytest.approx(-min(weight, limit))
    assert bool(found.truncated) == (weight > limit)


def test_zero_turns_the_correction_off() -> None:
    old = torch.tensor([-2.0])
    found = policy_gradient_loss(old, old, old - 3, torch.ones(1), LossConfig(truncate_at=0))
    assert float(found.loss) == -1.0
    assert float(found.truncated) == 0.0


@given(st.lists(st.tuples(NEAR, NEAR), min_size=2, max_size=8))
def test_k3_is_unbiased(logits: list[tuple[float, float]]) -> None:
    """On a small categorical distribution the expectation is a finite sum: no sampling, no luck."""
    policy, other = torch.log_softmax(torch.tensor(logits, dtype=torch.float64), dim=0).T
    divergence = (policy.exp() * (policy - other)).sum()
    assert float((policy.exp() * k3(policy, other)).sum()) == pytest.approx(float(divergence), abs=1e-12)


@given(st.lists(st.tuples(LOGPROB, LOGPROB), min_size=1, max_size=8))
def test_k3_is_never_negative(pairs: list[tuple[float, float]]) -> None:
    policy, other = torch.tensor(pairs).T
    assert bool((k3(policy, other) >= -1e-7).all())
    assert torch.equal(k3(policy, policy), torch.zeros(len(pairs)))


@pytest.mark.parametrize(
    "options", [{"clip_low": -0.1}, {"clip_low": 1.0}, {"clip_high": -1}, {"truncate_at": -1}, {"kl_coefficient": -0.1}]
)
def test_config_errors(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        LossConfig(**options)


@pytest.mark.parametrize("name", ["clip_low", "clip_high", "truncate_at", "kl_coefficient"])
def test_nan_is_no_threshold(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        LossConfig(**{name: math.nan})


def test_kl_needs_a_reference() -> None:
    one = torch.zeros(1)
    with pytest.raises(ValueError, match="reference_logprobs"):
        policy_gradient_loss(one, one, one, one, LossConfig(kl_coefficient=0.1))
