"""The plots of a run: what they hold, and that they stand whatever a run has or lacks."""

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure

from course_lib.viz import entropy_and_length, mismatch_curve, phase_times, reward_curve, run_figure
from course_lib.viz.series import smoothed, window

PLOTS = [reward_curve, phase_times, mismatch_curve, entropy_and_length, run_figure]
Plot = Callable[..., Figure]


def points(figure: Figure, label: str) -> list[float]:
    lines = [line for axes in figure.axes for line in axes.get_lines() if line.get_label() == label]
    return list(lines[0].get_ydata())


def legend(figure: Figure) -> list[str]:
    return [text.get_text() for text in figure.axes[0].get_legend().get_texts()]


@pytest.mark.parametrize("plot", PLOTS)
def test_every_axis_is_labelled_and_every_plot_has_a_title(plot: Plot, make: SimpleNamespace) -> None:
    figure = plot(make.run(12))
    for axes in figure.axes:
        assert axes.get_ylabel()
        assert axes.get_title(loc="left")
    assert figure.axes[-1].get_xlabel() == "step (0 = before the first)"


def test_units_stand_at_the_axes(make: SimpleNamespace) -> None:
    labels = [axes.get_ylabel() for axes in run_figure(make.run(12)).axes]
    assert [
        unit for unit in ("(s)", "nats per token", "tokens per response") if not any(unit in y for y in labels)
    ] == []


def test_a_point_for_every_record(make: SimpleNamespace) -> None:
    records = make.run(25)
    rewards = reward_curve(records)
    assert points(rewards, "reward of a step") == [record["reward"] for record in records[1:]]
    assert len(points(rewards, "mean of the last 3 steps")) == 25
    assert points(rewards, "held-out accuracy") == [r["held_out"] for r in records if "held_out" in r]
    mismatch = mismatch_curve(records)
    assert len(points(mismatch, "samples of the step")) == len(points(mismatch, "canaries after the sync")) == 25
    assert [len(axes.get_lines()[0].get_ydata()) for axes in entropy_and_length(records).axes] == [25, 25]
    assert len(phase_times(records).axes[0].patches) == 25 * 4


def test_shares_of_the_phases(make: SimpleNamespace) -> None:
    seconds = {"generate": 1.0, "reward": 0.0, "train": 6.0, "sync": 3.0, "evaluate": 50.0}
    figure = phase_times([make.step(1, seconds=seconds), make.step(2, seconds=seconds)])
    assert legend(figure) == ["generate 10%", "reward 0%", "train 60%", "sync 30%"]


def test_a_slow_first_step_does_not_press_the_others_flat(make: SimpleNamespace) -> None:
    records = make.run(20)
    records[1]["seconds"] = records[1]["seconds"] | {"train": 300.0}
    axes = phase_times(records).axes[0]
    assert axes.get_ylim()[1] < 20
    assert "1 slow left out" in axes.get_title(loc="left")
    assert "train 65%" in legend(axes.figure)
    assert [text.get_text() for text in axes.texts] == ["303 s →"]


def test_a_failed_receipt_is_marked(make: SimpleNamespace) -> None:
    records = [*make.run(3), make.step(4, receipt=make.receipt(4, 0.4, "stale lm_head"))]
    figure = mismatch_curve(records)
    assert points(figure, "receipt failed") == [0.4]
    assert "3 of 4 receipts clean" in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize("plot", PLOTS)
@pytest.mark.parametrize("case", ["none", "step 0", "one step", "idle", "not finite", "failed", "long"])
def test_plots_stand_whatever_a_run_lacks(plot: Plot, case: str, make: SimpleNamespace) -> None:
    cases = {
        "none": [],
        "step 0": [make.measurement()],
        "one step": [make.step(1)],
        "idle": [make.measurement(), make.idle(1), make.idle(2)],
        "not finite": [
            make.step(1, reward=math.nan, entropy=math.inf, mismatch=math.nan, receipt=make.receipt(1, math.nan)),
            make.step(2, reward=-math.inf, length=math.nan, held_out=math.nan, seconds={"train": math.nan}),
        ],
        "failed": [make.step(1, receipt=make.receipt(1, 2.0, "no sync"))],
        "long": make.run(150),
    }
    figure = plot(cases[case])
    figure.draw_without_rendering()
    assert all(math.isfinite(limit) for axes in figure.axes for limit in (*axes.get_ylim(), *axes.get_xlim()))


def test_the_figure_is_saved_and_shows_in_a_notebook(tmp_path: Path, make: SimpleNamespace) -> None:
    before = dict(mpl.rcParams)
    figure = run_figure(make.run(3), tmp_path / "plot.png")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    image, size = figure._repr_png_()
    assert image.startswith(b"\x89PNG")
    assert size == {"width": 1150, "height": 900}
    assert dict(mpl.rcParams) == before, "the theme must not leak into the reader's own plots"


def test_smoothing_never_looks_ahead() -> None:
    import numpy as np

    values = np.array([1.0, 3.0, math.nan, 5.0])
    assert smoothed(values, 2).tolist() == [1.0, 2.0, 3.0, 5.0]
    assert (window(4), window(200)) == (3, 20)
