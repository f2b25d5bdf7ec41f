"""The plots and tables of lesson 02: where contiguous memory goes, and who sits in a batch when."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.patches import Patch

from course_lib.fragmentation.batching import Schedule
from course_lib.fragmentation.memory import Waste
from course_lib.fragmentation.paper import Row
from course_lib.fragmentation.simulation import Simulation
from course_lib.fragmentation.workload import Lengths
from course_lib.viz.tables import Cell, Table
from course_lib.viz.theme import CARD, COLORS, CourseFigure, new_figure

_PARTS = ("used", "reserved", "internal", "rounding", "holes")
_FILL = {
    "used": COLORS["green"],
    "reserved": COLORS["sky"],
    "internal": COLORS["orange"],
    "rounding": COLORS["purple"],
    "holes": "#FFFFFF",
}
_SAID = {
    "used": "used by tokens",
    "reserved": "reserved",
    "internal": "internal",
    "rounding": "external: the allocator's rounding",
    "holes": "external: holes",
}


def waste_bars(bars: Mapping[str, Waste], title: str) -> CourseFigure:
    """Draw memories as bars from 0 to 100 %, one below the other.

    Args:
        bars: what each memory's slots do, by the bar's label. A label that starts with `paper` gets a paler bar, whose last
            part is drawn as holes: the paper does not say how much of it is rounding.
        title: what to see.
    """
    with new_figure(9.0, 1.3 + 0.42 * len(bars)) as figure:
        axes = figure.subplots()
        for place, (label, waste) in enumerate(bars.items()):
            left = 0.0
            for part in _PARTS:
                width = 100 * _share(waste, part)
                axes.barh(
                    place,
                    width,
                    left=left,
                    height=0.74,
                    color=_FILL[part],
                    edgecolor=COLORS["grey"],
                    linewidth=0.6,
                    alpha=0.55 if label.startswith("paper") else 1.0,
                )
                if width >= 4:
                    axes.text(left + width / 2, place, f"{width:.1f}", ha="center", va="center", fontsize=9)
                left += width
        axes.set_yticks(range(len(bars)), list(bars))
        axes.set_ylim(len(bars) - 0.5, -0.5)
        axes.set_xlim(0, 100)
        axes.set_xlabel("share of the KV memory (%)")
        axes.set_title(title)
        axes.grid(visible=False, axis="y")
        shown = [part for part in _PARTS if any(_share(waste, part) > 0 for waste in bars.values())]
        said = dict(_SAID)
        if any(label.startswith("paper") for label in bars):
            said["holes"] = "holes (paper: all external)"
        handles = [Patch(facecolor=_FILL[part], edgecolor=COLORS["grey"], label=said[part]) for part in shown]
        figure.legend(
            handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.2, columnspacing=1.2
        )
    return figure


def beside_the_paper(found: Mapping[str, Simulation], paper: Mapping[str, Row]) -> CourseFigure:
    """Draw the paper's Figure 2 and ours, bar by bar."""
    bars: dict[str, Waste] = {}
    for name, run in found.items():
        bars[f"paper, {name}"] = paper[name].waste
        bars[f"here, {name}"] = run.waste
    return waste_bars(bars, "Figure 2 again: most of the memory holds no token")


def paper_table(found: Mapping[str, Sequence[Simulation]], paper: Mapping[str, Row]) -> Table:
    """Return the paper's numbers beside the mean and the range of several runs.

    Args:
        found: runs of each system on different seeds.
        paper: what the paper reports of each system.
    """
    rows: list[list[Cell | str]] = []
    for name, runs in found.items():
        row: list[Cell | str] = [name]
        for part in ("used", "reserved", "internal", "external"):
            printed = 100 * getattr(paper[name].waste, part)
            row.append(_compared([100 * getattr(run.waste, part) for run in runs], printed, 2.5, ".1f"))
        row.append(_compared([run.mean_batch for run in runs], paper[name].batch, 0.05 * paper[name].batch, ".2f"))
        rows.append(row)
    caption = "Here (lowest to highest of the runs) | paper; marked is whether the mean is within 2.5 points, or 5 % of the batch"
    return Table(caption, ["system", ">used %", ">reserved %", ">internal %", ">external %", ">batched requests"], rows)


