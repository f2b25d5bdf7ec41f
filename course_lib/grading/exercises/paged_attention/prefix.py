"""The prefix cache's look-up: how much of a prompt is there already."""

import random
from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.paged_attention import BlockPool, PagedKVManager, block_hash, block_hashes
from course_lib.viz.tables import Cell, Table

cached_prefix = Exercise(
    "03.prefix_lookup", "cached_prefix", "How much is there already?", difficulty=3, importance=5, minutes=20
)

_TEXT = st.lists(st.integers(0, 1), min_size=1, max_size=12)
_SIZES = st.integers(1, 3)


@cached_prefix.part(4, "the longest prefix that another request left is found")
def _found(answer: Answer) -> None:
    for_all(
        lambda text, more, size: _compare(answer, [text], [*text, *more, 2], size, set()),
        examples=60,
        text=_TEXT,
        more=_TEXT,
        size=_SIZES,
    )


@cached_prefix.part(3, "a block counts only after an equal prefix, and only up to the first that is missing")
def _only_prefixes(answer: Answer) -> None:
    for_all(
        lambda texts, tokens, size, lost: _compare(answer, texts, [*tokens, 2], size, lost),
        examples=150,
        texts=st.lists(_TEXT, min_size=1, max_size=3),
        tokens=_TEXT,
        size=_SIZES,
        lost=st.sets(st.integers(0, 5), max_size=2),
    )


@cached_prefix.part(3, "at least one token is left to compute")
def _one_left(answer: Answer) -> None:
    for_all(lambda text, size: _compare(answer, [text], text, size, set()), examples=60, text=_TEXT, size=_SIZES)


def _cache(texts: list[list[int]], size: int, lost: set[int]) -> tuple[BlockPool, dict[bytes, int]]:
    """Return a pool that these texts went through, with some blocks evicted again, and its cache as a plain dict."""
    pool = BlockPool(60)
    for text in texts:
        hashes = block_hashes(text, size)
        pool.cache_full_blocks(pool.get_new_blocks(len(hashes)), hashes)
    known = {block.block_hash: block for block in reversed(pool.blocks) if block.block_hash is not None}
    kept = [(name, block) for name, block in known.items() if block.block_id not in lost]
    fresh = BlockPool(60)
    fresh.cache_full_blocks([block for _, block in kept], [name for name, _ in kept])
    return fresh, {name: block.block_id for name, block in kept}


def _compare(answer: Answer, texts: list[list[int]], tokens: list[int], size: int, lost: set[int]) -> None:
    pool, cache = _cache(texts, size, lost)
    manager = PagedKVManager(60, size, block_pool=lambda _blocks, _caching: pool)
    right = [block.block_id for block in manager.get_computed_blocks(block_hashes(tokens, size), len(tokens))]
    got = call(answer, list(tokens), dict(cache), size)
    if got == right:
        return
    if not isinstance(got, list) or not all(isinstance(number, int) for number in got):
        mistake = recognise(answer, _MISTAKES, _INPUTS)
        name = mistake.name if mistake else "no-block-numbers"
        raise WrongAnswer(
            name, f"a list of block numbers was expected, and {got!r} came{f'; {mistake.why}' if mistake else ''}"
        )
    mistake = recognise(answer, _MISTAKES, _INPUTS)
    name, why = (
        (mistake.name, mistake.why)
        if mistake
        else ("wrong-blocks", "go through the blocks one by one, with the picture")
    )
    given = f"texts {texts} were here before, in blocks of {size}; for {tokens}"
    raise WrongAnswer(
        name, f"{given} the blocks {right} are right, and {got} came; {why}", _picture(tokens, cache, size, got)
    )


