# ruff: noqa: N803  (Triton's convention: what is known when the kernel compiles has a name in capitals)
# mypy: allow-untyped-defs, allow-incomplete-defs
"""The first rung: paged attention in Triton as one would write it down, one query and one head a program."""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.paged_attention.triton_kernel import Kernel


@Kernel
def _attend_naively(
    out_ptr, q_ptr, key_ptr, value_ptr, table_ptr, seq_ptr, position_ptr, scale,
    q_stride_token, q_stride_head, stride_block, stride_slot, stride_head, table_stride,
    HEADS: tl.constexpr, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, BLOCK_SIZE: tl.constexpr,
):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    seq, keys_seen = tl.load(seq_ptr + token), tl.load(position_ptr + token) + 1
    dim, offset = tl.arange(0, PADDED_DIM), tl.arange(0, BLOCK_SIZE)
    in_head = dim < HEAD_DIM
    q = tl.load(q_ptr + token * q_stride_token + head * q_stride_head + dim, mask=in_head, other=0.0).to(tl.float32)

    # Online softmax: the running maximum, the sum of exponentials relative to it, and the weighted sum of values.
    largest = -float("inf")
    total = 0.0
    acc = tl.full([PADDED_DIM], 0.0, tl.float32)
    for index in range((keys_seen + BLOCK_SIZE - 1) // BLOCK_SIZE):
        block = tl.load(table_ptr + seq * table_stride + index).to(tl.int64)
        address = block * stride_block + offset[:, None] * stride_slot + (head // GROUP) * stride_head + dim[None, :]
        seen = index * BLOCK_SIZE + offset < keys_seen
        there = seen[:, None] & in_head[None, :]  # slots past the last key hold anything, NaN too
        key = tl.load(key_ptr + address, mask=there, other=0.0).to(tl.float32)
        value = tl.load(value_ptr + address, mask=there, other=0.0).to(tl.float32)
        scores = tl.where(seen, tl.sum(q[None, :] * key, 1) * scale, -float("inf"))
        new_largest = tl.maximum(largest, tl.max(scores, 0))
        weights = tl.exp(scores - new_largest)
        shrink = tl.exp(largest - new_largest)
        total = total * shrink + tl.sum(weights, 0)
        acc = acc * shrink + tl.sum(weights[:, None] * value, 0)
        largest = new_largest
    tl.store(out_ptr + (token * HEADS + head) * HEAD_DIM + dim, acc / total, mask=in_head)


def naive_paged_attention(
    q: Float[Tensor, "tokens heads head_dim"],
    key_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    value_cache: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    block_tables: Int[Tensor, "seqs max_blocks"],
    seq_lens: Int[Tensor, "seqs"],
    query_lens: Int[Tensor, "seqs"],
    scale: float | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Equal `paged_attention` with a kernel that follows the block table and copies nothing.

    It is meant to be read before `triton_paged_attention`, and to be measured against it. Two things make it slow: every query
    head reads its KV head's keys and values again although up to `heads / kv_heads` of them need the same ones, and products
    of one query with many keys are sums of products, which tensor cores cannot do. Arguments as those of `paged_attention`,
    with a block size that is a power of two; their values are not checked.
    """
    tokens, heads, head_dim = q.shape
    block_size, kv_heads = key_cache.shape[1:3]
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    # Which sequence each token belongs to, and its place in it: the token number t of a chunk is at seq_len - query_len + t.
    seqs = torch.arange(len(seq_lens), device=q.device).repeat_interleave(query_lens, output_size=tokens)
    ends = query_lens.cumsum(0)
    positions = torch.arange(tokens, device=q.device) + (seq_lens - ends)[seqs]
    _attend_naively[(tokens, heads)](
        out, q, key_cache, value_cache, block_tables, seqs, positions, head_dim**-0.5 if scale is None else scale,
        q.stride(0), q.stride(1), *key_cache.stride()[:3], block_tables.stride(0),
        HEADS=heads, GROUP=heads // kv_heads, HEAD_DIM=head_dim, PADDED_DIM=triton.next_power_of_2(head_dim),
        BLOCK_SIZE=block_size,
    )  # fmt: skip
    return out
