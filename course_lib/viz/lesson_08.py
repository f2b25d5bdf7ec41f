"""Figures of lesson 08: recorded runs of the loop beside one another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes

from course_lib.machine.record import read_record
from course_lib.viz.series import smoothed, window
from course_lib.viz.tables import Cell, Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

if TYPE_CHECKING:
    from course_lib.rl.study import Curve

GOAL = 0.9
_LOOKS = [("blue", "o", "-"), ("vermillion", "s", "--"), ("green", "D", "-."), ("purple", "^", ":")]


def accuracy_by_time(curves: Sequence["Curve"]) -> CourseFigure:
    """Draw the held-out accuracy of several runs over the seconds that they took, and the goal."""
    with new_figure(9, 4.2) as figure:
        axes = figure.subplots()
        for found, (color, marker, line) in zip(curves, _LOOKS, strict=False):
            _, seconds, accuracy = zip(*found.held_out, strict=True)
            axes.plot(seconds, accuracy, marker + line, color=COLORS[color], markersize=5, label=_name(found))
        axes.axhline(GOAL, color=COLORS["black"], linewidth=0.8, linestyle=":")
        axes.annotate(f"goal {GOAL}", (0, GOAL), xytext=(0, 3), textcoords="offset points", fontsize=9)
        axes.set(xlabel="seconds since the run began", ylabel="held-out accuracy", ylim=(0, 1.02))
        axes.set_title("One loop, four algorithms: much the same curve")
        axes.legend(loc="lower right")
    return figure


def reached_table(curves: Sequence["Curve"]) -> Table:
    """List when each run first measured the goal, what it ended with, and what it took."""
    rows = []
    for found in curves:
        at = found.reached(GOAL)
        best = max(accuracy for _, _, accuracy in found.held_out)
        when = ("never", "") if at is None else (f"step {at[0]}", f"{at[1]:.0f} s")
        steps = len(found.rewards)
        clean = f"{found.clean_receipts} of {steps}"
        numbers = (f"{best:.2f}", f"{found.last:.2f}", str(steps), f"{found.seconds:.0f} s", clean)
        rows.append((_name(found), *when, *numbers))
    columns = ("algorithm", f">{GOAL} at", ">after", ">best", ">last", ">steps", ">run", ">clean receipts")
    return Table(f"When each run first measured a held-out accuracy of {GOAL}, and what it ended with", columns, rows)


def judged_curves(curves: Sequence["Curve"]) -> CourseFigure:
    """Draw, for each run with a judge of its own, the judge's reward and the accuracy that nobody rewarded."""
    with new_figure(9, 3.9) as figure:
        for axes, found in zip(np.atleast_1d(figure.subplots(1, len(curves))), curves, strict=True):
            _draw_rewards(axes, found)
            beside = axes.twinx()
            steps, _, accuracy = zip(*found.held_out, strict=True)
            beside.plot(steps, accuracy, "D--", color=COLORS["vermillion"], markersize=5, linewidth=1.2)
            beside.set(ylim=(0, 1.02))
            beside.grid(visible=False)  # its lines would cross the other axis's
            beside.set_ylabel("held-out accuracy", color=COLORS["vermillion"])
            axes.set_title(f"{found.name}: the reward rises")
    return figure


def one_and_two_ranks(one: "Curve", two: "Curve") -> CourseFigure:
    """Draw the reward of the same run on one process and on two."""
    with new_figure(9, 3.6) as figure:
        axes = figure.subplots()
        for found, label, (color, marker, line) in zip((one, two), ("1 rank", "2 ranks"), _LOOKS, strict=False):
            steps = range(1, len(found.rewards) + 1)
            axes.plot(steps, found.rewards, marker + line, color=COLORS[color], markersize=4, label=label)
        gap = np.abs(np.subtract(one.rewards, two.rewards))
        axes.set(xlabel="step", ylabel="mean reward of a step", ylim=(0, 1.02))
        axes.set_title(f"Same seed on one process and on two: rewards differ by {gap.mean():.3f} on average")
        axes.legend(loc="upper left")
    return figure


def kill_table(path: str | Path) -> Table:
    """List the kills of a recorded study: when each struck, and whether the resumed curve is the undisturbed one.

    Raises:
        FileNotFoundError: there is no such record.
    """
    record = read_record(path, "python -m course_lib.rl.kill_points", "study of kills")
    rows = []
    for number, point in enumerate(record["points"], start=1):
        moment = point["moment"]
        when = moment if isinstance(moment, str) else f"after {moment} s"
        start = "the beginning" if point["resumed_from"] is None else f"step {point['resumed_from']}"
        same = not point["differences"]
        verdict = Cell("equal", "right") if same else Cell(f"differs: {', '.join(point['differences'])}", "wrong")
        rows.append((str(number), when, start, verdict))
    caption = f"{record['equal']} of {len(rows)} killed runs, resumed, drew the undisturbed run's curve"
    return Table(caption, (">kill", "struck", "resumed from", "curve"), rows)


def machines_table(summary: Mapping[str, Any], *records: str | Path) -> Table:
    """Set this run's summary (`rl.summary.summarize`) beside recorded ones: what a step took, and what came of it.

    Raises:
        FileNotFoundError: there is no such record.
    """
    found = [dict(summary)] + [read_record(path, "course capstone", "run")["summary"] for path in records]
    rows = []
    for place, one in enumerate(found):
        a_step, accuracy, receipts = one["seconds"]["a_step"], one["held_out"], one["receipts"]
        machine = one["machine"]["machine"] + (" (this run)" if place == 0 else "")
        tokens = f"{one['samples_tokens'] / one['steps']:,.0f}"
        seconds = [f"{a_step[phase]:.2f}" for phase in ("generate", "train", "sync", "step")]
        reached = f"{accuracy['first']:.2f} -> {accuracy['best']:.2f}"
        rows.append((machine, tokens, *seconds, reached, f"{receipts['clean']} of {receipts['all']}"))
    columns = ("machine", ">tokens a step", ">generate, s", ">train, s", ">sync, s", ">step, s", ">held out, best")
    return Table("The same cells on other machines", (*columns, ">clean receipts"), rows)


def _draw_rewards(axes: Axes, found: "Curve") -> None:
    rewards = np.array(found.rewards)
    steps = range(1, len(rewards) + 1)
    axes.plot(steps, rewards, "o", color=COLORS["blue"], alpha=0.4, markersize=4)
    axes.plot(steps, smoothed(rewards, window(len(rewards))), color=COLORS["blue"])
    axes.set(xlabel="step")
    axes.set_ylabel("mean reward of a step (the judge's score)", color=COLORS["blue"])


def _name(found: "Curve") -> str:
    return str(found.decisions.get("algorithm", {}).get("name", found.name))