def _picture(tokens: list[int], cache: dict[bytes, int], size: int, got: list[int]) -> Table:
    rows: list[list[Cell | str]] = []
    for place, name in enumerate(block_hashes(tokens, size)):
        computed = (place + 1) * size >= len(tokens)  # the last token's own block
        there = "the last token's block" if computed else f"block {cache[name]}" if name in cache else "missing"
        yours = f"block {got[place]}" if place < len(got) else "-"
        expected = "-" if computed or name not in cache else f"block {cache[name]}"
        rows.append(
            [
                str(tokens[place * size : (place + 1) * size]),
                there,
                Cell(yours, "right" if yours == expected else "wrong"),
            ]
        )
    return Table("The text's full blocks", ["tokens", "under its chained hash", "your answer"], rows)


def _walk(
    tokens: list[int],
    cache: dict[bytes, int],
    size: int,
    *,
    parent: str = "chain",
    limit: int = 1,
    drop: int = 0,
    go_on: bool = False,
) -> list[int]:
    """Look a prompt up with one thing done wrong."""
    found: list[int] = []
    name = before = b""
    for place in range((len(tokens) - limit) // size - drop):
        block = tokens[place * size : (place + 1) * size]
        alone = block_hash(b"", block)
        name = {
            "chain": block_hash(name, block),
            "none": alone,
            "one back": block_hash(before, block),
            "all tokens": block_hash(b"", tokens[: (place + 1) * size]),
        }[parent]
        before = alone
        if name in cache:
            found.append(cache[name])
        elif not go_on:
            break
    return found


_chance = random.Random(0)
_INPUTS: list[tuple[Any, ...]] = []
for _size in (1, 2, 3):
    for _ in range(8):
        _texts = [[_chance.randrange(2) for _ in range(_chance.randint(1, 12))] for _ in range(3)]
        for _tokens in (_texts[0], [*_texts[0], 2], [*_texts[1][:4], *_texts[2]], [*_texts[0], *_texts[0], 1, 0]):
            _INPUTS.append((_tokens, _cache([*_texts, _tokens[:9]], _size, {_chance.randrange(6)})[1], _size))
            _INPUTS.append((_tokens, _cache(_texts, _size, set())[1], _size))


def _numbers_of_tokens(tokens: list[int], cache: dict[bytes, int], size: int) -> Any:
    return len(_walk(tokens, cache, size)) * size


def _with_none(tokens: list[int], cache: dict[bytes, int], size: int) -> Any:
    return [cache.get(name) for name in block_hashes(tokens, size)[: (len(tokens) - 1) // size]]


_MISTAKES = [
    Mistake(
        "hits-the-whole-prompt",
        "the whole prompt was found; but somebody has to compute the last token, since the next one's logits come from it",
        lambda tokens, cache, size: _walk(tokens, cache, size, limit=0),
    ),
    Mistake(
        "hash-without-parent",
        "a block was named by its own tokens alone; equal tokens after another beginning have other keys",
        lambda tokens, cache, size: _walk(tokens, cache, size, parent="none"),
    ),
    Mistake(
        "chain-of-two",
        "the parent's name was made anew from its tokens alone, so the chain forgets everything before it",
        lambda tokens, cache, size: _walk(tokens, cache, size, parent="one back"),
    ),
    Mistake(
        "hashes-all-tokens",
        "each name was made from all tokens so far, and these are not the names in the cache: use block_hash(parent, tokens)",
        lambda tokens, cache, size: _walk(tokens, cache, size, parent="all tokens"),
    ),
    Mistake(
        "goes-on-after-a-miss",
        "blocks behind a missing one were taken; a table has no holes, and their place in the text would be another",
        lambda tokens, cache, size: _walk(tokens, cache, size, go_on=True),
    ),
    Mistake(
        "gives-up-a-block",
        "the last full block was always left out; with a token behind it, it may be taken",
        lambda tokens, cache, size: _walk(tokens, cache, size, limit=0, drop=1),
    ),
    Mistake(
        "counts-tokens",
        "the number of tokens came; the blocks' numbers were asked for, in order",
        _numbers_of_tokens,
    ),
    Mistake(
        "none-for-a-miss",
        "a missing block came as None; the list ends before it",
        _with_none,
    ),
]
