# ruff: noqa: D101, D102  (what each gets wrong stands in its decorator; a stub's names are given)
"""The block pool with a prefix cache."""

from course_lib.paged_attention import Block
from wrong_answers import wrong


class Pool:
    """A right one, for the wrong ones to spoil."""

    def __init__(self, num_blocks, enable_caching=True):
        self.blocks = [Block(number) for number in range(num_blocks)]
        self.enable_caching = enable_caching
        self._free = dict(enumerate(self.blocks))
        self._cached = {}

    @property
    def num_free_blocks(self):
        return len(self._free)

    def get_new_blocks(self, count):
        taken = sorted(self._free.values(), key=lambda block: block.block_hash is not None)[:count]
        for block in taken:
            self._take(block)
        return taken

    def _take(self, block):
        del self._free[block.block_id]
        block.ref_cnt = 1
        self._forget(block)

    def _forget(self, block):
        if self._cached.get(block.block_hash) is block:
            del self._cached[block.block_hash]
        block.block_hash = None

    def touch(self, blocks):
        for block in blocks:
            self._free.pop(block.block_id, None)
            block.ref_cnt += 1

    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self._free[block.block_id] = block

    def cache_full_blocks(self, blocks, hashes):
        for block, block_hash in zip(blocks, hashes, strict=True):
            block.block_hash = block_hash
            self._cached[block_hash] = block

    def get_cached_block(self, block_hash):
        return self._cached.get(block_hash)

    def reset_prefix_cache(self):
        if self.num_free_blocks < len(self.blocks):
            return False
        self._cached.clear()
        for block in self.blocks:
            block.block_hash = None
        return True


@wrong("08.block_pool", "stays-in-the-free-list", "Hands blocks out and leaves them in the free list.")
class Keeps(Pool):
    def _take(self, block):
        block.ref_cnt = 1
        self._forget(block)


@wrong("08.block_pool", "never-free", "Counts down, and has forgotten the free list.")
class Leaks(Pool):
    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1


@wrong("08.block_pool", "free-and-in-use", "Adds a holder to a found block, and leaves it in the free list.")
class FoundAndFree(Pool):
    def touch(self, blocks):
        for block in blocks:
            block.ref_cnt += 1


@wrong("08.block_pool", "frees-a-shared-block", "Frees a block with the first holder that gives it back.")
class Hasty(Pool):
    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            self._free[block.block_id] = block


@wrong("08.block_pool", "finds-an-overwritten-block", "Hands a block out that its old hash still finds.")
class Haunted(Pool):
    def _forget(self, block):
        block.block_hash = None


@wrong("08.block_pool", "keeps-the-hash", "Forgets the hash in its dict, and not on the block.")
class Labelled(Pool):
    def _forget(self, block):
        if self._cached.get(block.block_hash) is block:
            del self._cached[block.block_hash]


@wrong(
    "08.block_pool", "forgets-when-freed", "Forgets the hash as a block is given back: nothing outlives its request."
)
class Forgetful(Pool):
    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self._free[block.block_id] = block
                self._forget(block)


@wrong("08.block_pool", "no-hash-on-the-block", "Keeps hashes in its dict alone.")
class Unlabelled(Pool):
    def cache_full_blocks(self, blocks, hashes):
        self._cached.update(zip(hashes, blocks, strict=True))


@wrong("08.block_pool", "evicts-a-findable-block", "Takes what was freed first, findable or not.")
class Queue(Pool):
    def get_new_blocks(self, count):
        taken = list(self._free.values())[:count]
        for block in taken:
            self._take(block)
        return taken


@wrong("08.block_pool", "evicts-the-newest", "Takes what was freed last.")
class Stack(Pool):
    def get_new_blocks(self, count):
        newest = list(self._free.values())[::-1]
        taken = sorted(newest, key=lambda block: block.block_hash is not None)[:count]
        for block in taken:
            self._take(block)
        return taken


@wrong("08.block_pool", "stale-after-reset", "Says that it was reset.")
class Stale(Pool):
    def reset_prefix_cache(self):
        return self.num_free_blocks == len(self.blocks)


@wrong("08.block_pool", "resets-under-a-request", "Resets at any time.")
class Rude(Pool):
    def reset_prefix_cache(self):
        self._cached.clear()
        for block in self.blocks:
            block.block_hash = None
        return True
