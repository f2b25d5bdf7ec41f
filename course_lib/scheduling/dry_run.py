"""The scheduler without a model: tokens are made up, and everything else is as in an engine."""

from collections.abc import Callable, Mapping, Sequence

from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler
from course_lib.scheduling.trace import Trace, record


def dry_run(
    requests: Sequence[Request] | Mapping[int, Sequence[Request]],
    config: SchedulerConfig,
    num_blocks: int,
    *,
    block_size: int = 4,
    enable_caching: bool = True,
    scheduler: Callable[[SchedulerConfig, PagedKVManager], Scheduler] = Scheduler,
) -> Trace:
    """Plan requests to their end, and return the trace.

    Args:
        requests: all from the start, or those that come before each step.
        config: of the scheduler.
        num_blocks: of the KV cache.
        block_size: slots in a block.
        enable_caching: whether requests share full blocks of equal beginnings.
        scheduler: the class to run, ours or a learner's.

    Raises:
        ValueError: a request that can never run.
    """
    comes = dict(requests) if isinstance(requests, Mapping) else {0: requests}
    planner = scheduler(config, PagedKVManager(num_blocks, block_size, enable_caching))
    trace = record(planner)
    step = 0
    while comes or planner.has_unfinished_requests:
        for request in comes.pop(step, ()):
            planner.add_request(request)
        plan = planner.schedule().num_scheduled_tokens
        running = [planner.requests[name] for name in plan]
        # Negative, so that no made-up token is a prompt's, and each is its own.
        made = {
            request.request_id: -1 - step - 10_000 * place
            for place, request in enumerate(running)
            if request.num_computed_tokens == request.num_tokens
        }
        planner.update(made)
        step += 1
    return trace
