import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere
from torch.nn.attention.bias import causal_lower_right

from course_lib.kv_cache import attention, attention_weights


def drawn(seed: int, *shapes: tuple[int, ...]) -> list[Tensor]:
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=chance) for shape in shapes]


@given(
    queries=st.integers(1, 7),
    old=st.integers(0, 7),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 3),
    head_dim=st.sampled_from([1, 4, 16]),
    causal=st.booleans(),
    scale=st.sampled_from([None, 0.3]),
    seed=st.integers(0, 9),
)
def test_equals_pytorch(
    queries: int, old: int, kv_heads: int, group: int, head_dim: int, causal: bool, scale: float | None, seed: int
) -> None:
    keys = queries + old
    shapes = [(queries, kv_heads * group, head_dim), *[(keys, kv_heads, head_dim)] * 2]
    q, k, v = drawn(seed, *shapes)
    mask = causal_lower_right(queries, keys) if causal else None
    heads_first = [x.transpose(0, 1)[None] for x in (q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1))]
    right = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale)[0].transpose(0, 1)
    torch.testing.assert_close(attention(q, k, v, causal, scale), right, atol=1e-5, rtol=1e-5)


@given(new=st.integers(1, 5), old=st.integers(0, 5), seed=st.integers(0, 9))
def test_queries_one_by_one_give_what_they_give_together(new: int, old: int, seed: int) -> None:
    keys = new + old
    q, k, v = drawn(seed, (new, 4, 8), (keys, 2, 8), (keys, 2, 8))
    alone = [attention(q[i : i + 1], k[: old + i + 1], v[: old + i + 1]) for i in range(new)]
    torch.testing.assert_close(attention(q, k, v), torch.cat(alone))


def test_weights_are_the_rows_that_mix_the_values() -> None:
    q, k = drawn(0, (3, 4, 8), (5, 2, 8))
    weights = attention_weights(q, k)
    assert weights.shape == (4, 3, 5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(4, 3))
    assert not weights[:, 0, 3:].any() and weights[:, 2].all()


def test_large_scores_stay_finite() -> None:
    q, k, v = drawn(1, (2, 2, 8), (4, 2, 8), (4, 2, 8))
    assert attention(1e4 * q, 1e4 * k, v).isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_keeps_its_dtype_and_many_small_weights(dtype: torch.dtype) -> None:
    q, k = torch.zeros(1, 1, 8, dtype=dtype), torch.zeros(3000, 1, 8, dtype=dtype)
    v = torch.ones(3000, 1, 8, dtype=dtype)
    out = attention(q, k, v)  # 3,000 equal weights: a sum in bf16 would stop growing at 256 of them
    assert out.dtype == dtype
    torch.testing.assert_close(out.float(), torch.ones(1, 1, 8), atol=0.01, rtol=0)


@pytest.mark.parametrize(
    ("q", "k", "v", "says"),
    [
        ((2, 3, 8), (4, 2, 8), (4, 2, 8), "divides"),
        ((2, 4, 8), (4, 2, 4), (4, 2, 4), "one head_dim"),
        ((3, 2, 8), (2, 2, 8), (2, 2, 8), "3 causal queries but 2 keys"),
        ((2, 2, 8), (4, 2, 8), (3, 2, 8), "every key needs a value"),
    ],
)
def test_shapes_that_do_not_fit(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        attention(*drawn(0, q, k, v))
