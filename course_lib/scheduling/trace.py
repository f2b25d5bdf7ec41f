"""What a scheduler did, step by step: one record a step, the same for ours and for the real vLLM's.

`record(scheduler)` watches our scheduler, or a learner's of the same interface; `serving.probe` watches vLLM's. Pictures and
comparisons read the records and need not know which of the two it was.
"""

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler, SchedulerOutput


@dataclass(frozen=True)
class Progress:
    """How far a request is: its prompt, all its tokens so far, and those whose keys and values are in the cache."""

    prompt: int
    known: int
    computed: int


@dataclass
class Step:
    """One step. Everything but `sampled`, `finished` and `seconds` is as the plan left it, before the model ran.

    Attributes:
        number: counted from 0.
        plan: the requests that run, in order, and how many tokens each computes.
        running: the running requests, in order.
        waiting: the waiting ones, in order.
        requests: how far each of both is, this step's tokens counted as computed.
        tables: the running requests' block tables.
        free: the free list, the next block to be taken first.
        cached: blocks that the prefix cache knows, in use or free.
        admitted: the requests that began to run, and how many tokens the prefix cache spared each.
        evicted: blocks whose hash the prefix cache forgot, because they were taken for something else.
        preempted: the requests that lost their blocks, and for whom; empty where that is not known.
        held_back: why the first waiting request was not admitted; empty where that is not known.
        sampled: the tokens that came of the step.
        finished: the requests that ended with it, and how.
        seconds: wall time from the step's beginning to the end of its update, `schedule` that of planning alone.
    """

    number: int
    plan: dict[str, int]
    running: list[str]
    waiting: list[str]
    requests: dict[str, Progress]
    tables: dict[str, list[int]]
    free: list[int]
    cached: list[int]
    admitted: dict[str, int] = field(default_factory=dict)
    evicted: list[int] = field(default_factory=list)
    preempted: dict[str, str] = field(default_factory=dict)
    held_back: str = ""
    sampled: dict[str, int] = field(default_factory=dict)
    finished: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def state(self) -> dict[str, Any]:
        """Return what two schedulers that are the same machine agree on: no reasons in words, no times."""
        whole = asdict(self)
        return {key: value for key, value in whole.items() if key not in ("held_back", "preempted", "seconds")} | {
            "preempted": sorted(self.preempted)
        }


@dataclass
class Trace:
    """The steps of one run.

    Attributes:
        source: which scheduler it was, such as `course_lib` or `vllm 0.32.0`.
        block_size: slots in a block.
        blocks: the blocks that can be given out, by number; vLLM keeps block 0 to itself.
        steps: in order.
    """

    source: str
    block_size: int
    blocks: list[int]
    steps: list[Step] = field(default_factory=list)

    def save(self, path: str | Path) -> None:
        """Write a JSON line for the run and one for each step."""
        head = {key: value for key, value in vars(self).items() if key != "steps"}
        lines = [head, *map(asdict, self.steps)]
        Path(path).write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "Trace":
        """Read what `save` wrote.

        Raises:
            ValueError: the file holds something else.
        """
        try:
            head, *steps = map(json.loads, Path(path).read_text(encoding="utf-8").splitlines())
            trace = cls(**head)
            for step in steps:
                progress = {name: Progress(**numbers) for name, numbers in step.pop("requests").items()}
                trace.steps.append(Step(requests=progress, **step))
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is no trace ({error}); expected a file that Trace.save() wrote") from error
        return trace

    def kv_usage(self) -> list[float]:
        """Return each step's share of blocks that requests hold."""
        return [1 - len(step.free) / len(self.blocks) for step in self.steps]

    def __repr__(self) -> str:
        preemptions = sum(len(step.preempted) for step in self.steps)
        tokens = sum(sum(step.plan.values()) for step in self.steps)
        return f"Trace({self.source}: {len(self.steps)} steps, {tokens} tokens computed, {preemptions} preemptions)"


def first_difference(one: Trace, other: Trace) -> str:
    """Return in words where two runs part, or an empty string where they are the same step by step."""
    for mine, theirs in zip(one.steps, other.steps, strict=False):
        here, there = mine.state(), theirs.state()
        for key, value in here.items():
            if value != there[key]:
                return f"step {mine.number}, {key}: {one.source} has {value}, {other.source} has {there[key]}"
    if len(one.steps) != len(other.steps):
        return f"{one.source} took {len(one.steps)} steps, {other.source} {len(other.steps)}"
    return ""


