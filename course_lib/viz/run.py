"""Plots of a run: does it learn, where does its time go, do trainer and sampler agree, is the policy still exploring."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from course_lib.viz.series import PHASES, Numbers, Records, finite, from_to, series, smoothed, trained, window
from course_lib.viz.theme import CARD, COLORS, new_figure

_PHASE_COLORS = dict(zip(PHASES, (COLORS["sky"], COLORS["black"], COLORS["orange"], COLORS["green"]), strict=True))
_BEHIND_TEXT = {"facecolor": CARD, "edgecolor": "none", "alpha": 0.8, "pad": 1}


def reward_curve(records: Records) -> Figure:
    """Draw the mean reward of each step, its smoothed line, and held-out accuracy where it was measured."""
    return _alone(_draw_reward, records)


def phase_times(records: Records) -> Figure:
    """Draw the seconds of each step, phase by phase, with each phase's share of all steps in the legend.

    A few steps that took over three times the median, such as a first one that builds kernels, are cut off, marked with their
    seconds, and left out of the shares; the title says so.
    """
    return _alone(_draw_times, records)


def mismatch_curve(records: Records) -> Figure:
    """Draw how far trainer and sampler disagree: on the step's own tokens, and on the canaries of the receipts."""
    return _alone(_draw_mismatch, records)


def entropy_and_length(records: Records) -> Figure:
    """Draw the policy's entropy and the length of its responses, step by step."""
    with new_figure(9, 5) as figure:
        above, below = figure.subplots(2, 1, sharex=True)
        _draw_entropy(above, records)
        _draw_length(below, records)
    return figure


def run_figure(records: Records, path: str | Path | None = None) -> Figure:
    """Draw the four plots of a run in one figure.

    Args:
        records: a run's records.
        path: where to save it as well, usually `runs/<name>/plot.png`.
    """
    with new_figure(11.5, 9) as figure:
        places = figure.subplot_mosaic("RT;RT;ME;ML")
        _draw_reward(places["R"], records)
        _draw_times(places["T"], records)
        _draw_mismatch(places["M"], records)
        _draw_entropy(places["E"], records)
        _draw_length(places["L"], records)
        if path is not None:
            figure.savefig(path, dpi=120)
    return figure


def _alone(draw: Callable[[Axes, Records], None], records: Records) -> Figure:
    with new_figure() as figure:
        draw(figure.subplots(), records)
    return figure


def _draw_reward(axes: Axes, records: Records) -> None:
    steps, rewards = series(records, "reward")
    measured, accuracy = series(records, "held_out")
    size = window(len(rewards))
    mean = smoothed(rewards, size)
    axes.plot(steps, rewards, "o", color=COLORS["blue"], alpha=0.4, markersize=4, label="reward of a step")
    axes.plot(steps, mean, color=COLORS["blue"], label=f"mean of the last {size} steps")
    axes.plot(
        measured, accuracy, "D--", color=COLORS["vermillion"], linewidth=1.2, markersize=7, label="held-out accuracy"
    )
    for step, share in list(zip(measured, accuracy, strict=True)) if len(measured) <= 8 else ():
        # Under the point where there is room, so that the number does not leave the axes at 100 %.
        below = share > 0.5
        axes.annotate(
            f"{share:.0%}",
            (step, share),
            (0, -10 if below else 9),
            textcoords="offset points",
            ha="center",
            va="top" if below else "bottom",
            fontsize=9,
            color=COLORS["vermillion"],
            bbox=_BEHIND_TEXT,
        )
    found = finite(np.concatenate([rewards, accuracy]))
    # All of the scale once there is something to see of it; before that, small beginnings would be a flat line.
    whole = not len(finite(rewards)) or found.max() > 0.4
    axes.set_ylim(*_limits(found, at_least=(-0.03, 1.05) if whole else (-0.01, max(0.1, 1.6 * float(found.max())))))
    axes.set_ylabel("mean reward of a sample (0 to 1),\nshare of held-out answered rightly")
    reward, held_out = from_to(mean), from_to(accuracy, "{:.0%}")
    _dress(axes, records, f"Do both rise together?\nreward {reward}, held-out accuracy {held_out}")
    axes.legend(loc="upper left" if _ends_high(mean) else "upper right")


def _draw_times(axes: Axes, records: Records) -> None:
    steps, seconds = _times(trained(records))
    wholes = seconds.sum(axis=0)
    axes.set_ylabel("time of a step (s)")
    if not wholes.any():
        axes.set_ylim(0, 1)
        _dress(axes, records, "Where does a step's time go?\nno step was measured")
        return
    outliers = _outliers(wholes)
    usual = seconds[:, ~outliers]
    shares = usual.sum(axis=1) / usual.sum()
    base = np.zeros(len(steps))
    for phase, times, share in zip(PHASES, seconds, shares, strict=True):
        axes.bar(steps, times, _bar_width(len(steps)), base, color=_PHASE_COLORS[phase], label=f"{phase} {share:.0%}")
        base = base + times
    top = float(wholes[~outliers].max()) * 1.25
    axes.set_ylim(0, top)
    for step, whole in zip(steps[outliers], wholes[outliers], strict=True):
        axes.annotate(
            f"{whole:.0f} s →", (step, top * 0.8), rotation=90, ha="center", va="top", fontsize=9, bbox=_BEHIND_TEXT
        )
    most = int(shares.argmax())
    title = f"Where does a step's time go?\nmostly {PHASES[most]} ({shares[most]:.0%}); median step {np.median(wholes):.3g} s"
    if outliers.any():
        title += f", {int(outliers.sum())} slow left out"
    _dress(axes, records, title)
    axes.legend(loc="upper center", ncols=4, columnspacing=1.2, handlelength=1.2)


