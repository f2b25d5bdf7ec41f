"""The learning rate over the steps: up to its peak, down to a tenth of it."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.training import TrainerConfig


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 200))
def test_the_rate_stays_between_nothing_and_its_peak(warmup: int, decay: int, step: int) -> None:
    config = TrainerConfig(learning_rate=1e-3, warmup_steps=warmup, decay_steps=decay)
    assert 0 < config.rate(step) <= 1e-3


@given(st.integers(1, 100))
def test_decay_falls_in_equal_steps_to_a_tenth_and_stays(decay: int) -> None:
    config = TrainerConfig(learning_rate=1.0, decay_steps=decay)
    rates = [config.rate(step) for step in range(decay + 3)]
    assert rates[0] == 1.0
    assert rates[decay:] == pytest.approx([0.1] * 3)
    falls = [a - b for a, b in itertools.pairwise(rates[: decay + 1])]
    assert falls == pytest.approx([0.9 / decay] * decay)


def test_a_negative_decay_is_refused() -> None:
    with pytest.raises(ValueError, match="decay_steps"):
        TrainerConfig(decay_steps=-1)
