"""The pool of physical blocks: who holds each, which are free and in what order, which can be found again by their hash.

It does what `vllm/v1/core/block_pool.py` does for a model with full attention, in the same order (tests run both).
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from course_lib.paged_attention.prefix_cache import BlockHash


@dataclass(slots=True, eq=False)
class Block:
    """A physical block: the name of some slots in the KV tensors, not their contents.

    Attributes:
        block_id: its number; its slots start at block_id * block_size.
        ref_cnt: how many block tables hold it; 0 where it is free.
        block_hash: under what the prefix cache knows it; None for a block that is not full or whose contents are gone.
    """

    block_id: int
    ref_cnt: int = 0
    block_hash: BlockHash | None = None


class BlockPool:
    """All blocks, the free list and the prefix cache.

    A free block may still be in the prefix cache: its keys and values lie there until somebody else needs the space. So
    the free list is also the order of eviction.

    Args:
        num_blocks: how many there are.
        enable_caching: whether full blocks can be found again.
        null_block: keep block 0 out of use, as vLLM does for slots that nobody reads; for comparisons with its ids.

    Raises:
        ValueError: a pool without a block to give.
    """

    def __init__(self, num_blocks: int, enable_caching: bool = True, null_block: bool = False):
        if num_blocks < 1 + null_block:
            raise ValueError(f"num_blocks is {num_blocks}; expected {1 + null_block} or more")
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self.enable_caching = enable_caching
        # A dict that keeps an order, and takes from its front, its back or its middle in constant time: a linked list.
        self._free: OrderedDict[int, Block] = OrderedDict(enumerate(self.blocks[null_block:], start=int(null_block)))
        # Two requests may compute the same block before either can find the other's. Both blocks stay, each in its
        # owner's table, because a table never changes under a running request; look-ups take the first inserted.
        self._cached: dict[BlockHash, dict[int, Block]] = {}

    def __repr__(self) -> str:
        cached = sum(block.block_hash is not None for block in self.blocks)
        return f"BlockPool({len(self.blocks)} blocks, {self.num_free_blocks} free, {cached} cached)"

    @property
    def num_free_blocks(self) -> int:
        """How many blocks nobody holds."""
        return len(self._free)

    @property
    def free_list(self) -> list[int]:
        """The free blocks' numbers, the next one to be taken first."""
        return list(self._free)

    def get_new_blocks(self, count: int) -> list[Block]:
        """Take blocks from the front of the free list; what the prefix cache knew of them is evicted.

        Raises:
            ValueError: fewer are free. The pool is as it was.
        """
        if not 0 <= count <= len(self._free):
            raise ValueError(
                f"{count} blocks asked for, {len(self._free)} free of {len(self.blocks)}; free a request first"
            )
        taken = [self._free.popitem(last=False)[1] for _ in range(count)]
        for block in taken:
            self._evict(block)
            block.ref_cnt = 1
        return taken

    def touch(self, blocks: Iterable[Block]) -> None:
        """Let one more table hold each of these blocks, found in the prefix cache: free ones leave the free list."""
        for block in blocks:
            if block.ref_cnt == 0:
                del self._free[block.block_id]
            block.ref_cnt += 1

    def free_blocks(self, blocks: Iterable[Block]) -> None:
        """Let one table fewer hold each of these blocks; those that nobody holds go to the free list.

        Blocks without a hash go to its front, since nobody can find them again. Blocks with one go to its back: the
        least recently freed is evicted first. Within both, the first in `blocks` is taken first, so a request gives its
        blocks last one first: an early block is in more prefixes than a late one, and without it the late ones are lost.

        Raises:
            ValueError: a block is free already.
        """
        unhashed: list[Block] = []
        for block in blocks:
            if block.ref_cnt == 0:
                raise ValueError(f"block {block.block_id} is free already; a table gives back each of its blocks once")
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                if block.block_hash is None:
                    unhashed.append(block)
                else:
                    self._free[block.block_id] = block
        for block in reversed(unhashed):
            self._free[block.block_id] = block
            self._free.move_to_end(block.block_id, last=False)

    def cache_full_blocks(self, blocks: Sequence[Block], hashes: Sequence[BlockHash]) -> None:
        """Let the prefix cache know these full blocks by these hashes, one each. Without caching, do nothing."""
        if not self.enable_caching:
            return
        for block, block_hash in zip(blocks, hashes, strict=True):
            block.block_hash = block_hash
            self._cached.setdefault(block_hash, {})[block.block_id] = block

    def get_cached_block(self, block_hash: BlockHash) -> Block | None:
        """Return the block that the prefix cache knows by this hash, in use or free, or None."""
        found = self._cached.get(block_hash)
        return next(iter(found.values())) if found else None

    def reset_prefix_cache(self) -> bool:
        """Forget all hashes, as new weights demand: old keys and values are wrong for them. Return whether it was done.

        As in vLLM, nothing is done while a table holds a block, whose request would go on with the old ones.
        """
        if any(block.ref_cnt for block in self.blocks):
            return False
        for block in self.blocks:
            block.block_hash = None
        self._cached.clear()
        return True

    def _evict(self, block: Block) -> None:
        if block.block_hash is None:
            return
        same = self._cached[block.block_hash]
        del same[block.block_id]
        if not same:
            del self._cached[block.block_hash]
        block.block_hash = None
