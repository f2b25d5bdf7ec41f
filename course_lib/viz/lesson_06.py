"""The still pictures of lesson 06: where training's memory goes, what a step does when, and what training did."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from course_lib.training.zero_study import ZeroStudy
from course_lib.viz.tables import Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

KINDS = {
    "weights": ("weights, bf16", "blue"),
    "gradients": ("gradients", "sky"),
    "master": ("master weights, fp32", "orange"),
    "exp_avg": ("mean of gradients, fp32", "vermillion"),
    "exp_avg_sq": ("mean of their squares, fp32", "purple"),
    "activations": ("activations", "green"),
    "buffers": ("buffers", "grey"),
}
"""What training holds: the name of a `MemoryBudget`'s category, what a reader calls it, its colour."""

_COLLECTIVES = {
    "all-reduce": ("vermillion", "every rank gets the whole sum (2 Ψ moved for Ψ numbers)"),
    "reduce-scatter": ("orange", "every rank gets its part of the sum (Ψ)"),
    "all-gather": ("blue", "every rank gets the parts of all (Ψ)"),
}
_LAYERS = 3
_BACKWARD = 4.0  # where the backward pass of `step_diagrams` begins
_CURVES = ("blue", "vermillion", "green", "purple")


def memory(rows: Mapping[str, Mapping[str, float]], parameters: int) -> CourseFigure:
    """Draw what training holds as one bar a row, in bytes a parameter.

    Args:
        rows: for each row its bytes by category (the keys of `KINDS`).
        parameters: of the model.
    """
    with new_figure(9.0, 0.62 * len(rows) + 1.9) as figure:
        axes = figure.subplots()
        for place, (_, parts) in enumerate(rows.items()):
            left = 0.0
            for kind, (name, color) in KINDS.items():
                size = parts.get(kind, 0) / parameters
                axes.barh(place, size, left=left, height=0.62, color=COLORS[color], label=name if size else None)
                if size > 0.6:
                    ink = "#FFFFFF" if color in ("blue", "grey") else "#111111"
                    axes.text(left + size / 2, place, f"{size:.1f}", ha="center", va="center", fontsize=9, color=ink)
                left += size
            axes.text(left + 0.15, place, f"{left:.1f}", va="center", fontweight="bold")
        axes.set_yticks(range(len(rows)), list(rows))
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.margins(x=0.08)
        axes.set_xlabel("bytes a parameter")
        axes.set_title("Training holds eight times the bytes of the weights that it uses")
        axes.grid(visible=False, axis="y")
        _legend_below(axes, 3)
    return figure


def vanishing(alone: Sequence[float], master: Sequence[float]) -> CourseFigure:
    """Draw one weight under many equal updates: kept in bf16 alone, and in fp32 with a bf16 copy.

    Args:
        alone: the weight before each update and after the last, where bf16 is all that there is.
        master: the same in fp32.
    """
    copies = torch.tensor(master).bfloat16().float()
    steps = range(len(master))
    with new_figure(9.0, 3.6) as figure:
        axes = figure.subplots()
        for value in sorted({*copies.tolist(), *alone}):
            axes.axhline(value, color=COLORS["grey"], linewidth=0.8, linestyle=":")
        axes.plot(steps, master, color=COLORS["orange"], label="fp32 master copy")
        axes.step(steps, copies, where="post", color=COLORS["blue"], label="its bf16 copy, which computes")
        axes.plot(steps, alone, color=COLORS["vermillion"], linestyle="--", label="bf16 alone")
        axes.set_xlabel("updates, all of them alike")
        axes.set_ylabel("the weight")
        axes.set_title("An update below half the distance of two bf16 numbers (dotted) is rounded away")
        axes.legend()
    return figure


def gradient_sizes(gradients: Tensor) -> CourseFigure:
    """Draw a histogram of the exponents of a step's gradients, with what fp16 can't hold."""
    found = gradients.float().abs()
    exponents = found[found > 0].log2().floor()
    counts = torch.histc(exponents, bins=48, min=-44, max=4)
    lost = float((exponents < -25).float().mean())  # half of fp16's smallest number, 2^-24, rounds to 0
    with new_figure(9.0, 3.4) as figure:
        axes = figure.subplots()
        places = np.arange(-44, 4)
        colors = [COLORS["vermillion" if place < -25 else "orange" if place < -14 else "blue"] for place in places]
        axes.bar(places + 0.5, (counts / counts.sum()).cpu().numpy(), width=0.9, color=colors)
        axes.set_xlim(-44, 4)
        axes.axvline(-25, color=COLORS["black"], linewidth=1.2)
        axes.set_ylim(top=1.2 * axes.get_ylim()[1])
        axes.text(-25.3, axes.get_ylim()[1] * 0.97, "0 in fp16", ha="right", va="top")
        axes.axvline(-14, color=COLORS["black"], linewidth=1.2)
        axes.text(-14.3, axes.get_ylim()[1] * 0.97, "fewer digits in fp16", ha="right", va="top")
        axes.set_xlabel("size of a gradient, as a power of two (bf16 goes down to -133)")
        axes.set_ylabel("share of all gradients")
        axes.set_title(f"{lost:.1%} of these gradients would be 0 in fp16, none in bf16")
    return figure


