"""Paged memory in front of lesson 02's simulated server: the paged rows of the paper's Figures 2 and 13a."""

from collections.abc import Callable

from course_lib.fragmentation.memory import Waste
from course_lib.fragmentation.paper import ENGINE, KV_SLOTS, RATE, WARMUP
from course_lib.fragmentation.simulation import Simulation, Step, serve
from course_lib.fragmentation.workload import Request, poisson_requests, sharegpt
from course_lib.paged_attention.kv_manager import PagedKVManager

PAPER_USED, PAPER_BATCH = 0.963, 30.42
"""vLLM's bar in Figure 2, and its mean number of batched requests in Figure 13a (Kwon et al., SOSP 2023)."""


class PagedMemory:
    """A KV memory in blocks, as a serving loop sees it (lesson 02's `Memory`).

    Nothing is reserved: a request takes a block when its last one is full. Nothing is shared either: the workload has
    lengths and no tokens, so that there are no prefixes to find.

    Args:
        slots: slots in all; what does not fill a block is lost.
        block_size: slots in a block.
    """

    def __init__(self, slots: int, block_size: int = 16):
        self.manager = PagedKVManager(slots // block_size, block_size, enable_caching=False)
        self.slots = slots
        self._lengths: dict[str, int] = {}
        self._tokens = 0  # the sum of the lengths

    def __repr__(self) -> str:
        return f"PagedMemory({self.slots} slots, {len(self._lengths)} requests, {self.manager.pool})"

    def admit(self, request: Request) -> bool:
        """Take blocks for the prompt; return False where too few are free."""
        if self.manager.allocate_slots(request.id, request.prompt_tokens) is None:
            return False
        self._lengths[request.id] = request.prompt_tokens
        self._tokens += request.prompt_tokens
        return True

    def grow(self, request_id: str) -> bool:
        """Take a slot for one more token; return False where it needs a block and none is free."""
        if self.manager.allocate_slots(request_id, self._lengths[request_id] + 1) is None:
            return False
        self._lengths[request_id] += 1
        self._tokens += 1
        return True

    def release(self, request_id: str) -> None:
        """Give the request's blocks back."""
        self.manager.free(request_id)
        self._tokens -= self._lengths.pop(request_id)

    def waste(self) -> Waste:
        """Return what the slots do now: internal waste is the rest of each last block, external are the free blocks."""
        taken = (len(self.manager.pool.blocks) - self.manager.pool.num_free_blocks) * self.manager.block_size
        return Waste(self._tokens / self.slots, 0.0, (taken - self._tokens) / self.slots, 1 - taken / self.slots)


def serve_paged(
    *,
    block_size: int = 16,
    step_time: Callable[[Step], float] = ENGINE,
    count: int = 7200,
    rate: float = RATE,
    seed: int = 0,
) -> Simulation:
    """Serve the paper's workload from paged memory: the row beside those of lesson 02's `orca`, by the same accounting.

    Unlike theirs it may depend on the step's time. Where paged memory takes every request that comes, the number in flight
    is the arrival rate times a request's time in the system (Little's law), and memory has no say in it.

    Args:
        block_size: slots in a block.
        step_time: an iteration's seconds.
        count: how many requests come, an hour's as in the paper. The simulation ends when the last one has come.
        rate: how many come a second.
        seed: of the workload.
    """
    requests = poisson_requests(rate, count, sharegpt(), seed)
    memory = PagedMemory(KV_SLOTS, block_size)
    return serve(requests, memory, step_time=step_time, warmup=WARMUP, until=requests[-1].arrival)
