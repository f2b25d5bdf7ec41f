"""Lesson 06's picture of ZeRO: which part of each state lives on which rank, as the live engines had it."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from course_lib.training.holdings import STATES, Holdings
from course_lib.training.zero_study import StageRun, ZeroStudy
from course_lib.viz.kv_budget import readable
from course_lib.viz.lesson_06 import KINDS
from course_lib.viz.theme import CARD, COLORS, CourseFigure, new_figure

_CUT = ("nothing is cut", "the optimizer is cut", "the gradients too", "each weight by itself too")
_HEIGHT = {state: 2 if state in ("weights", "gradients") else 4 for state in STATES}
_GAP = 0.5


def who_holds_what(study: ZeroStudy) -> CourseFigure:
    """Return a panel for each rank (rows) and run (columns): coloured what the rank has of each state, hatched what it has not.

    Across is the flat model, all weights one behind the other; down are the bytes of one number. So equal areas are equal
    memory. Gradients are those that add up over a step's micro-batches.

    Args:
        study: real runs, measured here or recorded.
    """
    ranks, columns = len(study.runs[0].ranks), len(study.runs)
    with new_figure(9.0, 1.45 + 1.55 * ranks) as figure:
        panels = figure.subplots(ranks, columns, squeeze=False, sharex=True, sharey=True)
        for column, run in enumerate(study.runs):
            for rank in range(ranks):
                _panel(panels[rank][column], run.ranks[rank].holdings)
            panels[0][column].set_title(_heading(run), fontsize=9, loc="center", pad=6)
        for rank in range(ranks):
            panels[rank][0].set_ylabel(f"rank {rank}", fontweight="bold")
        look: dict[str, Any] = {"loc": "outside lower center", "ncols": 3, "handlelength": 1.6, "handleheight": 1.1}
        handles = [Patch(color=COLORS[KINDS[state][1]], label=KINDS[state][0]) for state in STATES]
        figure.legend(handles=[*handles, Patch(label="on another rank", **_ABSENT)], **look)
        parameters = f"{study.parameters / 1e6:,.1f} million parameters"
        figure.suptitle(
            f"Each stage cuts one more state: {study.policy}, {parameters}, {ranks} rank{'s' * (ranks > 1)}",
            x=0.012,
            ha="left",
            fontsize=11,
            fontweight="bold",
        )
    return figure


_ABSENT: dict[str, Any] = {
    "facecolor": "none",
    "edgecolor": COLORS["grey"],
    "hatch": "////",
    "linewidth": 0.5,
    "alpha": 0.55,
}


def _heading(run: StageRun) -> str:
    plan = run.plan
    more = [text for text, on in (("optimizer", plan.offload_optimizer), ("weights", plan.offload_param)) if on]
    below = f"{' + '.join(more)} on the host" if more else _CUT[plan.stage]
    return f"stage {plan.stage}\n{below}"


def _panel(axes: Axes, held: Holdings) -> None:
    """Draw one rank's states one under the other."""
    top = 0.0
    for state in STATES:
        height = _HEIGHT[state]
        axes.add_patch(Rectangle((0, top), held.parameters, height, **_ABSENT))
        pieces = [(start, end - start) for start, end in held.ranges(state)]
        # Stage 3's pieces are narrower than a dot: an edge would paint over what is missing between them.
        axes.broken_barh(pieces, (top, height), facecolor=CARD, linewidth=0)
        axes.broken_barh(pieces, (top, height), facecolor=COLORS[KINDS[state][1]], linewidth=0)
        top += height + _GAP
    axes.set(xlim=(0, held.parameters), ylim=(top - _GAP, 0), xticks=[], yticks=[])
    axes.grid(visible=False)
    for side in axes.spines.values():
        side.set_visible(False)
    host = held.bytes(host=True)
    total = f"{readable(held.bytes(host=False))}{f' + {readable(host)} on the host' if host else ''}"
    axes.set_xlabel(f"{total}\n{held.bytes() / held.parameters:.1f} bytes a parameter", fontsize=8.5)
