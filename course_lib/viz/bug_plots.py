"""Pictures of the noise floor and of the bug zoo."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, PercentFormatter

from course_lib.rl.bug_zoo import Caught
from course_lib.rl.noise_floor import NoiseFloor
from course_lib.viz.tables import Cell, Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_HEALTHY, _BROKEN = COLORS["blue"], COLORS["vermillion"]
_WIDEST = 1.0  # nats; what lies beyond is drawn at the edge


def noise_plot(noise: NoiseFloor, clip: float = 0.2) -> CourseFigure:
    """Draw how many tokens a clip range would clip though nothing has changed, and mark the range `clip`."""
    ranges = np.linspace(0.01, 0.5, 99)
    with new_figure(9.0, 4.2) as figure:
        axes = figure.subplots()
        for (color, style), pair in zip(
            (("blue", "-"), ("vermillion", "-"), ("green", "--"), ("purple", "--")), noise, strict=True
        ):
            away = np.sort((pair.log_ratios.exp() - 1).abs().numpy())
            share = 1 - np.searchsorted(away, ranges, side="right") / len(away)
            axes.plot(ranges, share, color=COLORS[color], linestyle=style, label=pair.name)
        axes.axvline(clip, color=COLORS["grey"], linewidth=1)
        axes.text(clip, axes.get_ylim()[1] * 0.95, f" clip range {clip:g}", va="top", color=COLORS["grey"])
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.set(
            xlim=(0, 0.5), xlabel="distance of the ratio from 1 at which a token is clipped", ylabel="tokens clipped"
        )
        axes.set_ylim(bottom=0)
        axes.set_title("Rounding alone: the same weights, the same tokens, two computations")
        axes.legend()
    return figure


def signature_plot(caught: Caught) -> CourseFigure:
    """Draw one bug's signature: the same weights, prompts and seed, without the bug and with it."""
    with new_figure(7.0, 3.2) as figure:
        _panel(figure.subplots(), caught, legend=True)
    return figure


def zoo_plot(caught: Sequence[Caught]) -> CourseFigure:
    """Draw the signatures of all bugs in one figure, two beside one another."""
    rows = (len(caught) + 1) // 2
    with new_figure(11.0, 2.75 * rows) as figure:
        grid = figure.subplots(rows, 2, squeeze=False).flatten()
        for place, axes in enumerate(grid):
            if place < len(caught):
                _panel(axes, caught[place], legend=place == 0)
            else:
                axes.axis("off")
    return figure


def zoo_table(caught: Sequence[Caught]) -> Table:
    """Return what caught each bug, and the detector's figure without the bug and with it."""
    rows: list[list[Cell | str]] = []
    for one in caught:
        verdict = (
            Cell("caught", "right") if one.detected else Cell("can't show here" if one.absent else "missed", "wrong")
        )
        if one.absent and not one.detected:
            verdict = Cell("can't show here")
        healthy = Cell(f"{one.healthy.figure:.4g}", "wrong" if one.false_alarm else "")
        rows.append([one.bug.title, verdict, one.by, one.bug.figure, healthy, f"{one.broken.figure:.4g}"])
    found = sum(one.detected for one in caught)
    alarms = sum(one.false_alarm for one in caught)
    caption = f"{found} of {len(caught)} bugs caught, {alarms} false alarms without them"
    return Table(caption, ["bug", "", "caught by", "figure", ">healthy", ">broken"], rows)


def _panel(axes: Axes, caught: Caught, legend: bool) -> None:
    draw = {"log_ratio": _ratios, "token_weight": _weights, "weight_difference": _differences}[caught.bug.signature]
    draw(axes, caught)
    figures = f"{caught.bug.figure}: {caught.healthy.figure:.4g} healthy, {caught.broken.figure:.4g} broken"
    axes.set_title(f"{caught.bug.title}: {_verdict(caught)}", pad=22)
    line = axes.text(0.0, 1.04, figures, transform=axes.transAxes, fontsize=8.5, color=COLORS["grey"])
    line.set_in_layout(False)  # a long line must not make its axes narrow
    if legend:
        axes.legend(loc="upper right")


def _verdict(caught: Caught) -> str:
    if caught.detected:
        return "caught"
    return "can't show here" if caught.absent else "missed"


def _ratios(axes: Axes, caught: Caught) -> None:
    edges = np.linspace(-_WIDEST, _WIDEST, 81)
    for evidence, name, color in ((caught.healthy, "healthy", _HEALTHY), (caught.broken, "broken", _BROKEN)):
        values = evidence.signature.clamp(-_WIDEST, _WIDEST).numpy()
        share = np.histogram(values, bins=edges)[0] / len(values)
        healthy = evidence is caught.healthy
        axes.stairs(share, edges, fill=healthy, alpha=0.45 if healthy else 1.0, color=color, linewidth=1.6, label=name)
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}%"))
    axes.set(xlim=(-_WIDEST, _WIDEST), xlabel="log ratio, trainer / sampler (nats)", ylabel="tokens")


def _weights(axes: Axes, caught: Caught) -> None:
    _dots(axes, caught)
    highest = max(1.0, float(caught.broken.signature.max()))
    axes.set(ylim=(-0.08 * highest, 1.25 * highest), xlabel="response token of the batch", ylabel="weight (1 is right)")


def _differences(axes: Axes, caught: Caught) -> None:
    _dots(axes, caught)
    axes.margins(y=0.3)
    axes.set(xlabel="value of the tensor (some of all)", ylabel="engine minus trainer")


def _dots(axes: Axes, caught: Caught) -> None:
    # The healthy ones are drawn last where they are a line through the cloud of the others.
    for evidence, name, color in ((caught.broken, "broken", _BROKEN), (caught.healthy, "healthy", _HEALTHY)):
        values = evidence.signature.numpy()
        axes.plot(range(len(values)), values, ".", color=color, markersize=3, label=name)
