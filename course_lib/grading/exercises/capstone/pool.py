"""A block pool with a prefix cache, driven through the course's KV manager and scheduler."""

from collections.abc import Sequence

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise
from course_lib.grading.exercises.capstone.watched_pool import WatchedPool
from course_lib.grading.exercises.scheduling.running import Traced, steps
from course_lib.grading.judge import for_all
from course_lib.paged_attention import PagedKVManager
from course_lib.scheduling import Scheduler, SchedulerConfig

block_pool = Exercise("08.block_pool", "MyBlockPool", "Blocks for your engine", difficulty=4, importance=5, minutes=35)

_BLOCKS, _SIZE = 6, 2
_Action = tuple[str, int, int]


def _actions(*kinds: str) -> st.SearchStrategy[list[_Action]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(0, 5), st.integers(0, 6)), max_size=10)


@block_pool.part(3, "no block is owned twice, and free and used blocks are the pool")
def _owned_once(answer: Answer) -> None:
    for_all(
        lambda actions: _drive(WatchedPool(answer, _BLOCKS, False), actions),
        examples=60,
        actions=_actions("begin", "grow", "end"),
    )


@block_pool.part(3, "a full block is found by its hash until it is handed out again, and is shared by all who find it")
def _shared(answer: Answer) -> None:
    for_all(
        lambda actions: _drive(WatchedPool(answer, _BLOCKS, True), actions),
        examples=150,
        actions=_actions("begin", "begin", "grow", "end"),
    )
    for seed in range(12):
        _schedule(answer, Traced.draw(seed, small=seed % 2 == 0, shared=True))


@block_pool.part(2, "blocks that nobody can find are handed out first, then those that were freed longest ago")
def _order(answer: Answer) -> None:
    for_all(
        lambda actions: _drive(WatchedPool(answer, _BLOCKS, True, order=True), actions),
        examples=200,
        actions=_actions("begin", "begin", "grow", "end"),
    )


@block_pool.part(2, "new weights: a reset forgets all hashes, and nothing while a request holds a block")
def _reset(answer: Answer) -> None:
    for_all(
        lambda actions: _drive(WatchedPool(answer, _BLOCKS, True), actions),
        examples=120,
        actions=_actions("begin", "end", "reset"),
    )


def _drive(pool: WatchedPool, actions: Sequence[_Action]) -> None:
    """Do these things to a KV manager over the pool: requests with one of two texts begin, grow and end."""
    manager = PagedKVManager(_BLOCKS, _SIZE, pool.enable_caching, lambda *_: pool)  # type: ignore[arg-type]
    running: list[str] = []
    for number, (kind, which, length) in enumerate(actions):
        if kind == "begin":
            text = [100 * (which % 2) + position for position in range(length + 1)]
            if manager.allocate(str(number), text) is not None:
                running.append(str(number))
        elif kind == "reset":
            pool.reset_prefix_cache()
        elif running and kind == "grow":
            manager.append(running[which % len(running)], [1000 * (number + 1) + place for place in range(length)])
        elif running:
            manager.free(running.pop(which % len(running)))


def _schedule(answer: Answer, requests: Traced) -> None:
    """Run requests through the course's scheduler over the pool, to their end."""
    pools: list[WatchedPool] = []

    def make(config: SchedulerConfig, manager: PagedKVManager) -> Scheduler:
        pools.append(WatchedPool(answer, requests.blocks, requests.caching))
        pool = pools[-1]
        return Scheduler(config, PagedKVManager(requests.blocks, manager.block_size, requests.caching, lambda *_: pool))  # type: ignore[arg-type]

    steps(make, requests)
    if pools[-1].num_free_blocks != requests.blocks:
        pools[-1].fail("never-free", f"all requests are finished, and {pools[-1].num_free_blocks} blocks are free")
