"""Forks that share their blocks until one of them writes, as in the paper of 2023."""

from collections.abc import Callable, Sequence

from course_lib.paged_attention.block_pool import BlockPool
from course_lib.paged_attention.kv_manager import PagedKVManager


class ForkingKVManager(PagedKVManager):
    """Block tables that can be forked, for several samples of one prompt (Kwon et al., SOSP 2023, section 4.4).

    vLLM V1 has no such forks: n samples are n requests, and the prefix cache lets them share the prompt's full blocks (see
    `ParentRequest` in vllm/v1/engine/parallel_sampling.py). What that gives up is the prompt's last, partial block.
    """

    def __init__(
        self,
        num_blocks: int,
        block_size: int = 16,
        enable_caching: bool = True,
        block_pool: Callable[[int, bool], BlockPool] = BlockPool,
    ):
        super().__init__(num_blocks, block_size, enable_caching, block_pool)
        self._copies: list[tuple[int, int]] = []

    def fork(self, parent: str, child: str) -> None:
        """Let a new request hold every block of `parent`, the partial last one too.

        Raises:
            ValueError: no such parent, or the child has blocks already.
        """
        self._known(parent)
        if child in self._tables:
            raise ValueError(f"{child!r} has blocks already; fork into a new request")
        self.pool.touch(self._tables[parent])
        self._tables[child], self._block_ids[child] = list(self._tables[parent]), list(self._block_ids[parent])
        self._tokens[child], self._hashes[child] = list(self._tokens[parent]), list(self._hashes[parent])
        self._num_published[child] = self._num_published.get(parent, 0)

    def append(self, request_id: str, tokens: Sequence[int]) -> bool:
        """As in `PagedKVManager`, but a request that is about to write into a block that others hold gets its own copy.

        `take_copies` says which blocks have to be copied before the tokens' keys and values are written.

        Raises:
            ValueError: no such request.
        """
        self._known(request_id)
        table, length = self._tables[request_id], self.length(request_id)
        offset = length % self.block_size  # 0 where the last block is full, and nobody writes to it any more
        if not (tokens and offset and table[-1].ref_cnt > 1):
            return super().append(request_id, tokens)
        if self.num_blocks_needed(request_id, length + len(tokens)) + 1 > self.pool.num_free_blocks:
            return False
        shared, (own,) = table[-1], self.pool.get_new_blocks(1)
        table[-1], self._block_ids[request_id][-1] = own, own.block_id
        self.pool.free_blocks([shared])
        self._contents[own.block_id] = self._contents[shared.block_id][:offset]
        self._copies.append((shared.block_id, own.block_id))
        return super().append(request_id, tokens)

    def take_copies(self) -> list[tuple[int, int]]:
        """Return the copies that are due, as pairs of a block and its copy, and forget them."""
        due, self._copies = self._copies, []
        return due
