# ruff: noqa: N803  (Triton's convention: what is known when the kernel compiles has a name in capitals)
# mypy: allow-untyped-defs, allow-incomplete-defs
"""A layer's small operations on a GPU, each one kernel: what lies between two matrix products is read once and written once.

A decode step's element-wise operations do next to no arithmetic. Written one by one in PyTorch, each reads its input from
memory, writes its output there, and keeps the GPU waiting for a launch. vLLM has kernels of the same kinds: `fused_add_rms_norm`
and `silu_and_mul` (csrc/layernorm_kernels.cu, csrc/activation_kernels.cu), and a fused norm, rotation and cache write.
"""

import torch
import triton
import triton.language as tl
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.paged_attention.triton_kernel import Kernel


@Kernel
def _add_rms_norm(
    out_ptr, residual_ptr, x_ptr, weight_ptr, eps, num_columns, COLUMNS: tl.constexpr, ADD: tl.constexpr
):  # fmt: skip
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, COLUMNS)
    there = column < num_columns
    at = row * num_columns + column
    x = tl.load(x_ptr + at, mask=there, other=0.0)
    if ADD:
        # Rounded as the sum of two tensors is: what is normed is what is kept.
        x = (x.to(tl.float32) + tl.load(residual_ptr + at, mask=there, other=0.0).to(tl.float32)).to(x.dtype)
        tl.store(residual_ptr + at, x, mask=there)
    wide = x.to(tl.float32)
    scale = 1.0 / tl.sqrt(tl.sum(wide * wide, 0) / num_columns + eps)
    weight = tl.load(weight_ptr + column, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + at, wide * scale * weight, mask=there)


def add_rms_norm(
    x: Float[Tensor, "tokens hidden"],
    residual: Float[Tensor, "tokens hidden"] | None,
    weight: Float[Tensor, " hidden"],
    eps: float,
) -> tuple[Float[Tensor, "tokens hidden"], Float[Tensor, "tokens hidden"]]:
    """Return RMSNorm(x + residual), and x + residual, which overwrites `residual`.

    Args:
        x: what a block of the layer has made; contiguous.
        residual: what it adds to; None for 0, and then x itself is what comes back.
        weight: RMSNorm's.
        eps: RMSNorm's.
    """
    out = torch.empty_like(x)
    rows, columns = x.shape
    kept = x if residual is None else residual
    _add_rms_norm[(rows,)](
        out, kept, x, weight, eps, columns,
        COLUMNS=triton.next_power_of_2(columns), ADD=residual is not None, num_warps=4 if columns <= 4096 else 8,
    )  # fmt: skip
    return out, kept


@Kernel
def _silu_mul(out_ptr, x_ptr, num_columns, BLOCK: tl.constexpr):
    row, column = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    there = column < num_columns
    at = row * 2 * num_columns + column
    gate = tl.load(x_ptr + at, mask=there, other=0.0).to(tl.float32)
    up = tl.load(x_ptr + at + num_columns, mask=there, other=0.0).to(tl.float32)
    tl.store(out_ptr + row * num_columns + column, gate / (1.0 + tl.exp(-gate)) * up, mask=there)


def silu_mul(x: Float[Tensor, "tokens twice_intermediate"]) -> Float[Tensor, "tokens intermediate"]:
    """Return SiLU(gate) * up, given both side by side; contiguous."""
    rows, columns = x.shape[0], x.shape[1] // 2
    out = torch.empty((rows, columns), dtype=x.dtype, device=x.device)
    block = min(1024, triton.next_power_of_2(columns))
    _silu_mul[(rows, triton.cdiv(columns, block))](out, x, columns, BLOCK=block, num_warps=4)
    return out


