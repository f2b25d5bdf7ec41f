"""The lines over all steps of a trace, drawn: who ran when, tokens, KV use, throughput."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from course_lib.viz.picture import OWNER_COLORS, WIDTH
from course_lib.viz.theme import COLORS
from course_lib.viz.trace_frames import STATES, View

_LEFT, _RIGHT = 1.0, 0.2  # inches beside the lanes
_LANE, _GAP = 0.52, 0.1
_MOST_NAMED = 40  # with more requests their names would lie on each other


def lines_height(view: View) -> float:
    """Return how many inches the lines of a view need."""
    return 0.3 + _people(view) + 3 * (_LANE + _GAP) + 0.4


def draw_lines(
    figure: Figure, view: View, short: Sequence[str], top: float, total: float, marked: Sequence[int], title: str = ""
) -> None:
    """Draw the lines of a view on a sheet.

    Args:
        figure: the sheet.
        view: the trace.
        short: all requests' short names.
        top: inches from the sheet's upper edge.
        total: the sheet's height in inches.
        marked: steps to mark: those that are drawn above.
        title: whose lines they are.
    """
    line, steps = view.timeline, range(len(view.frames))
    y = top + 0.24

    def lane(height: float) -> Axes:
        nonlocal y
        box = (_LEFT / WIDTH, 1 - (y + height) / total, (WIDTH - _LEFT - _RIGHT) / WIDTH, height / total)
        axes = figure.add_axes(box)
        axes.set(xlim=(-0.5, len(steps) - 0.5), xticks=[])
        axes.grid(visible=False)
        for step in marked:
            if step < len(steps):
                axes.axvspan(step - 0.5, step + 0.5, color=COLORS["sky"], alpha=0.3, linewidth=0, zorder=0)
        y += height + _GAP
        return axes

    people = lane(_people(view))
    _lives(people, view, short)
    about = ", ".join(f"step {step}" for step in marked)
    said = f"{f'{title}. ' if title else ''}Shaded: {about}, drawn above. ▼ preempted, ● finished"
    people.text(0, 1 + 0.16 / _people(view), said, transform=people.transAxes, fontsize=7, color=COLORS["grey"])
    tokens = lane(_LANE)
    both = [one + other for one, other in zip(line.decode, line.prefill, strict=True)]
    _stairs(tokens, both, "black", label="prefill", baseline=line.decode)
    _stairs(tokens, line.decode, "grey", label="decode", alpha=0.55)
    tokens.legend(loc="upper right", fontsize=6.5, ncols=2, borderpad=0.2, handlelength=1)
    tokens.set_ylabel("tokens\na step", **_NAME)
    usage = lane(_LANE)
    _stairs(usage, [100 * share for share in line.kv], "blue", alpha=0.75)
    usage.set(ylim=(0, 100), yticks=[0, 50, 100])
    usage.set_ylabel("KV use\n(%)", **_NAME)
    speed = lane(_LANE)
    _stairs(speed, line.throughput(), "green", alpha=0.75)
    speed.set_ylim(bottom=0)
    speed.set_ylabel("output\ntokens/s" if line.seconds else "output\ntokens", **_NAME)
    speed.xaxis.set_major_locator(MaxNLocator(integer=True))
    speed.set_xlabel("step", fontsize=7.5, labelpad=1)
    for axes in (tokens, usage, speed):
        axes.tick_params(labelsize=7, pad=1.5, length=2)


_NAME: dict[str, Any] = {"rotation": 0, "ha": "right", "va": "center", "fontsize": 7.5}


def _people(view: View) -> float:
    """Return the height of the requests' lane."""
    return max(0.35, min(2.2, 0.115 * len({life[0] for life in view.timeline.lives})))


def _lives(axes: Axes, view: View, short: Sequence[str]) -> None:
    lives = view.timeline.lives
    order = {request: place for place, request in enumerate(dict.fromkeys(life[0] for life in lives))}
    for request, first, last, state in lives:
        color = OWNER_COLORS[request % 6]
        looks: dict[str, dict[str, Any]] = {
            "waiting": {"color": COLORS["grey"], "alpha": 0.3},
            "preempted": {"facecolor": "none", "edgecolor": COLORS["vermillion"]},
            "prefill": {"color": color},
            "decode": {"color": color, "alpha": 0.45},
            "idle": {"facecolor": "none", "edgecolor": color, "linestyle": ":"},
        }
        axes.barh(order[request], last + 1 - first, left=first - 0.5, height=0.8, linewidth=0.8, **looks[STATES[state]])
    signs = (("preempted", "v", "vermillion"), ("finished", "o", "black"))
    for name, marker, color in signs:
        at = [step for step, count in enumerate(getattr(view.timeline, name)) if count]
        axes.scatter(
            at, [-0.9] * len(at), s=9, marker=marker, color=COLORS[color], linewidth=0, clip_on=False, zorder=4
        )
    named = len(order) <= _MOST_NAMED
    labels = [short[request] for request in order] if named else []
    axes.set(ylim=(len(order) - 0.5, -0.6), yticks=range(len(order)) if named else [], yticklabels=labels)
    axes.tick_params(axis="y", labelsize=max(4.0, min(7.0, 7.5 * 19 / max(1, len(order)))), pad=1.5, length=0)
    axes.set_ylabel("requests", **_NAME, labelpad=14)


def _stairs(axes: Axes, values: Sequence[float], color: str, **look: Any) -> None:
    edges = [step - 0.5 for step in range(len(values) + 1)]
    axes.stairs(values, edges, fill=True, color=COLORS[color], linewidth=0, **look)
