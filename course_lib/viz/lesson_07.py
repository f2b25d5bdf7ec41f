"""The still pictures of lesson 07: what a reward does to a gradient, and what each algorithm changes about it."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.colors import TwoSlopeNorm
from matplotlib.font_manager import findfont, get_font
from torch import Tensor

from course_lib.rl.replay import Replayed
from course_lib.viz.tables import Table
from course_lib.viz.theme import CARD, COLORS, CourseFigure, new_figure

_CURVES = ("blue", "vermillion", "green", "purple", "orange", "sky")
_RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.4, 1.6, 2, 3, 5, 10)
_FEW = 12
"""Up to so many tokens stand level below a heat map, with the numbers in its cells."""
_DARK = 0.55
"""From this share of a heat map's range on, ink on its colour has to be white."""


def curves(
    lines: Mapping[str, Sequence[tuple[float, float]]],
    title: str,
    x: str,
    y: str,
    *,
    log: bool = False,
    low: float = 0.0,
) -> CourseFigure:
    """Draw curves of (x, y) points with a legend.

    Args:
        lines: the points of each curve; one whose name ends in `(dashed)` is drawn so, and loses that word.
        title: what to see.
        x: the name of the horizontal axis, with its unit.
        y: the name of the vertical axis, with its unit.
        log: whether the vertical axis is logarithmic.
        low: where the vertical axis begins; a logarithmic one begins where its points do.
    """
    with new_figure(9.0, 3.5) as figure:
        axes = figure.subplots()
        for (name, points), color in zip(lines.items(), _CURVES, strict=False):
            dashed = name.endswith("(dashed)")
            look = "--" if dashed else "-"
            axes.plot(
                *zip(*points, strict=True), look, color=COLORS[color], label=name.removesuffix("(dashed)").strip()
            )
        if log:
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("{x:g}")
        else:
            axes.set_ylim(bottom=low)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.set_title(title)
        axes.legend()
    return figure


def gradient_bars(exact: Sequence[float], panels: Mapping[str, Sequence[float]], right: Sequence[bool]) -> CourseFigure:
    """Draw estimated gradients of the logits beside the exact one, a panel each.

    Args:
        exact: the gradient of the expected reward with respect to each answer's logit.
        panels: for each estimate its name and its numbers.
        right: which answers are right; their labels say so.
    """
    places = np.arange(len(exact))
    labels = [f"answer {place}{'  ✓' if good else ''}" for place, good in enumerate(right)]
    with new_figure(9.6, 3.4) as figure:
        both = figure.subplots(1, len(panels), sharey=True)
        for axes, (name, found) in zip(np.atleast_1d(both), panels.items(), strict=True):
            axes.bar(places - 0.2, exact, width=0.38, color=COLORS["grey"], label="exact")
            axes.bar(places + 0.2, found, width=0.38, color=COLORS["blue"], label="estimated")
            axes.axhline(0, color=COLORS["black"], linewidth=0.8)
            axes.set_xticks(places, labels, rotation=30, ha="right")
            axes.set_title(name)
            axes.grid(visible=False, axis="x")
        figure.axes[0].set_ylabel("push on the logit")
        figure.axes[0].legend()
    return figure


def clipped_objective(
    ratios: Float[Tensor, " points"], gains: Mapping[str, tuple[Float[Tensor, " points"], Float[Tensor, " points"]]]
) -> CourseFigure:
    """Draw the objective of one token against its ratio: for an advantage of +1 on the left, of -1 on the right.

    Args:
        ratios: new probability over old one.
        gains: for each clip range the objective at these ratios, for the two advantages.
    """
    with new_figure(9.6, 3.6) as figure:
        both = figure.subplots(1, 2)
        for place, (axes, sign) in enumerate(zip(both, ("+1: better than its siblings", "-1: worse"), strict=True)):
            for (name, pair), color, look in zip(gains.items(), _CURVES, ("-", "-", "--"), strict=False):
                axes.plot(ratios, pair[place], look, color=COLORS[color], label=name)
            axes.axvline(1, color=COLORS["grey"], linewidth=1.0, linestyle=":")
            axes.plot(1, 1 - 2 * place, "o", color=COLORS["black"], label="where each batch begins")
            axes.set_title(f"Advantage {sign}")
            axes.set_xlabel("ratio: new probability / old probability")
        both[0].set_ylabel("objective (flat: no gradient)")
        both[1].legend(loc="lower left")
    return figure


def ratio_strips(rows: Mapping[str, Sequence[float]], band: tuple[float, float], title: str) -> CourseFigure:
    """Draw ratios as dots on a logarithmic axis, a row for each kind, with the share outside a clip range.

    Args:
        rows: ratios of each kind.
        band: the clip range.
        title: what to see.
    """
    with new_figure(9.6, 0.62 * len(rows) + 1.5) as figure:
        axes = figure.subplots()
        axes.axvspan(*band, color=COLORS["green"], alpha=0.13, linewidth=0)
        names = []
        for place, (name, ratios) in enumerate(rows.items()):
            # Spread up and down, so that dots of one ratio don't hide one another.
            heights = [place + 0.3 * ((7 * number) % 23 - 11) / 11 for number in range(len(ratios))]
            axes.plot(ratios, heights, "o", color=COLORS["blue"], alpha=0.35, markersize=3.5, markeredgewidth=0)
            outside = np.mean([not band[0] <= ratio <= band[1] for ratio in ratios])
            names.append(f"{name}\n{outside:.0%} outside")
        axes.set_xscale("log")
        low, high = axes.get_xlim()
        axes.minorticks_off()
        axes.set_xticks([ratio for ratio in _RATIOS if low < ratio < high])
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(rows)), names)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlabel(f"ratio (shaded: {band[0]:g} to {band[1]:g})")
        axes.set_title(title)
        axes.grid(visible=False, axis="y")
    return figure


