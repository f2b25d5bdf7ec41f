"""Scaled dot-product attention, as in the formula. Everything else in the course makes it cheaper, and none changes its result."""

import torch
from jaxtyping import Float
from torch import Tensor


def attention(
    q: Float[Tensor, "queries heads head_dim"],
    k: Float[Tensor, "keys kv_heads head_dim"],
    v: Float[Tensor, "keys kv_heads head_dim"],
    causal: bool = True,
    scale: float | None = None,
) -> Float[Tensor, "queries heads head_dim"]:
    """Return softmax(q k^T * scale) v, head by head (Vaswani et al. 2017, section 3.2.1).

    Args:
        q: queries, one of each head for each token that wants to know something.
        k: keys of all tokens that may be looked at, the oldest first.
        v: what these tokens have to say.
        causal: whether a token sees only itself and older ones. The queries belong to the **last** tokens of the keys:
            query i of Q sees the keys j <= K - Q + i, the last one sees all.
        scale: what scores are multiplied by, by default head_dim ** -0.5, which keeps their variance near 1.

    Raises:
        ValueError: the shapes do not fit together.
    """
    weights = attention_weights(q, k, causal, scale)  # [heads, queries, keys]
    if v.shape != k.shape:
        raise ValueError(f"k is {tuple(k.shape)} and v is {tuple(v.shape)}: every key needs a value of the same shape")
    # A group of query heads shares a head of values: no value is copied to be read by several.
    grouped = weights.unflatten(0, (v.shape[1], -1))
    return torch.einsum("ngqk,knd->qngd", grouped, v).flatten(1, 2)


def attention_weights(
    q: Float[Tensor, "queries heads head_dim"],
    k: Float[Tensor, "keys kv_heads head_dim"],
    causal: bool = True,
    scale: float | None = None,
) -> Float[Tensor, "heads queries keys"]:
    """Return how much each query takes from each key: rows of numbers >= 0 that sum to 1. Arguments as in `attention`."""
    (queries, heads, head_dim), (keys, kv_heads, key_dim) = q.shape, k.shape
    if heads % kv_heads or head_dim != key_dim:
        raise ValueError(
            f"q is {tuple(q.shape)} and k is {tuple(k.shape)}: expected [tokens, heads, head_dim] with one head_dim, and "
            "a number of query heads that the number of KV heads divides"
        )
    if causal and queries > keys:
        raise ValueError(
            f"{queries} causal queries but {keys} keys: the first queries would see no key; "
            "give the keys of all tokens, those of the queries' own tokens too"
        )
    # GQA (Ainslie et al. 2023): query heads 0..g-1 read KV head 0, the next g read KV head 1, and so on.
    grouped = (q * (head_dim**-0.5 if scale is None else scale)).unflatten(1, (kv_heads, -1))
    scores = torch.einsum("qngd,knd->ngqk", grouped, k).flatten(0, 1)
    if causal and queries > 1:  # a single query is the last one: nothing is hidden from it
        future = torch.ones(queries, keys, dtype=torch.bool, device=q.device).triu(keys - queries + 1)
        scores.masked_fill_(future, -torch.inf)
    return scores.softmax(dim=-1)
