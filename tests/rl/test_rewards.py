"""Rewards by rule, and what is said when a learner's reward goes wrong."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
import torch
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
    assert compute_rewards(exact_match, PROBLEMS, TEXTS).rewards == [1.0, 0.0, 1.0]


def test_integers_and_booleans_are_numbers() -> None:
    assert compute_rewards(lambda problems, texts: [True, 0, 3], PROBLEMS, TEXTS).rewards == [1.0, 0.0, 3.0]


def bad(value: Any) -> Callable[[Sequence[Problem], Sequence[str]], list[Any]]:
    def spoilt(problems: Sequence[Problem], texts: Sequence[str]) -> list[Any]:
        return [value if text == "seven" else 1.0 for text in texts]

    return spoilt


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e39, 10**400, None, "1", [1.0], 1j])
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

    with pytest.raises(RewardError, match="nothing returned None; return a list"):
        compute_rewards(nothing, PROBLEMS, TEXTS)


@pytest.mark.parametrize("array", [np.array, torch.tensor, tuple, iter, np.float32])
def test_whatever_holds_the_numbers(array: Any) -> None:
    def rewarding(problems: Sequence[Problem], texts: Sequence[str]) -> Any:
        values = [float(len(text)) for text in texts]
        return [array(value) for value in values] if array is np.float32 else array(values)

    judged = compute_rewards(rewarding, PROBLEMS, TEXTS)
    assert judged.rewards == [1.0, 5.0, 2.0]
    assert all(type(value) is float for value in judged.rewards)


OUTCOMES = st.lists(
    st.sampled_from([0.0, 1.0, 2.5, math.nan, math.inf, None, "raise", "two", "none"]), min_size=1, max_size=8
)


def scripted(outcomes: Sequence[Any]) -> Callable[[Sequence[Problem], Sequence[str]], list[Any]]:
    """A reward that does to each sample, by the number in its text, what the script says."""

    def reward(problems: Sequence[Problem], texts: Sequence[str]) -> list[Any]:
        values: list[Any] = []
        for text in texts:
            outcome = outcomes[int(text)]
            if outcome == "raise":
                raise ValueError(text)
            values += {"two": [1.0, 1.0], "none": []}.get(outcome, [outcome])
        return values

    return reward


@given(OUTCOMES)
def test_going_on_keeps_every_sample_that_the_reward_does_not_fail_on(outcomes: list[Any]) -> None:
    problems = [Problem(f"question {index}", "x") for index in range(len(outcomes))]
    texts = [str(index) for index in range(len(outcomes))]
    good = [isinstance(outcome, float) and math.isfinite(outcome) for outcome in outcomes]
    lengths = [{"two": 2, "none": 0}.get(outcome, 1) for outcome in outcomes]
    if "raise" not in outcomes and sum(lengths) == len(outcomes) and set(lengths) != {1}:
        return  # two for one sample and none for another look like one each: nobody can see that
    judged = compute_rewards(scripted(outcomes), problems, texts, "go_on")
    wanted = [outcome if fine else math.nan for outcome, fine in zip(outcomes, good, strict=True)]
    assert np.array_equal(judged.rewards, wanted, equal_nan=True)
    assert [fault.index for fault in judged.faults] == [index for index, fine in enumerate(good) if not fine]
    for fault in judged.faults:
        assert (fault.question, fault.completion) == (f"question {fault.index}", str(fault.index))
        assert "the reward reward" in fault.what
        json.dumps(asdict(fault))
    if all(good):
        assert compute_rewards(scripted(outcomes), problems, texts, "stop") == judged
    else:
        with pytest.raises(RewardError, match=f"'{good.index(False)}' of 'question {good.index(False)}'"):
            compute_rewards(scripted(outcomes), problems, texts, "stop")


def test_a_fault_of_the_batch_is_a_fault_of_every_sample() -> None:
    calls = []

    def average(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        calls.append(len(texts))
        return [0.5]

    judged = compute_rewards(average, PROBLEMS, TEXTS, "go_on")
    assert calls == [3, 1, 1, 1]
    assert all(math.isnan(value) for value in judged.rewards)
    assert [fault.index for fault in judged.faults] == [0, 1, 2]
    assert "returned 1 values for 3" in judged.faults[0].what and "only on the batch of 3" in judged.faults[0].what


def test_a_good_reward_is_called_once() -> None:
    calls = []

    def counting(problems: Sequence[Problem], texts: Sequence[str]) -> list[float]:
        calls.append(len(texts))
        return [math.nan] * len(texts)

    compute_rewards(counting, PROBLEMS, TEXTS, "go_on")
    assert calls == [3]


def test_what_to_do_has_to_be_known() -> None:
    with pytest.raises(ValueError, match="on_error is 'ignore'; expected 'stop' or 'go_on'"):
        compute_rewards(exact_match, PROBLEMS, TEXTS, "ignore")  # type: ignore[arg-type]


def test_a_fault_of_a_batch_that_was_joined() -> None:
    fault = compute_rewards(bad(None), PROBLEMS, TEXTS, "go_on").faults[0]
    assert (fault.moved(7).index, fault.moved(7).what) == (7, fault.what)


def test_a_problems_metadata() -> None:
    problem = Problem("?", "1", {"numbers": [1, 2], "target": 3})
    assert json.loads(json.dumps(asdict(problem)))["metadata"] == {"numbers": [1, 2], "target": 3}
    assert asdict(Problem("?", "1"))["metadata"] == {}
    assert len({problem, Problem("?", "1", {"numbers": [1, 2], "target": 3}), Problem("?", "1")}) == 2
    for metadata in ({"numbers": (1, 2)}, {1: 2}, {"a": {3}}, {"a": math.nan}):
        with pytest.raises(TypeError, match="not JSON-ready"):
            Problem("?", "1", metadata)  # type: ignore[arg-type]
