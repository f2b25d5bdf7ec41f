"""Paged attention for a CPU: torch's own attention over gathered blocks, as few and as large calls as padding allows."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.paged_attention import AttentionMetadata, PagedKVCache

GROUP_COST = 16
"""A further call costs about as much as gathering and attending to this many blocks; measured with SmolLM2."""


@dataclass
class Group:
    """Sequences of similar length that decode together, their keys padded to the longest.

    Attributes:
        rows: their rows in the batch.
        blocks: their block tables one after another, padded.
        mask: 0 where a key exists and -inf where there is padding, added to the scores.
        gathered: room for their keys and values, which each layer uses again.
    """

    rows: Int[Tensor, " seqs"]
    blocks: Int[Tensor, " seqs*max_blocks"]
    mask: Float[Tensor, "seqs 1 1 max_keys"]
    gathered: Float[Tensor, "2 seqs*max_blocks block_size kv_heads head_dim"]


@dataclass
class Chunk:
    """A sequence with several new tokens.

    Attributes:
        rows: its rows in the batch.
        blocks: its block table; None where no key is older than the new tokens, so that nothing needs to be gathered.
        keys: how many there are.
        mask: causal, the last query at the last key.
    """

    rows: slice
    blocks: Int[Tensor, " blocks"] | None
    keys: int
    mask: Float[Tensor, "queries keys"] | None


class CPUPagedCache(PagedKVCache):
    """A `PagedKVCache` that plans its attention once a step, for all layers.

    Lesson 03's reference takes sequence after sequence, which for one new token each is slow: 32 sequences in 30 layers are
    960 small calls. All of them as one padded rectangle reads every sequence as if it were the longest. Between the two,
    sequences of similar length are one call, and a new group begins where padding would cost more than a further call.
    Query heads that share a KV head are the queries of one head to torch, so that no key is repeated in memory.
    """

    _groups: list[Group]
    _chunks: list[Chunk]

    def begin(self, metadata: AttentionMetadata, query_lens: Sequence[int], seq_lens: Sequence[int]) -> None:
        """Plan the next step.

        Args:
            metadata: where its tokens lie.
            query_lens: new tokens of each sequence.
            seq_lens: keys of each sequence, those of its new tokens included.
        """
        self.metadata = metadata
        starts = [0]
        for length in query_lens:
            starts.append(starts[-1] + length)
        decoding = [i for i, length in enumerate(query_lens) if length == 1]
        members = group_by_length(decoding, [-(-length // self.block_size) for length in seq_lens])
        self._groups = [self._group(group, starts, seq_lens) for group in members]
        self._chunks = [
            self._chunk(i, slice(starts[i], starts[i + 1]), seq_lens[i])
            for i, length in enumerate(query_lens)
            if length > 1
        ]

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Write the new tokens' keys and values to their slots, then attend causally for their queries."""
        assert self.metadata is not None  # begin() was called
        for new, pool in zip((k, v), self.kv[layer], strict=True):
            pool.flatten(0, 1).index_copy_(0, self.metadata.slot_mapping, new)
        out = torch.empty(q.shape, dtype=q.dtype)
        for group in self._groups:
            self._decode(layer, group, q, out)
        for chunk in self._chunks:
            self._prefill(layer, chunk, q, k, v, out)
        return out

    def _decode(self, layer: int, group: Group, q: Tensor, out: Tensor) -> None:
        torch.index_select(self.kv[layer], 1, group.blocks, out=group.gathered)
        shape = (len(group.rows), -1, *self.kv.shape[-2:])
        keys, values = (pool.view(shape).transpose(1, 2) for pool in group.gathered)
        queries = q.index_select(0, group.rows).unflatten(1, (self.kv.shape[-2], -1))
        found = F.scaled_dot_product_attention(queries, keys, values, attn_mask=group.mask)
        out.index_copy_(0, group.rows, found.flatten(1, 2))

    def _prefill(self, layer: int, chunk: Chunk, q: Tensor, k: Tensor, v: Tensor, out: Tensor) -> None:
        keys, values = k[chunk.rows], v[chunk.rows]
        if chunk.blocks is not None:
            keys, values = self.kv[layer].index_select(1, chunk.blocks).flatten(1, 2)[:, : chunk.keys]
        queries, keys, values = (x.transpose(0, 1)[None] for x in (q[chunk.rows], keys, values))
        found = F.scaled_dot_product_attention(
            queries, keys, values, chunk.mask, is_causal=chunk.mask is None, enable_gqa=True
        )
        out[chunk.rows] = found[0].transpose(0, 1)

    def _group(self, members: Sequence[int], starts: Sequence[int], seq_lens: Sequence[int]) -> Group:
        assert self.metadata is not None
        longest = max(seq_lens[i] for i in members)
        width = -(-longest // self.block_size)
        tables = self.metadata.block_tables[members, :width].long().flatten()
        lengths = torch.tensor([seq_lens[i] for i in members])
        padding = torch.arange(width * self.block_size) >= lengths[:, None]
        mask = torch.zeros(padding.shape, dtype=self.kv.dtype).masked_fill_(padding, -torch.inf)
        room = torch.empty((2, len(tables), *self.kv.shape[3:]), dtype=self.kv.dtype)
        return Group(torch.tensor([starts[i] for i in members]), tables, mask[:, None, None], room)

    def _chunk(self, sequence: int, rows: slice, keys: int) -> Chunk:
        assert self.metadata is not None
        queries = rows.stop - rows.start
        if queries == keys:
            return Chunk(rows, None, keys, None)
        blocks = self.metadata.block_tables[sequence, : -(-keys // self.block_size)].long()
        mask = torch.full((queries, keys), -torch.inf, dtype=self.kv.dtype).triu_(keys - queries + 1)
        return Chunk(rows, blocks, keys, mask)


def group_by_length(members: Sequence[int], num_blocks: Sequence[int]) -> list[list[int]]:
    """Divide sequences into groups that are padded to their longest, so that no group pads more than a group costs.

    Args:
        members: the sequences.
        num_blocks: of each sequence.
    """
    groups: list[list[int]] = []
    padding, longest = 0, 0
    for member in sorted(members, key=lambda i: -num_blocks[i]):
        padding += longest - num_blocks[member]
        if not groups or padding > GROUP_COST:
            groups.append([])
            padding, longest = 0, num_blocks[member]
        groups[-1].append(member)
    return groups
