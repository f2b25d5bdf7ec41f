"""A trace worked out for drawing: what to show at each step, and the lines over all steps.

The widget and its static form draw the same frames, so that neither has to understand a scheduler.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from course_lib.scheduling.trace import Step, Trace
from course_lib.viz.trace_events import Event, events

MOST_STEPS = 1000
"""Of a longer trace, the first ones are drawn."""
MOST_BLOCKS = 512
"""Of a larger pool, blocks that a request holds at some step are drawn, and no more than so many."""
FREE_SHOWN = 16
"""So many of the free list's next blocks are told."""
FASTEST_STEP = 0.0003
"""Seconds. Where steps take less than that, no model ran in them."""
STATES = ("waiting", "prefill", "decode", "preempted", "idle")
"""What a request does in a step: `preempted` waits again, `idle` runs and was given no tokens."""


@dataclass(frozen=True)
class Row:
    """A running request at a step.

    Attributes:
        request: its place among all requests.
        prompt: tokens of its prompt.
        known: all its tokens so far.
        computed: those in the KV cache, this step's counted.
        tokens: how many of them this step computes.
        state: one of `STATES`.
        cached: tokens that the prefix cache spared it, where it is admitted in this step.
        sampled: whether a token came of the step.
    """

    request: int
    prompt: int
    known: int
    computed: int
    tokens: int
    state: str
    cached: int | None
    sampled: bool


@dataclass(frozen=True)
class Waiter:
    """A waiting request: its place among all requests, its tokens, and `new`, `preempted` or nothing."""

    request: int
    known: int
    mark: str


@dataclass(frozen=True)
class Frame:
    """A step to draw.

    Attributes:
        running: the batch, in order.
        waiting: the queue, in order.
        tables: block tables of the running, in their order.
        free: the next blocks of the free list.
        free_count: how long that list is.
        cached: blocks that the prefix cache knows.
        marks: blocks to which something happened: `taken`, `hit` (found in the prefix cache), `evicted` (taken, or lost, with
            something in it that the cache knew) or `freed`.
        events: the step in words.
    """

    running: list[Row]
    waiting: list[Waiter]
    tables: list[list[int]]
    free: list[int]
    free_count: int
    cached: list[int]
    marks: dict[int, str]
    events: list[Event]


@dataclass(frozen=True)
class Cell:
    """A block at a step.

    Attributes:
        state: `held` by a request, `shared` by several, `cached` (nobody's, and the prefix cache knows its tokens) or `free`.
        who: places of the requests that hold it.
        filled: slots whose keys and values are computed.
        mark: what happened to it in this step, as in `Frame.marks`.
    """

    state: str
    who: list[int]
    filled: int
    mark: str


@dataclass
class Timeline:
    """Lines over all steps: tokens computed, the share of blocks held, output tokens, how many were preempted and finished.

    Attributes:
        seconds: each step's; empty where no model ran.
        lives: what each request did, as [request, first step, last step, place in `STATES`].
    """

    prefill: list[int] = field(default_factory=list)
    decode: list[int] = field(default_factory=list)
    kv: list[float] = field(default_factory=list)
    output: list[int] = field(default_factory=list)
    preempted: list[int] = field(default_factory=list)
    finished: list[int] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    lives: list[list[int]] = field(default_factory=list)

    def throughput(self) -> list[float]:
        """Return output tokens a second at each step, or a step where seconds are not known."""
        if not self.seconds:
            return [float(tokens) for tokens in self.output]
        return [tokens / seconds if seconds else 0.0 for tokens, seconds in zip(self.output, self.seconds, strict=True)]


@dataclass
class View:
    """A trace to draw.

    Attributes:
        source: whose it is.
        block_size: slots in a block.
        blocks: the blocks that are drawn.
        hidden_blocks: how many are not.
        hidden_steps: how many steps of the trace's end are not.
        frames: the steps.
        timeline: the lines over them.
    """

    source: str
    block_size: int
    blocks: list[int]
    hidden_blocks: int
    hidden_steps: int
    frames: list[Frame]
    timeline: Timeline


def names(traces: Sequence[Trace]) -> list[str]:
    """Return all requests, in the order in which they appear."""
    steps = (step for trace in traces for step in trace.steps[:MOST_STEPS])
    return list(dict.fromkeys(name for step in steps for name in (*step.running, *step.waiting)))


def short_names(full: Sequence[str], longest: int = 5) -> list[str]:
    """Return names that fit into a block's cell: themselves, what they begin or end with, or numbers."""
    for shorten in (str, lambda name: name.split("-")[0], lambda name: name.split("-")[-1]):
        short = [shorten(name) for name in full]
        if len(set(short)) == len(full) and all(0 < len(name) <= longest for name in short):
            return short
    return [f"#{place}" for place in range(len(full))]


def view(trace: Trace, full: Sequence[str], short: Sequence[str]) -> View:
    """Work a trace out for drawing.

    Args:
        trace: the trace.
        full: all requests, as `names` gives them.
        short: their short names.
    """
    steps = trace.steps[:MOST_STEPS]
    blocks = list(trace.blocks)
    if len(blocks) > MOST_BLOCKS:
        held = {block for step in steps for table in step.tables.values() for block in table}
        blocks = sorted(held)[:MOST_BLOCKS]
    reader = _Reader(trace.block_size, full, short)
    frames = [reader.read(step) for step in steps]
    hidden = len(trace.blocks) - len(blocks), len(trace.steps) - len(steps)
    return View(trace.source, trace.block_size, blocks, *hidden, frames, _timeline(trace, steps, frames))


