"""Live metrics of lesson 05: queue, KV use, speed and waits of an engine, drawn while it serves."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from types import TracebackType
from typing import Any, Self

import numpy as np
from IPython.display import display
from matplotlib.axes import Axes

from course_lib.serving.metrics import EngineSample
from course_lib.viz.picture import WIDTH, Picture, bundle, stylesheet
from course_lib.viz.theme import COLORS, CourseFigure, new_figure

_MOST_POINTS = 300
"""Of a longer run neighbouring steps are drawn as one: a line of the page has no more dots than that."""
_WINDOW = 0.5
"""Seconds over which tokens are counted for the speed: a step's own would jump with each chunk of a prompt."""


@dataclass
class Lines:
    """Samples as lines over time, each with as many numbers as `seconds`.

    Attributes:
        seconds: when each step was over.
        running: requests that run.
        waiting: requests that wait.
        kv: blocks in use, in percent.
        hits: prompt tokens found in the prefix cache so far, in percent of those looked up.
        speed: tokens a second.
        wait: milliseconds from one step to the next, which is the wait between two tokens of everybody who runs.
        preempted: preemptions in the step.
        tokens: tokens so far.
    """

    seconds: list[float] = field(default_factory=list)
    running: list[int] = field(default_factory=list)
    waiting: list[int] = field(default_factory=list)
    kv: list[float] = field(default_factory=list)
    hits: list[float] = field(default_factory=list)
    speed: list[float] = field(default_factory=list)
    wait: list[float] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)


def live_metrics(title: str = "An engine at work", refresh: float = 0.2) -> "LiveMetrics":
    """Return a picture that grows while an engine serves.

        with live_metrics("64 requests") as live:
            watched = watch(llm, prompts, params, on_sample=live.add)

    The `with` block shows it, and at its end puts the finished picture into the cell's output.

    Args:
        title: what to see in it.
        refresh: seconds between two updates.

    Raises:
        ValueError: `refresh` is below 0.
    """
    if refresh < 0:
        raise ValueError(f"refresh is {refresh}; expected seconds, 0 or more")
    return LiveMetrics(title, refresh)


class LiveMetrics(Picture):
    """The picture that `live_metrics` returns.

    Args:
        title: what to see in it.
        refresh: seconds between two updates.

    Attributes:
        samples: what was added.
    """

    _esm = bundle("live_metrics.mjs")
    _css = stylesheet("live_metrics.css")

    def __init__(self, title: str, refresh: float):
        self.samples: list[EngineSample] = []
        self._refresh, self._shown = refresh, float("-inf")
        self._handle: Any = None
        super().__init__(payload={"title": title, "lines": vars(Lines())})

    def add(self, sample: EngineSample) -> None:
        """Take a sample in, and draw it if the last drawing is older than `refresh`."""
        self.samples.append(sample)
        if time.monotonic() - self._shown >= self._refresh:
            self.redraw()

    def redraw(self) -> None:
        """Draw all samples so far."""
        self.payload = {**self.payload, "lines": vars(lines(self.samples))}
        self._shown = time.monotonic()

    def __enter__(self) -> Self:
        self._handle = display(self, display_id=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.redraw()
        if self._handle is not None:  # there is none outside of a notebook
            # The cell's output holds the picture as it was when it was first shown: what doesn't move is drawn anew.
            self._handle.update(self)

    def figure(self) -> CourseFigure:
        """Return the lines, one above the other."""
        line = Lines(**self.payload["lines"])
        with new_figure(WIDTH, 5.6) as figure:
            requests, memory, speed, wait = figure.subplots(4, 1, sharex=True)
            requests.set_title(self.payload["title"])
            _steps(requests, line.seconds, {"running": (line.running, "blue"), "waiting": (line.waiting, "orange")})
            requests.set_ylabel("requests")
            _steps(memory, line.seconds, {"KV use": (line.kv, "blue"), "prefix hits": (line.hits, "green")})
            memory.set(ylim=(0, 100), ylabel="percent")
            lost = [moment for moment, count in zip(line.seconds, line.preempted, strict=True) if count]
            label = f"{sum(line.preempted)} preemptions"
            look: dict[str, Any] = {"color": COLORS["vermillion"], "clip_on": False, "in_layout": False, "zorder": 4}
            memory.plot(lost, [100] * len(lost), "v", label=label, **look)
            _steps(speed, line.seconds, {"tokens a second": (line.speed, "blue")})
            speed.set_ylabel("tokens/s")
            _steps(wait, line.seconds, {"wait": (line.wait, "blue")})
            wait.set(ylabel="ms a step", xlabel="seconds since the requests came")
            for axes in (requests, speed, wait):
                axes.set_ylim(bottom=0)
            for axes in (requests, memory):  # over the axes: no corner of them stays free of lines for sure
                axes.legend(loc="lower right", bbox_to_anchor=(1, 0.98), ncols=3, borderpad=0)
            figure.align_ylabels()
        return figure

    def words(self) -> str:
        """Return how far it is, and the extremes."""
        line = Lines(**self.payload["lines"])
        told = [self.payload["title"]]
        if not line.seconds:
            return "\n".join([*told, "  nothing has run yet"])
        told.append(f"  {line.seconds[-1]:.1f} s, {line.tokens[-1]:,} tokens, {sum(line.preempted)} preemptions")
        told.append(f"  at most {max(line.running)} running, {max(line.waiting)} waiting, KV use {max(line.kv):.0f} %")
        told.append(f"  prefix hits {line.hits[-1]:.0f} %, longest wait between two steps {max(line.wait):.0f} ms")
        return "\n".join(told)


def lines(samples: Sequence[EngineSample], limit: int = _MOST_POINTS) -> Lines:
    """Return samples as lines; of more than `limit`, neighbours become one point, with the longest wait of them."""
    found = Lines()
    before = 0
    waits = [0.0, *(1e3 * (later.seconds - sooner.seconds) for sooner, later in pairwise(samples))]
    waits[:1] = [1e3 * samples[0].seconds] if samples else []
    lost = 0
    start = 0
    for end in sorted({round(place) for place in np.linspace(1, len(samples), min(limit, len(samples)))}):
        last = samples[end - 1]
        while start < end - 1 and samples[start].seconds < last.seconds - _WINDOW:
            start += 1
        first = samples[start - 1] if start else None
        span = last.seconds - (first.seconds if first else 0.0)
        made = last.generated_tokens - (first.generated_tokens if first else 0)
        found.seconds.append(round(last.seconds, 4))
        found.running.append(last.running)
        found.waiting.append(last.waiting)
        found.kv.append(round(100 * last.kv_usage, 2))
        found.hits.append(round(100 * last.prefix_hits / max(1, last.prefix_queries), 2))
        found.speed.append(round(made / span, 2) if span else 0.0)
        found.wait.append(round(max(waits[before:end]), 3))
        found.preempted.append(last.preemptions - lost)
        found.tokens.append(last.generated_tokens)
        before, lost = end, last.preemptions
    return found


def _steps(axes: Axes, seconds: Sequence[float], values: dict[str, tuple[Sequence[Any], str]]) -> None:
    """Draw lines that keep a step's value from the end of the step before it."""
    for place, (name, (numbers, color)) in enumerate(values.items()):
        look: dict[str, Any] = {"color": COLORS[color], "linestyle": "--" if place else "-", "label": name}
        axes.plot([0.0, *seconds], [*(numbers[:1] or [0]), *numbers], drawstyle="steps-pre", **look)
    axes.margins(x=0)
