"""The order of the free list, which is the order of eviction."""

import random

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.paged_attention import BlockPool
from course_lib.viz.tables import Cell, Table

give_back = Exercise("03.free_order", "give_back", "Who is evicted first?", difficulty=2, importance=3, minutes=15)

_NUMBERS = st.permutations(range(9))


@give_back.part(4, "blocks without a hash are taken first, the request's last one before the others")
def _unhashed(answer: Answer) -> None:
    for_all(
        lambda numbers, cut: _compare(answer, numbers[:3], numbers[3 : 3 + cut], set()),
        examples=30,
        numbers=_NUMBERS,
        cut=st.integers(1, 4),
    )


@give_back.part(4, "blocks with a hash are taken last, and the start of a text is kept longest")
def _hashed(answer: Answer) -> None:
    for_all(
        lambda numbers, cut, partial: _compare(
            answer, numbers[:3], numbers[3 : 3 + cut], set(numbers[3 : 3 + cut - partial])
        ),
        examples=60,
        numbers=_NUMBERS,
        cut=st.integers(1, 5),
        partial=st.integers(0, 1),
    )


@give_back.part(2, "a new list is returned, and the caller's lists stay as they are")
def _leaves_alone(answer: Answer) -> None:
    free, table = [4, 7], [0, 1, 2]
    got = call(answer, free, table, {0, 1})
    if (free, table) != ([4, 7], [0, 1, 2]) or got is free:
        raise WrongAnswer(
            "changes-its-arguments",
            f"after give_back([4, 7], [0, 1, 2], {{0, 1}}) the caller's lists are {free} and {table}: build a new list, since "
            "somebody may still need the old ones",
        )


def _right(free: list[int], table: list[int], hashed: set[int]) -> list[int]:
    """Let the course's pool do it, which does what vLLM's does."""
    pool = BlockPool(9)
    taken = {block.block_id: block for block in pool.get_new_blocks(9)}
    pool.free_blocks([taken[number] for number in free])
    pool.cache_full_blocks([taken[number] for number in sorted(hashed)], [bytes([number]) for number in sorted(hashed)])
    pool.free_blocks([taken[number] for number in reversed(table)])
    return pool.free_list


def _compare(answer: Answer, free: list[int], table: list[int], hashed: set[int]) -> None:
    right = _right(free, table, hashed)
    got = call(answer, list(free), list(table), set(hashed))
    if got == right:
        return
    given = f"free list {free}, table {table}, with a hash {sorted(hashed) or 'none'}"
    if not isinstance(got, list) or sorted(map(str, got)) != sorted(map(str, right)):
        said = f"{given}: {got!r} came, and the list must hold each free block once"
        raise WrongAnswer("loses-blocks", said)
    mistake = recognise(answer, _MISTAKES, _INPUTS)
    name, why = (
        (mistake.name, mistake.why) if mistake else ("wrong-order", "say for each block why it stands where it does")
    )
    cells: list[Cell | str] = [Cell(str(a), "right" if a == b else "wrong") for a, b in zip(got, right, strict=True)]
    columns = ["", *(f"{place}." for place in range(1, len(right) + 1))]
    raise WrongAnswer(
        name, f"{given}: {got} came; {why}", Table("Your free list", columns, [["next one taken first", *cells]])
    )


def _parts(table: list[int], hashed: set[int]) -> tuple[list[int], list[int]]:
    backwards = table[::-1]
    return [b for b in backwards if b not in hashed], [b for b in backwards if b in hashed]


_chance = random.Random(0)
_INPUTS = [
    (numbers[:3], numbers[3:8], set(numbers[3 : 3 + full]))
    for full in (0, 2, 3, 4, 5)
    for numbers in (_chance.sample(range(9), 9), _chance.sample(range(9), 9))
]
_MISTAKES = [
    Mistake(
        "all-to-the-back",
        "all blocks went to the back, as in vLLM until 2025: a block that nobody can find again then outlives ones that are",
        lambda free, table, _hashed: free + table[::-1],
    ),
    Mistake(
        "all-to-the-front",
        "all blocks went to the front: what could still be found is then evicted by the next request",
        lambda free, table, _hashed: table[::-1] + free,
    ),
    Mistake(
        "forward-order",
        "the blocks were given back first one first: the start of the text is then evicted first, and without it nobody finds "
        "the rest",
        lambda free, table, hashed: [b for b in table if b not in hashed] + free + [b for b in table if b in hashed],
    ),
    Mistake(
        "front-and-back-swapped",
        "blocks with a hash went to the front and those without to the back: which of them is still worth something?",
        lambda free, table, hashed: _parts(table, hashed)[1] + free + _parts(table, hashed)[0],
    ),
    Mistake(
        "front-turned-round",
        "the blocks at the front stand in the wrong order: put one by one before the first, they end up turned round",
        lambda free, table, hashed: _parts(table, hashed)[0][::-1] + free + _parts(table, hashed)[1],
    ),
    Mistake(
        "hashed-turned-round",
        "the blocks at the back stand in the wrong order: the start of the text must be the very last to go",
        lambda free, table, hashed: _parts(table, hashed)[0] + free + _parts(table, hashed)[1][::-1],
    ),
    Mistake(
        "sorted-by-number",
        "the list is sorted by block number; what counts is what a block is worth, and for how long it has been free",
        lambda free, table, _hashed: sorted(free + table),
    ),
]
