"""A block pool with reference counts, driven by random requests and watched at every step."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all
from course_lib.paged_attention import PagedKVManager
from course_lib.viz.tables import Cell, Table

block_pool = Exercise("03.block_pool", "BlockPool", "A block pool that counts", difficulty=3, importance=5, minutes=25)

_SIZE = 5
_Action = tuple[str, int]


def _actions(*kinds: str) -> st.SearchStrategy[list[_Action]]:
    return st.lists(st.tuples(st.sampled_from(kinds), st.integers(1, _SIZE)), max_size=8)


@block_pool.part(3, "free and used blocks are the pool, and no block is given to two requests")
def _owned_once(answer: Answer) -> None:
    for_all(lambda actions: _run(answer, actions), examples=80, actions=_actions("take", "free"))


@block_pool.part(4, "a shared block is free when its last holder gives it back, and not before")
def _shared(answer: Answer) -> None:
    for_all(lambda actions: _run(answer, actions), examples=150, actions=_actions("take", "share", "share", "free"))


@block_pool.part(2, "too few free blocks: a ValueError, and the pool stays as it was")
def _refuses(answer: Answer) -> None:
    for_all(
        lambda actions, more: _run(answer, actions, more),
        examples=60,
        actions=_actions("take", "free"),
        more=st.integers(1, 3),
    )


@block_pool.part(3, "it runs in the course's KV manager: a free block that is touched leaves the free list")
def _in_the_manager(answer: Answer) -> None:
    for_all(lambda actions: _run(answer, actions), examples=80, actions=_actions("take", "free", "touch free"))
    manager = PagedKVManager(6, 4, enable_caching=False, block_pool=answer)
    for number in range(20):
        call(manager.allocate, f"request {number}", [1] * 9)
        if call(manager.allocate, "too long", [1] * 99) is not None:
            raise WrongAnswer("gives-fewer", "the manager got blocks for 99 tokens from a pool of 24 slots")
        if number:
            call(manager.free, f"request {number - 1}")
    if manager.pool.num_free_blocks != 3:
        said = f"20 requests of 3 blocks came and 19 went: 3 of 6 blocks are free, and the pool says {manager.pool.num_free_blocks}"
        raise WrongAnswer("leaks", said)


def _run(answer: Answer, actions: Sequence[_Action], too_many: int = 0) -> None:
    """Do these things with a new pool; at the end, ask for so many blocks more than are free."""
    run = _Run(answer)
    for kind, number in actions:
        run.act(kind, number)
    if too_many:
        run.too_many(too_many)


class _Run:
    """A pool and what each request holds of it; every step is compared with a count by hand."""

    def __init__(self, answer: Answer):
        self.pool = call(answer, _SIZE)
        self.tables: list[list[Any]] = []
        self.story: list[str] = []
        self.look("after __init__", "wrong-start")

    def act(self, kind: str, number: int) -> None:
        free = _SIZE - len(self.held())
        if kind == "take" and free:
            self.take(min(number, free))
        elif kind == "share" and self.tables:
            self.share(self.tables[number % len(self.tables)])
        elif kind == "free" and self.tables:
            self.free(self.tables.pop(number % len(self.tables)))
        elif kind == "touch free" and not self.tables:
            self.touch_free()

    def held(self) -> Counter[int]:
        """How many tables hold each block that somebody holds."""
        return Counter(block.block_id for table in self.tables for block in table)

    def take(self, count: int) -> None:
        self.story.append(f"get_new_blocks({count})")
        blocks = call(self.pool.get_new_blocks, count)
        if not isinstance(blocks, list) or len(blocks) != count or not all(hasattr(b, "ref_cnt") for b in blocks):
            self.fail(
                "wrong-blocks", f"{count} of the pool's Block objects were expected in a list, and {blocks!r} came"
            )
        numbers = [block.block_id for block in blocks]
        if twice := sorted(set(numbers) & set(self.held())):
            self.fail("gives-a-held-block", f"block {twice[0]} was handed out, but another request holds it")
        if len(set(numbers)) < count:
            self.fail("gives-a-block-twice", f"blocks {numbers} were handed out at once")
        self.tables.append(blocks)
        if self.pool.num_free_blocks > _SIZE - len(self.held()):
            self.fail("stays-in-the-free-list", f"blocks {numbers} were handed out, and are counted as free still")
        self.look("a new block has one holder", "does-not-count-the-first")

    def share(self, table: list[Any]) -> None:
        self.story.append(f"touch({[block.block_id for block in table]})")
        self.tables.append(list(table))
        call(self.pool.touch, table)
        self.look("each holder counts once", "miscounts-a-share")

    def touch_free(self) -> None:
        block = self.pool.blocks[0]
        self.story.append("touch([0]), which is free")
        call(self.pool.touch, [block])
        self.tables.append([block])
        if self.pool.num_free_blocks != _SIZE - len(self.held()):
            told = "block 0 was free when somebody found it; it has a holder now, and the next one to take it overwrites it"
            self.fail("free-and-in-use", told)
        self.look("a touched block has a holder more", "miscounts-a-share")

    def free(self, table: list[Any]) -> None:
        numbers = [block.block_id for block in table]
        self.story.append(f"free_blocks({numbers[::-1]})")
        call(self.pool.free_blocks, table[::-1])
        shared = [number for number in numbers if number in self.held()]
        free, right = self.pool.num_free_blocks, _SIZE - len(self.held())
        if free > right and shared:
            self.fail("frees-a-shared-block", f"block {shared[0]} is free now, but another request holds it")
        if free < right:
            self.fail(
                "never-free", f"nobody holds blocks {numbers} any more, but {free} blocks are free and not {right}"
            )
        if any(self.pool.blocks[number].ref_cnt < self.held()[number] for number in shared):
            self.fail(
                "forgets-the-others",
                f"block {shared[0]} has {self.held()[shared[0]]} holders left, not {self.count(shared[0])}",
            )
        self.look("a holder less", "miscounts-a-return")

    def too_many(self, more: int) -> None:
        free = _SIZE - len(self.held())
        self.story.append(f"get_new_blocks({free + more})")
        try:
            got = self.pool.get_new_blocks(free + more)
        except ValueError:
            if self.pool.num_free_blocks != free:
                told = f"{free} blocks were free before the refusal, {self.pool.num_free_blocks} after it: refuse before you take"
                self.fail("loses-blocks-on-refusal", told)
            self.look("a refusal changes nothing", "loses-blocks-on-refusal")
        except NotImplementedError:
            raise
        except Exception as error:  # noqa: BLE001  whatever it raises instead
            told = f"{free} blocks are free, {free + more} were asked for, and {type(error).__name__} came instead of a ValueError"
            self.fail("another-error", told)
        else:
            told = f"{free} blocks are free, {free + more} were asked for, and {len(got or [])} came without an error"
            self.fail("gives-fewer", told)

    def count(self, number: int) -> int:
        return int(self.pool.blocks[number].ref_cnt)

    def look(self, rule: str, diagnosis: str) -> None:
        """Compare all counts with the tables."""
        blocks = getattr(self.pool, "blocks", [])
        if [block.block_id for block in blocks] != list(range(_SIZE)):
            self.fail("wrong-start", f"self.blocks must hold Block(0) to Block({_SIZE - 1}) from the start")
        wrong = [number for number in range(_SIZE) if self.count(number) != self.held()[number]]
        if wrong:
            number = wrong[0]
            told = (
                f"block {number} has {self.held()[number]} holders, and its ref_cnt says {self.count(number)}: {rule}"
            )
            self.fail(diagnosis, told)
        if self.pool.num_free_blocks != _SIZE - len(self.held()):
            told = (
                f"{len(self.held())} of {_SIZE} blocks are held, and num_free_blocks says {self.pool.num_free_blocks}"
            )
            self.fail("miscounts-free-blocks", told)

    def fail(self, diagnosis: str, told: str) -> None:
        held = self.held()
        rows: list[list[Cell | str]] = []
        for number, block in enumerate(getattr(self.pool, "blocks", [])):
            holders = [
                f"request {place}"
                for place, table in enumerate(self.tables)
                if any(b.block_id == number for b in table)
            ]
            count = Cell(str(block.ref_cnt), "right" if block.ref_cnt == held[number] else "wrong")
            rows.append([str(number), ", ".join(holders) or "nobody", count])
        said = f"BlockPool({_SIZE}); {'; '.join(self.story)}: {told}" if self.story else f"BlockPool({_SIZE}): {told}"
        raise WrongAnswer(diagnosis, said, Table("Who holds each block", [">block", "held by", ">your ref_cnt"], rows))
