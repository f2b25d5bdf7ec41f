"""Attention from its formula: the last tokens' queries over all keys, with shared KV heads."""

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

HEAD_DIM = 8  # so many keys at most: their values can then be unit vectors, and the output shows the weights

attention = Exercise(
    "01.attention",
    "attention",
    "Scaled dot-product attention",
    difficulty=3,
    importance=5,
    minutes=20,
)


@attention.part(3, "one query over all keys gives what PyTorch gives")
def _one_query(answer: Answer) -> None:
    for_all(
        lambda keys, heads, seed: _compare(answer, 1, keys, heads, heads, seed),
        examples=20,
        keys=st.integers(3, HEAD_DIM),  # of two keys, several mistakes leave the same one
        heads=st.integers(1, 3),
        seed=st.integers(0, 99),
    )


@attention.part(4, "the queries are the last tokens', and none sees a later key")
def _causal(answer: Answer) -> None:
    for_all(
        lambda keys, queries, seed: _compare(answer, min(queries, keys), keys, 2, 2, seed),
        examples=40,
        keys=st.integers(2, HEAD_DIM),
        queries=st.integers(2, HEAD_DIM),
        seed=st.integers(0, 99),
    )


@attention.part(3, "a group of query heads that stand side by side shares a KV head")
def _grouped(answer: Answer) -> None:
    for_all(
        lambda keys, kv_heads, group, seed: _compare(answer, 2, keys, kv_heads * group, kv_heads, seed),
        examples=25,
        keys=st.integers(2, HEAD_DIM),
        kv_heads=st.integers(2, 3),
        group=st.integers(2, 3),
        seed=st.integers(0, 99),
    )


def _compare(answer: Answer, queries: int, keys: int, heads: int, kv_heads: int, seed: int) -> None:
    chance = torch.Generator().manual_seed(seed)
    q = torch.randn(queries, heads, HEAD_DIM, generator=chance)
    k, v = torch.randn(2, keys, kv_heads, HEAD_DIM, generator=chance)
    right = _pytorch(q, k, v)
    given = f"{queries} queries, {keys} keys, {heads} query heads, {kv_heads} KV heads"
    got = call(answer, q.clone(), k.clone(), v.clone())
    if not isinstance(got, Tensor) or got.shape != q.shape:
        came = f"shape {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongAnswer(
            "wrong-shape", f"with {given} a {came} came, but each query of each head gets one answer: {list(q.shape)}"
        )
    if torch.allclose(got, right, atol=1e-4, rtol=1e-4):
        return
    picture = _picture(answer, q, k)
    for name, (why, wrong) in _mistakes(q, k, v).items():
        if torch.allclose(got, wrong, atol=1e-4, rtol=1e-4, equal_nan=True):
            raise WrongAnswer(name, f"with {given}: {why}", picture)
    far = f"up to {(got - right).abs().max():.2g} from PyTorch's"
    raise WrongAnswer("wrong-numbers", f"with {given} the result is {far}; compare the weights, row by row", picture)


def _pytorch(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    seen = torch.ones(len(q), len(k), dtype=torch.bool).tril(len(k) - len(q))
    q, k, v = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen, enable_gqa=True).transpose(0, 1)


def _mistakes(q: Tensor, k: Tensor, v: Tensor) -> dict[str, tuple[str, Tensor]]:
    """What likely mistakes give, by name, and what to say about each."""
    group = q.shape[1] // k.shape[1]
    keys, values = (x.repeat_interleave(group, dim=1).transpose(0, 1) for x in (k, v))
    tiled_keys, tiled_values = (x.repeat(1, group, 1).transpose(0, 1) for x in (k, v))
    heads_first = q.transpose(0, 1)
    pairs = torch.ones(len(q), len(k), dtype=torch.bool)
    seen, scale = pairs.tril(len(k) - len(q)), HEAD_DIM**-0.5

    def run(keys: Tensor, values: Tensor, seen: Tensor, scale: float, dim: int = -1) -> Tensor:
        scores = heads_first @ keys.transpose(-2, -1) * scale
        return (scores.masked_fill(~seen, -torch.inf).softmax(dim) @ values).transpose(0, 1)

    scores = (heads_first @ keys.transpose(-2, -1) * scale).masked_fill(~seen, 0)
    late = (heads_first @ keys.transpose(-2, -1) * scale).softmax(-1).masked_fill(~seen, 0)
    return {
        "no-scale": (
            "the scores are not scaled: the more numbers a head has, the sharper softmax gets",
            run(keys, values, seen, 1),
        ),
        "scaled-by-head-dim": (
            "the scores are scaled too strongly; look at the root in the formula",
            run(keys, values, seen, scale**2),
        ),
        "no-mask": ("queries see keys of tokens that come after them", run(keys, values, pairs, scale)),
        "top-left-mask": (
            "query 0 was taken for token 0; but the queries belong to the last tokens, and the last query sees every key",
            run(keys, values, pairs.tril(), scale),
        ),
        "hides-itself": ("a token does not see its own key", run(keys, values, pairs.tril(len(k) - len(q) - 1), scale)),
        "heads-tiled": (
            "query head 1 reads KV head 1; but the first group of query heads reads KV head 0, the next group KV head 1",
            run(tiled_keys, tiled_values, seen, scale),
        ),
        "softmax-over-queries": (
            "softmax runs over the queries: each query's weights must sum to 1",
            run(keys, values, seen, scale, -2),
        ),
        "no-softmax": (
            "the scores are used as weights: some are negative, and they do not sum to 1",
            (scores @ values).transpose(0, 1),
        ),
        "masked-after-softmax": (
            "the future was set to 0 after softmax: the weights that are left no longer sum to 1",
            (late @ values).transpose(0, 1),
        ),
        "keys-as-values": ("the weights mix keys; they should mix values", run(keys, keys, seen, scale)),
    }


def _picture(answer: Answer, q: Tensor, k: Tensor) -> Table | None:
    """Draw the weights of head 0: with unit vectors for values, the output is the weights."""
    units = torch.eye(HEAD_DIM)[: len(k), None].expand(-1, k.shape[1], -1)
    try:
        got = answer(q.clone(), k.clone(), units.clone())[:, 0, : len(k)]
    except Exception:  # noqa: BLE001  a picture is a help, never a second failure
        return None
    right = _pytorch(q, k, units)[:, 0, : len(k)]
    rows: list[list[Cell | str]] = []
    for token, (mine, theirs) in enumerate(zip(got.tolist(), right.tolist(), strict=True), start=len(k) - len(q)):
        cells = [Cell(f"{a:.2f}", "right" if abs(a - b) < 1e-3 else "wrong") for a, b in zip(mine, theirs, strict=True)]
        rows += [[f"token {token}, yours", *cells], ["expected", *(f"{b:.2f}" for b in theirs)]]
    return Table("Weights of head 0", ["query of", *(f">key {key}" for key in range(len(k)))], rows)
