"""Static and iteration-level batches against a loop that goes step by step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.fragmentation import iteration_level, static_batches

OUTPUTS = st.lists(st.integers(1, 30), min_size=1, max_size=40)


def steps_of(outputs: list[int], rows: int, refill: bool) -> int:
    """Play the batch step by step; a static one is refilled when it is empty, the other one whenever a row is free."""
    waiting, running, steps = list(outputs), [], 0
    while waiting or running:
        if refill or not running:
            while waiting and len(running) < rows:
                running.append(waiting.pop(0))
        running = [left - 1 for left in running if left > 1]
        steps += 1
    return steps


@pytest.mark.parametrize(("schedule", "refill"), [(static_batches, False), (iteration_level, True)])
@given(outputs=OUTPUTS, rows=st.integers(1, 8))
def test_steps(schedule, refill: bool, outputs: list[int], rows: int) -> None:
    found = schedule(outputs, rows)
    assert found.steps == steps_of(outputs, rows, refill)
    assert found.tokens == sum(outputs)
    assert found.idle == pytest.approx(1 - sum(outputs) / (rows * found.steps))
    places = [(turn.row, step) for turn in found.turns for step in range(turn.start, turn.start + turn.length)]
    assert len(set(places)) == len(places) == sum(outputs), "two requests share a row in a step"
    assert {row for row, _ in places} <= set(range(rows))
    assert [(turn.request, turn.length) for turn in found.turns] == list(enumerate(outputs))
    starts = [turn.start for turn in found.turns]
    assert starts == sorted(starts), "somebody overtook"


@given(outputs=OUTPUTS, rows=st.integers(1, 8))
def test_refilling_is_never_slower(outputs: list[int], rows: int) -> None:
    assert iteration_level(outputs, rows).steps <= static_batches(outputs, rows).steps


def test_a_static_batch_waits_for_its_longest() -> None:
    schedule = static_batches([2, 9, 4, 3], rows=2)
    assert [turn.start for turn in schedule.turns] == [0, 0, 9, 9]
    assert schedule.steps == 13
    assert schedule.idle == pytest.approx(8 / 26)


@pytest.mark.parametrize(("outputs", "rows"), [([], 2), ([3, 0], 2), ([3], 0)])
def test_bad_batches_are_refused(outputs: list[int], rows: int) -> None:
    with pytest.raises(ValueError, match="expected at least one request, one row"):
        static_batches(outputs, rows)
