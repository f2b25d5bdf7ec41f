"""What a block's size trades: empty slots in the last block against long tables, shared prefixes against small copies."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

import torch

from course_lib.fragmentation.paper import KV_SLOTS
from course_lib.fragmentation.simulation import Simulation, StepTime, serve
from course_lib.fragmentation.workload import Request
from course_lib.paged_attention.block_table import num_blocks_for
from course_lib.paged_attention.paged_memory import PagedMemory


@dataclass(frozen=True)
class BlockSizeCosts:
    """What one block size costs and gives.

    Attributes:
        block_size: slots in a block.
        empty: share of the slots in held blocks that hold no token, over the time of a saturated server.
        table_entries: block numbers in the table of a finished request, on average.
        shared: share of the tokens of a common prefix that a second request finds in the cache.
        gather_bytes_per_second: how fast this machine collects scattered blocks into one tensor.
    """

    block_size: int
    empty: float
    table_entries: float
    shared: float
    gather_bytes_per_second: float


def block_size_costs(
    requests: Sequence[Request], block_sizes: Sequence[int], slots: int = KV_SLOTS
) -> list[BlockSizeCosts]:
    """Measure block sizes against one another, on a workload's lengths and on this machine's time.

    Args:
        requests: the workload; prefixes to share are as long as its prompts.
        block_sizes: slots in a block.
        slots: slots in the simulated memory.
    """
    prompts = [request.prompt_tokens for request in requests]
    costs = []
    for block_size in block_sizes:
        waste = saturated(requests, slots, block_size).waste
        costs.append(
            BlockSizeCosts(
                block_size,
                empty=waste.internal / (waste.used + waste.internal),
                table_entries=mean(num_blocks_for(request.tokens, block_size) for request in requests),
                shared=sum(prompt // block_size * block_size for prompt in prompts) / sum(prompts),
                gather_bytes_per_second=gather_bytes_per_second(block_size),
            )
        )
    return costs


def saturated(requests: Sequence[Request], slots: int = KV_SLOTS, block_size: int = 16) -> Simulation:
    """Serve requests from paged memory, all of them there from the start: memory alone decides how many run.

    Then a step's time cancels out, and any will do: here a second. The means leave out the start, when all requests are
    young, and the end, when the queue has run dry.
    """
    waiting = [Request(request.id, 0.0, request.prompt_tokens, request.output_tokens) for request in requests]
    memory = PagedMemory(slots, block_size)
    return serve(waiting, memory, step_time=StepTime(1.0, 0.0, 0.0, 0.0), warmup=500, until=3000)


def gather_bytes_per_second(
    block_size: int, context: int = 4096, kv_heads: int = 3, head_dim: int = 64, repeats: int = 50
) -> float:
    """Return how fast the keys of one sequence are collected from blocks in random order, on the CPU.

    The default shape is one layer of SmolLM2-135M in fp32. The fastest of the repeats counts: others only slow it down.
    """
    blocks = num_blocks_for(context, block_size)
    generator = torch.Generator().manual_seed(0)
    keys = torch.randn(8 * blocks, block_size, kv_heads, head_dim, generator=generator)
    table = torch.randperm(8 * blocks, generator=generator)[:blocks]
    gathered = torch.empty(blocks, block_size, kv_heads, head_dim)
    fastest, threads = float("inf"), torch.get_num_threads()
    torch.set_num_threads(1)  # else waking the threads takes longer than the copy
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            torch.index_select(keys, 0, table, out=gathered)
            fastest = min(fastest, time.perf_counter() - start)
    finally:
        torch.set_num_threads(threads)
    return gathered.nbytes / fastest
