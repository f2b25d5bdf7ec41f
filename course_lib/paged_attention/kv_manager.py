"""Block tables: which request holds which blocks, and what the prefix cache spares it.

`get_computed_blocks`, `allocate_slots` and `free` do what vLLM's `KVCacheManager` does (vllm/v1/core/kv_cache_manager.py;
tests run both), and are what a scheduler calls. `allocate` and `append` put them together for whoever has tokens.
"""

from collections.abc import Callable, Mapping, Sequence

from course_lib.paged_attention.block_pool import Block, BlockPool
from course_lib.paged_attention.block_table import num_blocks_for
from course_lib.paged_attention.prefix_cache import BlockHash, block_hashes
from course_lib.paged_attention.snapshot import BlockView, PoolSnapshot


class PagedKVManager:
    """The block tables of all requests, over one pool.

    Args:
        num_blocks: blocks in the pool.
        block_size: slots in a block.
        enable_caching: whether a request takes over full blocks that another one computed.
        block_pool: makes the pool, given `num_blocks` and `enable_caching`: `BlockPool`, or a learner's own class.

    Raises:
        ValueError: blocks without slots, or a pool without blocks.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int = 16,
        enable_caching: bool = True,
        block_pool: Callable[[int, bool], BlockPool] = BlockPool,
    ):
        num_blocks_for(0, block_size)  # raises for blocks without slots
        self.pool = block_pool(num_blocks, enable_caching)
        self.block_size = block_size
        self.enable_caching = enable_caching
        self._tables: dict[str, list[Block]] = {}
        self._block_ids: dict[
            str, list[int]
        ] = {}  # the tables' numbers, for whoever wants to look at them in every step
        self._num_published: dict[str, int] = {}  # of each table's blocks, how many the prefix cache was told of
        self._tokens: dict[str, list[int]] = {}
        self._hashes: dict[str, list[BlockHash]] = {}
        self._contents: list[list[int]] = [[] for _ in range(num_blocks)]

    def __repr__(self) -> str:
        held = ", ".join(f"{request_id}: {self.table(request_id)}" for request_id in self._tables)
        return f"PagedKVManager(block_size={self.block_size}, {self.pool}, tables {{{held}}})"

    # What a scheduler calls.

    def get_computed_blocks(self, hashes: Sequence[BlockHash], num_tokens: int) -> list[Block]:
        """Return the longest run of cached blocks from the start of a sequence; nobody holds them for it yet.

        The last token is computed in any case, since the next token's logits come from it. So a prompt whose every block
        is cached computes its last block again: a table has whole blocks, and a cached one must not be written to.

        Args:
            hashes: the sequence's hash chain.
            num_tokens: its length.
        """
        found: list[Block] = []
        if self.enable_caching:
            for block_hash in hashes[: (num_tokens - 1) // self.block_size]:
                block = self.pool.get_cached_block(block_hash)
                if block is None:
                    break
                found.append(block)
        return found

    def num_blocks_needed(self, request_id: str, num_tokens: int, computed: Sequence[Block] = ()) -> int:
        """Return how many blocks the free list loses when a request gets slots for its first `num_tokens` tokens.

        A computed block that nobody holds counts too: it is in the free list, and leaves it.
        """
        held = len(self._tables.get(request_id, ())) + len(computed)
        new = max(0, num_blocks_for(num_tokens, self.block_size) - held)
        return new + sum(block.ref_cnt == 0 for block in computed)

    def allocate_slots(
        self,
        request_id: str,
        num_tokens: int,
        hashes: Sequence[BlockHash] = (),
        computed: Sequence[Block] = (),
    ) -> list[Block] | None:
        """Give a request slots for its first `num_tokens` tokens, and tell the prefix cache of the blocks they fill.

        That is before their keys and values are computed. It does no harm: whoever finds such a block in the same step
        is computed in that step too, after it was written.

        Args:
            request_id: the request, new or known.
            num_tokens: tokens that need a slot in all, from the request's first.
            hashes: the sequence's hash chain; blocks behind its end are not told of yet. Not needed without caching.
            computed: a new request's blocks from `get_computed_blocks`.

        Returns:
            The new blocks, or None where the pool has too few; then nothing has changed.
        """
        table, full = self._tables.get(request_id), min(num_tokens // self.block_size, len(hashes))
        if (
            table is not None
            and num_tokens <= len(table) * self.block_size
            and full <= self._num_published.get(request_id, 0)
        ):
            return []  # as most steps of most requests: there is a slot in the last block, and no block to tell of
        if self.num_blocks_needed(request_id, num_tokens, computed) > self.pool.num_free_blocks:
            return None
        table = self._tables.setdefault(request_id, [])
        self.pool.touch(computed)  # before new blocks are taken, which could be these
        new = self.pool.get_new_blocks(max(0, num_blocks_for(num_tokens, self.block_size) - len(table) - len(computed)))
        table += [*computed, *new]
        self._block_ids.setdefault(request_id, []).extend(block.block_id for block in (*computed, *new))
        for block in new:
            self._contents[block.block_id].clear()
        if self.enable_caching:
            start = self._num_published.get(request_id, len(computed))
            self.pool.cache_full_blocks(table[start:full], hashes[start:full])
            self._num_published[request_id] = max(start, full)
        return new

    def free(self, request_id: str) -> None:
        """Give back a request's blocks, the last one first, so that the start of its sequence is evicted last.

        Raises:
            ValueError: no such request.
        """
        self._known(request_id)
        self.pool.free_blocks(reversed(self._tables.pop(request_id)))
        for of_request in (self._block_ids, self._num_published, self._tokens, self._hashes):
            of_request.pop(request_id, None)

    def table(self, request_id: str) -> list[int]:
        """Return a request's block table: its blocks' numbers, in logical order.

        Raises:
            ValueError: no such request.
        """
        self._known(request_id)
        return list(self._block_ids[request_id])

    @property
    def live_tables(self) -> Mapping[str, list[int]]:
        """All block tables themselves: each grows with its request, and is another list after `free`."""
        return self._block_ids

    # The same for whoever has tokens.

    def allocate(self, request_id: str, tokens: Sequence[int]) -> int | None:
        """Give a new request slots for its tokens.

        Returns:
            How many of the tokens have their keys and values in cached blocks already, or None where the pool has too few
            blocks; then nothing has changed.

        Raises:
            ValueError: the request is known already, or has no token.
        """
        if request_id in self._tables or not tokens:
            raise ValueError(
                f"{request_id!r} has blocks already" if tokens else f"{request_id!r} has no token to store"
            )
        hashes = block_hashes(tokens, self.block_size) if self.enable_caching else []
        computed = self.get_computed_blocks(hashes, len(tokens))
        if self.allocate_slots(request_id, len(tokens), hashes, computed) is None:
            return None
        self._tokens[request_id], self._hashes[request_id] = list(tokens), hashes
        cached = len(computed) * self.block_size
        self._write(request_id, cached)
        return cached

    def append(self, request_id: str, tokens: Sequence[int]) -> bool:
        """Give a request slots for further tokens. Return False where the pool has too few blocks; then nothing has changed.

        Raises:
            ValueError: no such request.
        """
        self._known(request_id)
        longer = self._tokens[request_id] + list(tokens)
        hashes = block_hashes(longer, self.block_size, self._hashes[request_id]) if self.enable_caching else []
        if self.allocate_slots(request_id, len(longer), hashes) is None:
            return False
        before = len(self._tokens[request_id])
        self._tokens[request_id], self._hashes[request_id] = longer, hashes
        self._write(request_id, before)
        return True

    def length(self, request_id: str) -> int:
        """Return how many tokens of a request have slots.

        Raises:
            ValueError: no such request.
        """
        self._known(request_id)
        return len(self._tokens[request_id])

    def snapshot(self, event: str, text: Callable[[int], str] = str) -> PoolSnapshot:
        """Return the pool and the tables as they are now, for a picture.

        Args:
            event: what happened, in words.
            text: writes a token, such as a tokenizer's `decode`.
        """
        views = tuple(
            BlockView(block.block_id, block.ref_cnt, tuple(map(text, held)), (block.block_hash or b"").hex()[:4])
            for block, held in zip(self.pool.blocks, self._contents, strict=True)
        )
        tables = {request_id: tuple(self.table(request_id)) for request_id in self._tables}
        lengths = {request_id: len(self._tokens[request_id]) for request_id in self._tables}
        return PoolSnapshot(event, self.block_size, views, tables, lengths, tuple(self.pool.free_list))

    def _write(self, request_id: str, start: int) -> None:
        """Note in which block each token from `start` on lies."""
        for position, token in enumerate(self._tokens[request_id][start:], start):
            self._contents[self._tables[request_id][position // self.block_size].block_id].append(token)

    def _known(self, request_id: str) -> None:
        if request_id not in self._tables:
            raise ValueError(
                f"no blocks of {request_id!r} here; requests with blocks: {', '.join(self._tables) or 'none'}"
            )
