"""The benchmarks' plots show their records' numbers, and a file that is no record is refused in words."""

import json
from pathlib import Path
from typing import Any

import pytest

from course_lib.bench import plot_record
from course_lib.machine.record import RESULTS
from course_lib.viz.bench_plots import bench_plot, loop_plot, scale_plot

WORK = {"prompts": 64, "samples": 8}
PLACE = {"model": "small", "work": WORK, "machine": {"machine": "2 x GPU", "tier": "gpu"}}


def loops() -> dict[str, Any]:
    phases = {"generate": 0.4, "reward": 0.1, "train": 0.2, "sync": 0.2}
    seconds = {name: [9.0] * 3 + [value] * 3 + [9.0] for name, value in phases.items()}
    return PLACE | {"loops": {"ours": {"step": 1.0, "phases": seconds}, "trl": {"step": 2.0}}, "ratio": 0.5}


def row(ranks: int, step: float, **more: Any) -> dict[str, Any]:
    phases = {"generate": step / 2, "reward": 0.0, "train": step / 4, "sync": step / 8}
    memory = {"most": 70.0 * ranks, "train": 20.0 * ranks}
    return {
        "ranks": ranks,
        "zero_stage": 2,
        "scaling": "strong",
        "step": step,
        "phases": phases,
        "memory": memory,
    } | more


def widths(axes: Any) -> dict[float, float]:
    """The length of the whole bar in each place."""
    found: dict[float, float] = {}
    for bar in axes.patches:
        place = round(bar.get_y() + bar.get_height() / 2, 6)
        found[place] = max(found.get(place, 0.0), bar.get_x() + bar.get_width())
    return found


def test_a_loop_s_bar_is_its_step_without_the_steps_that_do_not_count() -> None:
    figure = loop_plot(loops())
    axes = figure.axes[0]
    assert widths(axes) == pytest.approx({0: 1.0, 1: 2.0})
    assert [label.get_text() for label in axes.get_yticklabels()] == ["ours", "trl"]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["generate", "reward", "train", "sync", "between phases", "whole step"]
    assert "0.50 of TRL's" in axes.get_title(loc="left")
    assert "seconds" in axes.get_xlabel()


def test_a_loop_alone_claims_no_ratio() -> None:
    record = loops()
    record["loops"]["trl"] = {"error": "TRL is not installed"}
    del record["ratio"]
    axes = loop_plot(record).axes[0]
    assert widths(axes) == pytest.approx({0: 1.0})
    assert "TRL" not in axes.get_title(loc="left")


def test_each_combination_has_a_bar_of_seconds_and_one_of_memory() -> None:
    rows = [row(1, 1.0, efficiency=1.0), {"error": "no", "ranks": 2}, row(2, 0.8, efficiency=0.625)]
    seconds, memory = scale_plot(PLACE | {"rows": rows}).axes
    assert widths(seconds) == pytest.approx({0: 1.0, 1: 0.8})
    assert widths(memory) == pytest.approx({0: 70.0, 1: 140.0})
    assert [text.get_text() for text in seconds.texts] == ["1.00 s", "0.80 s (62% of perfect scaling)"]
    assert [label.get_text() for label in seconds.get_yticklabels()] == ["ZeRO-2, 1 rank", "ZeRO-2, 2 ranks, shared"]


@pytest.mark.parametrize("name", ["serve_cpu", "loop_h200"])
def test_a_record_of_the_course_is_drawn(name: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "plot.svg"
    assert plot_record(RESULTS / f"{name}.json", out) == 0
    assert "<svg" in out.read_text()


def test_what_can_not_be_drawn_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="nothing in this record"):
        bench_plot(PLACE | {"rows": [{"error": "no"}]})
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"runs": []}))
    assert plot_record(other, tmp_path / "x.svg") == 2
    assert "course bench loop" in capsys.readouterr().out
    assert plot_record(RESULTS / "serve_cpu.json", tmp_path / "x.foo") == 2
    assert plot_record(tmp_path / "none.json", tmp_path / "x.svg") == 2
    assert not (tmp_path / "x.svg").exists()
