"""The KV tensors in blocks, as the cache that a model's attention layers talk to."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.kv_cache.transformer import Transformer
from course_lib.paged_attention.attention import paged_attention
from course_lib.paged_attention.block_table import slot_mapping


@dataclass(frozen=True)
class AttentionMetadata:
    """Where one step's tokens lie; the same for every layer.

    Attributes:
        block_tables: each sequence's blocks in logical order, shorter tables filled up with 0.
        seq_lens: keys of each sequence, those of its new tokens included.
        query_lens: new tokens of each sequence.
        slot_mapping: the slot that each new token's key and value are written to.
    """

    block_tables: Int[Tensor, "seqs max_blocks"]
    seq_lens: Int[Tensor, "seqs"]
    query_lens: Int[Tensor, "seqs"]
    slot_mapping: Int[Tensor, "tokens"]

    @classmethod
    def build(
        cls,
        tables: Sequence[Sequence[int]],
        seq_lens: Sequence[int],
        query_lens: Sequence[int],
        block_size: int,
        device: torch.device | str = "cpu",
    ) -> Self:
        """Make a step's metadata.

        Args:
            tables: each sequence's block table.
            seq_lens: keys of each sequence, those of its new tokens included.
            query_lens: new tokens of each sequence, which are its last ones.
            block_size: slots in a block.
            device: where the cache is.

        Raises:
            ValueError: a table has no block for one of the new tokens.
        """
        width = max(map(len, tables), default=0)
        slots = [
            slot_mapping(table, range(end - new, end), block_size)
            for table, end, new in zip(tables, seq_lens, query_lens, strict=True)
        ]
        return cls(
            torch.tensor([[*table, *[0] * (width - len(table))] for table in tables], dtype=torch.int32, device=device),
            torch.tensor(seq_lens, dtype=torch.int32, device=device),
            torch.tensor(query_lens, dtype=torch.int32, device=device),
            torch.cat(slots).to(device),
        )


class PagedKVCache:
    """Keys and values of all layers in blocks: a `KVCache` (lesson 01) for tokens of many sequences at once.

    It knows no requests. Whoever keeps the block tables calls `begin_step` before the model runs.

    Args:
        layers: the model's attention layers.
        num_blocks: blocks in the pool.
        block_size: slots in a block.
        kv_heads: heads of keys and values.
        head_dim: numbers in a head.
        dtype: of keys and values.
        device: where they are kept.
        attention: attends through block tables: `paged_attention`, or a kernel that takes and gives the same.
    """

    def __init__(
        self,
        layers: int,
        num_blocks: int,
        block_size: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        attention: Callable[..., Tensor] = paged_attention,
    ):
        shape = (layers, 2, num_blocks, block_size, kv_heads, head_dim)
        self.kv: Float[Tensor, "layers 2 num_blocks block_size kv_heads head_dim"]
        self.kv = torch.zeros(shape, dtype=dtype, device=device)
        self.attention = attention
        self.metadata: AttentionMetadata | None = None

    @classmethod
    def for_model(
        cls,
        model: Transformer,
        num_blocks: int,
        block_size: int = 16,
        attention: Callable[..., Tensor] = paged_attention,
    ) -> Self:
        """Return a cache for a model, with its dtype and where its weights are."""
        config, dtype = model.config, model.embed_tokens.weight.dtype
        return cls(
            config.layers, num_blocks, block_size, config.kv_heads, config.head_dim, dtype, model.device, attention
        )

    def __repr__(self) -> str:
        layers, _, num_blocks, block_size, kv_heads, head_dim = self.kv.shape
        return (
            f"PagedKVCache({layers} layers, {num_blocks} blocks of {block_size} slots, {kv_heads} KV heads of {head_dim}, "
            f"{self.kv.nbytes / 2**20:.1f} MiB of {self.kv.dtype} on {self.kv.device})"
        )

    @property
    def block_size(self) -> int:
        """Slots in a block."""
        return self.kv.shape[3]

    def begin_step(self, tables: Sequence[Sequence[int]], seq_lens: Sequence[int], query_lens: Sequence[int]) -> None:
        """Say where the tokens of the next step lie: see `AttentionMetadata.build`."""
        self.metadata = AttentionMetadata.build(tables, seq_lens, query_lens, self.block_size, self.kv.device)

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Write the new tokens' keys and values to their slots, then attend causally for their queries.

        All of a step's tokens are written before any attends, so a sequence may read a block that another one fills in the
        same step.

        Raises:
            ValueError: no step was begun, or the one begun is for another number of tokens.
        """
        step = self.metadata
        if step is None or len(step.slot_mapping) != len(k):
            begun = "no step was begun" if step is None else f"the step begun has {len(step.slot_mapping)} tokens"
            raise ValueError(f"keys of {len(k)} tokens came, but {begun}; call begin_step before the model")
        keys, values = self.kv[layer]
        keys.flatten(0, 1)[step.slot_mapping] = k
        values.flatten(0, 1)[step.slot_mapping] = v
        return self.attend_stored(layer, q)

    def attend_stored(
        self, layer: int, q: Float[Tensor, "tokens heads head_dim"]
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Attend causally for the new tokens' queries, once their keys and values are in the slots of `slot_mapping`."""
        step = self.metadata
        assert step is not None
        keys, values = self.kv[layer]
        return self.attention(q, keys, values, step.block_tables, step.seq_lens, step.query_lens)

    def copy_blocks(self, copies: Sequence[tuple[int, int]]) -> None:
        """Copy blocks in all layers.

        Args:
            copies: pairs of a block and the block that becomes its copy.
        """
        for source, target in copies:
            self.kv[:, :, target] = self.kv[:, :, source]