def activations(tokens: Sequence[int], curves: Mapping[str, Sequence[float]], states: float) -> CourseFigure:
    """Draw the bytes of activations against the tokens of a micro-batch.

    Args:
        tokens: of each measurement.
        curves: for each way its bytes.
        states: bytes of weights, gradients and optimizer.
    """
    with new_figure(9.0, 3.6) as figure:
        axes = figure.subplots()
        for (name, sizes), color in zip(curves.items(), _CURVES, strict=False):
            style = "o--" if "predicted" in name else "o-"
            axes.plot(tokens, [size / 1e9 for size in sizes], style, color=COLORS[color], label=name)
        axes.axhline(states / 1e9, color=COLORS["grey"], linestyle="--", linewidth=1.4)
        axes.text(tokens[0], states / 1e9, " weights, gradients and optimizer", va="bottom", fontsize=9)
        axes.set_ylim(0, 1.45 * max(states / 1e9, *(max(sizes) / 1e9 for sizes in curves.values())))
        axes.set_xlabel("tokens of a micro-batch")
        axes.set_ylabel("activations (GB)")
        axes.set_title("Activations grow with the text, everything else does not")
        axes.legend(loc="upper left", ncols=2)
    return figure


def step_diagrams() -> CourseFigure:
    """Draw one training step of each ZeRO stage: what is computed, what is communicated, and when (ZeRO paper, section 7)."""
    rows = (
        ("plain data parallelism", "every rank keeps everything", "updates all", "2 Ψ"),
        ("ZeRO-1 and ZeRO-2", "1 keeps the optimizer in parts, 2 the gradients too", "updates its part", "2 Ψ"),
        (
            "ZeRO-3",
            "keeps the weights in parts, too: a layer is whole only while it computes",
            "updates its part",
            "3 Ψ",
        ),
    )
    with new_figure(9.6, 5.4) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title("One step of a model with three layers: compute above, communication below")
        for place, (name, keeps, update, moved) in enumerate(rows):
            top = 3.2 * place
            axes.text(0, top - 0.45, name, fontweight="bold")
            axes.text(2.9, top - 0.45, keeps, fontsize=9, color=COLORS["grey"])
            for layer in range(_LAYERS):
                _block(axes, 1 + layer, top, 0.94, "#D9D6CC", f"forward {layer + 1}")
                _block(axes, _BACKWARD + 1.4 * layer, top, 1.34, "#C3BFB2", f"backward {_LAYERS - layer}")
            _block(axes, 9.6, top, 1.5, "#E8D7A9", update)
            _communication(axes, place, top + 1.0)
            axes.text(12.8, top + 0.9, moved, fontsize=13, fontweight="bold", va="center", ha="center")
        axes.text(12.8, -0.45, "moved", ha="center")
        for name, (color, text) in _COLLECTIVES.items():
            axes.add_patch(Rectangle((0, 0), 0, 0, color=COLORS[color], label=f"{name}: {text}"))
        _legend_below(axes, 1, gap=0.02)
        axes.set_xlim(-0.1, 13.3)
        axes.set_ylim(9.3, -1.0)
    return figure


def loss_mask(tokens: Sequence[str], answer: int, width: int = 92) -> CourseFigure:
    """Draw a conversation's tokens as boxes, those that the loss sees in colour.

    Args:
        tokens: the text of each.
        answer: the place of the first one that is a target of the loss.
        width: characters of a line.
    """
    boxes: list[tuple[float, int, float, str, bool]] = []
    column, line = 0.0, 0
    for place, text in enumerate(tokens):
        shown = text.replace("\n", "↵").replace(" ", "␣")
        size = len(shown) + 1.2
        if column + size > width:
            column, line = 0.0, line + 1
        boxes.append((column, line, size, shown, place >= answer))
        column += size + 0.4
    with new_figure(9.6, 0.42 * (line + 1) + 1.0) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title(
            f"The loss sees {len(tokens) - answer} of {len(tokens)} tokens: the assistant's, and the one that ends them"
        )
        for x, row, size, shown, wanted in boxes:
            face = COLORS["green"] if wanted else "#E4E2DB"
            axes.add_patch(Rectangle((x, row), size, 0.78, facecolor=face, edgecolor="none"))
            axes.text(x + size / 2, row + 0.4, shown, ha="center", va="center", fontsize=8, family="monospace")
        axes.set_xlim(-0.5, width + 0.5)
        axes.set_ylim(line + 1, -0.2)
    return figure


