"""Attention through a block table: the reference that a kernel has to equal."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.kv_cache.attention import attention


def paged_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    key_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    value_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    block_tables: Int[Tensor, "seqs max_blocks"],
    seq_lens: Int[Tensor, "seqs"],
    query_lens: Int[Tensor, "seqs"],
    scale: float | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Attend causally for the new tokens of several sequences, whose keys and values lie in blocks.

    Each sequence's blocks are gathered in logical order into one contiguous tensor, and the rest is lesson 01's attention
    (Kwon et al., SOSP 2023, section 4.1). That copy is what the Triton kernel saves: it follows the table while it reads.

    Args:
        q: queries of the new tokens, one sequence after another.
        key_cache: a layer's keys, those of the new tokens already written.
        value_cache: a layer's values, likewise.
        block_tables: each sequence's blocks in logical order; entries past its last block are not looked at.
        seq_lens: keys of each sequence, those of its new tokens included.
        query_lens: new tokens of each sequence: 1 in decode, more in a chunk of a prompt. They are its last tokens.
        scale: what q·k is multiplied by; 1 / sqrt(head_dim) where None.

    Raises:
        ValueError: shapes or lengths do not fit together, or a table names a block that does not exist.
    """
    _check(q, key_cache, value_cache, block_tables, seq_lens, query_lens)
    block_size = key_cache.shape[1]
    out = torch.empty_like(q)
    start = 0
    for table, seq_len, query_len in zip(block_tables, seq_lens.tolist(), query_lens.tolist(), strict=True):
        blocks = table[: -(-seq_len // block_size)].long()
        keys = key_cache[blocks].flatten(0, 1)[:seq_len]
        values = value_cache[blocks].flatten(0, 1)[:seq_len]
        new = slice(start, start + query_len)
        if query_len:
            out[new] = attention(q[new], keys, values, causal=True, scale=scale)
        start += query_len
    return out


def check_shapes(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, seq_lens: Tensor, query_lens: Tensor) -> None:
    """Check what can be seen without reading a tensor: on a GPU the host need not wait for it.

    Raises:
        ValueError: shapes do not fit together; the message says which, and what was expected.
    """
    if q.dim() != 3 or keys.dim() != 4 or keys.shape != values.shape:
        raise ValueError(
            f"q has shape {tuple(q.shape)}, the caches {tuple(keys.shape)} and {tuple(values.shape)}; expected "
            "[tokens, heads, head_dim], and twice [num_blocks, block_size, kv_heads, head_dim]"
        )
    if q.shape[2] != keys.shape[3] or q.shape[1] % keys.shape[2]:
        raise ValueError(
            f"{q.shape[1]} query heads of {q.shape[2]} numbers do not go with {keys.shape[2]} KV heads of "
            f"{keys.shape[3]}; expected the same head_dim, and heads a multiple of kv_heads"
        )
    if tables.dim() != 2 or not len(tables) == len(seq_lens) == len(query_lens):
        raise ValueError(
            f"block_tables has shape {tuple(tables.shape)}, and there are {len(seq_lens)} seq_lens and {len(query_lens)} "
            "query_lens; expected [seqs, max_blocks], and one length of each kind per sequence"
        )


def _check(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, seq_lens: Tensor, query_lens: Tensor) -> None:
    check_shapes(q, keys, values, tables, seq_lens, query_lens)
    if int(query_lens.sum()) != len(q):
        raise ValueError(f"query_lens add up to {int(query_lens.sum())}, but q has {len(q)} tokens; expected the same")
    if bool((query_lens < 0).any()) or bool((query_lens > seq_lens).any()):
        raise ValueError(
            f"query_lens {query_lens.tolist()} do not fit in seq_lens {seq_lens.tolist()}; a sequence's new tokens count "
            "among its keys, so expected 0 <= query_len <= seq_len"
        )
    slots = tables.shape[1] * keys.shape[1]
    if bool((seq_lens > slots).any()):
        raise ValueError(f"seq_lens go up to {int(seq_lens.max())}, but a block table reaches {slots} slots; widen it")
    held = torch.arange(tables.shape[1], device=tables.device) * keys.shape[1] < seq_lens[:, None].to(tables.device)
    used = tables[held]
    if bool(((used < 0) | (used >= len(keys))).any()):
        raise ValueError(f"a block table names a block outside 0 to {len(keys) - 1}; look at how it was filled")
