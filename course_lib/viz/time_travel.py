"""The trace viewer of lesson 04: a scheduler's run, step by step, ours or vLLM's or both side by side."""

from collections.abc import Sequence
from typing import Any

from course_lib.scheduling.trace import Trace, first_difference
from course_lib.viz.picture import Picture, bundle, key_frames, pack, stylesheet
from course_lib.viz.theme import CourseFigure
from course_lib.viz.trace_frames import STATES, View, names, short_names, view
from course_lib.viz.trace_strip import trace_strip

_FIELDS = {
    "requests": "how far the requests are",
    "tables": "block tables",
    "free": "the free list",
    "cached": "cached blocks",
    "evicted": "evictions",
    "running": "the batch",
    "waiting": "the queue",
    "plan": "the plan",
    "admitted": "admissions",
    "preempted": "preemptions",
    "sampled": "sampled tokens",
    "finished": "endings",
}


def trace_viewer(
    trace: Trace, other: Trace | None = None, title: str = "", *, budget: int | None = None
) -> "TraceViewer":
    """Return a run as a picture with a time slider: queue, batch, blocks, what happened and why, and lines over all steps.

    Of a long trace the first `MOST_STEPS` steps are shown, of a large pool the blocks that were held, and the picture says so.

    Args:
        trace: what happened.
        other: what happened to the same requests elsewhere, such as in vLLM, to show beside it.
        title: what to see in it.
        budget: the scheduler's `max_num_batched_tokens`, to show how much of it was used.

    Raises:
        ValueError: a trace without a step, or without blocks, or one that names blocks which its pool does not have.
    """
    return TraceViewer(trace, other, title, budget)


class TraceViewer(Picture):
    """The picture that `trace_viewer` returns.

    Args:
        trace: what happened.
        other: what happened to the same requests elsewhere.
        title: what to see in it.
        budget: the scheduler's `max_num_batched_tokens`.

    Attributes:
        requests: all requests' names, in the order in which they appear.
        views: the traces, worked out for drawing.
        verdict: whether two traces are the same, in words; empty with one.
        differs: for each step, where the two traces differ in it.
    """

    _esm = bundle("trace_viewer.mjs")
    _css = stylesheet("trace.css")

    def __init__(self, trace: Trace, other: Trace | None = None, title: str = "", budget: int | None = None):
        traces = [trace] if other is None else [trace, other]
        for one in traces:
            check(one)
        self.requests = names(traces)
        self.short = short_names(self.requests)
        self.views = [view(one, self.requests, self.short) for one in traces]
        if not all(shown.timeline.seconds for shown in self.views):
            for shown in self.views:
                shown.timeline.seconds = []  # lines beside each other have one unit
        self.differs = differences(trace, other) if other else []
        self.verdict = verdict(trace, other, self.differs) if other else ""
        self.same = other is not None and not first_difference(trace, other)
        self.budget = budget
        super().__init__(payload={"title": title, "packed": pack(self.data())})

    def data(self) -> dict[str, Any]:
        """Return all that the widget draws."""
        return {
            "requests": self.requests,
            "short": self.short,
            "states": STATES,
            "budget": self.budget,
            "verdict": self.verdict,
            "same": self.same,
            "differs": self.differs,
            "views": self.views,
        }

    def figure(self) -> CourseFigure:
        """Return a filmstrip of the steps that tell the story, and the lines over all steps."""
        return trace_strip(self.views, self.short, self.payload["title"], self.verdict, self.parting)

    @property
    def parting(self) -> int | None:
        """The first step in which two traces differ, if there is one."""
        return next((step for step, fields in enumerate(self.differs) if fields), None)

    def words(self) -> str:
        """Return what happened, for each step that is not merely the next token."""
        return in_words(self.views, self.payload["title"], self.verdict)


def differences(trace: Trace, other: Trace) -> list[list[str]]:
    """Return for each step that both have in which parts of its record they differ."""
    found = []
    for mine, theirs in zip(trace.steps, other.steps, strict=False):
        here, there = mine.state(), theirs.state()
        found.append([_FIELDS.get(key, key) for key, value in here.items() if value != there[key]])
    return found


def verdict(trace: Trace, other: Trace, differs: Sequence[Sequence[str]]) -> str:
    """Return in a sentence whether two runs are the same."""
    found = first_difference(trace, other)
    steps = len(trace.steps)
    if not found:
        return f"= {trace.source} and {other.source}: the same step by step, in all {steps} of them"
    for step, fields in enumerate(differs):
        if fields:
            return f"≠ {trace.source} and {other.source} first differ at step {step}: {', '.join(fields)}"
    return f"≠ the same as far as both go, but {found}"


def in_words(views: Sequence[View], title: str, verdict: str, limit: int = 12) -> str:
    """Return a line for each of the steps that tell the story."""
    lines = [title or "Trace", *([f"  {verdict}"] if verdict else [])]
    for one in views:
        pool = f"{len(one.blocks) + one.hidden_blocks} blocks of {one.block_size} slots"
        lines.append(f"  {one.source}: {len(one.frames) + one.hidden_steps} steps, {pool}")
        for number in key_frames(one.frames, list(map(bool, one.timeline.preempted)), limit):
            line, told = one.timeline, ". ".join(map(str, one.frames[number].events))
            tokens = f"{line.prefill[number]} prefill + {line.decode[number]} decode tokens"
            lines.append(f"    step {number}: {tokens}, KV use {line.kv[number]:.0%}{'. ' if told else ''}{told}")
    return "\n".join(lines)


def check(trace: Trace) -> None:
    """Raise a ValueError where there is nothing to draw, or a trace contradicts itself."""
    if not trace.steps:
        raise ValueError(f"{trace!r} has no step: run the scheduler that it records, then draw it")
    if not trace.blocks or trace.block_size < 1:
        raise ValueError(f"{trace!r} has {len(trace.blocks)} blocks of {trace.block_size} slots; expected one or more")
    pool = set(trace.blocks)
    for step in trace.steps:
        unknown = {block for table in step.tables.values() for block in table} - pool
        if unknown:
            raise ValueError(
                f"step {step.number} of {trace!r} names blocks {sorted(unknown)[:8]}, which its pool has not"
            )
        missing = ({*step.running, *step.waiting} - set(step.requests)) | (set(step.running) - set(step.tables))
        if missing:
            raise ValueError(
                f"step {step.number} of {trace!r} has {sorted(missing)[:8]} without progress or without a block table"
            )
