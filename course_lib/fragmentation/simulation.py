"""A server that batches at every iteration (Orca's idea), in front of whatever KV memory it is given."""

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace

from course_lib.fragmentation.contiguous import Allocator
from course_lib.fragmentation.memory import Memory, Reservations, Reserve, Waste
from course_lib.fragmentation.memory_map import Snapshot
from course_lib.fragmentation.workload import LIMIT, Request


@dataclass(frozen=True)
class Step:
    """What one iteration has to compute.

    Attributes:
        batch: requests in it; each makes one token.
        prompt_tokens: tokens of prompts that are processed for the first time.
        context_tokens: tokens in memory whose keys and values are read.
    """

    batch: int
    prompt_tokens: int
    context_tokens: int


@dataclass(frozen=True)
class StepTime:
    """How long an iteration takes: a fixed part, and parts that grow with the work.

    The defaults are a roofline of OPT-13B on one A100-40G (1.555 TB/s, 312 TFLOP/s): 26 GB of weights are read in 16.7 ms,
    800 KiB of keys and values a token of context in 0.53 us, and a prompt token's 2 x 13e9 FLOPs take 83 us. A real engine
    is slower, and how much slower decides how many requests are in flight at once where memory does not.

    Attributes:
        fixed: seconds of every step.
        per_request: seconds for each request of the batch.
        per_prompt_token: seconds for each prompt token.
        per_context_token: seconds for each token whose keys and values are read.
    """

    fixed: float = 16.7e-3
    per_request: float = 0.0
    per_prompt_token: float = 83e-6
    per_context_token: float = 0.53e-6

    def slower(self, factor: float) -> "StepTime":
        """Return the step time of an engine that takes `factor` times as long."""
        return StepTime(*(factor * getattr(self, part.name) for part in fields(self)))

    def __call__(self, step: Step) -> float:
        """Return the step's seconds."""
        return (
            self.fixed
            + self.per_request * step.batch
            + self.per_prompt_token * step.prompt_tokens
            + self.per_context_token * step.context_tokens
        )


