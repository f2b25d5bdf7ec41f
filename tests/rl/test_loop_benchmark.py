"""The loop's benchmark: real loops in processes of their own, and a word about those that can't run."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from course_lib.models import load_policy
from course_lib.rl.loop_benchmark import COLUMNS, LoopWork, bench_loop, rows


def test_our_loop_is_measured_and_a_missing_one_is_named() -> None:
    events: list[str] = []
    work = LoopWork(steps=5, prompts=2, samples=2, max_new_tokens=4)
    record = bench_loop(load_policy("tiny"), work, limit=200, on_event=events.append)
    ours = record["loops"]["ours"]
    assert len(ours["seconds"]) == len(ours["rewards"]) == ours["clean_receipts"] == 5
    # The last step also measures accuracy and writes a checkpoint, which is not the step's time.
    assert ours["step"] in ours["seconds"][3:-1]
    phases = [sum(parts) for parts in zip(*ours["phases"].values(), strict=True)]
    assert all(part <= whole for part, whole in zip(phases, ours["seconds"], strict=True))
    if find_spec("trl") is None:
        assert "pip install trl" in record["loops"]["trl"]["error"]
        assert "ratio" not in record
    assert any("ours" in event for event in events)
    assert all(len(row) == len(COLUMNS) for row in rows(record))


def test_a_loop_that_fails_or_hangs_is_an_error_of_its_own(tmp_path: Path) -> None:
    work = LoopWork(steps=5, prompts=2, samples=2)
    failed = bench_loop(tmp_path, work, ["ours"], limit=100)["loops"]["ours"]
    assert "status 1" in failed["error"]
    late = bench_loop(load_policy("tiny"), work, ["ours"], limit=0.5)["loops"]["ours"]
    assert "0.5 s" in late["error"]


def test_bad_input_is_one_clear_message(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="5 or more"):
        LoopWork(steps=4)
    with pytest.raises(ValueError, match="no loop 'verl'"):
        bench_loop(tmp_path, LoopWork(), ["verl"])


def test_the_ratio_is_ours_over_theirs_and_the_goal_is_the_first_step_that_passed_it() -> None:
    found = {
        "ours": {"step": 0.5, "rewards": [0.1, 0.95, 0.89, 0.97]},
        "trl": {"error": "ended with status 1"},
    }
    assert rows({"loops": found}) == [["ours", "0.50", "0.10", "0.97", "2"], ["trl", "failed", "", "", ""]]
