"""What a hit in the prefix cache spares, and what it takes from the free list all the same."""

from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.paged_attention import Block, PagedKVManager, block_hashes
from course_lib.viz.tables import Cell, Table

admission_cost = Exercise("04.hits", "admission_cost", "What does a hit cost?", difficulty=3, importance=3, minutes=15)

_SIZE = 4
_HELD = st.lists(st.booleans(), max_size=4)
"""Of the cached blocks with which a text begins, which are in a table of somebody else."""
_MORE = st.integers(0, 9)
"""Tokens behind the cached blocks."""


@admission_cost.part(5, "the tokens that need not be computed: whole blocks, and never the last token")
def _tokens(answer: Answer) -> None:
    for_all(lambda held, more: _compare(answer, held, more, 0), examples=80, held=_HELD, more=_MORE)


@admission_cost.part(5, "the blocks that leave the free list: the new ones, and hits that nobody holds")
def _blocks(answer: Answer) -> None:
    for_all(lambda held, more: _compare(answer, held, more, 1), examples=80, held=_HELD, more=_MORE)


def _case(held: Sequence[bool], more: int) -> tuple[int, list[Block], int]:
    """Return what the learner's function is given: the text's tokens, the cached blocks that it begins with, the block size."""
    found = [Block(place, int(holder), bytes([place])) for place, holder in enumerate(held)]
    return max(1, len(held) * _SIZE + more), found, _SIZE


def _right(held: Sequence[bool], more: int) -> tuple[int, int]:
    """Let the course's manager do it, which does what vLLM's does, and count."""
    manager = PagedKVManager(30, _SIZE)
    tokens = list(range(_case(held, more)[0]))
    # A cached text is one that somebody else computed; who still holds a block of it keeps it from being free.
    full = len(held) * _SIZE
    if full:
        manager.allocate("before", tokens[:full])
        kept = [
            manager.pool.blocks[number] for number, holder in zip(manager.table("before"), held, strict=True) if holder
        ]
        manager.pool.touch(kept)
        manager.free("before")
    free = manager.pool.num_free_blocks
    computed = manager.get_computed_blocks(block_hashes(tokens, _SIZE), len(tokens))
    manager.allocate("new", tokens)
    return len(computed) * _SIZE, free - manager.pool.num_free_blocks


def _compare(answer: Answer, held: Sequence[bool], more: int, which: int) -> None:
    right, given = _right(held, more), _case(held, more)
    got = call(answer, *given)
    if not isinstance(got, tuple) or len(got) != 2 or not all(isinstance(number, int) for number in got):
        raise WrongAnswer("no-pair", f"two whole numbers were expected, tokens and blocks, and {got!r} came")
    if got[which] == right[which]:
        return
    mistake = recognise(answer, _MISTAKES[which], _INPUTS, lambda one, other: one[which] == other[which])
    name = mistake.name if mistake else ("wrong-tokens", "wrong-blocks")[which]
    why = mistake.why if mistake else "draw the text's blocks, and mark which are there already"
    blocks = -(-given[0] // _SIZE)
    kinds = ["held by somebody" if holder else "in the free list" for holder in held] + ["new"] * (blocks - len(held))
    rows: list[list[Cell | str]] = [
        [str(place), str(min(_SIZE, given[0] - place * _SIZE)), kind] for place, kind in enumerate(kinds)
    ]
    what = ("tokens that need no computing", "blocks that leave the free list")[which]
    said = (
        f"{given[0]} tokens, {len(held)} cached blocks of {_SIZE}, {sum(held)} of them held: {right[which]} {what}, and"
    )
    raise WrongAnswer(
        name, f"{said} {got[which]} came; {why}", Table("The text's blocks", [">block", ">tokens", "cached?"], rows)
    )


_Cost = Callable[[int, list[Block], int], tuple[int, int]]


def _usable(tokens: int, found: list[Block], size: int) -> list[Block]:
    return found[: (tokens - 1) // size]


def _cached(number: Callable[[int, list[Block], int], int]) -> _Cost:
    return lambda tokens, found, size: (number(tokens, found, size), 0)


def _leaving(number: Callable[[int, list[Block], list[Block], int], int]) -> _Cost:
    return lambda tokens, found, size: (0, number(-(-tokens // size), found, _usable(tokens, found, size), tokens))


def _free(blocks: Sequence[Block]) -> int:
    return sum(block.ref_cnt == 0 for block in blocks)


_INPUTS = [_case(held, more) for held in ([], [True], [False, True], [True, False, False]) for more in (0, 1, 4, 7)]
_MISTAKES: tuple[list[Mistake], list[Mistake]] = (
    [
        Mistake(
            "whole-prompt-hit",
            "nothing would be left to compute, and the next token's logits come from computing the last token",
            _cached(lambda _tokens, found, size: len(found) * size),
        ),
        Mistake(
            "part-of-a-block",
            "a part of a block was taken over: a table has whole blocks, and the rest of this one would be written to",
            _cached(lambda tokens, found, size: min(len(found) * size, tokens - 1)),
        ),
        Mistake(
            "one-block-too-few",
            "a block was given up that holds neither the last token nor a token behind it",
            _cached(lambda tokens, found, size: max(0, min(len(found), -(-tokens // size) - 2)) * size),
        ),
        Mistake(
            "counts-blocks",
            "this is the number of blocks; the number of their tokens was asked for",
            _cached(lambda tokens, found, size: len(_usable(tokens, found, size))),
        ),
        Mistake(
            "held-hits-only",
            "a block in the free list is not forgotten: it can be taken over, too",
            _cached(lambda tokens, found, size: size * sum(b.ref_cnt > 0 for b in _usable(tokens, found, size))),
        ),
    ],
    [
        Mistake(
            "hits-are-free",
            "a hit that nobody holds stands in the free list, and leaves it: forget that, and the pool runs dry",
            _leaving(lambda blocks, _found, usable, _: blocks - len(usable)),
        ),
        Mistake(
            "all-hits-leave",
            "a hit that somebody holds is not in the free list, so it can't leave it",
            _leaving(lambda blocks, _found, _usable, _: blocks),
        ),
        Mistake(
            "held-for-free",
            "the hits that somebody holds were counted, and those in the free list were not",
            _leaving(lambda blocks, _found, usable, _: blocks - len(usable) + len(usable) - _free(usable)),
        ),
        Mistake(
            "rounds-down",
            "the tokens behind the last full block need a block, too",
            lambda tokens, found, size: (
                0,
                tokens // size - len(_usable(tokens, found, size)) + _free(_usable(tokens, found, size)),
            ),
        ),
        Mistake(
            "forgets-the-last-block",
            "a cached block that may not be used was taken off; its tokens need a new block",
            _leaving(lambda blocks, found, usable, _: blocks - len(found) + _free(usable)),
        ),
    ],
)
