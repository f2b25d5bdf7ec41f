"""Weighted sums of rewards: every part is logged, and what goes wrong is named by part and sample."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.rl.mixture import Mixture
from course_lib.rl.problem import Problem
from course_lib.rl.rewards import Reward, RewardError, compute_rewards, exact_match, reward_name

NUMBERS = st.floats(-100, 100)
TABLES = st.integers(1, 5).flatmap(
    lambda samples: st.lists(
        st.tuples(NUMBERS, st.lists(NUMBERS, min_size=samples, max_size=samples)), min_size=1, max_size=4
    )
)


def samples(count: int) -> tuple[list[Problem], list[str]]:
    return [Problem(f"question {index}", "x") for index in range(count)], [f"text {index}" for index in range(count)]


def table(values: Sequence[Any]) -> Reward:
    """A reward that looks up what it returns by the number at the text's end, so that it can be asked one by one."""
    return lambda problems, texts: [values[int(text.split()[-1])] for text in texts]


@given(TABLES)
def test_the_weighted_sum_and_every_part(parts: list[tuple[float, list[float]]]) -> None:
    problems, texts = samples(len(parts[0][1]))
    mixture = Mixture({f"part {place}": (weight, table(values)) for place, (weight, values) in enumerate(parts)})
    judged = compute_rewards(mixture, problems, texts)
    wanted = [sum(weight * values[index] for weight, values in parts) for index in range(len(texts))]
    assert judged.rewards == pytest.approx(wanted, abs=1e-9)
    assert mixture(problems, texts) == judged.rewards
    assert judged.parts == {f"part {place}": values for place, (_, values) in enumerate(parts)}


@given(TABLES, NUMBERS)
def test_a_mixture_in_a_mixture(parts: list[tuple[float, list[float]]], weight: float) -> None:
    problems, texts = samples(len(parts[0][1]))
    inner = Mixture({f"part {place}": (share, table(values)) for place, (share, values) in enumerate(parts)})
    outer = compute_rewards(Mixture({"own": (1.0, exact_match), "inner": (weight, inner)}), problems, texts)
    alone = compute_rewards(inner, problems, texts)
    assert outer.rewards == pytest.approx([weight * value for value in alone.rewards], abs=1e-9)
    assert outer.parts == {"own": [0.0] * len(texts), "inner": alone.rewards} | {
        f"inner/{name}": values for name, values in alone.parts.items()
    }


@given(
    st.lists(st.tuples(*[st.sampled_from([0.0, 1.0, -2.5, math.nan, None])] * 2), min_size=1, max_size=6),
    st.booleans(),
)
def test_a_sample_that_a_part_fails_on_has_no_sum(rows: list[tuple[Any, Any]], nested: bool) -> None:
    problems, texts = samples(len(rows))
    first, second = (table([row[place] for row in rows]) for place in (0, 1))
    mixture: Reward = Mixture({"a": (1.0, first), "b": (0.5, second)})
    if nested:
        mixture = Mixture({"whole": (1.0, mixture)})
    judged = compute_rewards(mixture, problems, texts, "go_on")
    bad = [any(value is None or math.isnan(value) for value in row) for row in rows]
    assert [math.isnan(value) for value in judged.rewards] == bad
    assert [fault.index for fault in judged.faults] == [index for index, one in enumerate(bad) if one]
    for fault in judged.faults:
        wrong = [value is None or math.isnan(value) for value in rows[fault.index]]
        assert [f"part {name!r}" in fault.what for name in "ab"] == wrong
        assert (fault.question, fault.completion) == (problems[fault.index].question, texts[fault.index])
    if any(bad):
        with pytest.raises(RewardError, match="part 'a'" if rows[bad.index(True)][0] in (None, math.nan) else "part '"):
            compute_rewards(mixture, problems, texts, "stop")


def test_the_part_that_raises_is_named_with_the_sample_and_the_cause() -> None:
    problems, texts = samples(3)
    mixture = Mixture({"fine": (1.0, exact_match), "parse": (1.0, lambda problems, texts: [1 / 0 for _ in texts])})
    with pytest.raises(RewardError, match=r"part 'parse'.*ZeroDivisionError.*'text 0' of 'question 0'") as caught:
        mixture(problems, texts)
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({}, "needs a part"),
        ({"": (1.0, exact_match)}, "named ''"),
        ({"a/b": (1.0, exact_match)}, "named 'a/b'"),
        ({"a": exact_match}, r"'a' is .*expected \(weight, reward\)"),
        ({"a": (math.nan, exact_match)}, "'a' has the weight nan"),
        ({"a": (math.inf, exact_match)}, "'a' has the weight inf"),
        ({"a": ("1", exact_match)}, "'a' has the weight '1'"),
        ({"a": (1.0, 2.0)}, "'a' has the reward 2.0"),
    ],
)
def test_bad_parts(parts: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        Mixture(parts)


def test_it_prints_what_it_is_made_of() -> None:
    mixture = Mixture({"right": (1, exact_match), "brief": (0.25, exact_match)})
    assert repr(mixture) == reward_name(mixture) == "Mixture(1 right + 0.25 brief)"
