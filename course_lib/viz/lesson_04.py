"""The still pictures of lesson 04: who computes what in which step, and what it does to those who wait."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Patch, Rectangle

from course_lib.scheduling.replay import Replay
from course_lib.scheduling.trace import Step, Trace
from course_lib.viz.tables import Cell, Table
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_LINES = ("vermillion", "orange", "sky", "blue", "green", "purple")
_KINDS = {
    "prompt": (COLORS["blue"], "computes prompt tokens"),
    "output": (COLORS["green"], "computes its newest token"),
    "again": (COLORS["vermillion"], "computes tokens again"),
    "waits": ("#E4E2DB", "waits"),
    "preempted": ("#F3C6A5", "preempted, waits"),
}
_STATIONS = (
    ("API", "text becomes\ntoken ids"),
    ("waiting queue", "first come first\nserved, or priority"),
    ("scheduler", "who computes how\nmany tokens now"),
    ("workers", "one call of the model\nfor all of them"),
    ("sampler", "one token for each\nthat has caught up"),
    ("stream", "the token goes\nto its reader"),
)


def pipeline() -> CourseFigure:
    """Draw a request's way through the engine, and the loop that turns once a step."""
    with new_figure(9.6, 3.6) as figure:
        axes = figure.subplots()
        axes.set_axis_off()
        axes.set_title("A request's way: the loop in the middle turns once for every step of the model")
        for place, (name, does) in enumerate(_STATIONS):
            _box(axes, 17 * place, 5.2, 14, 2.6, name, does, COLORS["sky" if place in (2, 3, 4) else "grey"])
        for place in range(len(_STATIONS) - 1):
            _arrow(axes, (17 * place + 14.2, 6.5), (17 * place + 16.8, 6.5))
        _box(axes, 34, 1.2, 14, 2.4, "block pool", "block tables, free\nlist, prefix cache", COLORS["orange"])
        _box(axes, 51, 1.2, 14, 2.4, "PagedAttention", "reads keys through\nthe tables", COLORS["orange"])
        _arrow(axes, (41, 5.0), (41, 3.8), both=True)
        _arrow(axes, (58, 5.0), (58, 3.8), both=True)
        _arrow(axes, (48.2, 2.4), (50.8, 2.4))
        axes.annotate(
            "",
            (43, 8.0),
            (75, 8.0),
            arrowprops={"arrowstyle": "-|>", "color": COLORS["black"], "lw": 1.5, "connectionstyle": "arc3,rad=0.18"},
        )
        axes.text(59, 9.75, "not finished: one token behind again, next step", ha="center", fontsize=8.5)
        _arrow(axes, (34.5, 5.0), (27, 5.0), bend=-0.55)
        axes.text(25, 3.15, "preempted: back to\nthe front of the queue", ha="center", va="center", fontsize=8.5)
        axes.set_xlim(-1, 100)
        axes.set_ylim(0.8, 10.6)
    return figure


def timeline(trace: Trace, title: str = "") -> CourseFigure:
    """Draw a row for each request and a column for each step: what it computes, and how many tokens.

    Args:
        trace: the run.
        title: what to see.
    """
    steps = trace.steps
    names = list(dict.fromkeys(name for step in steps for name in [*step.running, *step.waiting]))
    furthest: dict[str, int] = {}
    lost: set[str] = set()
    shown: set[str] = set()
    with new_figure(9.6, 1.5 + 0.36 * len(names)) as figure:
        axes = figure.subplots()
        for step in steps:
            lost |= set(step.preempted)
            for row, name in enumerate(names):
                kind = _kind(step, name, furthest, lost)
                if name in step.plan:
                    furthest[name] = max(furthest.get(name, 0), step.requests[name].computed)
                if kind:
                    shown.add(kind)
                    axes.add_patch(
                        Rectangle(
                            (step.number - 0.5, row - 0.42),
                            1,
                            0.84,
                            facecolor=_KINDS[kind][0],
                            edgecolor="white",
                            lw=0.4,
                        )
                    )
                    if kind in ("prompt", "again") or (kind == "output" and len(steps) <= 40):
                        color = COLORS["black"] if kind == "output" else "white"
                        axes.text(
                            step.number, row, str(step.plan[name]), ha="center", va="center", fontsize=8, color=color
                        )
        axes.set_yticks(range(len(names)), names)
        axes.set_ylabel("request")
        axes.set_xlabel("step; a number is how many tokens the request computes in it")
        axes.set_xlim(steps[0].number - 0.6, steps[-1].number + 0.6)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.grid(visible=False)
        axes.set_title(title or f"{trace.source}: {len(trace.steps)} steps")
        handles = [Patch(facecolor=color, label=said) for kind, (color, said) in _KINDS.items() if kind in shown]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), handlelength=1.2)
    return figure