def cells(frame: Frame, blocks: Sequence[int], block_size: int) -> list[Cell]:
    """Return what to draw for each of `blocks`; the widget works the same out for itself."""
    who: dict[int, list[int]] = {}
    filled: dict[int, int] = {}
    for row, table in zip(frame.running, frame.tables, strict=True):
        for logical, block in enumerate(table):
            tokens = max(0, min(block_size, row.computed - logical * block_size))
            who.setdefault(block, []).append(row.request)
            filled[block] = max(filled.get(block, 0), tokens)
    cached = set(frame.cached)
    found = []
    for block in blocks:
        holders = who.get(block, [])
        state = "shared" if len(holders) > 1 else "held" if holders else "cached" if block in cached else "free"
        found.append(Cell(state, holders, filled.get(block, 0), frame.marks.get(block, "")))
    return found


class _Reader:
    """Reads steps in order, remembering what came before."""

    def __init__(self, block_size: int, full: Sequence[str], short: Sequence[str]):
        self.block_size = block_size
        self.place = {name: place for place, name in enumerate(full)}
        self.short = dict(zip(full, short, strict=True))
        self.before: Step | None = None
        self.seen: set[str] = set()
        self.lost: set[str] = set()  # preempted once: who of them waits, waits again

    def read(self, step: Step) -> Frame:
        told = events(step, self.before, self.seen, self.lost, self.short.__getitem__)
        self.lost |= set(step.preempted)
        frame = Frame(
            running=[self._row(step, name) for name in step.running],
            waiting=[Waiter(self.place[name], step.requests[name].known, self._mark(name)) for name in step.waiting],
            tables=[list(step.tables[name]) for name in step.running],
            free=step.free[:FREE_SHOWN],
            free_count=len(step.free),
            cached=list(step.cached),
            marks=self._marks(step),
            events=told,
        )
        self.seen |= set(step.requests)
        self.before = step
        return frame

    def _row(self, step: Step, name: str) -> Row:
        progress, tokens = step.requests[name], step.plan.get(name, 0)
        behind = progress.known - (progress.computed - tokens)
        # One token behind is what a generated token leaves; who computes more, or has prompt left, catches up.
        decoding = behind <= 1 and progress.computed - tokens >= progress.prompt
        state = "idle" if not tokens else "decode" if decoding else "prefill"
        numbers = progress.prompt, progress.known, progress.computed, tokens
        return Row(self.place[name], *numbers, state, step.admitted.get(name), name in step.sampled)

    def _mark(self, name: str) -> str:
        return "preempted" if name in self.lost else "" if name in self.seen else "new"

    def _marks(self, step: Step) -> dict[int, str]:
        tables = self.before.tables if self.before else {}
        held = {block for table in step.tables.values() for block in table}
        hits: set[int] = set()
        taken: set[int] = set()
        for name, table in step.tables.items():
            spared = step.admitted.get(name, 0) // self.block_size
            old = table[:spared] if name in step.admitted else tables.get(name, [])
            hits |= set(table[:spared])
            taken |= set(table) - set(old)
        freed = {block for table in tables.values() for block in table} - held
        # The later word counts: a block may be evicted, taken, and shared at once.
        words = {"freed": freed, "hit": hits, "taken": taken, "evicted": step.evicted}
        return {block: word for word, blocks in words.items() for block in sorted(blocks)}


def _timeline(trace: Trace, steps: Sequence[Step], frames: Sequence[Frame]) -> Timeline:
    def computed(state: str) -> list[int]:
        return [sum(row.tokens for row in frame.running if row.state == state) for frame in frames]

    seconds = [step.seconds.get("step", 0.0) for step in steps]
    return Timeline(
        prefill=computed("prefill"),
        decode=computed("decode"),
        kv=[round(share, 4) for share in trace.kv_usage()[: len(steps)]],
        output=[len(step.sampled) for step in steps],
        preempted=[len(step.preempted) for step in steps],
        finished=[len(step.finished) for step in steps],
        # No model is that fast: it was the scheduler alone, and tokens a second would say nothing.
        seconds=[round(time, 6) for time in seconds] if median(seconds) > FASTEST_STEP else [],
        lives=_lives(frames),
    )


def _lives(frames: Sequence[Frame]) -> list[list[int]]:
    found: list[list[int]] = []
    latest: dict[int, list[int]] = {}
    for number, frame in enumerate(frames):
        states = {row.request: row.state for row in frame.running}
        states |= {one.request: "preempted" if one.mark == "preempted" else "waiting" for one in frame.waiting}
        for request, state in states.items():
            life = latest.get(request)
            if life and life[2] == number - 1 and life[3] == STATES.index(state):
                life[2] = number
            else:
                latest[request] = [request, number, number, STATES.index(state)]
                found.append(latest[request])
    return found
