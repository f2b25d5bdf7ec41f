"""Lesson 08's figures show the numbers of the records that they were given."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from course_lib.machine.record import RESULTS
from course_lib.rl.study import Curve
from course_lib.viz import lesson_08


def curve(name: str, rewards: list[float], held_out: list[tuple[int, float, float]]) -> Curve:
    decisions = {"algorithm": {"name": name}}
    return Curve(name, decisions, rewards, [], held_out, held_out[-1][1], len(rewards), 5.0)


ONE = curve("grpo", [0.1, 0.5, 0.8], [(0, 1.0, 0.4), (2, 20.0, 0.92), (3, 30.0, 0.88)])
TWO = curve("dapo", [0.1, 0.4, 0.9], [(0, 1.0, 0.4), (3, 35.0, 0.7)])


def test_accuracy_is_drawn_over_seconds_and_the_goal_across() -> None:
    axes = lesson_08.accuracy_by_time([ONE, TWO]).axes[0]
    drawn = {line.get_label(): line.get_xydata() for line in axes.lines}
    np.testing.assert_allclose(drawn["grpo"], [(1, 0.4), (20, 0.92), (30, 0.88)])
    np.testing.assert_allclose(drawn["dapo"], [(1, 0.4), (35, 0.7)])
    assert any(set(line.get_ydata()) == {0.9} for line in axes.lines)


def test_the_table_says_when_the_goal_was_measured_first_and_what_was_last() -> None:
    rows = lesson_08.reached_table([ONE, TWO]).rows
    assert tuple(map(str, rows[0])) == ("grpo", "step 2", "20 s", "0.92", "0.88", "3", "30 s", "3 of 3")
    assert tuple(map(str, rows[1])) == ("dapo", "never", "", "0.70", "0.70", "3", "35 s", "3 of 3")


def test_a_judge_s_reward_and_the_accuracy_have_an_axis_each() -> None:
    figure = lesson_08.judged_curves([ONE, TWO])
    assert len(figure.axes) == 4
    beside = next(axes for axes in figure.axes if axes.get_ylabel() == "held-out accuracy")
    np.testing.assert_allclose(beside.lines[0].get_ydata(), [0.4, 0.92, 0.88])


def test_the_gap_of_one_and_two_ranks_is_the_mean_difference_of_rewards() -> None:
    axes = lesson_08.one_and_two_ranks(ONE, TWO).axes[0]
    assert "0.067" in axes.get_title(loc="left")


def test_this_run_stands_beside_recorded_ones(tmp_path: Path) -> None:
    summary: dict[str, Any] = {
        "steps": 10,
        "samples_tokens": 12_000,
        "held_out": {"first": 0.4, "best": 0.9, "last": 0.8},
        "seconds": {"a_step": {"generate": 1.0, "train": 2.0, "sync": 0.5, "step": 3.5}},
        "receipts": {"clean": 9, "all": 10},
        "machine": {"machine": "2 CPU cores"},
    }
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"summary": summary | {"machine": {"machine": "1 x GPU"}, "steps": 20}}))
    rows = [tuple(map(str, row)) for row in lesson_08.machines_table(summary, path).rows]
    figures = ("1.00", "2.00", "0.50", "3.50", "0.40 -> 0.90", "9 of 10")
    assert rows == [("2 CPU cores (this run)", "1,200", *figures), ("1 x GPU", "600", *figures)]
    with pytest.raises(FileNotFoundError, match="course capstone"):
        lesson_08.machines_table(summary, tmp_path / "none.json")


def test_every_recorded_kill_is_a_row() -> None:
    record = json.loads((RESULTS / "kill_resume_cpu.json").read_text())
    table = lesson_08.kill_table(RESULTS / "kill_resume_cpu.json")
    assert len(table.rows) == len(record["points"])
    assert f"{record['equal']} of {len(record['points'])}" in table.caption