def gains(runs: Mapping[str, tuple[Replay, Replay]]) -> Table:
    """Return a table of workloads, each served in static batches and by iteration-level scheduling."""
    rows = []
    for name, (static, joined) in runs.items():
        speeds = (static.tokens_per_second, joined.tokens_per_second)
        batches = [f"{np.mean(run.batch):.1f}" for run in (static, joined)]
        rows.append([name, *(f"{speed:,.0f}" for speed in speeds), f"{speeds[1] / speeds[0]:.1f} times", *batches])
    columns = ["requests", ">static tokens/s", ">iteration-level tokens/s", ">gain", ">static batch", ">refilled batch"]
    return Table("Static batches and batches that are refilled in every step", columns, rows)


def latency_by_load(rates: Sequence[float], curves: Mapping[str, Sequence[float]], limit: float) -> CourseFigure:
    """Draw median normalised latencies over the load.

    Args:
        rates: requests a second.
        curves: seconds from arrival to the last token, by token, in the median; for each scheduler.
        limit: the latency that is still good, in the same unit.
    """
    reach = {name: _reach(rates, curve, limit) for name, curve in curves.items()}
    with new_figure(9.0, 3.8) as figure:
        axes = figure.subplots()
        for (name, curve), color in zip(curves.items(), ("vermillion", "blue"), strict=True):
            axes.plot(rates, 1e3 * np.array(curve), marker="o", color=COLORS[color], label=name)
        axes.axhline(1e3 * limit, color=COLORS["grey"], linestyle="--", linewidth=1.2)
        axes.annotate(f"{1e3 * limit:.0f} ms", (rates[0], 1e3 * limit), xytext=(0, 4), textcoords="offset points")
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
        axes.set_xlabel("load (requests a second)")
        axes.set_ylabel("median latency (ms a token)")
        low, high = reach.values()
        least = "at least " if max(list(curves.values())[1]) <= limit else ""
        axes.set_title(f"At {1e3 * limit:.0f} ms a token: {low:.1f} and {least}{high:.1f} requests a second")
        axes.legend()
    return figure


def stalls(runs: Mapping[str, Replay]) -> CourseFigure:
    """Draw how many waits between two tokens are longer than so much, for each way to handle a long prompt."""
    with new_figure(9.0, 3.9) as figure:
        axes = figure.subplots()
        for (name, run), color in zip(runs.items(), _LINES, strict=False):
            waits = 1e3 * np.sort(run.inter_token_latency)
            share = 1 - np.arange(len(waits)) / len(waits)
            axes.step(waits, share, where="post", color=COLORS[color], label=name)
            axes.plot(waits[-1], share[-1], marker="o", color=COLORS[color])
        axes.axhline(0.01, color=COLORS["grey"], linestyle="--", linewidth=1.2)
        axes.annotate("p99: one wait in a hundred is longer", (axes.get_xlim()[1], 0.0085), ha="right", va="top")
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("wait between two tokens of a request (ms)")
        axes.set_ylabel("share of waits that are longer")
        axes.set_title("Smaller chunks: no long stall, and more of the short ones (dot: the worst wait)")
        axes.legend(title="budget of a step")
    return figure


def stall_table(runs: Mapping[str, Replay]) -> Table:
    """Return one row a run: waits between tokens, time to first token, speed."""
    rows = []
    for name, run in runs.items():
        waits, first = 1e3 * np.array(run.inter_token_latency), 1e3 * np.array(run.time_to_first_token)
        rows.append(
            [
                name,
                f"{np.median(waits):.1f}",
                f"{np.quantile(waits, 0.99):.1f}",
                f"{waits.max():.1f}",
                f"{np.median(first):.0f}",
                f"{np.quantile(first, 0.99):.0f}",
                f"{run.tokens_per_second:,.0f}",
            ]
        )
    columns = ["budget", ">wait p50 (ms)", ">p99", ">worst", ">first token p50 (ms)", ">p99", ">tokens/s"]
    return Table("Waits between tokens, and for the first one", columns, rows)


