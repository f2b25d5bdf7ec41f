"""Runs to draw: random ones of the scheduler's tests, and one small story that has everything in it."""

import random
from types import SimpleNamespace

import pytest

from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerConfig
from course_lib.scheduling.trace import Trace, record
from tests.scheduling.test_trace import recorded
from tests.viz.pictures.conftest import browser, node

__all__ = ["browser", "node"]


def served(requests: int = 8, num_blocks: int = 24, block_size: int = 4, budget: int = 16, longest: int = 27) -> Trace:
    """Serve some requests, half of which begin alike, from a pool that is too small for them."""
    rng = random.Random(0)
    scheduler = Scheduler(SchedulerConfig(budget, 6, 1024), PagedKVManager(num_blocks, block_size, True))
    trace = record(scheduler)
    beginning = list(range(2 * block_size))
    coming = []
    for number in range(requests):
        prompt = beginning * (number % 2) + [rng.randint(0, 999) for _ in range(rng.randint(4, longest))]
        coming.append((number, Request(chr(65 + number) if number < 26 else f"r{number}", prompt, rng.randint(4, 20))))
    step = 0
    while coming or scheduler.has_unfinished_requests:
        while coming and coming[0][0] <= step:
            scheduler.add_request(coming.pop(0)[1])
        output = scheduler.schedule()
        there = {name: scheduler.requests[name] for name in output.num_scheduled_tokens}
        done = [name for name, request in there.items() if request.num_computed_tokens == request.num_tokens]
        scheduler.update({name: rng.randint(1000, 9999) for name in done})
        step += 1
    return trace


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    return SimpleNamespace(served=served, recorded=recorded)
