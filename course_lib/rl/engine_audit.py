"""Does a block pool or a scheduler of the learner's own keep the rules that no engine can do without? Checked in each step."""

from collections import Counter
from collections.abc import Callable
from itertools import chain
from typing import Any

from course_lib.scheduling import Scheduler
from course_lib.serving import Step

_PATIENCE = 4  # times the steps of an engine that computes one token a step: preempted requests compute theirs again


class EngineAudit:
    """Looks at the tables of all running requests while the model runs.

    A pool that gives a block to two requests, or a scheduler that never ends, would otherwise show much later or not at all:
    as samples that continue somebody else's text.

    Args:
        scheduler: the engine's, with its pool as it is before the first request.
    """

    def __init__(self, scheduler: Scheduler):
        self.scheduler = scheduler
        self._capacity = scheduler.kv_manager.pool.num_free_blocks

    @property
    def used(self) -> float:
        """The share of blocks that are not free."""
        return 1 - self.scheduler.kv_manager.pool.num_free_blocks / self._capacity

    def watch(self, tokens: int) -> Callable[[Step], None]:
        """Return what an `LLMEngine` may call in each step of a run.

        Args:
            tokens: what all of its requests may compute.

        Raises (the returned function):
            AuditError: a rule is broken; the message says which, by whom and what follows of it.
        """
        left = _PATIENCE * tokens

        def look(_: Step) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise AuditError(
                    f"{_PATIENCE * tokens} steps for requests of {tokens} tokens at most, and no end: do requests that were"
                    " preempted ever catch up?"
                )
            self._check_blocks()

        return look

    def finish(self) -> None:
        """Check that all blocks are free again.

        Raises:
            AuditError: some are not.
        """
        missing = self._capacity - self.scheduler.kv_manager.pool.num_free_blocks
        if missing:
            raise AuditError(
                f"all requests are finished, and {missing} of {self._capacity} blocks are not free: they leak, until no"
                " request can run"
            )

    def _check_blocks(self) -> None:
        manager: Any = self.scheduler.kv_manager
        tables = {request.request_id: manager.table(request.request_id) for request in self.scheduler.running}
        holders = Counter(chain.from_iterable(tables.values()))
        for block_id, count in holders.items():
            block = manager.pool.blocks[block_id]
            if count > 1 and block.block_hash is None:
                one, other, *_ = [name for name, table in tables.items() if block_id in table] * 2
                raise AuditError(
                    f"block {block_id} is in the tables of requests {one} and {other}, and no cached one: each overwrites the"
                    " other's keys and values"
                )
            if block.ref_cnt != count:
                raise AuditError(f"block {block_id} is in {count} tables, and its ref_cnt is {block.ref_cnt}")
        free = manager.pool.num_free_blocks
        if free + len(holders) != self._capacity:
            raise AuditError(
                f"{free} blocks are free and {len(holders)} are held, which makes {free + len(holders)} of {self._capacity}"
            )

    def __repr__(self) -> str:
        return f"EngineAudit({self._capacity} blocks)"


class AuditError(RuntimeError):
    """A block pool or a scheduler broke a rule of the engine."""
