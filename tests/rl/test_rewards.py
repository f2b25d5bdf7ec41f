"""Rewards by rule, and what is said when a learner's reward goes wrong."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from course_lib.rl import Problem, RewardError, exact_match, number_match
from course_lib.rl.rewards import compute_rewards

PROBLEMS = [Problem("What is 1+1?", "2"), Problem("What is 3+4?", "7"), Problem("What is 5+6?", "11")]
TEXTS = ["2", "seven", "11"]
SPACE = st.text(alphabet=" \n\t", max_size=3)
ANSWERS = st.integers(0, 60).map(str)


@given(ANSWERS, SPACE, SPACE)
def test_the_answer_alone_is_worth_one(answer: str, before: str, after: str) -> None:
    problem, text = [Problem("?", answer)], [before + answer + after]
    assert exact_match(problem, text) == number_match(problem, text) == [1.0]


@given(ANSWERS, st.text(max_size=8))
def test_anything_else_is_no_exact_match(answer: str, text: str) -> None:
    assume(text.strip() != answer)
    assert exact_match([Problem("?", answer)], [text]) == [0.0]


@given(ANSWERS, ANSWERS)
def test_a_wrong_number_is_worth_nothing(answer: str, other: str) -> None:
    assume(answer != other)
    assert number_match([Problem("?", answer)], [other]) == [0.0]


@given(ANSWERS, st.text(alphabet="0123456789+= .abc", max_size=20))
def test_shaped_rewards_stay_between_zero_and_one(answer: str, text: str) -> None:
    (value,) = number_match([Problem("?", answer)], [text])
    assert 0.0 <= value <= 1.0


def test_rewards_keep_their_order() -> None:
    assert compute_rewards(exact_match, PROBLEMS, TEXTS) == [1.0, 0.0, 1.0]


def test_integers_and_booleans_are_numbers() -> None:
    assert compute_rewards(lambda problems, texts: [True, 0, 3], PROBLEMS, TEXTS) == [1.0, 0.0, 3.0]


def bad(value: Any) -> Callable[[Sequence[Problem], Sequence[str]], list[Any]]:
    def spoilt(problems: Sequence[Problem], texts: Sequence[str]) -> list[Any]:
        return [value if text == "seven" else 1.0 for text in texts]

    return spoilt


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, "1", [1.0], 1j])
def test_what_is_no_finite_number_is_named_with_its_sample(value: Any) -> None:
    with pytest.raises(RewardError) as caught:
        compute_rewards(bad(value), PROBLEMS, TEXTS)
    for part in ("spoilt", repr(value), "'seven'", "What is 3+4?"):
        assert part in str(caught.value)


def test_a_reward_that_raises_is_named_with_the_sample() -> None:
    def parse(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [float(int(text)) for text in texts]

    with pytest.raises(RewardError) as caught:
        compute_rewards(parse, PROBLEMS, TEXTS)
    for part in ("parse", "ValueError", "'seven'", "What is 3+4?"):
        assert part in str(caught.value)
    assert isinstance(caught.value.__cause__, ValueError)


def test_a_reward_that_fails_on_the_batch_only() -> None:
    def small(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        if len(texts) > 1:
            raise MemoryError("too many")
        return [1.0]

    with pytest.raises(RewardError, match=r"small raised MemoryError.*only on the batch"):
        compute_rewards(small, PROBLEMS, TEXTS)


@pytest.mark.parametrize("count", [0, 2, 4])
def test_wrong_number_of_rewards(count: int) -> None:
    def some(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        return [1.0] * count

    with pytest.raises(RewardError, match=f"some returned {count} values for 3"):
        compute_rewards(some, PROBLEMS, TEXTS)


def test_a_reward_that_returns_no_list() -> None:
    def nothing(problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        return None

    with pytest.raises(RewardError, match="nothing"):
        compute_rewards(nothing, PROBLEMS, TEXTS)
