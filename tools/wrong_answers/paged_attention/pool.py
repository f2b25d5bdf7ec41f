# ruff: noqa: ARG002, D101, D102  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The block pool."""

from collections import deque

from course_lib.paged_attention import Block
from wrong_answers import wrong


class _Right:
    """The right pool, for the wrong ones to be wrong in one place each."""

    def __init__(self, num_blocks, enable_caching=False):
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self.free = deque(self.blocks)

    @property
    def num_free_blocks(self):
        return len(self.free)

    def get_new_blocks(self, count):
        if count > len(self.free):
            raise ValueError(f"{count} blocks asked for, {len(self.free)} free")
        taken = [self.free.popleft() for _ in range(count)]
        for block in taken:
            block.ref_cnt = 1
        return taken

    def touch(self, blocks):
        for block in blocks:
            if block.ref_cnt == 0:
                self.free.remove(block)
            block.ref_cnt += 1

    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self.free.append(block)


@wrong("03.block_pool", "frees-a-shared-block", "Puts every block that is given back into the free list.")
class FreesShared(_Right):
    def free_blocks(self, blocks):
        for block in blocks:
            block.ref_cnt -= 1
            self.free.append(block)


@wrong("03.block_pool", "never-free", "Looks at the count before it is lowered.")
class NeverFree(_Right):
    def free_blocks(self, blocks):
        for block in blocks:
            if block.ref_cnt == 0:
                self.free.append(block)
            block.ref_cnt -= 1


@wrong("03.block_pool", "does-not-count-the-first", "Hands blocks out with a count of 0.")
class CountsNoHolder(_Right):
    def get_new_blocks(self, count):
        if count > len(self.free):
            raise ValueError("too few")
        return [self.free.popleft() for _ in range(count)]


@wrong("03.block_pool", "stays-in-the-free-list", "Copies the front of the free list instead of taking it off.")
class Peeks(_Right):
    def get_new_blocks(self, count):
        if count > len(self.free):
            raise ValueError("too few")
        taken = list(self.free)[:count]
        for block in taken:
            block.ref_cnt += 1
        return taken


@wrong("03.block_pool", "loses-blocks-on-refusal", "Takes blocks one by one until there is none, and then refuses.")
class TakesThenRefuses(_Right):
    def get_new_blocks(self, count):
        taken = []
        for _ in range(count):
            if not self.free:
                raise ValueError("too few")
            taken.append(self.free.popleft())
            taken[-1].ref_cnt = 1
        return taken


@wrong("03.block_pool", "gives-fewer", "Hands out what there is when there is too little.")
class GivesFewer(_Right):
    def get_new_blocks(self, count):
        return super().get_new_blocks(min(count, len(self.free)))


@wrong("03.block_pool", "another-error", "Lets the empty list raise its own error.")
class IndexErrorInstead(_Right):
    def get_new_blocks(self, count):
        taken = [self.free.popleft() for _ in range(count)]
        for block in taken:
            block.ref_cnt = 1
        return taken


@wrong("03.block_pool", "free-and-in-use", "Leaves a touched block in the free list.")
class TouchesLightly(_Right):
    def touch(self, blocks):
        for block in blocks:
            block.ref_cnt += 1


@wrong("03.block_pool", "forgets-the-others", "Sets the count to 0 when one of several holders leaves.")
class SetsToZero(_Right):
    def free_blocks(self, blocks):
        for block in blocks:
            last = block.ref_cnt == 1
            block.ref_cnt = 0
            if last:
                self.free.append(block)


@wrong("03.block_pool", "miscounts-a-share", "Knows no more than shared and not shared.")
class CountsToTwo(_Right):
    def touch(self, blocks):
        for block in blocks:
            if block.ref_cnt == 0:
                self.free.remove(block)
            block.ref_cnt = min(2, block.ref_cnt + 1)