def credit(tokens: Sequence[str], values: Sequence[float], rows: Mapping[str, Sequence[float]]) -> CourseFigure:
    """Draw what a critic expects before each token, and under it the advantage that each token gets in each way.

    Args:
        tokens: the response's.
        values: the critic's expectation of the reward before each token.
        rows: for each way to give credit the advantage of every token.
    """
    with new_figure(9.6, 1.9 + 0.5 * len(rows)) as figure:
        above, below = figure.subplots(2, 1, height_ratios=(1.3, 0.55 * len(rows)), sharex=True)
        above.step(range(len(values)), values, where="mid", color=COLORS["purple"])
        above.set_ylim(0, 1)
        above.set_ylabel("value")
        above.set_title("What the critic expects before each token, and the advantage that each token gets")
        _heat(below, np.array([list(row) for row in rows.values()]), list(rows), tokens)
        below.set_xlabel("tokens of the response, in their order")
    return figure


def replay_table(replayed: Sequence[Replayed], caption: str) -> Table:
    """Return a table of what each algorithm makes of one batch."""
    rows = [
        [
            one.name,
            f"{one.loss:+.4f}",
            f"{one.grad_norm:.3g}",
            f"{one.cosine:+.3f}",
            f"{one.clipped:.0%}",
            f"{one.truncated:.1%}",
        ]
        for one in replayed
    ]
    first = replayed[0].name if replayed else "the first"
    columns = [">loss", ">gradient's norm", f">cosine to {first}", ">clipped tokens", ">truncated tokens"]
    return Table(caption, ["algorithm", *columns], rows)


def pushes(responses: Sequence[Sequence[str]], rows: Mapping[str, Sequence[float]], title: str) -> CourseFigure:
    """Draw how hard each algorithm pushes each token: one row each, positive means more likely.

    Args:
        responses: the text of each token of each response.
        rows: for each algorithm the push on every token, one response after another.
        title: what to see.
    """
    tokens = [token for response in responses for token in response]
    with new_figure(9.6, 1.3 + 0.36 * len(rows)) as figure:
        axes = figure.subplots()
        _heat(axes, np.array([list(row) for row in rows.values()]), list(rows), tokens, numbers=len(tokens) <= _FEW)
        for end in np.cumsum([len(response) for response in responses])[:-1]:
            axes.axvline(float(end) - 0.5, color=CARD, linewidth=5)
        axes.set_title(title)
    return figure


def kl_estimators(
    divergences: Sequence[float], bias: Mapping[str, Sequence[float]], spread: Mapping[str, Sequence[float]]
) -> CourseFigure:
    """Draw the error of estimators of the KL divergence, both as multiples of it: bias on the left, spread on the right.

    Args:
        divergences: the exact ones, in nats.
        bias: for each estimator its expectation minus the exact divergence, over that.
        spread: for each its standard deviation over one sample, over the exact divergence.
    """
    with new_figure(9.6, 3.5) as figure:
        both = figure.subplots(1, 2)
        for axes, panel in zip(both, (bias, spread), strict=True):
            for (name, values), color, mark in zip(panel.items(), _CURVES, "osD", strict=False):
                axes.plot(divergences, values, f"{mark}-", color=COLORS[color], label=name, markersize=4)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.set_xlabel("exact KL divergence (nats)")
        both[1].set_yscale("log")
        both[1].yaxis.set_major_formatter("{x:g}")
        both[0].set_title("Bias, as a share of the divergence")
        both[1].set_title("Spread of one sample, likewise")
        both[0].legend()
    return figure


def _heat(axes: Axes, values: np.ndarray, rows: Sequence[str], tokens: Sequence[str], numbers: bool = True) -> None:
    """Draw signed numbers as coloured cells, violet for more likely and orange for less, with their tokens below."""
    largest = float(np.abs(values).max()) or 1.0
    norm = TwoSlopeNorm(0, -largest, largest)
    axes.imshow(values, aspect="auto", cmap="PuOr", norm=norm, interpolation="nearest")
    axes.set_yticks(range(len(rows)), rows)
    font = get_font(findfont("DejaVu Sans Mono"))
    shown = [token.replace("\n", "↵").replace(" ", "␣") for token in tokens]
    shown = ["".join(char if font.get_char_index(ord(char)) else "□" for char in token) for token in shown]
    shown = [token.replace("$", r"\$") for token in shown]
    axes.set_xticks(range(len(tokens)), shown, family="monospace")
    if len(tokens) > _FEW:
        axes.tick_params(axis="x", rotation=90, labelsize=7)
    axes.grid(visible=False)
    for (row, column), value in np.ndenumerate(values) if numbers else ():
        ink = "#FFFFFF" if abs(value) > _DARK * largest else "#111111"
        axes.text(column, row, f"{value:+.2f}", ha="center", va="center", fontsize=8, color=ink)