def _draw_mismatch(axes: Axes, records: Records) -> None:
    from course_lib.rl.receipt import TOLERANCE

    steps, mismatch = series(records, "mismatch")
    synced, gaps = series(records, "receipt", "gap")
    _, floors = series(records, "receipt", "noise_floor")
    axes.plot(
        steps,
        mismatch,
        _marker("o", len(steps)),
        color=COLORS["purple"],
        linewidth=1.5,
        markersize=4,
        label="samples of the step",
    )
    axes.plot(
        synced,
        gaps,
        _marker("s", len(synced)),
        color=COLORS["blue"],
        linewidth=1.5,
        markersize=4,
        label="canaries after the sync",
    )
    failed = [record for record in records if record.get("receipt") and not record["receipt"].get("ok", True)]
    if failed:
        where = series(failed, "receipt", "gap")
        axes.plot(*where, "X", color=COLORS["vermillion"], markersize=12, label="receipt failed")
    known, worst = finite(floors), finite(np.concatenate([mismatch, gaps]))
    top = float(worst.max()) if len(worst) else 0.0
    if len(known):
        floor, limit = float(known[-1]), float(known[-1]) * TOLERANCE
        axes.axhline(floor, color=COLORS["grey"], linestyle=":", label="noise floor: equal weights")
        axes.axhline(limit, color=COLORS["vermillion"], linestyle="--", linewidth=1.5, label="limit of a receipt")
        top = max(top, limit)
    axes.set_ylim(0, top * 1.45 or 1)
    axes.set_ylabel("typical |difference of logprobs| (nats per token)")
    clean = len(synced) - len(failed)
    _dress(axes, records, f"Do trainer and sampler compute the same?\n{clean} of {len(synced)} receipts clean")
    axes.legend(loc="upper left", ncols=2, columnspacing=1.2)


def _draw_entropy(axes: Axes, records: Records) -> None:
    steps, entropy = series(records, "entropy")
    axes.plot(steps, entropy, _marker("o", len(steps)), color=COLORS["green"], linewidth=1.5, markersize=4)
    axes.set_ylim(*_limits(finite(entropy), at_least=(0.0, 0.0)))
    axes.set_ylabel("entropy\n(nats per token)")
    _dress(axes, records, f"Still exploring? Entropy {from_to(entropy, '{:.2f} nats')}")
    axes.set_xlabel("")


def _draw_length(axes: Axes, records: Records) -> None:
    steps, length = series(records, "length")
    axes.plot(steps, length, _marker("o", len(steps)), color=COLORS["orange"], linewidth=1.5, markersize=4)
    axes.set_ylim(*_limits(finite(length), at_least=(0.0, 0.0)))
    axes.set_ylabel("length\n(tokens per response)")
    _dress(axes, records, f"Shorter or longer answers? {from_to(length, '{:.1f} tokens')}")


def _dress(axes: Axes, records: Records, title: str) -> None:
    last = max([1, *(int(record.get("step", 0)) for record in records)])
    axes.set_title(title)
    axes.set_xlabel("step (0 = before the first)")
    axes.set_xlim(-0.5 - last / 60, last + 0.5 + last / 60)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))


def _times(records: Records) -> tuple[Numbers, Numbers]:
    """Return the step numbers and `[phases, steps]` seconds, 0 where a phase was not measured."""
    timed = [record for record in records if record.get("seconds")]
    rows = [[record["seconds"].get(phase, 0.0) for record in timed] for phase in PHASES]
    steps = np.array([float(record["step"]) for record in timed])
    return steps, np.nan_to_num(np.array(rows, dtype=float).reshape(len(PHASES), -1))


def _outliers(wholes: Numbers) -> NDArray[np.bool_]:
    """Mark the steps that would press all others flat, such as a first one that builds kernels."""
    outliers: NDArray[np.bool_] = wholes > 3 * np.median(wholes)
    # One in twenty is an outlier; more than that is how the run is.
    return outliers & (outliers.sum() <= max(1, len(wholes) // 20))


def _bar_width(count: int) -> float:
    return 0.85 if count <= 60 else 1.0


def _marker(shape: str, count: int) -> str:
    """Return the marker of a line's points, none where there are so many that they would hide the line."""
    return f"{shape}-" if count <= 60 else "-"


def _limits(values: Numbers, at_least: tuple[float, float]) -> tuple[float, float]:
    low, high = at_least
    if len(values):
        room = 0.1 * (max(high, float(values.max())) - min(low, float(values.min())))
        low = min(low, float(values.min()) - room) if values.min() < low else low
        high = max(high, float(values.max()) + room) if values.max() > high else high
    return (low, high) if high > low else (low, low + 1)


def _ends_high(values: Numbers) -> bool:
    found = finite(values)
    return bool(len(found)) and bool(found[-1] > 0.5)
