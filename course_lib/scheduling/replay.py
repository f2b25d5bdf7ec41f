"""The scheduler in front of a clock instead of a model: who gets which token when, on hardware that is only a roofline."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from course_lib.fragmentation.workload import Request as Job
from course_lib.kv_cache.cost import Cost, Hardware, ModelShape, step_cost
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler, SchedulerOutput

StepSeconds = Callable[[SchedulerOutput, dict[str, Request]], float]
"""How long a planned step takes, given the requests by id."""


def roofline(shape: ModelShape, hardware: Hardware, overhead: float = 0.0) -> StepSeconds:
    """Return step times that follow from FLOPs and bytes alone: the best that the hardware could do.

    Args:
        shape: the model's.
        hardware: its two speeds.
        overhead: seconds that every step takes besides.
    """

    def seconds(output: SchedulerOutput, requests: dict[str, Request]) -> float:
        total = Cost()
        for request_id, new in output.num_scheduled_tokens.items():
            total += step_cost(shape, new, requests[request_id].num_computed_tokens)
        # The weights come from memory once a step, whoever shares them.
        weights = (len(output.num_scheduled_tokens) - 1) * 2 * (shape.layer_weights + shape.head_weights)
        total += Cost(weight_bytes=-max(0, weights))
        return overhead + hardware.seconds(total)

    return seconds


@dataclass
class Replay:
    """What the clock read.

    Attributes:
        arrivals: when each request came, in seconds.
        token_times: when each of its output tokens was there.
        seconds: when the last one was.
        steps: how many there were.
        preemptions: how often a request lost its blocks.
        cached_tokens: tokens that the prefix cache spared, of `prompt_tokens`.
        batch: how many requests ran in each step.
    """

    arrivals: dict[str, float]
    token_times: dict[str, list[float]]
    seconds: float = 0.0
    steps: int = 0
    preemptions: int = 0
    cached_tokens: int = 0
    prompt_tokens: int = 0
    batch: list[int] = field(default_factory=list)

    @property
    def time_to_first_token(self) -> list[float]:
        """TTFT of each request, in seconds: from its arrival to its first token."""
        return [times[0] - self.arrivals[name] for name, times in self.token_times.items()]

    @property
    def inter_token_latency(self) -> list[float]:
        """All waits between one token of a request and its next, in seconds."""
        return [float(wait) for times in self.token_times.values() for wait in np.diff(times)]

    @property
    def tokens_per_second(self) -> float:
        """Output tokens a second, from the first arrival to the last token."""
        count = sum(map(len, self.token_times.values()))
        return count / (self.seconds - min(self.arrivals.values()))

    def __repr__(self) -> str:
        waits = self.inter_token_latency or [0.0]
        return (
            f"Replay({len(self.arrivals)} requests, {self.steps} steps, {self.tokens_per_second:,.0f} tokens/s, inter-token "
            f"latency {1e3 * float(np.median(waits)):.1f} ms median and {1e3 * max(waits):.1f} ms worst, "
            f"{self.preemptions} preemptions)"
        )


def replay(
    jobs: Sequence[Job],
    config: SchedulerConfig,
    num_blocks: int,
    seconds: StepSeconds,
    *,
    block_size: int = 16,
    enable_caching: bool = True,
    prompts: Callable[[Job], Sequence[int]] | None = None,
    scheduler: Callable[[SchedulerConfig, PagedKVManager], Scheduler] = Scheduler,
) -> Replay:
    """Serve requests in simulated time.

    Args:
        jobs: requests by their lengths and arrivals.
        config: of the scheduler.
        num_blocks: of the KV cache.
        seconds: the clock, such as `roofline(...)`.
        block_size: slots in a block.
        enable_caching: whether requests share full blocks of equal beginnings.
        prompts: a request's prompt tokens; without it no two prompts have a token in common.
        scheduler: the class to run, ours or a learner's.

    Raises:
        ValueError: a request that can never run, such as one longer than the pool.
    """
    manager = PagedKVManager(num_blocks, block_size, enable_caching)
    planner = scheduler(config, manager)
    waiting = sorted(jobs, key=lambda job: job.arrival)
    found = Replay({job.id: job.arrival for job in jobs}, {job.id: [] for job in jobs})
    alone = iter(range(1 << 62))
    clock, ahead = 0.0, 0
    while ahead < len(waiting) or planner.has_unfinished_requests:
        if not planner.has_unfinished_requests:
            clock = max(clock, waiting[ahead].arrival)  # nothing to do until somebody comes
        while ahead < len(waiting) and waiting[ahead].arrival <= clock:
            job = waiting[ahead]
            tokens = prompts(job) if prompts else [next(alone) for _ in range(job.prompt_tokens)]
            planner.add_request(Request(job.id, tokens, job.output_tokens, arrival_time=job.arrival))
            found.prompt_tokens += len(tokens)
            ahead += 1
        fresh = {request.request_id for request in planner.waiting if not request.num_preemptions}
        output = planner.schedule()
        clock += seconds(output, planner.requests)
        running = [planner.requests[name] for name in output.num_scheduled_tokens]
        found.cached_tokens += sum(request.num_cached_tokens for request in running if request.request_id in fresh)
        found.preemptions += len(output.preempted)
        found.batch.append(len(running))
        done = [request.request_id for request in running if request.num_computed_tokens == request.num_tokens]
        for name in done:
            found.token_times[name].append(clock)
        planner.update({name: -1 - next(alone) for name in done})  # a token that nobody else has
        found.steps += 1
    found.seconds = clock
    return found


class StaticBatching(Scheduler):
    """How servers batched before Orca (Yu et al., OSDI 2022): nobody joins until everybody in the batch has finished."""

    def _schedule_waiting(self, output: SchedulerOutput, budget: int) -> None:
        if not self.running:
            super()._schedule_waiting(output, budget)
