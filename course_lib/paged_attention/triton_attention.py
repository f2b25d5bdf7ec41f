# ruff: noqa: N803  (Triton's convention: what is known when the kernel compiles has a name in capitals)
# mypy: allow-untyped-defs, allow-incomplete-defs
"""Paged attention in Triton: decode and chunks of prompts in one batch, grouped query heads in one tile, split keys.

`triton_naive` is the first rung of the ladder, and this is the rest of it (as in "The Anatomy of a Triton Attention Kernel",
arXiv 2511.11581): query heads that share a KV head are packed into one tile, so that keys and values are read once for all of
them and tensor cores do the products; then long sequences are split over several programs (`triton_split`).
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.paged_attention.triton_kernel import Kernel
from course_lib.paged_attention.triton_launch import Launch, check_arguments, choose_launch
from course_lib.paged_attention.triton_split import combine_splits


@Kernel
def _attend(
    out_ptr, lse_ptr, q_ptr, key_ptr, value_ptr, table_ptr, seq_len_ptr, query_len_ptr, scale, num_tokens, num_seqs,
    q_stride_token, q_stride_head, stride_block, stride_slot, stride_head, num_table_entries,
    KV_HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr, ROWS: tl.constexpr, QUERIES: tl.constexpr, TILE: tl.constexpr,
    PADDED_SEQS: tl.constexpr, DECODE: tl.constexpr, SPLIT: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    # A program has QUERIES neighbouring tokens of one sequence, the GROUP query heads of one KV head, and one split of the
    # keys. KV heads change fastest: the programs that run at the same time read neighbouring memory.
    query_block, kv_head = tl.program_id(0) // KV_HEADS, tl.program_id(0) % KV_HEADS
    split, splits = tl.program_id(1), tl.num_programs(1)

    if DECODE:  # one new token a sequence
        seq, start, query_len, first_query = query_block, query_block, 1, 0
    else:
        # The host does not know the query lengths, and asking the GPU for them would make it wait. So it launches enough
        # programs for any lengths, and each program finds its own work: sequence i gets the query blocks from
        # start_i // QUERIES + i on, which are as many as it needs or one more.
        i = tl.arange(0, PADDED_SEQS)
        query_lens = tl.load(query_len_ptr + i, mask=i < num_seqs, other=0).to(tl.int32)
        starts = tl.cumsum(query_lens, 0) - query_lens
        first_blocks = starts // QUERIES + i
        seq = tl.sum(((first_blocks <= query_block) & (i < num_seqs)).to(tl.int32), 0) - 1
        start = tl.sum(tl.where(i == seq, starts, 0), 0)
        query_len = tl.load(query_len_ptr + seq).to(tl.int32)
        first_query = (query_block - start // QUERIES - seq) * QUERIES
        if first_query >= query_len:
            return
    seq_len = tl.load(seq_len_ptr + seq).to(tl.int32)

    # Packed GQA: the tile's row r is query first_query + r // GROUP, head r % GROUP of the group. In decode, the group's heads
    # are all the rows there are, and tl.dot wants 16: rows that nobody needs cost nothing, since reading keys is the bottleneck.
    row, dim = tl.arange(0, ROWS), tl.arange(0, PADDED_DIM)
    query = first_query + row // GROUP
    head = kv_head * GROUP + row % GROUP
    used = (row < QUERIES * GROUP) & (query < query_len)
    token = start.to(tl.int64) + query
    in_head = dim < HEAD_DIM
    q_at = token[:, None] * q_stride_token + head[:, None] * q_stride_head + dim[None, :]
    q = tl.load(q_ptr + q_at, mask=used[:, None] & in_head[None, :], other=0.0)

    # Causal, aligned at the end: the last query sees the last key. The block's last query decides how far the keys are read,
    # and splits divide that range evenly, but into no smaller parts than SPAN: a short sequence leaves splits without a key.
    position = seq_len - query_len + query
    visible = seq_len - query_len + tl.minimum(first_query + QUERIES, query_len)
    tiles = (visible + TILE - 1) // TILE
    span = tl.maximum((tiles + splits - 1) // splits * TILE, SPAN)
    first_key = split * span
    last_key = tl.minimum(first_key + span, visible)

    table = table_ptr + seq.to(tl.int64) * num_table_entries
    # Online softmax (Milakov and Gimelshein, arXiv 1805.02867) in base 2, for which a GPU has an instruction.
    log2e: tl.constexpr = 1.4426950408889634
    largest = tl.full([ROWS], -float("inf"), tl.float32)
    total = tl.full([ROWS], 0.0, tl.float32)
    acc = tl.full([ROWS, PADDED_DIM], 0.0, tl.float32)
    for tile in range(first_key, last_key, TILE):
        key = tile + tl.arange(0, TILE)
        there = key < last_key
        # The page table, for every key: a tile may span blocks or be a part of one. Beyond the last key, table entries and
        # slots hold anything, NaN too, so they are not read; a NaN in a value would survive a weight of 0.
        block = tl.load(table + key // BLOCK_SIZE, mask=there, other=0)
        slot_at = block.to(tl.int64) * stride_block + (key % BLOCK_SIZE) * stride_slot + kv_head * stride_head
        at = slot_at[:, None] + dim[None, :]
        mask = there[:, None] & in_head[None, :]
        keys = tl.load(key_ptr + at, mask=mask, other=0.0)
        values = tl.load(value_ptr + at, mask=mask, other=0.0)
        # "ieee": fp32 inputs are multiplied as fp32, not rounded to tf32; bf16 and fp16 go to the tensor cores either way.
        scores = tl.dot(q, tl.trans(keys), input_precision="ieee") * (scale * log2e)
        # The causal mask also leaves out the keys that are not there: they come after every position.
        scores = tl.where(key[None, :] <= position[:, None], scores, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 1))
        # A row that sees no key of this split has no maximum yet: -inf - -inf would be NaN.
        shift = tl.where(new_largest == -float("inf"), 0.0, new_largest)
        weights = tl.exp2(scores - shift[:, None])
        shrink = tl.exp2(largest - shift)
        total = total * shrink + tl.sum(weights, 1)
        acc = acc * shrink[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        largest = new_largest

    # Without splits this is the result. With them it is that of one split, and the logarithm of its sum is its weight.
    out_row = (split * num_tokens + token) * (KV_HEADS * GROUP) + head
    total = tl.where(total > 0.0, total, 1.0)  # a row without a key gets zeros, and -inf below
    out_at = out_row[:, None] * HEAD_DIM + dim[None, :]
    if SPLIT:
        tl.store(lse_ptr + out_row, largest + tl.log2(total), mask=used)
        used = used & (first_key + 0 * row < last_key)  # what a split without a key has found, nobody reads
    tl.store(out_ptr + out_at, acc / total[:, None], mask=used[:, None] & in_head[None, :])


def triton_paged_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    key_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    value_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    block_tables: Int[Tensor, "seqs max_blocks"],
    seq_lens: Int[Tensor, "seqs"],
    query_lens: Int[Tensor, "seqs"],
    scale: float | None = None,
    *,
    max_query_len: int | None = None,
    max_seq_len: int | None = None,
    launch: Launch | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Attend causally for the new tokens of several sequences, whose keys and values lie in blocks.

    Equals `paged_attention`, but follows the block table while it reads instead of gathering first. On a GPU it compiles, never
    waits for the GPU and can be captured in a CUDA graph; on a CPU the same kernel runs, slowly, in Triton's interpreter, with
    nothing to set up and nothing changed for other libraries of the process. Sums are kept in fp32.

    Args:
        q: queries of the new tokens, one sequence after another; the last dimension is contiguous.
        key_cache: a layer's keys, those of the new tokens already written. Any block size; dtype fp16, bf16 or fp32, as q's.
        value_cache: a layer's values, with the keys' strides.
        block_tables: each sequence's blocks in logical order; entries past its last block are not looked at.
        seq_lens: keys of each sequence, those of its new tokens included. A sequence of 0 keys gets zeros.
        query_lens: new tokens of each sequence: 1 in decode, more in a chunk of a prompt. They are its last tokens.
        scale: what q·k is multiplied by; 1 / sqrt(head_dim) where None.
        max_query_len: the longest of query_lens, or more, where the host knows it. 1 spares a decode batch some work.
        max_seq_len: the longest of seq_lens, or more, where the host knows it, else what the tables can hold. Only a hint.
        launch: how the work is cut up; chosen from the shapes where None.

    Raises:
        ValueError: shapes, dtypes, devices or strides do not fit together. Lengths and table entries are checked on a CPU
            only: a look at them would make the host wait for the GPU.
    """
    check_arguments(q, key_cache, value_cache, block_tables, seq_lens, query_lens)
    tokens, heads, head_dim = q.shape
    block_size, kv_heads = key_cache.shape[1:3]
    seqs, group = len(seq_lens), heads // kv_heads
    launch = launch or choose_launch(q, key_cache, block_tables, max_query_len, max_seq_len)
    queries = launch.rows // group
    decode = max_query_len == 1 and tokens == seqs
    query_blocks = seqs if decode else tokens // queries + seqs

    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    partial = lse = out
    if launch.splits > 1:
        partial = torch.empty((launch.splits, *q.shape), dtype=torch.float32, device=q.device)
        lse = torch.empty((launch.splits, tokens, heads), dtype=torch.float32, device=q.device)
    _attend[(query_blocks * kv_heads, launch.splits)](
        partial, lse, q, key_cache, value_cache, block_tables, seq_lens, query_lens,
        head_dim**-0.5 if scale is None else scale, tokens, seqs,
        q.stride(0), q.stride(1), *key_cache.stride()[:3], block_tables.stride(0),
        KV_HEADS=kv_heads, GROUP=group, HEAD_DIM=head_dim, PADDED_DIM=max(16, triton.next_power_of_2(head_dim)),
        BLOCK_SIZE=block_size, ROWS=launch.rows, QUERIES=queries, TILE=launch.tile,
        # At least 256, so that a step of one sequence more does not compile the kernel anew.
        PADDED_SEQS=1 if decode else max(256, triton.next_power_of_2(seqs)),
        DECODE=decode, SPLIT=launch.splits > 1, SPAN=launch.span,
        num_warps=launch.warps, num_stages=launch.stages,
    )  # fmt: skip
    if launch.splits > 1:
        combine_splits(out, partial, lse)
    return out
