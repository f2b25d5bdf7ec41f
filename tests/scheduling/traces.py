"""Random traces for both schedulers: small pools, small budgets, shared prefixes, aborts, all options."""

import random
from collections import Counter
from typing import Any

from course_lib.scheduling import SchedulerConfig

from .conftest import Arrival, Ours, Trace


def draw(seed: int) -> Trace:
    """Return the trace of a seed."""
    rng = random.Random(seed)
    block_size = rng.choice([1, 2, 4, 8])
    longest = rng.choice([16, 32, 64])
    chunked = rng.random() < 0.8
    budget = rng.randint(1, 24) if chunked else longest + rng.randint(0, 20)
    config = SchedulerConfig(
        max_num_batched_tokens=budget,
        max_num_seqs=min(rng.randint(1, 8), budget),  # vLLM refuses more requests than tokens
        max_model_len=longest,
        enable_chunked_prefill=chunked,
        policy=rng.choice(["fcfs", "priority"]),
        long_prefill_token_threshold=rng.choice([0, 0, 3, 7]) if chunked else 0,
        scheduler_reserve_full_isl=rng.random() < 0.7,
        watermark=rng.choice([0, 0, 0.1, 0.3]),
    )
    # Large enough for the longest request alone: a pool that is not lets it preempt itself for ever, in vLLM too.
    num_blocks = 1 + -(-longest // block_size) + rng.choice([0, 0, 1, 2, 4, 8])
    beginnings = [[rng.randint(0, 2) for _ in range(longest)] for _ in range(2)]
    arrivals, step = [], 0
    for _ in range(rng.randint(1, 12)):
        step += rng.choice([0, 0, 1, 3])
        length = rng.randint(1, longest - 1)
        shared = rng.randint(0, length)
        prompt = rng.choice(beginnings)[:shared] + [rng.randint(0, 5) for _ in range(length - shared)]
        abort = step + rng.randint(0, 15) if rng.random() < 0.15 else None
        arrivals.append(Arrival(step, tuple(prompt), rng.randint(1, 20), rng.randint(0, 2), abort))
    return Trace(config, num_blocks, block_size, rng.random() < 0.8, tuple(arrivals))


def difference(trace: Trace, mine: Ours, other: Any, seen: Counter[str] | None = None) -> str:
    """Run both schedulers on a trace, step by step; return the first difference in words, empty where there is none."""
    seen = Counter() if seen is None else seen
    step = 0
    last = max(arrival.step for arrival in trace.arrivals)
    while mine.unfinished or other.unfinished or step <= last:
        for place, arrival in enumerate(trace.arrivals):
            for scheduler in (mine, other):
                if arrival.step == step:
                    scheduler.add(str(place), arrival)
                if arrival.abort == step:
                    scheduler.abort(str(place))
        here, there = mine.step(), other.step()
        for key, value in here.items():
            if value != there[key]:
                return f"step {step}, {key}: ours {value}, theirs {there[key]}"
        seen.update(
            steps=1, preemptions=len(here["preempted"]), cached_tokens=mine.cached_tokens, evictions=mine.evictions
        )
        step += 1
        if step > 3000:
            return f"no end after {step} steps"
    return ""
