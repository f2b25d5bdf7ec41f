"""Requests: when they come and how long they are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.fragmentation import poisson_requests, sharegpt, uniform


def test_sharegpt_has_the_paper_s_means() -> None:
    """Figure 11 prints them: 161.31 and 337.99 tokens."""
    lengths = sharegpt()
    drawn = lengths.draw(np.random.default_rng(0), 200_000)
    assert drawn[:, 0].mean() == pytest.approx(161.31, rel=0.01)
    assert drawn[:, 1].mean() == pytest.approx(337.99, rel=0.01)
    assert "mean prompt 161.4, mean output 338.0" in repr(lengths)


@given(limit=st.integers(64, 3000), count=st.integers(1, 50), seed=st.integers(0, 99))
def test_sharegpt_keeps_to_the_limit(limit: int, count: int, seed: int) -> None:
    drawn = sharegpt(limit).draw(np.random.default_rng(seed), count)
    assert drawn.shape == (count, 2)
    assert drawn.min() >= 1
    assert drawn.sum(axis=1).max() <= limit


def test_the_limit_leaves_the_histograms_as_they_are() -> None:
    """Swapping outputs changes neither who asks nor what is answered, only who gets which answer."""
    short, long = (sharegpt(limit).draw(np.random.default_rng(3), 20_000) for limit in (2048, 10**6))
    for side in (0, 1):
        assert np.mean(np.sort(short[:, side]) != np.sort(long[:, side])) < 0.01


@given(low=st.integers(1, 50), more=st.integers(0, 50))
def test_uniform_lengths_reach_both_ends(low: int, more: int) -> None:
    drawn = uniform(low, low + more).draw(np.random.default_rng(0), 2000)
    assert (drawn.min(), drawn.max()) == (low, low + more)


def test_poisson_arrivals() -> None:
    requests = poisson_requests(4.0, 20_000, uniform(1, 9), seed=5)
    gaps = np.diff([request.arrival for request in requests])
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(1 / 4, rel=0.03)
    assert gaps.std() == pytest.approx(1 / 4, rel=0.05), "a Poisson process' gaps vary as much as they are long"
    assert len({request.id for request in requests}) == len(requests)
    assert (
        requests
        == poisson_requests(4.0, 20_000, uniform(1, 9), seed=5)
        != poisson_requests(4.0, 20_000, uniform(1, 9), seed=6)
    )


@pytest.mark.parametrize(("rate", "count"), [(0, 5), (-1, 5), (float("inf"), 5), (1, 0)])
def test_bad_rates_are_refused(rate: float, count: int) -> None:
    with pytest.raises(ValueError, match="expected at least one, and a rate above 0"):
        poisson_requests(rate, count, uniform(1, 2), seed=0)


def test_bad_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="1 <= low <= high"):
        uniform(5, 4)
    with pytest.raises(ValueError, match="expected 64 or more"):
        sharegpt(10)