@Kernel
def _rotate_and_store(
    qkv_ptr, key_ptr, value_ptr, slot_ptr, position_ptr, turns_ptr, q_weight_ptr, k_weight_ptr, eps, qkv_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, ROWS: tl.constexpr, KV_ROWS: tl.constexpr,
    HALF: tl.constexpr, PADDED_HALF: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    # A program has one token: the pairs of all its query and key heads, as first and second halves.
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slot_ptr + token).to(tl.int64)
    position = tl.load(position_ptr + token).to(tl.int64)
    head, pair = tl.arange(0, ROWS), tl.arange(0, PADDED_HALF)
    is_query, in_head = head < HEADS, pair < HALF
    there = (head < HEADS + KV_HEADS)[:, None] & in_head[None, :]
    at = token * qkv_stride + head[:, None] * (2 * HALF) + pair[None, :]
    first = tl.load(qkv_ptr + at, mask=there, other=0.0)
    second = tl.load(qkv_ptr + at + HALF, mask=there, other=0.0)
    dtype = first.dtype
    first, second = first.to(tl.float32), second.to(tl.float32)
    if NORM:  # each head's vector by itself (Qwen3)
        scale = 1.0 / tl.sqrt((tl.sum(first * first, 1) + tl.sum(second * second, 1)) / (2 * HALF) + eps)
        weight_at = pair[None, :] + tl.full([ROWS, PADDED_HALF], 0, tl.int32)
        query_rows, key_rows = is_query[:, None] & in_head[None, :], (~is_query)[:, None] & in_head[None, :]
        q_first = tl.load(q_weight_ptr + weight_at, mask=query_rows, other=0.0).to(tl.float32)
        k_first = tl.load(k_weight_ptr + weight_at, mask=key_rows, other=0.0).to(tl.float32)
        q_second = tl.load(q_weight_ptr + HALF + weight_at, mask=query_rows, other=0.0).to(tl.float32)
        k_second = tl.load(k_weight_ptr + HALF + weight_at, mask=key_rows, other=0.0).to(tl.float32)
        first = first * scale[:, None] * (q_first + k_first)
        second = second * scale[:, None] * (q_second + k_second)
    turn = turns_ptr + position * (2 * HALF) + pair
    cos = tl.load(turn, mask=in_head, other=0.0)[None, :]
    sin = tl.load(turn + HALF, mask=in_head, other=0.0)[None, :]
    turned_first = (first * cos - second * sin).to(dtype)
    turned_second = (second * cos + first * sin).to(dtype)
    queries = is_query[:, None] & in_head[None, :]
    tl.store(qkv_ptr + at, turned_first, mask=queries)
    tl.store(qkv_ptr + at + HALF, turned_second, mask=queries)
    keys = there & (~is_query)[:, None]
    key_at = (slot * KV_HEADS + head[:, None] - HEADS) * (2 * HALF) + pair[None, :]
    tl.store(key_ptr + key_at, turned_first, mask=keys)
    tl.store(key_ptr + key_at + HALF, turned_second, mask=keys)
    kv_head = tl.arange(0, KV_ROWS)
    values = (kv_head < KV_HEADS)[:, None] & in_head[None, :]
    from_at = token * qkv_stride + (HEADS + KV_HEADS + kv_head)[:, None] * (2 * HALF) + pair[None, :]
    to_at = (slot * KV_HEADS + kv_head[:, None]) * (2 * HALF) + pair[None, :]
    tl.store(value_ptr + to_at, tl.load(qkv_ptr + from_at, mask=values, other=0.0), mask=values)
    tl.store(value_ptr + to_at + HALF, tl.load(qkv_ptr + from_at + HALF, mask=values, other=0.0), mask=values)


def rotate_and_store(
    qkv: Float[Tensor, "tokens heads_and_twice_kv_heads head_dim"],
    keys: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    values: Float[Tensor, "num_blocks block_size kv_heads head_dim"],
    slots: Int[Tensor, " tokens"],
    positions: Int[Tensor, " tokens"],
    turns: Float[Tensor, "max_model_len head_dim"],
    norms: tuple[Tensor, Tensor, float] | None = None,
) -> Float[Tensor, "tokens heads head_dim"]:
    """Norm and turn queries and keys, write keys and values to their slots, and return the queries, turned in place.

    Args:
        qkv: each token's queries, keys and values side by side; contiguous. Its queries are overwritten.
        keys: a layer's cache; contiguous.
        values: a layer's cache; contiguous.
        slots: where each token's key and value go.
        positions: each token's place in its own sequence.
        turns: for each position the cosines of its angles, then their sines, in fp32: see `rotation`.
        norms: weights of the queries' and keys' RMSNorm and its epsilon, where the model has them.
    """
    tokens, all_heads, head_dim = qkv.shape
    kv_heads = keys.shape[2]
    heads, half = all_heads - 2 * kv_heads, head_dim // 2
    q_weight, k_weight, eps = norms or (turns, turns, 0.0)
    _rotate_and_store[(tokens,)](
        qkv, keys, values, slots, positions, turns, q_weight, k_weight, eps, qkv.stride(0),
        HEADS=heads, KV_HEADS=kv_heads, ROWS=triton.next_power_of_2(heads + kv_heads),
        KV_ROWS=triton.next_power_of_2(kv_heads), HALF=half, PADDED_HALF=triton.next_power_of_2(half),
        NORM=norms is not None, num_warps=4,
    )  # fmt: skip
    return qkv[:, :heads]
