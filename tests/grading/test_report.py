"""The capstone's grade: all points for a good run, none for none, and each fault costs its own."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from course_lib.grading import report_run
from course_lib.grading.report import grade_capstone, newest_run, run_seconds


def record(step: int, **changes: Any) -> dict[str, Any]:
    timeline = [["train", 100.0 * step, 100.0 * step + 90]]
    facts = {"receipt": {"ok": True}, "applied": True, "groups_with_signal": 0.5, "timeline": timeline}
    return {"step": step} | facts | changes


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
        (lambda run: run[2].update(timeline=[["train", 0.0, 480.1]]), "the budget of 480 s is kept"),
        (lambda run: run[2].update(peak_memory={"host": 9.0, "gpu": 99.0}), "the budget of 120 s is kept"),
    ],
)
def test_each_fault_costs_its_own_points(spoil: Any, name: str) -> None:
    run = good_run()
    spoil(run)
    assert lost(run) == {name}


def test_an_unfinished_run_and_a_missing_export_cost_theirs() -> None:
    assert lost(good_run(), steps=3) == {"the run is complete", "the budget of 480 s is kept"}
    assert lost(good_run(), exported=False) == {"the policy is exported"}


def test_a_step_without_signal_is_no_refused_step() -> None:
    run = good_run()
    run[1].update(applied=False, groups_with_signal=0.0)
    assert lost(run) == set()


def test_a_run_of_an_older_course_is_timed_by_its_steps() -> None:
    run = [{"step": 0}, {"step": 1, "seconds": {"step": 30.0}}, {"step": 2, "seconds": {"step": 12.5}}]
    assert run_seconds(run) == 42.5
    assert run_seconds([{"step": 0}]) is None


def test_points_for_accuracy_go_by_the_last_and_the_best_is_shown() -> None:
    run = good_run()
    run[1]["held_out"], run[2]["held_out"] = 0.95, 0.65
    [line] = [line for line in grade_capstone(run, 2, True) if "accuracy" in line.name]
    assert (line.earned, line.found) == (20, "40% -> 65%, best 95%")


def write(run: Path, records: list[dict[str, Any]], exported: bool, age: int = 0) -> Path:
    (run / "policy").mkdir(parents=True)
    if exported:
        (run / "policy" / "model.safetensors").touch()
    (run / "config.json").write_text('{"steps": 2}')
    (run / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    os.utime(run / "metrics.jsonl", (1e9 - age, 1e9 - age))
    return run


def test_the_report_of_a_run_is_a_table(tmp_path: Path) -> None:
    table = report_run(write(tmp_path / "one", good_run(), exported=False))
    assert table.caption == "This run: 90 of 100 points"
    assert "290 s" in repr(table) and "40% -> 90%" in repr(table) and "✗ 0 of 10" in repr(table)
    with pytest.raises(ValueError, match="can't be graded"):
        report_run(tmp_path / "two")


def test_the_newest_run_is_the_last_that_was_exported(tmp_path: Path) -> None:
    assert newest_run(tmp_path) is None
    parts = write(tmp_path / "my-capstone", good_run(), exported=False)
    assert newest_run(tmp_path) == parts
    write(tmp_path / "old", good_run(), exported=True, age=200)
    new = write(tmp_path / "new", good_run(), exported=True, age=100)
    assert newest_run(tmp_path) == new
