"""Advantages against the papers' formulas in plain Python."""

import statistics

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from course_lib.rl.advantages import (
    Advantage,
    batch_baseline,
    group_mean_baseline,
    group_relative_advantages,
    leave_one_out,
)

REWARD = st.floats(-4, 4, width=32).map(lambda value: round(value, 2))
GROUP = st.lists(REWARD, min_size=2, max_size=9)
# As pairs of shape: every group of a batch has the same size.
BATCH = st.integers(2, 6).flatmap(lambda n: st.lists(st.lists(REWARD, min_size=n, max_size=n), min_size=1, max_size=4))


@given(BATCH, st.booleans())
def test_equals_the_formula(rewards: list[list[float]], normalize: bool) -> None:
    found = group_relative_advantages(torch.tensor(rewards), normalize)
    for group, row in zip(rewards, found.tolist(), strict=True):
        mean, deviation = statistics.fmean(group), statistics.stdev(group)
        scale = deviation if normalize else 1.0
        wanted = [(reward - mean) / scale if len(set(group)) > 1 else 0.0 for reward in group]
        assert row == pytest.approx(wanted, abs=2e-4)


@given(BATCH)
def test_leave_one_out_is_the_siblings_mean(rewards: list[list[float]]) -> None:
    """RLOO, arXiv 2402.14740, section 2.2: the baseline of sample i is the mean of the rewards of all j other than i."""
    found = leave_one_out(torch.tensor(rewards))
    for group, row in zip(rewards, found.tolist(), strict=True):
        siblings = [group[:i] + group[i + 1 :] for i in range(len(group))]
        wanted = [reward - statistics.fmean(others) for reward, others in zip(group, siblings, strict=True)]
        assert row == pytest.approx(wanted, abs=1e-4)


@given(BATCH)
def test_batch_baseline_is_the_batch_s_mean(rewards: list[list[float]]) -> None:
    mean = statistics.fmean(reward for group in rewards for reward in group)
    found = batch_baseline(torch.tensor(rewards)).tolist()
    for group, row in zip(rewards, found, strict=True):
        assert row == pytest.approx([reward - mean for reward in group], abs=1e-4)


@given(BATCH)
def test_group_mean_baseline_is_not_normalized(rewards: list[list[float]]) -> None:
    """Dr. GRPO, arXiv 2503.20783, section 3.2."""
    table = torch.tensor(rewards)
    assert torch.equal(group_mean_baseline(table), group_relative_advantages(table, normalize=False))


@given(GROUP)
def test_mean_zero_and_unit_deviation(rewards: list[float]) -> None:
    assume(len(set(rewards)) > 1)
    (row,) = group_relative_advantages(torch.tensor([rewards]))
    assert float(row.mean()) == pytest.approx(0, abs=1e-4)
    assert float(row.std()) == pytest.approx(1, abs=1e-4)


@given(GROUP, st.floats(-10, 10), st.sampled_from([1e-6, 1e-3, 0.1, 7.0, 1e4]))
def test_neither_shift_nor_scale_matters(rewards: list[float], shift: float, scale: float) -> None:
    table = torch.tensor([rewards])
    wanted = group_relative_advantages(table)
    assert torch.allclose(group_relative_advantages(table * scale), wanted, atol=2e-3)
    assert torch.allclose(group_relative_advantages(table + shift), wanted, atol=2e-3)


FUNCTIONS = (group_relative_advantages, group_mean_baseline, leave_one_out, batch_baseline)


@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 64), st.sampled_from(FUNCTIONS))
@example(12345.678, 7, group_relative_advantages)  # its fp32 mean is off by 0.001
@example(12345.678, 7, group_mean_baseline)
@example(12345.678, 7, batch_baseline)
def test_equal_rewards_say_nothing_at_all(reward: float, samples: int, function: Advantage) -> None:
    found = function(torch.full((3, samples), reward))
    assert torch.equal(found, torch.zeros(3, samples))


@pytest.mark.parametrize("function", FUNCTIONS[:3])
@pytest.mark.parametrize("shape", [(4, 1), (4, 0), (4,), (2, 2, 2)])
def test_nothing_to_compare(function: Advantage, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 samples a group or more"):
        function(torch.zeros(shape))
