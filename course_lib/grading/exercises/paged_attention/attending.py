"""Attention through block tables, by gathering."""

import random
from functools import partial
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.exercises.threads import one_thread
from course_lib.grading.judge import call, for_all
from course_lib.viz.tables import Cell, Table

paged_attention = Exercise(
    "03.paged_attention", "paged_attention", "Attention through a block table", difficulty=3, importance=5, minutes=25
)

_HEADS, _KV_HEADS, _HEAD_DIM = 4, 2, 8
_LENGTHS = st.integers(1, 14)


@paged_attention.part(4, "one request's newest token attends to all keys of its blocks, and to nothing else")
@one_thread()
def _decode(answer: Answer) -> None:
    for_all(
        lambda length, size, seed: _compare(answer, [(length, 1)], size, seed),
        examples=20,
        length=_LENGTHS,
        size=st.integers(2, 5),
        seed=st.integers(0, 9),
    )


@paged_attention.part(3, "several requests of different lengths in one batch")
@one_thread()
def _batch(answer: Answer) -> None:
    for_all(
        lambda lengths, size, seed: _compare(answer, [(length, 1) for length in lengths], size, seed),
        examples=15,
        lengths=st.lists(_LENGTHS, min_size=2, max_size=3),
        size=st.integers(2, 5),
        seed=st.integers(0, 9),
    )


@paged_attention.part(3, "chunks of prompts: the queries are the last tokens, and none sees a later key")
@one_thread()
def _chunks(answer: Answer) -> None:
    for_all(
        lambda lengths, size, seed: _compare(
            answer, [(length, min(new, length)) for length, new in lengths], size, seed
        ),
        examples=25,
        lengths=st.lists(st.tuples(_LENGTHS, st.integers(1, 6)), min_size=1, max_size=3),
        size=st.integers(2, 5),
        seed=st.integers(0, 9),
    )


