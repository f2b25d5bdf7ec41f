"""vLLM's scheduler with one of its rules left out, to see what the rule is for.

Each class differs from `Scheduler` in one decision; `replay(..., scheduler=FirstVictim)` runs it.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from course_lib.paged_attention.block_pool import Block
from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling.config import SchedulerConfig
from course_lib.scheduling.request import Request
from course_lib.scheduling.scheduler import Scheduler, SchedulerOutput


class FirstVictim(Scheduler):
    """Preempts the request that has run longest, and not the last to come."""

    def _victim(self) -> Request:
        return self.running[0]


class VictimToTheBack(Scheduler):
    """Sends a preempted request to the end of the queue, and not to its front."""

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        if self.config.policy == "fcfs":
            self.waiting.remove(request)
            self.waiting.add(request)


class AdmitAfterPreemption(Scheduler):
    """Looks at the waiting requests even in a step that preempted."""

    def schedule(self) -> SchedulerOutput:
        """Plan the next step; who was preempted in it may come back in it."""
        output = super().schedule()
        if output.preempted:
            planned = set(output.num_scheduled_tokens)
            self._schedule_waiting(output, self.config.max_num_batched_tokens - output.total_tokens)
            for request_id in output.num_scheduled_tokens.keys() - planned:
                self.requests[request_id].num_computed_tokens += output.num_scheduled_tokens[request_id]
        return output


class FirstChunkFits(Scheduler):
    """Admits a request as soon as its first chunk fits, whether or not the rest of its prompt does."""

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(replace(config, scheduler_reserve_full_isl=False), kv_manager)


class HitsAreFree(Scheduler):
    """Forgets that a cached block which nobody holds leaves the free list when a request takes it over."""

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(config, kv_manager)
        needed = kv_manager.num_blocks_needed

        def without_hits(request_id: str, num_tokens: int, computed: Sequence[Block] = ()) -> int:
            return needed(request_id, num_tokens, computed) - sum(block.ref_cnt == 0 for block in computed)

        kv_manager.num_blocks_needed = without_hits  # type: ignore[method-assign]


class FirstToLast(Scheduler):
    """Gives a request's blocks back first to last, so that the start of its text is evicted first."""

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(config, kv_manager)
        free = kv_manager.pool.free_blocks

        def turned_round(blocks: Iterable[Block]) -> None:
            free(list(blocks)[::-1])

        kv_manager.pool.free_blocks = turned_round  # type: ignore[method-assign]


class AllToTheBack(Scheduler):
    """Puts every block that becomes free at the back of the free list, as vLLM did until 2025."""

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(config, kv_manager)
        pool = kv_manager.pool
        free = pool.free_blocks

        def to_the_back(blocks: Iterable[Block]) -> None:
            given = list(blocks)
            free(given)
            for block in given:
                if block.ref_cnt == 0:
                    pool._free.move_to_end(block.block_id)  # noqa: SLF001  the one thing in a pool that no rule may touch

        pool.free_blocks = to_the_back  # type: ignore[method-assign]


RULES: dict[str, Callable[[SchedulerConfig, PagedKVManager], Scheduler]] = {
    "all of vLLM's rules": Scheduler,
    "the longest running one gives way": FirstVictim,
    "the victim goes to the back of the queue": VictimToTheBack,
    "requests are admitted in a step that preempted": AdmitAfterPreemption,
    "the first chunk has to fit, not the whole prompt": FirstChunkFits,
    "blocks are given back first to last": FirstToLast,
    "all freed blocks go to the back (until 2025)": AllToTheBack,
    "a hit is not counted against the free blocks": HitsAreFree,
}
"""What is different, and the scheduler in which it is."""