def pool_sizes(runs: Mapping[int, Replay]) -> CourseFigure:
    """Draw speed and preemptions over the number of blocks."""
    blocks = sorted(runs)
    requests = len(next(iter(runs.values())).arrivals)
    with new_figure(9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(blocks, [runs[count].tokens_per_second for count in blocks], marker="o", color=COLORS["blue"])
        left.set_ylabel("output tokens a second")
        left.set_ylim(bottom=0)
        left.set_title("A smaller pool is a smaller batch ...")
        right.plot(
            blocks, [runs[count].preemptions / requests for count in blocks], marker="o", color=COLORS["vermillion"]
        )
        right.set_ylabel("preemptions a request")
        right.set_ylim(bottom=0)
        right.set_title("... and requests lose their turn")
        for axes in (left, right):
            axes.set_xlabel("blocks in the pool (16 slots each)")
            axes.set_xscale("log", base=2)
            axes.set_xticks(blocks, [str(count) for count in blocks])
    return figure


def hit_rates(runs: Mapping[int, Replay], best: float) -> CourseFigure:
    """Draw the share of prompt tokens that the prefix cache spared, over the number of blocks.

    Args:
        runs: by number of blocks.
        best: the share that could be found at all.
    """
    blocks = sorted(runs)
    rate = [100 * runs[count].cached_tokens / runs[count].prompt_tokens for count in blocks]
    first = [1e3 * float(np.median(runs[count].time_to_first_token)) for count in blocks]
    with new_figure(9.0, 3.4) as figure:
        left, right = figure.subplots(1, 2)
        left.plot(blocks, rate, marker="o", color=COLORS["green"])
        left.axhline(100 * best, color=COLORS["grey"], linestyle="--", linewidth=1.2)
        left.annotate("all that there is to find", (blocks[0], 100 * best), xytext=(0, -11), textcoords="offset points")
        left.set_ylabel("prompt tokens from the cache (%)")
        left.set_ylim(0, 100)
        left.set_title(f"Hit rate: {rate[0]:.0f} % to {rate[-1]:.0f} %")
        right.plot(blocks, first, marker="o", color=COLORS["blue"])
        right.set_ylabel("median time to first token (ms)")
        right.set_ylim(bottom=0)
        right.set_title("What a hit is worth to the reader")
        for axes in (left, right):
            axes.set_xlabel("blocks in the pool (16 slots each)")
            axes.set_xscale("log", base=2)
            axes.set_xticks(blocks, [f"{count:,}" for count in blocks])
    return figure


def rules_table(runs: Mapping[str, Replay | str]) -> Table:
    """Return one row for each rule left out; a text instead of a run says how it ended."""
    usual = next(run for run in runs.values() if isinstance(run, Replay))
    rows: list[list[Cell | str]] = []
    for name, run in runs.items():
        if isinstance(run, str):
            rows.append([name, Cell(run, "wrong"), "", "", ""])
            continue
        faster = f"{run.tokens_per_second / usual.tokens_per_second - 1:+.1%}" if run is not usual else ""
        waits = [f"{max(seconds):.2f}" for seconds in (run.time_to_first_token, run.inter_token_latency)]
        rows.append([name, faster, str(run.preemptions), *waits])
    columns = [
        "what is different",
        ">speed",
        ">preemptions",
        ">worst wait for a first token (s)",
        ">between tokens (s)",
    ]
    return Table("One rule left out at a time", columns, rows)


def _kind(step: Step, name: str, furthest: Mapping[str, int], lost: set[str]) -> str:
    """Return what a request does in a step; empty where it is not there."""
    if name in step.waiting:
        return "preempted" if name in lost else "waits"
    if name not in step.plan:
        return ""
    progress, new = step.requests[name], step.plan[name]
    if progress.computed - new < furthest.get(name, 0):
        return "again"
    return "prompt" if progress.computed - new < progress.prompt else "output"


def _reach(rates: Sequence[float], curve: Sequence[float], limit: float) -> float:
    """Return the load at which a curve crosses the limit, on logarithmic axes."""
    for place in range(1, len(rates)):
        if curve[place] > limit >= curve[place - 1]:
            low, high = np.log(curve[place - 1]), np.log(curve[place])
            part = (np.log(limit) - low) / (high - low)
            return float(np.exp(np.log(rates[place - 1]) + part * np.log(rates[place] / rates[place - 1])))
    return rates[-1] if curve[-1] <= limit else rates[0]


def _box(axes: Axes, x: float, y: float, width: float, height: float, name: str, does: str, color: str) -> None:
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.5", fc=color, ec="none", alpha=0.3
    )
    axes.add_patch(shape)
    axes.text(x + width / 2, y + height - 0.55, name, ha="center", va="center", fontsize=9.5, fontweight="bold")
    axes.text(x + width / 2, y + height / 2 - 0.45, does, ha="center", va="center", fontsize=8)


def _arrow(
    axes: Axes, start: tuple[float, float], end: tuple[float, float], both: bool = False, bend: float = 0.0
) -> None:
    style = {"arrowstyle": "<|-|>" if both else "-|>", "color": COLORS["black"], "lw": 1.4}
    axes.annotate("", end, start, arrowprops=style | {"connectionstyle": f"arc3,rad={bend}"})
