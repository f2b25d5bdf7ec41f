"""The gather reference against PyTorch's own attention on contiguous keys and values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from course_lib.paged_attention import paged_attention, slot_mapping


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> Tensor:
    """PyTorch's attention, with the mask for queries that are the last tokens of the keys."""
    mask = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    return scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale, enable_gqa=True)[0].transpose(0, 1)


@settings(max_examples=60, deadline=None)
@given(
    lens=st.lists(
        st.integers(1, 40).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n))), min_size=1, max_size=4
    ),
    block_size=st.sampled_from([1, 3, 4, 16]),
    kv_heads=st.sampled_from([1, 3]),
    group=st.sampled_from([1, 3]),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 2**31),
)
def test_equals_dense_attention(
    lens: list[tuple[int, int]], block_size: int, kv_heads: int, group: int, scale: float | None, seed: int
) -> None:
    torch.manual_seed(seed)
    head_dim = 8
    widths = [math.ceil(seq_len / block_size) for seq_len, _ in lens]
    num_blocks = sum(widths) + 2
    numbers = torch.randperm(num_blocks).tolist()
    # Slots that hold no token are poisoned: whoever reads one of them gets NaN.
    caches = torch.full((2, num_blocks, block_size, kv_heads, head_dim), math.nan)
    tables = torch.full((len(lens), max(widths) + 1), -7)  # entries past the last block are nobody's business
    queries, expected = [], []
    for number, ((seq_len, query_len), width) in enumerate(zip(lens, widths, strict=True)):
        table = [numbers.pop() for _ in range(width)]
        tables[number, :width] = torch.tensor(table)
        k, v = torch.randn(2, seq_len, kv_heads, head_dim)
        caches.flatten(1, 2)[:, slot_mapping(table, range(seq_len), block_size)] = torch.stack([k, v])
        queries.append(torch.randn(query_len, kv_heads * group, head_dim))
        expected.append(dense(queries[-1], k, v, scale))
    seq_lens, query_lens = torch.tensor(lens).unbind(1)
    out = paged_attention(torch.cat(queries), caches[0], caches[1], tables, seq_lens, query_lens, scale)
    torch.testing.assert_close(out, torch.cat(expected))


def fitting() -> dict[str, Tensor]:
    return {
        "q": torch.randn(3, 4, 8),
        "key_cache": torch.randn(5, 4, 2, 8),
        "value_cache": torch.randn(5, 4, 2, 8),
        "block_tables": torch.tensor([[0, 1], [2, 3]]),
        "seq_lens": torch.tensor([6, 4]),
        "query_lens": torch.tensor([2, 1]),
    }


def test_a_sequence_without_new_tokens_is_passed_over() -> None:
    case = fitting()
    padded = case | {
        "block_tables": torch.tensor([[0, 1], [4, 4], [2, 3]]),
        "seq_lens": torch.tensor([6, 0, 4]),
        "query_lens": torch.tensor([2, 0, 1]),
    }
    assert torch.equal(paged_attention(**padded), paged_attention(**case))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.randn(3, 32)}, "expected \\[tokens, heads, head_dim\\]"),
        ({"value_cache": torch.randn(5, 4, 1, 8)}, "num_blocks, block_size, kv_heads, head_dim"),
        ({"q": torch.randn(3, 3, 8)}, "heads a multiple of kv_heads"),
        ({"q": torch.randn(3, 4, 16)}, "the same head_dim"),
        ({"seq_lens": torch.tensor([6])}, "one length of each kind per sequence"),
        ({"query_lens": torch.tensor([1, 1])}, "query_lens add up to 2, but q has 3"),
        ({"seq_lens": torch.tensor([6, 0])}, "0 <= query_len <= seq_len"),
        ({"seq_lens": torch.tensor([9, 4])}, "up to 9, but a block table reaches 8"),
        ({"block_tables": torch.tensor([[0, 5], [2, 3]])}, "a block outside 0 to 4"),
        ({"block_tables": torch.tensor([[0, 1], [-1, 3]])}, "a block outside 0 to 4"),
    ],
)
def test_what_does_not_fit_together_is_refused(change: dict[str, Tensor], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        paged_attention(**fitting() | change)
