"""Group-relative advantages against the formula in plain Python."""

import statistics

import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from course_lib.rl import group_relative_advantages

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


@given(st.floats(-1e6, 1e6, width=32), st.integers(2, 64), st.booleans())
@example(12345.678, 7, True)  # its fp32 mean is off by 0.001
@example(12345.678, 7, False)
def test_equal_rewards_say_nothing_at_all(reward: float, samples: int, normalize: bool) -> None:
    found = group_relative_advantages(torch.full((3, samples), reward), normalize)
    assert torch.equal(found, torch.zeros(3, samples))


@pytest.mark.parametrize("shape", [(4, 1), (4, 0), (4,), (2, 2, 2)])
def test_nothing_to_compare(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="2 samples a group or more"):
        group_relative_advantages(torch.zeros(shape))
