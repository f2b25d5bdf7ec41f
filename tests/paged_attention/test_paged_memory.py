"""The paged row of the paper's Figure 2, as far as it depends on no step time; and the book-keeping of the memory."""

import random

import pytest

from course_lib.fragmentation.simulation import StepTime, serve
from course_lib.fragmentation.workload import Request, poisson_requests, sharegpt
from course_lib.paged_attention import num_blocks_for
from course_lib.paged_attention.block_size import saturated
from course_lib.paged_attention.paged_memory import PagedMemory


def test_waste_is_what_the_tables_leave_empty() -> None:
    chance = random.Random(0)
    memory, lengths = PagedMemory(107, 10), {}  # seven slots fill no block
    for number in range(2000):
        action = chance.choice(["admit", "grow", "grow", "grow", "release"])
        if action == "admit":
            request = Request(f"r{number}", 0.0, chance.randint(1, 40), 5)
            free = 10 - sum(num_blocks_for(length, 10) for length in lengths.values())
            assert memory.admit(request) == (num_blocks_for(request.prompt_tokens, 10) <= free)
            if request.id in memory.manager._tables:
                lengths[request.id] = request.prompt_tokens
        elif lengths and action == "grow":
            name = chance.choice(list(lengths))
            free = 10 - sum(num_blocks_for(length, 10) for length in lengths.values())
            grown = memory.grow(name)
            assert grown == (lengths[name] % 10 > 0 or free > 0)
            lengths[name] += grown
        elif lengths:
            name = chance.choice(list(lengths))
            memory.release(name)
            del lengths[name]
        tokens, held = sum(lengths.values()), 10 * sum(num_blocks_for(length, 10) for length in lengths.values())
        waste = memory.waste()
        assert waste.used == pytest.approx(tokens / 107)
        assert waste.internal == pytest.approx((held - tokens) / 107)
        assert waste.used + waste.reserved + waste.internal + waste.external == pytest.approx(1)
    assert repr(memory).startswith("PagedMemory(107 slots, ")


@pytest.mark.parametrize("slower", [1.0, 1.7, 3.0])
def test_held_blocks_are_98_percent_full_however_long_a_step_takes(slower: float) -> None:
    requests = poisson_requests(2.0, 1500, sharegpt(), seed=0)
    waste = serve(
        requests, PagedMemory(15728), step_time=StepTime().slower(slower), warmup=100, until=requests[-1].arrival
    ).waste
    assert waste.used / (waste.used + waste.internal) == pytest.approx(0.982, abs=0.005)


def test_a_saturated_pool_is_full_but_for_the_last_blocks() -> None:
    result = saturated(poisson_requests(2.0, 1500, sharegpt(), seed=0))
    assert result.waste.used == pytest.approx(0.963, abs=0.01)  # the paper's bar
    assert result.mean_batch > 30.42  # the paper's batch, at 2 requests a second, was below this limit


def test_larger_blocks_leave_more_empty() -> None:
    requests = poisson_requests(2.0, 600, sharegpt(), seed=0)
    empty = [saturated(requests, block_size=size).waste.internal for size in (1, 16, 128)]
    assert empty[0] == 0
    assert empty == sorted(empty)
    # Half a block a request: about 7.5 of every 16 slots in the last block.
    result = saturated(requests, block_size=16)
    assert result.waste.internal * 15728 / result.mean_batch == pytest.approx(7.5, rel=0.1)
