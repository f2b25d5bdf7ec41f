"""GAE against equation 16 of arXiv 1506.02438, summed out token by token in plain Python."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from course_lib.rl.gae import generalized_advantages, whiten

NUMBER = st.floats(-3, 3, width=32)
SAMPLE = st.tuples(NUMBER, st.lists(NUMBER, max_size=6))
SAMPLES = st.lists(SAMPLE, min_size=1, max_size=5)
SHARE = st.floats(0, 1)
Samples = list[tuple[float, list[float]]]


def tables(samples: Samples, garbage: float = 99.0) -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask; what lies outside the mask is garbage, which nothing may depend on."""
    longest = max(len(values) for _, values in samples) + 1
    rewards = torch.tensor([reward for reward, _ in samples])
    values = torch.tensor([row + [garbage] * (longest - len(row)) for _, row in samples])
    mask = torch.arange(longest) < torch.tensor([[len(row)] for _, row in samples])
    return rewards, values, mask


def paper(reward: float, values: list[float], gamma: float, lam: float) -> list[float]:
    """A_t = sum over l of (gamma lam)^l delta_{t+l}, delta_t = r_t + gamma V(s_{t+1}) - V(s_t); the last state is terminal."""
    end = len(values)
    deltas = []
    for t in range(end):
        after, r = (values[t + 1], 0.0) if t + 1 < end else (0.0, reward)
        deltas.append(r + gamma * after - values[t])
    return [sum((gamma * lam) ** ahead * deltas[t + ahead] for ahead in range(end - t)) for t in range(end)]


@given(SAMPLES, SHARE, SHARE)
def test_equals_the_paper(samples: Samples, gamma: float, lam: float) -> None:
    advantages, returns = generalized_advantages(*tables(samples), gamma, lam)
    for row, (reward, values) in enumerate(samples):
        wanted = paper(reward, values, gamma, lam)
        rest = [0.0] * (advantages.shape[1] - len(values))
        assert advantages[row].tolist() == pytest.approx(wanted + rest, abs=1e-4)
        foretold = [advantage + value for advantage, value in zip(wanted, values, strict=True)]
        assert returns[row].tolist() == pytest.approx(foretold + rest, abs=1e-4)


@given(SAMPLES, SHARE)
def test_lambda_one_is_reward_minus_value(samples: Samples, gamma: float) -> None:
    """Equation 18: the advantages of a Monte Carlo return; the returns are the discounted reward, whatever the values."""
    _, returns = generalized_advantages(*tables(samples), gamma, lam=1.0)
    for row, (reward, values) in enumerate(samples):
        wanted = [gamma ** (len(values) - 1 - t) * reward for t in range(len(values))]
        assert returns[row, : len(values)].tolist() == pytest.approx(wanted, abs=1e-4)


@given(SAMPLES, SHARE, SHARE)
def test_what_is_outside_the_mask_does_not_matter(samples: Samples, gamma: float, lam: float) -> None:
    one, other = (generalized_advantages(*tables(samples, garbage), gamma, lam) for garbage in (7.0, math.nan))
    assert torch.equal(one[0], other[0]) and torch.equal(one[1], other[1])


def test_a_perfect_critic_leaves_no_advantage() -> None:
    advantages, _ = generalized_advantages(*tables([(0.5, [0.5, 0.5, 0.5]), (0.0, [0.0])]))
    assert not bool(advantages.any())


@given(SAMPLES)
def test_whitened_advantages_have_mean_zero_and_deviation_one(samples: Samples) -> None:
    _, values, mask = tables(samples)
    found = whiten(values, mask)
    real = values[mask]
    assert not bool(found[~mask].any())
    if len(real) > 1 and float(real.std()) > 1e-3:
        assert float(found[mask].mean()) == pytest.approx(0, abs=1e-3)
        assert float(found[mask].std()) == pytest.approx(1, abs=1e-3)
        assert bool((found[mask][real.argsort()].diff() >= 0).all())


@pytest.mark.parametrize("tokens", [0, 1, 3])
def test_nothing_to_scale_by(tokens: int) -> None:
    mask = torch.arange(4)[None] < tokens
    assert torch.equal(whiten(torch.ones(1, 4), mask), torch.zeros(1, 4))


def test_errors() -> None:
    rewards, values, mask = tables([(1.0, [0.0, 0.0])])
    with pytest.raises(ValueError, match="don't fit"):
        generalized_advantages(rewards, values, mask[:, :1])
    with pytest.raises(ValueError, match="don't fit"):
        generalized_advantages(torch.zeros(2), values, mask)
    for options in ({"gamma": 1.1}, {"lam": -0.1}, {"lam": math.nan}):
        with pytest.raises(ValueError, match="must be in"):
            generalized_advantages(rewards, values, mask, **options)
