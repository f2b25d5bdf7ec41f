"""The dashboard without motion: the same charts, the newest steps' phases and KV use, and the run in words."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from course_lib.viz.dashboard_charts import Chart, Line, charts
from course_lib.viz.dashboard_data import facts, receipt_words
from course_lib.viz.dashboard_run import RunFiles
from course_lib.viz.dashboard_time import IDLE, Span, curves, timeline
from course_lib.viz.picture import WIDTH
from course_lib.viz.series import PHASES, Records, scalars, series, smoothed, window
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

PHASE_COLORS = dict(
    zip(
        (*PHASES, "evaluate", "checkpoint"),
        (COLORS[name] for name in ("sky", "black", "orange", "green", "purple", "blue")),
        strict=True,
    )
)
_LINE_COLORS = [COLORS[name] for name in ("blue", "vermillion", "green", "purple")]
_RUN_COLORS = [COLORS["blue"], COLORS["vermillion"]]
_STYLES = ["-", "--", ":", "-."]
_MOST_CHARTS = 9
_STEPS_SHOWN = 4
"""Steps whose phases are drawn: of more, the reward's and the sync's would be too thin to see."""


def dashboard_figure(runs: Sequence[RunFiles], title: str) -> CourseFigure:
    """Return the charts that the runs fill, nine at the most, and under them the newest steps' phases."""
    shown = charts({key for run in runs for record in run.records for key in scalars(record)})[:_MOST_CHARTS]
    rows = max(1, math.ceil(len(shown) / 3))
    spans, kv = _newest(runs[0].records) if runs else ([], [])
    with new_figure(WIDTH + 1.5, 2.4 * rows + (3.2 if spans else 0.4)) as figure:
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold")
        heights = [*[2.4] * rows, *([1.8, 0.9] if spans else [])]
        grid = figure.add_gridspec(len(heights), 3, height_ratios=heights)
        for place, chart in enumerate(shown):
            _draw(figure.add_subplot(grid[place // 3, place % 3]), chart, runs)
        if not shown:
            axes = figure.add_subplot(grid[0, :])
            axes.axis("off")
            axes.text(0.5, 0.5, "no step yet", ha="center")
        if spans:
            phases = figure.add_subplot(grid[rows, :])
            _draw_phases(phases, spans, timeline(runs[0].records)[1])
            _draw_kv(figure.add_subplot(grid[rows + 1, :], sharex=phases), kv)
    return figure


def dashboard_words(runs: Sequence[RunFiles], title: str) -> str:
    """Return each run in a few figures, and what failed in it."""
    lines = [title]
    for run in runs:
        lines.append(f"  {run.name}: " + ", ".join(f"{label} {value}" for label, value, _ in facts(run)))
        failed = [record for record in run.records if record.get("receipt") and not record["receipt"]["ok"]]
        lines += [f"    step {record['step']}: {receipt_words(record['receipt'])}" for record in failed[:5]]
    return "\n".join(lines if runs else [*lines, "  nothing has run yet"])


def _draw(axes: Axes, chart: Chart, runs: Sequence[RunFiles]) -> None:
    low = next((line.key for line in chart.lines if line.look == "low"), None)
    high = next((line.key for line in chart.lines if line.look == "high"), None)
    for place, run in enumerate(runs):
        if low and high:
            steps, least = series(run.records, *low.split("/"))
            color = _color(0, place, len(runs))
            axes.fill_between(
                steps, least, series(run.records, *high.split("/"))[1], color=color, alpha=0.2, linewidth=0
            )
        for at, line in enumerate(line for line in chart.lines if line.look not in ("low", "high")):
            _plot(axes, line, run, _color(at, place, len(runs)), at, f"{run.name}: " if len(runs) > 1 else "")
    for guide in chart.guides:
        axes.axhline(guide, color=COLORS["grey"], linewidth=0.8, linestyle=":")
    for edge in chart.shown:
        axes.update_datalim([(axes.dataLim.x0 if axes.has_data() else 0, edge)])
    axes.autoscale_view()
    axes.set_title(chart.title, fontsize=10)
    axes.set_ylabel(chart.unit, fontsize=8)
    axes.set_xlabel("step", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if chart.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    if len(axes.get_legend_handles_labels()[0]) > 1:
        axes.legend(fontsize=7, loc="best", handlelength=1.6)


def _plot(axes: Axes, line: Line, run: RunFiles, color: str, place: int, prefix: str) -> None:
    steps, values = series(run.records, *line.key.split("/"))
    label = prefix + line.name
    if line.look == "smoothed":
        axes.plot(steps, values, "o", color=color, alpha=0.35, markersize=2.5)
        axes.plot(steps, smoothed(values, window(len(values))), color=color, linewidth=1.6, label=label)
    elif line.look == "points":
        axes.plot(steps, values, "D--", color=color, linewidth=1, markersize=4, label=label)
    elif line.look == "limit":
        axes.plot(steps, values, ":", color=COLORS["grey"], linewidth=1.4, label=label)
    else:
        axes.plot(steps, values, _STYLES[place % 4], color=color, linewidth=1.4, label=label)
    failed = [r for r in run.records if line.key == "receipt/gap" and r.get("receipt") and not r["receipt"]["ok"]]
    if failed:
        axes.plot(
            *series(failed, "receipt", "gap"), "X", color=COLORS["vermillion"], markersize=8, label="receipt failed"
        )


def _color(line: int, run: int, runs: int) -> str:
    return (_RUN_COLORS[run % 2]) if runs > 1 else _LINE_COLORS[line % 4]


def _newest(records: Records) -> tuple[list[tuple[int, list[Span]]], list[list[float]]]:
    """Return the newest steps with their spans, and their KV use."""
    spans, _ = timeline(records)
    kv = curves(records, 2000)
    places = [place for place, record in enumerate(records) if record.get("step") and spans[place]][-_STEPS_SHOWN:]
    return [(records[place]["step"], spans[place]) for place in places], [
        point for place in places for point in kv[place]
    ]


def _draw_phases(axes: Axes, steps: Sequence[tuple[int, list[Span]]], measured: bool) -> None:
    found = {span.phase for _, spans in steps for span in spans}
    rows = [phase for phase in (*PHASE_COLORS, IDLE) if phase in found]
    for number, spans in steps:
        axes.axvline(spans[0].start, color=COLORS["grey"], linewidth=0.8)
        axes.text(spans[0].start, -0.75, f" step {number}", fontsize=8, va="center")
        for span in spans:
            if span.phase in rows:
                idle: dict[str, Any] = {"facecolor": "none", "edgecolor": COLORS["grey"], "hatch": "////"}
                look: dict[str, Any] = idle if span.phase == IDLE else {"color": PHASE_COLORS[span.phase]}
                axes.barh(rows.index(span.phase), span.length, 0.72, span.start, **look)
    axes.set(yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.4, -1.2))
    axes.grid(visible=False, axis="y")
    axes.tick_params(labelsize=8, labelbottom=False)
    title = "What ran when" if measured else "How long each phase took (this run did not record when it ran)"
    axes.set_title(title, fontsize=10)


def _draw_kv(axes: Axes, points: Sequence[Sequence[float]]) -> None:
    if points:
        seconds, used = np.array([point[0] for point in points]), np.array([100 * point[1] for point in points])
        gaps = [
            place + 1
            for place, (one, other) in enumerate(pairwise(seconds))
            if other - one > 0.5 * np.ptp(seconds) / 10
        ]
        for part in np.split(np.arange(len(seconds)), gaps):
            axes.fill_between(seconds[part], used[part], color=COLORS["blue"], alpha=0.45, linewidth=0)
            axes.plot(seconds[part], used[part], color=COLORS["blue"], linewidth=1)
    else:
        axes.text(0.5, 0.5, "not recorded", transform=axes.transAxes, ha="center", va="center", fontsize=8)
    axes.set(ylim=(0, None), xlabel="seconds of the run")
    axes.set_ylabel("KV use (%)", fontsize=8)
    axes.tick_params(labelsize=8)
