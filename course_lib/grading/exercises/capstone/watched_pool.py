"""A learner's block pool in the course's KV manager, with every call watched."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

from course_lib.grading.exercise import Answer, WrongAnswer
from course_lib.grading.judge import call
from course_lib.paged_attention import Block
from course_lib.viz.tables import Cell, Table

_TOLD = 8  # calls that a message repeats


class WatchedPool:
    """Passes each call on to the learner's pool, and compares what comes of it with a count by hand.

    Args:
        make: the learner's class.
        num_blocks: in the pool.
        enable_caching: whether full blocks can be found again.
        order: whether the order of eviction is watched, too.
    """

    def __init__(self, make: Answer, num_blocks: int, enable_caching: bool, *, order: bool = False):
        self.pool = call(make, num_blocks, enable_caching)
        self.order, self.size = order, num_blocks
        self.enable_caching = enable_caching
        self.held: Counter[int] = Counter()
        self.known: dict[int, bytes] = {}  # blocks that the prefix cache was told of, until they are handed out again
        self.twins: set[bytes] = set()  # hashes of two blocks at once, of which either may be found
        self.free = list(range(num_blocks))  # the one freed longest ago first
        self.story: list[str] = []
        ids = [getattr(block, "block_id", None) for block in getattr(self.pool, "blocks", ())]
        if ids != list(range(num_blocks)):
            self.fail("wrong-start", f"self.blocks must hold Block(0) to Block({num_blocks - 1}) from the start")
        self._look()

    @property
    def blocks(self) -> Any:
        """The learner's blocks."""
        return self.pool.blocks

    @property
    def num_free_blocks(self) -> int:
        """What the learner's pool says."""
        return int(self.pool.num_free_blocks)

    def get_new_blocks(self, count: int) -> list[Block]:
        """Watch what is handed out, and what is forgotten for it."""
        self.story += [f"get_new_blocks({count})"] * (count > 0)
        blocks = call(self.pool.get_new_blocks, count)
        if not isinstance(blocks, list) or len(blocks) != count or not all(hasattr(one, "ref_cnt") for one in blocks):
            self.fail(
                "wrong-blocks", f"{count} of the pool's Block objects were expected in a list, and {blocks!r} came"
            )
        numbers = [block.block_id for block in blocks]
        if taken := [number for number in numbers if self.held[number]]:
            self.fail("gives-a-held-block", f"block {taken[0]} was handed out, and another request holds it")
        if len(set(numbers)) < count:
            self.fail("gives-a-block-twice", f"blocks {numbers} were handed out at once")
        self._check_order(numbers)
        for number in numbers:
            self._check_forgotten(number)
            self.free.remove(number)
            self.held[number] = 1
        if self.num_free_blocks > len(self.free):
            self.fail("stays-in-the-free-list", f"blocks {numbers} were handed out, and count as free still")
        self._look()
        return list(blocks)

    def touch(self, blocks: Iterable[Block]) -> None:
        """Watch that a found block has one holder more, and is not free."""
        numbers = self._passed_on("touch", blocks)
        for number in numbers:
            if not self.held[number]:
                self.free.remove(number)
            self.held[number] += 1
        if self.num_free_blocks > len(self.free):
            told = f"blocks {numbers} were found in the prefix cache; those that were free have a holder now, and count as free"
            self.fail("free-and-in-use", told)
        self._look()

    def free_blocks(self, blocks: Iterable[Block]) -> None:
        """Watch that a block is free when its last holder gives it back, not before, and can be found still."""
        numbers = self._passed_on("free_blocks", blocks)
        self.held.subtract(numbers)
        self.held = +self.held
        self.free += (gone := [number for number in numbers if not self.held[number]])
        if self.num_free_blocks > len(self.free):
            shared = next(number for number in numbers if self.held[number])
            self.fail("frees-a-shared-block", f"block {shared} is free now, and another request holds it")
        if self.num_free_blocks < len(self.free):
            self.fail("never-free", f"nobody holds blocks {gone} any more, and {self.num_free_blocks} blocks are free")
        for number in gone:
            if number in self.known and self._lost(self.known[number]):
                told = (
                    f"nobody holds block {number} any more, but its keys and values lie there still: it has to be found"
                )
                self.fail("forgets-when-freed", told)
        self._look()

    def cache_full_blocks(self, blocks: Sequence[Block], hashes: Sequence[bytes]) -> None:
        """Watch that blocks can be found from now on."""
        if not blocks:
            return
        self._passed_on("cache_full_blocks", blocks, hashes)
        for block, block_hash in zip(blocks, hashes, strict=True):
            if block_hash in self.known.values():
                self.twins.add(block_hash)
            self.known[block.block_id] = block_hash
            if block.block_hash != block_hash:
                told = f"block {block.block_id} got a hash, and its block_hash is {_short(block.block_hash)}"
                self.fail("no-hash-on-the-block", told)
            if self._lost(block_hash):
                self.fail("never-found", f"block {block.block_id} is full and got a hash, and is not found by it")

    def get_cached_block(self, block_hash: bytes) -> Any:
        """Watch that what is found is what was asked for."""
        found = call(self.pool.get_cached_block, block_hash)
        right = [number for number, known in self.known.items() if known == block_hash]
        if found is None and self._lost(block_hash):
            self.fail("never-found", f"block {right[0]} was cached, nobody took it since, and it is not found")
        if found is not None and found.block_id not in right:
            self.fail("finds-an-overwritten-block", f"block {found.block_id} was found by a hash that is not its own")
        return found

    def reset_prefix_cache(self) -> bool:
        """Watch that nothing is found after it, and that it is not done while a request runs."""
        self.story.append("reset_prefix_cache()")
        done = call(self.pool.reset_prefix_cache)
        if self.held:
            if done or any(self._lost(block_hash) for block_hash in self.known.values()):
                told = f"a request holds block {min(self.held)} and would go on with old keys: return False, forget nothing"
                self.fail("resets-under-a-request", told)
            return False
        if done is not True:
            self.fail("refuses-to-reset", f"nobody holds a block, and it returned {done!r} instead of True")
        for number, block_hash in self.known.items():
            if call(self.pool.get_cached_block, block_hash) is not None or self._block(number).block_hash is not None:
                told = f"block {number} is found after the reset: its keys and values are those of the old weights"
                self.fail("stale-after-reset", told)
        self.known.clear()
        self.twins.clear()
        self._look()
        return True

    def _passed_on(self, method: str, blocks: Iterable[Block], *more: Any) -> list[int]:
        """Call the learner's method as the KV manager does, and return the blocks' numbers."""
        given = list(blocks)
        numbers = [block.block_id for block in given]
        self.story += [f"{method}({numbers})"] * bool(numbers)
        # The manager hands over what can be gone through once.
        call(getattr(self.pool, method), given if more else iter(given), *more)
        return numbers

    def _check_order(self, numbers: list[int]) -> None:
        findable = [number for number in self.free if number in self.known]
        if not self.order or any(self.known[number] in self.twins for number in findable):
            return
        gone = [number for number in numbers if number in self.known]
        nothing = [number for number in self.free if number not in self.known and number not in numbers]
        if gone and nothing:
            told = f"block {gone[0]}, which could be found, was handed out; block {nothing[0]} is free, and nobody can find it"
            self.fail("evicts-a-findable-block", told)
        if set(gone) != set(findable[: len(gone)]):
            told = (
                f"blocks {findable} could be found, freed in this order; {gone} went, and not the one freed longest ago"
            )
            self.fail("evicts-the-newest", told)

    def _check_forgotten(self, number: int) -> None:
        block_hash = self.known.pop(number, None)
        if block_hash is None:
            return
        found = call(self.pool.get_cached_block, block_hash)
        if found is not None and found.block_id not in self.known:
            told = f"block {number} belongs to a new request, and is found by its old hash: somebody would read the wrong text"
            self.fail("finds-an-overwritten-block", told)
        if self._block(number).block_hash is not None:
            self.fail("keeps-the-hash", f"block {number} belongs to a new request, and its block_hash is the old one")

    def _lost(self, block_hash: bytes) -> bool:
        """Whether a hash that the prefix cache knows is not found."""
        known = block_hash in self.known.values() and block_hash not in self.twins
        return known and call(self.pool.get_cached_block, block_hash) is None

    def _block(self, number: int) -> Any:
        return self.pool.blocks[number]

    def _look(self) -> None:
        """Compare all counts."""
        for number in range(self.size):
            count = self._block(number).ref_cnt
            if count != self.held[number]:
                told = f"block {number} has {self.held[number]} holders, and its ref_cnt is {count}"
                self.fail("miscounts-holders", told)
        if self.num_free_blocks != len(self.free):
            told = f"{len(self.free)} of {self.size} blocks are free, and num_free_blocks is {self.num_free_blocks}"
            self.fail("miscounts-free-blocks", told)

    def fail(self, diagnosis: str, told: str) -> NoReturn:
        """Raise WrongAnswer with what happened so far, and a picture of all blocks."""
        rows: list[list[Cell | str]] = []
        for number, block in enumerate(getattr(self.pool, "blocks", ())):
            right = getattr(block, "ref_cnt", None) == self.held[number]
            mine = Cell(str(getattr(block, "ref_cnt", "")), "right" if right else "wrong")
            rows.append([str(number), mine, str(self.held[number]), _short(self.known.get(number))])
        columns = [">block", ">your ref_cnt", ">holders", "cached as"]
        before = ["..."] * (len(self.story) > _TOLD) + self.story[-_TOLD:]
        said = f"{self.size} blocks; {'; '.join(before) or 'a new pool'}: {told}"
        raise WrongAnswer(diagnosis, said, Table("The pool at this moment", columns, rows))


def _short(block_hash: Any) -> str:
    return block_hash.hex()[:6] if isinstance(block_hash, bytes) else "" if block_hash is None else repr(block_hash)