@dataclass(frozen=True)
class Simulation:
    """What came of a run. Means are over time, over the steps between `warmup` and `until`.

    Attributes:
        waste: mean shares of the memory.
        mean_batch: mean number of requests in a step.
        seconds: time of the steps that the means are over.
        finished: requests that ended in that time.
        tokens: output tokens made in that time.
        preempted: how often a request lost its memory and had to start over.
        snapshots: the memory after each event, from the first one on; empty for a memory that draws none.
    """

    waste: Waste
    mean_batch: float
    seconds: float
    finished: int
    tokens: int
    preempted: int
    snapshots: list[Snapshot] = field(default_factory=list)

    def __repr__(self) -> str:
        return (
            f"Simulation({self.seconds:.0f} s, {self.finished} finished, {self.tokens_per_second:.0f} tokens/s, "
            f"mean batch {self.mean_batch:.2f}, {self.waste})"
        )

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second."""
        return self.tokens / self.seconds if self.seconds else 0.0


Watch = Callable[[float, str, bool], None]
"""Told of every event: the time, what happened, and whether a request was refused."""


def simulate(
    requests: Sequence[Request],
    allocator: Allocator,
    reserve: Reserve,
    limit: int = LIMIT,
    *,
    step_time: Callable[[Step], float] | None = None,
    warmup: float = 0.0,
    until: float = math.inf,
    max_batch: int | None = None,
    max_snapshots: int = 200,
) -> Simulation:
    """Serve requests from a contiguous memory, first come, first served, batching anew at every iteration.

    Args:
        requests: what comes, and when.
        allocator: gives out the memory; `FirstFit(15728)`, or a class of your own with the same methods.
        reserve: how many slots a request gets: `reserve_max`, `reserve_pow2`, `reserve_exact`, or your own.
        limit: the longest sequence in tokens, which `reserve` is told.
        step_time: an iteration's seconds; `StepTime()` where none is given.
        warmup: seconds at the start that the means leave out.
        until: the simulation's last second; without one it runs until every request has ended.
        max_batch: the most requests in a batch; None for as many as memory takes.
        max_snapshots: how many events to keep the memory's state of.

    Raises:
        ValueError: a request is longer than the limit, or would not fit in an empty memory.
    """
    memory = Reservations(allocator, reserve, limit)
    snapshots: list[Snapshot] = []

    def watch(time: float, event: str, refused: bool) -> None:
        if len(snapshots) < max_snapshots:
            snapshots.append(memory.snapshot(time, event, refused))

    result = serve(requests, memory, step_time=step_time, warmup=warmup, until=until, max_batch=max_batch, watch=watch)
    return replace(result, snapshots=snapshots)


def serve(
    requests: Sequence[Request],
    memory: Memory,
    *,
    step_time: Callable[[Step], float] | None = None,
    warmup: float = 0.0,
    until: float = math.inf,
    max_batch: int | None = None,
    watch: Watch | None = None,
) -> Simulation:
    """Serve requests from any memory; `simulate` says what the arguments mean.

    A step lets in whoever has come and fits, in order; then every running request makes one token and takes a slot for it;
    then those with all their tokens leave. Where a token finds no slot, the request that was let in last loses its memory
    and goes back to the head of the queue; its tokens so far are its prompt when it comes back.
    """
    return _Server(requests, memory, step_time or StepTime(), max_batch or len(requests), watch).run(warmup, until)


class _Mean:
    """Means over time of what a step has in memory."""

    def __init__(self) -> None:
        self.seconds = self.requests = self.used = self.reserved = self.internal = self.external = self.rounding = 0.0

    def add(self, waste: Waste, batch: int, seconds: float) -> None:
        self.seconds += seconds
        self.requests += seconds * batch
        self.used += seconds * waste.used
        self.reserved += seconds * waste.reserved
        self.internal += seconds * waste.internal
        self.external += seconds * waste.external
        self.rounding += seconds * waste.rounding

    def waste(self) -> Waste:
        sums = self.used, self.reserved, self.internal, self.external, self.rounding
        return Waste(*(total / self.seconds if self.seconds else 0.0 for total in sums))

    def batch(self) -> float:
        return self.requests / self.seconds if self.seconds else 0.0


class _Server:
    """The loop's state."""

    def __init__(
        self,
        requests: Sequence[Request],
        memory: Memory,
        step_time: Callable[[Step], float],
        max_batch: int,
        watch: Watch | None,
    ):
        self.memory, self.step_time, self.max_batch = memory, step_time, max_batch
        self.watch: Watch = watch or (lambda _time, _event, _refused: None)
        self.waiting = deque(sorted(requests, key=lambda request: request.arrival))
        self.running: dict[str, Request] = {}  # in the order in which they were let in
        self.made: dict[str, int] = {}
        self.context = 0  # tokens in memory
        self.now = 0.0
        self.refused = ""  # who stands at the head of the queue in vain; asked again only after memory was given back
        self.preempted = 0

    def run(self, warmup: float, until: float) -> Simulation:
        mean = _Mean()
        finished = tokens = 0
        while (self.waiting or self.running) and self.now < until:
            if not self.running:
                self.now = max(self.now, self.waiting[0].arrival)
            prompt_tokens = self._admit()
            self._grow()
            batch = len(self.running)
            seconds = self.step_time(Step(batch, prompt_tokens, self.context))
            measured = self.now >= warmup
            if measured:
                mean.add(self.memory.waste(), batch, seconds)
                tokens += batch
            self.now += seconds
            finished += self._finish() * measured
        return Simulation(mean.waste(), mean.batch(), mean.seconds, finished, tokens, self.preempted)

    def _admit(self) -> int:
        """Let in who has come and fits; return the tokens of their prompts."""
        prompt_tokens = 0
        while self.waiting and self.waiting[0].arrival <= self.now and len(self.running) < self.max_batch:
            request = self.waiting[0]
            if self.refused == request.id:
                break
            said = f"{request.id} ({request.prompt_tokens} + {request.output_tokens} tokens)"
            if not self.memory.admit(request):
                if not self.running:
                    raise ValueError(f"request {said} does not fit in the empty memory {self.memory!r}")
                self.refused = request.id
                self.watch(self.now, f"{said} does not fit", True)
                break
            self.waiting.popleft()
            self.running[request.id], self.made[request.id] = request, 0
            prompt_tokens += request.prompt_tokens
            self.context += request.prompt_tokens
            self.watch(self.now, f"{said} starts", False)
        return prompt_tokens

    def _grow(self) -> None:
        """Take a slot for everybody's next token, preempting from the end where there is none."""
        for request_id in list(self.running):
            while request_id in self.running and not self.memory.grow(request_id):
                self._preempt(next(reversed(self.running)))
            if request_id in self.running:
                self.made[request_id] += 1
                self.context += 1

    def _preempt(self, request_id: str) -> None:
        request, made = self.running[request_id], self.made[request_id]
        if not made and len(self.running) == 1:  # it would come back to the same place for ever
            raise ValueError(
                f"request {request_id} is alone in {self.memory!r} and there is no slot for a single token of it"
            )
        self._release(request_id)
        self.waiting.appendleft(
            replace(request, prompt_tokens=request.prompt_tokens + made, output_tokens=request.output_tokens - made)
        )
        self.preempted += 1
        self.watch(self.now, f"{request_id} is preempted after {made} tokens", True)

    def _finish(self) -> int:
        done = [name for name, request in self.running.items() if self.made[name] == request.output_tokens]
        for request_id in done:
            self._release(request_id)
            self.watch(self.now, f"{request_id} ends", False)
        return len(done)

    def _release(self, request_id: str) -> None:
        self.memory.release(request_id)
        self.context -= self.running.pop(request_id).prompt_tokens + self.made.pop(request_id)
        self.refused = ""
