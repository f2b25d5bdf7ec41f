"""Addition: what is held out stays unseen, whoever draws."""

import random
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.rl import Addition, Problem


def numbers(problem: Problem) -> tuple[int, int]:
    a, b = map(int, re.findall(r"\d+", problem.question))
    return a, b


@st.composite
def tasks(draw: st.DrawFn) -> Addition:
    largest = draw(st.integers(1, 25))
    pairs = (largest + 1) * (largest + 2) // 2
    return Addition(largest, draw(st.integers(1, pairs - 1)), draw(st.integers(0, 99)))


@given(tasks())
def test_held_out_pairs_are_never_trained_on(task: Addition) -> None:
    held_out = {frozenset(numbers(problem)) for problem in task.held_out}
    training = {frozenset(numbers(problem)) for problem in task.training}
    assert len(held_out) == len(task.held_out)
    assert held_out.isdisjoint(training)


@given(tasks())
def test_together_they_are_all_pairs(task: Addition) -> None:
    seen = {frozenset(numbers(problem)) for problem in [*task.held_out, *task.training]}
    largest = max(map(max, seen))
    assert len(seen) == (largest + 1) * (largest + 2) // 2


@given(tasks())
def test_answers_are_sums(task: Addition) -> None:
    assert all(sum(numbers(problem)) == int(problem.answer) for problem in [*task.held_out, *task.training])


@given(tasks(), st.integers(0, 999), st.data())
def test_draw_gives_different_training_problems(task: Addition, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(task.training)))
    drawn = task.draw(count, random.Random(seed))
    assert len(drawn) == count == len(set(drawn))
    assert set(drawn) <= set(task.training)


@given(st.integers(0, 40))
def test_draw_more_than_there_are(count: int) -> None:
    task = Addition(largest=3, held_out=5)
    drawn = task.draw(count, random.Random(0))
    times = [drawn.count(problem) for problem in task.training]
    assert len(drawn) == count
    assert max(times) - min(times) <= 1


def test_held_out_set_is_the_same_for_every_loop_seed() -> None:
    task = Addition()
    before = list(task.held_out)
    for seed in range(5):
        task.draw(50, random.Random(seed))
    assert task.held_out == before == Addition().held_out
    assert task.draw(8, random.Random(1)) != task.draw(8, random.Random(2))


@pytest.mark.parametrize("held_out", [0, -1, 6, 7])
def test_no_room_for_both_sets(held_out: int) -> None:
    with pytest.raises(ValueError, match="between 1 and 5"):
        Addition(largest=2, held_out=held_out)
