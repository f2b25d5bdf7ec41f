"""The capstone's grade: all points for a good run, none for none, and each fault costs its own."""

from typing import Any

import pytest

from course_lib.grading.report import grade_capstone


def record(step: int, **changes: Any) -> dict[str, Any]:
    return {"step": step, "receipt": {"ok": True}, "applied": True, "groups_with_signal": 0.5} | changes


def good_run() -> list[dict[str, Any]]:
    return [{"step": 0, "held_out": 0.4}, record(1), record(2, held_out=0.9)]


def points(records: list[dict[str, Any]], steps: int = 2, exported: bool = True) -> dict[str, int]:
    return {line.name: line.earned for line in grade_capstone(records, steps, exported)}


def lost(records: list[dict[str, Any]], steps: int = 2, exported: bool = True) -> set[str]:
    full = {line.name: line.points for line in grade_capstone(records, steps, exported)}
    return {name for name, earned in points(records, steps, exported).items() if earned < full[name]}


def test_a_good_run_gets_all_points_and_no_run_none() -> None:
    assert sum(points(good_run()).values()) == 100
    assert sum(points([], steps=2, exported=False).values()) == 0
    assert sum(points([{"step": 0, "held_out": 0.95}], steps=2, exported=False).values()) == 0


@pytest.mark.parametrize(
    ("spoil", "name"),
    [
        (lambda run: run[2].update(held_out=0.5), "held-out accuracy of 90%"),
        (lambda run: run[2].update(held_out=0.3), "held-out accuracy of 90%"),
        (lambda run: run[1].update(receipt={"ok": False}), "every receipt is clean"),
        (lambda run: run[1].update(applied=False), "no step was refused"),
    ],
)
def test_each_fault_costs_its_own_points(spoil: Any, name: str) -> None:
    run = good_run()
    spoil(run)
    assert lost(run) == {name}


def test_an_unfinished_run_and_a_missing_export_cost_theirs() -> None:
    assert lost(good_run(), steps=3) == {"the run is complete"}
    assert lost(good_run(), exported=False) == {"the policy is exported"}


def test_a_step_without_signal_is_no_refused_step() -> None:
    run = good_run()
    run[1].update(applied=False, groups_with_signal=0.0)
    assert lost(run) == set()