def runs_table(runs: Mapping[str, Simulation], caption: str) -> Table:
    """Return one row a run: what its memory did and how many requests ran at once."""
    rows = [
        [
            name,
            *(f"{100 * _share(run.waste, part):.1f}" for part in _PARTS),
            f"{run.mean_batch:.2f}",
            f"{run.tokens_per_second:.0f}",
        ]
        for name, run in runs.items()
    ]
    columns = ["", ">used %", ">reserved %", ">internal %", ">rounding %", ">holes %", ">batched requests", ">tokens/s"]
    return Table(caption, columns, rows)


def lengths_histogram(lengths: Lengths, count: int = 50_000, bins: int = 64) -> CourseFigure:
    """Draw how long prompts and outputs are."""
    drawn = lengths.draw(np.random.default_rng(0), count)
    with new_figure(9.0, 2.9) as figure:
        for axes, side, name, color in zip(
            figure.subplots(1, 2, sharey=True), (0, 1), ("prompt", "output"), ("blue", "vermillion"), strict=True
        ):
            tokens = drawn[:, side]
            axes.hist(tokens, bins=bins, weights=np.full(count, 100 / count), color=COLORS[color])
            axes.axvline(tokens.mean(), color=COLORS["black"], linewidth=1.2, linestyle="--")
            axes.annotate(f" mean {tokens.mean():.0f}", (tokens.mean(), 0.9), xycoords=("data", "axes fraction"))
            axes.set_xlabel(f"{name} (tokens)")
            axes.set_title(f"{name.capitalize()}s: the longest are {tokens.max() / tokens.mean():.0f} times the mean")
        figure.axes[0].set_ylabel("requests (%)")
    return figure


def batch_rows(schedules: Mapping[str, Schedule]) -> CourseFigure:
    """Draw who has which row of the batch when; what is empty between start and end is idle.

    Args:
        schedules: by name, on one axis of steps.
    """
    palette = [COLORS[name] for name in ("blue", "orange", "green", "purple", "sky", "vermillion")]
    steps = max(schedule.steps for schedule in schedules.values())
    rows = sum(schedule.rows for schedule in schedules.values())
    with new_figure(9.0, 1.0 + 0.24 * rows + 0.55 * len(schedules)) as figure:
        panels = figure.subplots(
            len(schedules),
            1,
            sharex=True,
            squeeze=False,
            height_ratios=[schedule.rows for schedule in schedules.values()],
        )[:, 0]
        for axes, (name, schedule) in zip(panels, schedules.items(), strict=True):
            axes.axvspan(0, schedule.steps, facecolor=COLORS["grey"], alpha=0.22, linewidth=0)
            for turn in schedule.turns:
                axes.barh(
                    turn.row,
                    turn.length,
                    left=turn.start,
                    height=0.84,
                    color=palette[turn.request % len(palette)],
                    edgecolor=CARD,
                    linewidth=0.8,
                )
            axes.axvline(schedule.steps, color=COLORS["black"], linewidth=1.2)
            axes.set_xlim(0, steps * 1.005)
            axes.set_ylim(schedule.rows - 0.5, -0.5)
            axes.set_yticks([])
            axes.set_ylabel("row of the batch")
            axes.grid(visible=False)
            axes.set_title(f"{name}: {schedule.steps} steps, {schedule.idle:.0%} of the places idle (grey)")
        panels[-1].set_xlabel("step (one token for each request in the batch)")
    return figure


def _share(waste: Waste, part: str) -> float:
    if part == "holes":
        return waste.external - waste.rounding
    return float(getattr(waste, part))


def _compared(values: Sequence[float], printed: float, tolerance: float, form: str) -> Cell:
    low, high, mean = min(values), max(values), sum(values) / len(values)
    same = f"{low:{form}}" == f"{high:{form}}"
    shown = f"{mean:{form}}" if same else f"{mean:{form}} ({low:{form}} to {high:{form}})"
    return Cell(f"{shown} | {printed:{form}}", "right" if abs(mean - printed) <= tolerance else "wrong")
