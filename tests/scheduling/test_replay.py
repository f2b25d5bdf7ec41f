"""Simulated time: every token comes once and in order, and the gains are those that the papers explain."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.fragmentation.workload import Request as Job
from course_lib.fragmentation.workload import poisson_requests, uniform
from course_lib.kv_cache.cost import HARDWARE, MODELS, step_cost
from course_lib.scheduling import Request, Scheduler, SchedulerConfig, SchedulerOutput
from course_lib.scheduling.replay import StaticBatching, replay, roofline

CONFIG = SchedulerConfig(max_num_batched_tokens=64, max_num_seqs=4, max_model_len=128)
MODEL, GPU = MODELS["Llama-3.1-8B"], HARDWARE["H100 SXM"]


@given(
    seed=st.integers(0, 1000),
    static=st.booleans(),
    num_blocks=st.integers(16, 40),
    budget=st.integers(4, 64),
)
@settings(deadline=None, max_examples=40)
def test_every_token_comes_once_in_order(seed: int, static: bool, num_blocks: int, budget: int) -> None:
    jobs = poisson_requests(5, 12, uniform(1, 60), seed=seed)
    config = replace(CONFIG, max_num_batched_tokens=budget)
    scheduler = StaticBatching if static else Scheduler
    found = replay(
        jobs, config, num_blocks, lambda output, _: 0.01 * output.total_tokens, block_size=8, scheduler=scheduler
    )
    for job in jobs:
        times = found.token_times[job.id]
        assert len(times) == job.output_tokens
        assert times == sorted(times) and times[0] > job.arrival
    assert max(max(times) for times in found.token_times.values()) == found.seconds
    assert found.steps == len(found.batch) and max(found.batch) <= config.max_num_seqs


def test_a_steps_time_is_its_cost_with_the_weights_once() -> None:
    requests = {name: Request(name, [1] * 50, 9) for name in "ab"}
    for request, computed in zip(requests.values(), (50, 30), strict=True):
        request.num_computed_tokens = computed
    both = roofline(MODEL, GPU)(SchedulerOutput({"a": 50, "b": 1}), requests)
    one, other = step_cost(MODEL, 50, 50), step_cost(MODEL, 1, 30)
    expected = max((one.flops + other.flops) / GPU.flops, (one.bytes + other.kv_bytes) / GPU.bandwidth)
    assert both == pytest.approx(expected)


def test_static_batches_wait_for_their_longest_request() -> None:
    """With a step that costs the same whatever runs, the gain of joining at once is idle slots, which can be counted."""
    lengths = [5, 50, 5, 5, 5, 50, 5, 5]
    jobs = [Job(str(place), 0.0, 4, length) for place, length in enumerate(lengths)]
    static = replay(jobs, CONFIG, 64, lambda *_: 1.0, scheduler=StaticBatching)
    joined = replay(jobs, CONFIG, 64, lambda *_: 1.0)
    assert static.steps == 100  # two batches of four, 50 steps each
    assert joined.steps == 55  # the second 50 starts when the first short ones end


def test_chunked_prefill_ends_the_stall_and_costs_little() -> None:
    jobs = [Job(f"chat {place}", 0.0, 50, 100) for place in range(8)] + [Job("long", 0.2, 8000, 5)]
    whole = SchedulerConfig(max_num_batched_tokens=16384, max_model_len=16384, enable_chunked_prefill=False)
    clock = roofline(MODEL, GPU)
    stall = replay(jobs, whole, 2000, clock)
    chunked = replay(jobs, replace(whole, max_num_batched_tokens=512, enable_chunked_prefill=True), 2000, clock)
    assert max(chunked.inter_token_latency) < max(stall.inter_token_latency) / 5
    assert chunked.seconds < 1.1 * stall.seconds


def test_shared_beginnings_are_computed_once() -> None:
    jobs = [Job(str(place), float(place), 96, 4) for place in range(5)]
    system = list(range(80))

    def prompt(job: Job) -> list[int]:
        return system + [1000 + 100 * int(job.id) + place for place in range(16)]

    cached = replay(jobs, CONFIG, 64, lambda *_: 0.01, prompts=prompt)
    assert cached.prompt_tokens == 5 * 96 and cached.cached_tokens == 4 * 80
    assert replay(jobs, CONFIG, 64, lambda *_: 0.01, prompts=prompt, enable_caching=False).cached_tokens == 0
    assert replay(jobs, CONFIG, 64, lambda *_: 0.01).cached_tokens == 0


def test_a_small_pool_preempts_and_still_finishes() -> None:
    jobs = [Job(str(place), 0.0, 8, 60) for place in range(4)]
    found = replay(jobs, CONFIG, 12, lambda *_: 0.01)
    assert found.preemptions > 0
    assert np.sum([len(times) for times in found.token_times.values()]) == 240