def _batch_of(lengths: list[tuple[int, int]], size: int, seed: int) -> tuple[tuple[Any, ...], Tensor]:
    """Return the arguments for requests of (keys, new tokens) each, and what PyTorch's own attention gives for them."""
    chance, numbers = torch.Generator().manual_seed(seed), random.Random(seed)
    widths = [-(-length // size) for length, _ in lengths]
    free = list(range(sum(widths) + 2))
    numbers.shuffle(free)
    # Slots without a token hold 100: an answer that reads one is far off, and no NaN hides how.
    caches = torch.full((2, len(free), size, _KV_HEADS, _HEAD_DIM), 100.0)
    tables = torch.zeros(len(lengths), max(widths), dtype=torch.int64)
    queries, outputs = [], []
    for row, ((length, new), width) in enumerate(zip(lengths, widths, strict=True)):
        blocks = [free.pop() for _ in range(width)]
        tables[row, :width] = torch.tensor(blocks)
        k, v = torch.randn(2, length, _KV_HEADS, _HEAD_DIM, generator=chance)
        positions = torch.arange(length)
        caches[:, tables[row, positions // size], positions % size] = torch.stack([k, v])
        queries.append(torch.randn(new, _HEADS, _HEAD_DIM, generator=chance))
        outputs.append(_dense(queries[-1], k, v))
    seq_lens, query_lens = (list(values) for values in zip(*lengths, strict=True))
    return (torch.cat(queries), caches[0], caches[1], tables, seq_lens, query_lens), torch.cat(outputs)


def _dense(q: Tensor, k: Tensor, v: Tensor, causal: bool = True, top_left: bool = False) -> Tensor:
    seen = torch.ones(len(q), len(k), dtype=torch.bool)
    if causal:
        seen = seen.tril(0 if top_left else len(k) - len(q))
    queries, keys, values = (x.transpose(0, 1) for x in (q, k, v))
    return F.scaled_dot_product_attention(queries, keys, values, attn_mask=seen, enable_gqa=True).transpose(0, 1)


def _compare(answer: Answer, lengths: list[tuple[int, int]], size: int, seed: int) -> None:
    arguments, right = _batch_of(lengths, size, seed)
    got = call(answer, *_copies(arguments))
    given = f"{len(lengths)} requests of (keys, new tokens) {lengths} in blocks of {size}"
    if not isinstance(got, Tensor) or got.shape != right.shape:
        came = f"shape {list(got.shape)}" if isinstance(got, Tensor) else type(got).__name__
        raise WrongAnswer("wrong-shape", f"{given}: {came} came, and every query gets one answer: {list(right.shape)}")
    if _close(got, right):
        return
    mistake = recognise(answer, _MISTAKES, _INPUTS, _close)
    name, why = (
        (mistake.name, mistake.why)
        if mistake
        else ("wrong-numbers", "compare with dense attention, request by request")
    )
    off = (got - right).abs().amax(dim=(1, 2))
    raise WrongAnswer(name, f"{given}: up to {off.max():.2g} from dense attention; {why}", _picture(arguments, off))


def _copies(arguments: tuple[Any, ...]) -> list[Any]:
    return [x.clone() if isinstance(x, Tensor) else list(x) for x in arguments]


def _close(got: Any, right: Tensor) -> bool:
    return isinstance(got, Tensor) and got.shape == right.shape and torch.allclose(got, right, atol=1e-4, rtol=1e-4)


def _picture(arguments: tuple[Any, ...], off: Tensor) -> Table:
    _, _, _, tables, seq_lens, query_lens = arguments
    rows: list[list[Cell | str]] = []
    start = 0
    for row, (length, new) in enumerate(zip(seq_lens, query_lens, strict=True)):
        far = off[start : start + new].tolist()
        start += new
        cells = Cell(", ".join(f"{number:.1g}" for number in far), "right" if max(far) < 1e-4 else "wrong")
        rows.append([str(row), str(tables[row].tolist()), str(length), str(new), cells])
    columns = ["request", "row of block_tables", ">keys", ">new tokens", "each query's error"]
    return Table("How far each query's answer is from dense attention", columns, rows)


def _wrongly(
    q: Tensor,
    keys: Tensor,
    values: Tensor,
    tables: Tensor,
    seq_lens: list[int],
    query_lens: list[int],
    *,
    trim: bool = True,
    follow: str = "table",
    new_keys: bool = True,
    advance: bool = True,
    causal: bool = True,
    top_left: bool = False,
    tiled: bool = False,
) -> Tensor:
    """Attend through the tables with one thing done wrong."""
    size, outputs, start = keys.shape[1], [], 0
    group = q.shape[1] // keys.shape[2]
    for table, length, new in zip(tables, seq_lens, query_lens, strict=True):
        blocks = table[: -(-length // size)]
        blocks = {"table": blocks, "order": blocks.sort().values, "pool": torch.arange(len(blocks))}[follow]
        end = length - (0 if new_keys else new)
        k, v = (cache[blocks].flatten(0, 1)[: end if trim else None] for cache in (keys, values))
        if tiled:
            k, v = k.repeat(1, group, 1), v.repeat(1, group, 1)
        outputs.append(_dense(q[start : start + new], k, v, causal, top_left))
        start += new if advance else 0
    return torch.cat(outputs)


_INPUTS = [
    _batch_of(lengths, size, seed)[0]
    for seed, (lengths, size) in enumerate([([(7, 1)], 3), ([(9, 1), (5, 1)], 4), ([(11, 4), (8, 2), (5, 3)], 3)])
]
_MISTAKES = [
    Mistake(
        "reads-empty-slots",
        "slots behind the last token were read as if they held keys; a request's last block is rarely full",
        partial(_wrongly, trim=False),
    ),
    Mistake(
        "ignores-the-table",
        "the first blocks of the pool were read; which blocks are a request's, its row of block_tables says",
        partial(_wrongly, follow="pool"),
    ),
    Mistake(
        "sorts-the-table",
        "the blocks were read in the order of their numbers; the table's order is the order of the text",
        partial(_wrongly, follow="order"),
    ),
    Mistake(
        "forgets-the-new-tokens",
        "the new tokens' own keys were left out; seq_lens counts them, and they are in the cache already",
        partial(_wrongly, new_keys=False, causal=False),
    ),
    Mistake(
        "always-the-first-queries",
        "every request got the queries of the first one; they stand one request after another in q",
        partial(_wrongly, advance=False),
    ),
    Mistake(
        "sees-the-future",
        "queries saw keys of later tokens; within a chunk each token sees only itself and older ones",
        partial(_wrongly, causal=False),
    ),
    Mistake(
        "queries-come-first",
        "the queries were taken for the first tokens; they are the last ones, and the very last one sees all keys",
        partial(_wrongly, top_left=True),
    ),
    Mistake(
        "wrong-kv-head",
        "query heads read the wrong KV head: neighbouring query heads share one",
        partial(_wrongly, tiled=True),
    ),
]
