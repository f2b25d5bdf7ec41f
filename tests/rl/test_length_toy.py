"""The toy of lesson 07 drifts where an average is biased, and by as much as its expectation says."""

import math

import pytest

from course_lib.rl.length_toy import length_drift


def logit_change(drift_lengths: list[float]) -> float:
    """The first step of the stop logit, from the mean lengths 1 / stop before and after it."""
    before, after = (-math.log(length - 1) for length in drift_lengths[:2])
    return after - before


@pytest.mark.parametrize("group", [4, 16])
def test_the_first_step_is_what_its_expectation_says(group: int) -> None:
    # By hand: a response of L tokens has the score 1 - L * stop. E[score] = 0, and E[score / L] = E[1 / L] - stop, where for a
    # geometric length E[1 / L] = -stop * log(stop) / (1 - stop). E[right * wrong] / group^2 = (1 - 1 / group) / 4.
    stop = 0.1
    by_length = -stop * math.log(stop) / (1 - stop) - stop
    expected = {"sequence": by_length * (1 - 1 / group) / 4, "constant": 0.0}
    for average, push in expected.items():
        drift = length_drift(average, group, steps=1, samples=1 << 16)  # type: ignore[arg-type]
        assert logit_change(drift.wrong) == pytest.approx(-push, abs=2e-3)
        assert logit_change(drift.right) == pytest.approx(push, abs=2e-3)


def test_the_bias_of_a_mean_over_tokens_fades_with_the_batch() -> None:
    ends = [length_drift("token", group).wrong[-1] for group in (8, 64)]
    assert ends[0] > 12 and 10 < ends[1] < 11
    assert length_drift("sequence", 64).right[-1] < 2


def test_the_same_seed_gives_the_same_path_and_it_prints_its_ends() -> None:
    drift = length_drift("constant", 8, steps=3, seed=1)
    assert drift == length_drift("constant", 8, steps=3, seed=1) != length_drift("constant", 8, steps=3, seed=2)
    assert len(drift.wrong) == len(drift.right) == 4 and repr(drift).startswith("LengthDrift(wrong 10.0 to")


@pytest.mark.parametrize("group", [1, 2048])
def test_a_group_that_cannot_be_compared_is_refused(group: int) -> None:
    with pytest.raises(ValueError, match=f"group is {group}"):
        length_drift("token", group)