class View(ABC):
    """A scheduler's state, read without changing it. Ours and vLLM's have the same names for all but blocks.

    Args:
        scheduler: the one to read.
    """

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler

    def running(self) -> list[str]:
        """Return the running requests, in order."""
        return [request.request_id for request in self.scheduler.running]

    def waiting(self) -> list[str]:
        """Return the waiting requests, in order."""
        return [request.request_id for request in self.scheduler.waiting]

    def progress(self, request_id: str) -> Progress:
        """Return how far a request is."""
        request = self.scheduler.requests[request_id]
        return Progress(request.num_prompt_tokens, request.num_tokens, request.num_computed_tokens)

    @abstractmethod
    def table(self, request_id: str) -> list[int]:
        """Return a running request's block table."""

    @abstractmethod
    def free(self) -> list[int]:
        """Return the free list."""

    @abstractmethod
    def hashes(self) -> dict[int, bytes]:
        """Return each block's hash where the prefix cache knows it."""


class Recorder:
    """Builds a trace from a view, told when a step was planned and when it is over."""

    def __init__(self, view: View, trace: Trace):
        self.view, self.trace = view, trace
        self._began = 0.0
        self._hashes: dict[int, bytes] = {}
        self._running: list[str] = []

    def begin(self) -> None:
        """Note the state before a step is planned."""
        self._hashes, self._running = self.view.hashes(), self.view.running()
        self._began = time.perf_counter()

    def planned(self, plan: Mapping[str, int], preempted: Mapping[str, str], held_back: str = "") -> None:
        """Note the plan, and the state that it left."""
        seconds = time.perf_counter() - self._began
        view, hashes, running = self.view, self.view.hashes(), self.view.running()
        requests = {name: view.progress(name) for name in [*running, *view.waiting()]}
        new = [name for name in running if name not in self._running or name in preempted]
        step = Step(
            number=len(self.trace.steps),
            plan=dict(plan),
            running=running,
            waiting=view.waiting(),
            requests=requests,
            tables={name: view.table(name) for name in running},
            free=view.free(),
            cached=sorted(hashes),
            admitted={name: requests[name].computed - plan[name] for name in new},
            evicted=sorted(block for block, known in self._hashes.items() if hashes.get(block) != known),
            preempted=dict(preempted),
            held_back=held_back,
            seconds={"schedule": seconds},
        )
        self.trace.steps.append(step)

    def over(self, sampled: Mapping[str, int], finished: Mapping[str, str]) -> None:
        """Note what came of the step."""
        step = self.trace.steps[-1]
        step.sampled, step.finished = dict(sampled), dict(finished)
        step.seconds["step"] = time.perf_counter() - self._began


class _OurView(View):
    def table(self, request_id: str) -> list[int]:
        return self.scheduler.kv_manager.table(request_id)

    def free(self) -> list[int]:
        return self.scheduler.kv_manager.pool.free_list

    def hashes(self) -> dict[int, bytes]:
        blocks = self.scheduler.kv_manager.pool.blocks
        return {block.block_id: block.block_hash for block in blocks if block.block_hash is not None}


def record(scheduler: Scheduler, source: str = "course_lib") -> Trace:
    """Watch a scheduler from now on, and return the trace that grows with each of its steps."""
    manager = scheduler.kv_manager
    trace = Trace(source, manager.block_size, sorted(manager.pool.free_list))
    recorder = Recorder(_OurView(scheduler), trace)
    schedule, update = scheduler.schedule, scheduler.update

    def traced_schedule() -> SchedulerOutput:
        recorder.begin()
        output = schedule()
        recorder.planned(output.num_scheduled_tokens, output.preempted, output.held_back)
        return output

    def traced_update(sampled: Mapping[str, int]) -> Sequence[Request]:
        finished = update(sampled)
        recorder.over(sampled, {request.request_id: request.status.value for request in finished})
        return finished

    # On this one object, so that the engine around it and a learner's own class need to know nothing.
    scheduler.schedule = traced_schedule  # type: ignore[method-assign]
    scheduler.update = traced_update  # type: ignore[method-assign, assignment]
    return trace
