"""Our scheduler is vLLM's: the same plan, queues, block tables, free list and reference counts at every step."""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from course_lib.paged_attention.kv_manager import PagedKVManager
from course_lib.scheduling import Scheduler, SchedulerOutput
from course_lib.scheduling.rules import RULES

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


class WholePromptHit(Scheduler):
    """Takes over every cached block, the one with the last token too, and computes nothing but that token."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(config, manager)
        find = manager.get_computed_blocks
        manager.get_computed_blocks = lambda hashes, n: find(hashes, n + 1)  # type: ignore[method-assign]


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


class NoWatermark(Scheduler):
    """Keeps no blocks free at an admission."""

    def __init__(self, config: Any, manager: PagedKVManager):
        super().__init__(replace(config, watermark=0.0), manager)


class NoThreshold(Scheduler):
    """Lets a long prefill take the whole budget."""

    def _capped(self, num_new: int) -> int:
        return num_new


MUTANTS: list[Callable[..., Scheduler]] = [
    *(rule for rule in RULES.values() if rule is not Scheduler),
    WholePromptHit,
    SkipTheHeadOfTheLine,
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
