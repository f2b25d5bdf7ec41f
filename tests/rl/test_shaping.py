"""Rewards for form: tags, patterns, length."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.rl.problem import Problem
from course_lib.rl.rewards import compute_rewards, exact_match, reward_name
from course_lib.rl.shaping import brevity, format_match, in_tags, tagged_answer

PROBLEM = Problem("What is 1+1?", "2")
PLAIN = st.text(alphabet="ab2 \n<>/", max_size=12).filter(lambda text: "answer" not in text)


@given(PLAIN, PLAIN, PLAIN)
def test_the_last_tag_counts(before: str, first: str, last: str) -> None:
    text = f"{before}<answer>{first}</answer>{before}<answer>{last}</answer>{before}"
    assert tagged_answer(text) == last.strip()
    assert in_tags(exact_match)([PROBLEM], [text]) == exact_match([PROBLEM], [last])


@given(st.text())
def test_no_tags_are_worth_nothing(text: str) -> None:
    if tagged_answer(text) is None:
        assert in_tags(lambda problems, texts: [1.0] * len(texts))([PROBLEM], [text]) == [0.0]


def test_tagged_and_untagged_keep_their_order() -> None:
    texts = ["<answer>2</answer>", "2", "<answer>3</answer>", "so: <answer> 2 </answer>"]
    assert compute_rewards(in_tags(exact_match), [PROBLEM] * 4, texts).rewards == [1.0, 0.0, 0.0, 1.0]


@given(st.text(max_size=40))
def test_a_pattern_has_to_match_all_of_it(text: str) -> None:
    (value,) = format_match(r"a.*z")([PROBLEM], [text])
    body = text.strip()
    assert value == float(len(body) > 1 and body[0] == "a" and body[-1] == "z")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("<answer>7</answer>", 1.0),
        ("first\nthen\n<answer>\n7\n</answer>\n", 1.0),
        ("<answer></answer>", 0.0),
        ("<answer>7</answer> is it", 0.0),
        ("7", 0.0),
    ],
)
def test_the_form_that_reasoning_models_are_trained_to(text: str, value: float) -> None:
    assert format_match()([PROBLEM], [text]) == [value]


def test_no_pattern() -> None:
    with pytest.raises(ValueError, match=re.escape("'(' is no regular expression")):
        format_match("(")


@given(st.integers(0, 50), st.integers(1, 50), st.text(max_size=120))
def test_brevity_falls_from_one_to_nothing(short: int, more: int, text: str) -> None:
    reward = brevity(short, short + more)
    (value,), (longer,) = reward([PROBLEM], [text]), reward([PROBLEM], [text + "x"])
    assert 0.0 <= longer <= value <= 1.0
    assert (value == 1.0) == (len(text) <= short)
    assert (value == 0.0) == (len(text) >= short + more)
    if short <= len(text) < short + more:
        assert value - longer == pytest.approx(1 / more)  # a line


@pytest.mark.parametrize(("short", "long"), [(-1, 3), (3, 3), (4, 3)])
def test_lengths_that_make_no_sense(short: int, long: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <= short < long"):
        brevity(short, long)


def test_each_has_a_name_for_messages() -> None:
    rewards = [brevity(1, 2), format_match(), in_tags(exact_match)]
    assert [reward_name(reward) for reward in rewards] == ["brevity(1, 2)", "format_match", "in_tags(exact_match)"]