def zero_table(study: ZeroStudy) -> Table:
    """Return a table of a study: what each stage keeps, what it moves, how long it takes, and whether it learns the same.

    The paper counts a step of one micro-batch. With k of them, its stage 2 reduce-scatters k times, since no rank keeps a whole
    gradient in between, and its stage 3 gathers and reduce-scatters k times.
    """
    psi, passes = 2 * study.parameters, study.micro_batches
    paper = {0: 2, 1: 2, 2: passes + 1, 3: 3 * passes}
    rows = []
    for run in study.runs:
        held = run.ranks[0].holdings
        cells = [f"{held.elements('exp_avg') / 1e6:,.2f} M", f"{held.bytes() / study.parameters:.1f}"]
        cells += [f"{paper[run.plan.stage]} Ψ", f"{run.moved_bytes / psi:.1f} Ψ"]
        cells += [f"{run.seconds:.2f}", f"{run.peak_bytes / 1e9:.2f}", f"{run.losses[-1]:.4f}"]
        rows.append([str(run.plan.stage), *cells])
    names = [">moment elements a rank", ">bytes a parameter", ">to move, by the paper", ">moved", ">s a step"]
    names += [">GB at most", ">loss"]
    ranks = len(study.runs[0].ranks)
    caption = (
        f"{study.policy} (Ψ = {study.parameters / 1e6:,.1f} million) on {ranks} ranks, {passes} micro-batches a step"
    )
    return Table(f"{caption}; {study.machine['machine']}", ["stage", *names], rows)


def losses(
    curves: Mapping[str, Sequence[tuple[int, float]]], title: str, what: str = "loss (nats a token)"
) -> CourseFigure:
    """Draw curves of (step, value); a later curve is drawn over an earlier one, thinner and dashed."""
    with new_figure(9.0, 3.4) as figure:
        axes = figure.subplots()
        for place, ((name, points), color) in enumerate(zip(curves.items(), _CURVES, strict=False)):
            steps, values = zip(*points, strict=True)
            look = {"linewidth": 5.0, "alpha": 0.45} if place == 0 and len(curves) > 1 else {"linewidth": 1.8}
            axes.plot(steps, values, "-" if place == 0 else "o--", color=COLORS[color], label=name, **look)  # type: ignore[arg-type]
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_ylim(bottom=0)
        axes.set_xlabel("optimizer step")
        axes.set_ylabel(what)
        axes.set_title(title)
        if len(curves) > 1:
            axes.legend()
    return figure


def score_strips(panels: Mapping[str, tuple[Sequence[float], Sequence[float]]], reasons: Sequence[str]) -> CourseFigure:
    """Draw the score of each answer as a dot, chosen ones above, rejected ones below by reason; one panel for each moment.

    Args:
        panels: for each moment the scores of the chosen answers and of the rejected ones, pair by pair.
        reasons: why the rejected answer of each pair was rejected.
    """
    kinds = list(dict.fromkeys(reasons))
    with new_figure(9.6, 0.42 * len(kinds) + 1.7) as figure:
        both = figure.subplots(1, len(panels), sharey=True)
        for axes, (name, (chosen, rejected)) in zip(both, panels.items(), strict=True):
            rows = [list(chosen)]
            rows += [[score for score, why in zip(rejected, reasons, strict=True) if why == kind] for kind in kinds]
            for place, scores in enumerate(rows):
                # Spread up and down, so that dots of one score don't hide one another.
                heights = [place + 0.25 * ((7 * number) % 11 - 5) / 5 for number in range(len(scores))]
                color = COLORS["blue" if place == 0 else "vermillion"]
                axes.plot(scores, heights, "o", color=color, alpha=0.55, markersize=4.5, markeredgewidth=0)
            right = float(np.mean([good > bad for good, bad in zip(chosen, rejected, strict=True)]))
            axes.set_title(f"{name}: {right:.0%} of pairs in the right order")
            axes.set_xlabel("score")
            axes.set_yticks(range(len(rows)), ["chosen", *(f"rejected: {kind}" for kind in kinds)])
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.grid(visible=False, axis="y")
    return figure


def _communication(axes: Axes, row: int, y: float) -> None:
    """Draw the collectives of a row of `step_diagrams`: a layer's gradients go out while the next one computes."""
    gather, scatter = COLORS["blue"], COLORS["orange"]
    for layer in range(_LAYERS):
        done = _BACKWARD + 1.4 * (layer + 1)
        if row == 0:
            _block(axes, done, y, 1.34, COLORS["vermillion"], "gradients")
            continue
        _block(axes, done, y + (row == 2) * 0.95, 0.8, scatter, "gradients")
        if row == 2:
            _block(axes, layer, y, 0.94, gather, f"weights {layer + 1}", ink="#FFFFFF")
            _block(axes, done - 2.4 + 0.06 * (layer == 0), y, 0.94, gather, f"weights {_LAYERS - layer}", ink="#FFFFFF")
    if row == 1:
        _block(axes, 11.16, y, 0.94, gather, "weights", ink="#FFFFFF")


def _block(axes: Axes, x: float, y: float, width: float, color: str, text: str, ink: str = "#111111") -> None:
    axes.add_patch(Rectangle((x, y), width, 0.8, facecolor=color, edgecolor="none"))
    axes.text(x + width / 2, y + 0.4, text, ha="center", va="center", fontsize=7.2, color=ink)


def _legend_below(axes: Axes, columns: int, gap: float = 0.28) -> None:
    named = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
    anchor = (0.5, -gap)
    axes.legend(named.values(), named.keys(), loc="upper center", bbox_to_anchor=anchor, ncols=columns, frameon=False)
