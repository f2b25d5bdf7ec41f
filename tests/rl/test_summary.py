"""A run's summary: what it counts, and what it leaves out."""

from typing import Any

from course_lib.rl.summary import summarize


def step(number: int, train: float, **changes: Any) -> dict[str, Any]:
    return {
        "step": number,
        "tokens": 10,
        "reward": number / 10,
        "receipt": {"ok": True},
        "seconds": {"generate": 1.0, "train": train, "step": 1.0 + train},
        "peak_memory": {"host": float(number)},
    } | changes


def test_the_first_step_does_not_count_for_the_time_of_a_step() -> None:
    records = [{"step": 0, "held_out": 0.4, "peak_memory": {"host": 0.5}}, step(1, 100.0), step(2, 3.0), step(3, 5.0)]
    summary = summarize(records, 120.0)
    assert summary["seconds"]["a_step"]["train"] == 4.0
    assert summary["seconds"]["run"] == 120.0
    assert summary["samples_tokens"] == 30
    assert summary["peak_memory"] == {"host": 3.0}


def test_accuracies_are_first_best_and_last() -> None:
    records = [{"step": 0, "held_out": 0.4}, step(1, 1.0, held_out=0.9), step(2, 1.0, held_out=0.8)]
    assert summarize(records)["held_out"] == {"first": 0.4, "best": 0.9, "last": 0.8}


def test_a_failed_receipt_is_not_counted_as_clean() -> None:
    assert summarize([step(1, 1.0), step(2, 1.0, receipt={"ok": False})])["receipts"] == {"clean": 1, "all": 2}


def test_nothing_recorded_gives_an_empty_summary() -> None:
    assert summarize([])["steps"] == 0
