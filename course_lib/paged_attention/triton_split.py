# ruff: noqa: N803  (Triton's convention: what is known when the kernel compiles has a name in capitals)
# mypy: allow-untyped-defs, allow-incomplete-defs
"""Split keys: the parts of one softmax, computed apart, put together (Flash-Decoding, Dao et al., 2023)."""

import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

from course_lib.paged_attention.triton_kernel import Kernel


@Kernel
def _combine(
    out_ptr, partial_ptr, lse_ptr, num_rows, num_splits, HEAD_DIM: tl.constexpr, PADDED_DIM: tl.constexpr, SPLITS: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    split, dim = tl.arange(0, SPLITS), tl.arange(0, PADDED_DIM)
    lse = tl.load(lse_ptr + split * num_rows + row, mask=split < num_splits, other=-float("inf"))
    # A split without a key has the logarithm of 0. Where all are such (a sequence of 0 keys), the result is zeros.
    seen = lse > -float("inf")
    largest = tl.max(lse, 0)
    weights = tl.where(seen, tl.exp2(lse - tl.where(largest > -float("inf"), largest, 0.0)), 0.0)
    total = tl.sum(weights, 0)
    at = (split * num_rows + row)[:, None] * HEAD_DIM + dim[None, :]
    partial = tl.load(partial_ptr + at, mask=seen[:, None] & (dim < HEAD_DIM)[None, :], other=0.0)
    result = tl.sum(weights[:, None] * partial, 0) / tl.where(total > 0.0, total, 1.0)
    tl.store(out_ptr + row * HEAD_DIM + dim, result, mask=dim < HEAD_DIM)


def combine_splits(
    out: Float[Tensor, "tokens heads head_dim"],
    partial: Float[Tensor, "splits tokens heads head_dim"],
    lse: Float[Tensor, "splits tokens heads"],
) -> None:
    """Write into `out` the attention over all keys, given the attention over each split of them.

    It is an attention over the splits, with lse as scores: a split's share of the whole softmax is its share of the sum of
    exponentials, and `lse` is that sum's logarithm.

    Args:
        out: the result; contiguous.
        partial: the attention over each split's keys alone; contiguous.
        lse: base-2 logarithm of each split's sum of exponentials of scores; -inf where it has no key.
    """
    splits, tokens, heads, head_dim = partial.shape
    rows = tokens * heads
    _combine[(rows,)](
        out, partial, lse, rows, splits,
        HEAD_DIM=head_dim, PADDED_DIM=triton.next_power_of_2(head_dim), SPLITS=triton.next_power_of_2(splits),
    )  # fmt: skip
