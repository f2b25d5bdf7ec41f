"""Our scheduler is vLLM's: the same plan, queues, block tables, free list and reference counts at every step."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerOutput

from .conftest import VLLM, Ours
from .traces import difference, draw

TRACES = int(os.environ.get("COURSE_TRACES", "300"))
FIRST_SEED = int(os.environ.get("COURSE_FIRST_SEED", "10000"))
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_step_equals_vllms(folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    """COURSE_TRACES=2000 and COURSE_FIRST_SEED=... run more of them, and others."""
    seen: Counter[str] = Counter()
    for seed in range(FIRST_SEED, FIRST_SEED + TRACES):
        trace = draw(seed)
        found = difference(trace, Ours(trace), VLLM(trace, folder), seen)
        assert not found, f"seed {seed}, {trace}: {found}"
    with capsys.disabled():
        print(f" {TRACES} traces: {dict(seen)}", end="")
    # A run without these would prove little.
    assert seen["preemptions"] > TRACES / 10 and seen["cached_tokens"] > TRACES and seen["evictions"] > TRACES


class OldFreeOrder(Scheduler):
    """Frees all blocks to the back of the free list, as vLLM did until 2025."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(config, manager)
        pool = manager.pool
        free = pool.free_blocks

        def to_the_back(blocks: Any) -> None:
            blocks = list(blocks)
            free(blocks)
            for block in blocks:
                if block.ref_cnt == 0:
                    pool._free.move_to_end(block.block_id)

        pool.free_blocks = to_the_back  # type: ignore[method-assign]


class ForwardFreeOrder(Scheduler):
    """Frees a request's blocks first to last."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(config, manager)
        free = manager.pool.free_blocks
        manager.pool.free_blocks = lambda blocks: free(list(blocks)[::-1])  # type: ignore[method-assign]


class WholePromptHit(Scheduler):
    """Takes over every cached block, the one with the last token too, and computes nothing but that token."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(config, manager)
        find = manager.get_computed_blocks
        manager.get_computed_blocks = lambda hashes, n: find(hashes, n + 1)  # type: ignore[method-assign]


class NoAdmissionGate(Scheduler):
    """Admits a request as soon as its first chunk fits."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(replace(config, scheduler_reserve_full_isl=False), manager)


class VictimToTheBack(Scheduler):
    """Sends a preempted request to the end of the queue."""

    def _preempt(self, request: Request) -> None:
        super()._preempt(request)
        if self.config.policy == "fcfs":
            self.waiting.remove(request)
            self.waiting.add(request)


class FirstVictim(Scheduler):
    """Preempts the request that runs longest."""

    def _victim(self) -> Request:
        return self.running[0]


class AdmitAfterPreemption(Scheduler):
    """Looks at the waiting requests in a step that preempted."""

    def schedule(self) -> SchedulerOutput:
        output = super().schedule()
        if output.preempted:
            before = dict(output.num_scheduled_tokens)
            self._schedule_waiting(output, self.config.max_num_batched_tokens - output.total_tokens)
            for request_id in output.num_scheduled_tokens.keys() - before.keys():
                self.requests[request_id].num_computed_tokens += output.num_scheduled_tokens[request_id]
        return output


class SkipTheHeadOfTheLine(Scheduler):
    """Admits the next waiting request where the first one does not fit."""

    def _schedule_waiting(self, output: SchedulerOutput, budget: int) -> None:
        super()._schedule_waiting(output, budget)
        if (
            len(self.waiting) > 1
            and output.held_back.endswith("are free")
            and len(self.running) < self.config.max_num_seqs
        ):
            head = self.waiting.first()
            self.waiting.remove(head)
            left = self.config.max_num_batched_tokens - output.total_tokens
            if left:
                self._admit(self.waiting.first(), output, left)
            self.waiting.put_back(head)


class HitsAreFree(Scheduler):
    """Forgets that a cached block which nobody holds leaves the free list when it is taken over."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(config, manager)
        needed = manager.num_blocks_needed

        def without_hits(request_id: str, num_tokens: int, computed: Any = ()) -> int:
            return needed(request_id, num_tokens, computed) - sum(block.ref_cnt == 0 for block in computed)

        manager.num_blocks_needed = without_hits  # type: ignore[method-assign]


class NoWatermark(Scheduler):
    """Keeps no blocks free at an admission."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(replace(config, watermark=0.0), manager)


class NoThreshold(Scheduler):
    """Lets a long prefill take the whole budget."""

    def _capped(self, num_new: int) -> int:
        return num_new


MUTANTS: list[Callable[..., Scheduler]] = [
    OldFreeOrder,
    ForwardFreeOrder,
    WholePromptHit,
    NoAdmissionGate,
    VictimToTheBack,
    FirstVictim,
    AdmitAfterPreemption,
    SkipTheHeadOfTheLine,
    HitsAreFree,
    NoWatermark,
    NoThreshold,
]


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_scheduler_that_differs_in_one_point_is_caught(mutant: Callable[..., Scheduler]) -> None:
    """The traces tell each mutant from ours (which the test above holds equal to vLLM's)."""
    for seed in range(FIRST_SEED, FIRST_SEED + 300):
        trace = draw(seed)
        try:
            if difference(trace, Ours(trace), Ours(trace, mutant)):
                return
        except Exception:  # noqa: BLE001  a mutant may also break down
            return
    pytest.fail(f"{mutant.__name__} went unnoticed in 300 traces")
