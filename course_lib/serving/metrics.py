"""An engine's metrics while it runs, vLLM's or ours: queue, KV use, hits, preemptions, and each request's latencies."""

import itertools
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

from course_lib.serving.outputs import RequestOutput
from course_lib.serving.prompts import Prompt
from course_lib.serving.streaming import steps
from course_lib.serving.vllm_engine import is_vllm, vllm_scheduler


@dataclass(frozen=True)
class EngineSample:
    """An engine at one step. The first four numbers are of the step, as it was planned; the others count since the beginning.

    Attributes:
        seconds: when the step was over, from the beginning of the watch.
        running: requests that run.
        waiting: requests that wait.
        kv_usage: share of the KV cache's blocks that requests hold, 0 to 1.
        prefix_queries: prompt tokens that were looked up in the prefix cache.
        prefix_hits: those that were found.
        preemptions: how often a request lost its blocks.
        generated_tokens: tokens sampled.
    """

    seconds: float
    running: int
    waiting: int
    kv_usage: float
    prefix_queries: int
    prefix_hits: int
    preemptions: int
    generated_tokens: int


@dataclass
class RequestTimes:
    """A request's latencies as its caller sees them, in seconds.

    Attributes:
        ttft: time to first token: from when the requests were handed over to the end of the step that gave this one its first.
        inter_token_latencies: from each step that gave it a token to the next one.
    """

    ttft: float
    inter_token_latencies: list[float] = field(default_factory=list)


@dataclass
class Watched:
    """What `watch` saw.

    Attributes:
        samples: of every so many steps, and of the last one.
        outputs: of the prompts, in their order.
        requests: their latencies, in the same order.
        seconds: wall time of it all.
    """

    samples: list[EngineSample]
    outputs: list[RequestOutput]
    requests: list[RequestTimes]
    seconds: float

    def __repr__(self) -> str:
        last = self.samples[-1] if self.samples else None
        said = f", {last.generated_tokens} tokens, {last.preemptions} preemptions" if last else ""
        return f"Watched({len(self.outputs)} requests, {len(self.samples)} samples{said}, {self.seconds:.2f} s)"


def watch(
    llm: Any,
    prompts: Prompt | Sequence[Prompt],
    params: Any = None,
    every: int = 1,
    on_sample: Callable[[EngineSample], object] | None = None,
) -> Watched:
    """Run prompts to their ends, and look at the engine at each step.

    All times are the caller's, taken between steps, the same way for both engines. The counts are those that vLLM exports as
    `vllm:prefix_cache_queries`, `vllm:prefix_cache_hits`, `vllm:num_preemptions` and `vllm:generation_tokens`, taken off its
    scheduler's plans: `vllm.LLM` switches its own statistics off (`disable_log_stats=True`) and needs not be told otherwise.

    Args:
        llm: a `vllm.LLM` in this process, or a `course_lib.serving.LLM`.
        prompts: as for `stream`.
        params: as for `stream`.
        every: take a sample at every so many steps.
        on_sample: called with each sample as it is taken, for a live plot.

    Raises:
        ValueError: as for `stream`, or `every` is below 1.
    """
    if every < 1:
        raise ValueError(f"every is {every}; expected 1 or more")
    meter = _VLLMMeter(vllm_scheduler(llm)) if is_vllm(llm) else _OurMeter(llm.llm_engine.scheduler)
    latencies: dict[str, _Latency] = {}
    samples: list[EngineSample] = []
    last: EngineSample | None = None

    def take(sample: EngineSample) -> None:
        samples.append(sample)
        if on_sample is not None:
            on_sample(sample)

    start = time.perf_counter()
    with closing(steps(llm, prompts, params)) as running, meter.metering():
        for number, outputs in enumerate(running, start=1):
            now = time.perf_counter() - start
            for output in outputs:
                latencies.setdefault(output.request_id, _Latency()).note(output, now)
            last = meter.sample(now, sum(latency.tokens for latency in latencies.values()))
            if number % every == 0:
                take(last)
    if last is not None and (not samples or samples[-1] is not last):
        take(last)
    in_order = [latencies[name] for name in sorted(latencies, key=int)]
    return Watched(
        samples, [one.output for one in in_order], [one.times() for one in in_order], last.seconds if last else 0.0
    )


class _Latency:
    """When a request's tokens came."""

    output: Any

    def __init__(self) -> None:
        self.tokens = 0
        self.moments: list[float] = []

    def note(self, output: Any, now: float) -> None:
        tokens = sum(len(sample.token_ids) for sample in output.outputs)
        if tokens > self.tokens:
            self.moments.append(now)
        self.tokens, self.output = tokens, output

    def times(self) -> RequestTimes:
        return RequestTimes(self.moments[0], [later - before for before, later in itertools.pairwise(self.moments)])


class _Meter(ABC):
    """Reads a scheduler's state off after each of its plans, when the step's blocks are handed out."""

    def __init__(self, scheduler: Any):
        self.scheduler = scheduler
        self.running = self.waiting = self.queries = self.hits = self.preemptions = 0
        self.usage = 0.0
        self._known: set[str] = set()

    @abstractmethod
    def read(self, plan: Any) -> None:
        """Take in a plan."""

    @contextmanager
    def metering(self) -> Iterator[None]:
        """Read every plan that the scheduler makes meanwhile."""
        before = vars(self.scheduler).get("schedule")  # somebody else may be watching already
        schedule = self.scheduler.schedule

        def metered(*args: Any, **kwargs: Any) -> Any:
            plan = schedule(*args, **kwargs)
            if plan.num_scheduled_tokens:
                self.read(plan)
            return plan

        # On this one object: both engines call it as an attribute of their scheduler.
        self.scheduler.schedule = metered
        try:
            yield
        finally:
            if before is None:
                del self.scheduler.schedule
            else:
                self.scheduler.schedule = before

    def sample(self, seconds: float, tokens: int) -> EngineSample:
        return EngineSample(
            seconds, self.running, self.waiting, self.usage, self.queries, self.hits, self.preemptions, tokens
        )

    def count(self, request_id: str, prompt_tokens: int, cached: int) -> None:
        """Count a request's look-up in the prefix cache, where this is its first."""
        if request_id not in self._known:
            self._known.add(request_id)
            self.queries += prompt_tokens
            self.hits += cached


class _OurMeter(_Meter):
    def read(self, plan: Any) -> None:
        scheduler, manager = self.scheduler, self.scheduler.kv_manager
        self.running, self.waiting = len(scheduler.running), len(scheduler.waiting)
        self.usage = 1 - manager.pool.num_free_blocks / len(manager.pool.blocks)
        self.preemptions += len(plan.preempted)
        if manager.enable_caching:
            for request_id in plan.num_scheduled_tokens:
                request = scheduler.requests[request_id]
                self.count(request_id, request.num_prompt_tokens, request.num_cached_tokens)


class _VLLMMeter(_Meter):
    def read(self, plan: Any) -> None:
        scheduler, manager = self.scheduler, self.scheduler.kv_cache_manager
        self.running = len(scheduler.running)
        # Those that were passed over for a while, such as for a grammar that is being compiled, wait as well.
        self.waiting = len(scheduler.waiting) + len(getattr(scheduler, "skipped_waiting", ()))
        self.usage = manager.usage
        self.preemptions += len(plan.preempted_req_ids or ())
        if manager.enable_caching:
            for new in plan.scheduled_new_reqs:
                if not scheduler.requests[new.req_id].skip_reading_prefix_cache:
                    self.count(new.req_id, len(new.prompt_token_ids), new.num_computed_tokens)
