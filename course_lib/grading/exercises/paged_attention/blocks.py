"""From a position to its slot, and how many blocks a request needs."""

import random
from typing import Any

from hypothesis import strategies as st

from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.paged_attention.mistakes import Mistake, recognise
from course_lib.grading.judge import call, for_all
from course_lib.paged_attention import PagedKVManager
from course_lib.viz.tables import Cell, Table

slot_mapping = Exercise("03.slot_mapping", "slot_mapping", "Where is token 37?", difficulty=1, importance=5, minutes=10)
new_blocks = Exercise(
    "03.new_blocks", "new_blocks_needed", "Blocks for a growing request", difficulty=2, importance=4, minutes=10
)

_TABLES = st.lists(st.integers(0, 9), min_size=1, max_size=4, unique=True)
_chance = random.Random(0)
_SLOT_INPUTS = [
    (table := _chance.sample(range(12), 5), [_chance.randrange(5 * size) for _ in range(8)], size)
    for size in (2, 3, 4, 7)
    for _ in range(3)
]
_SLOT_MISTAKES = [
    Mistake(
        "block-number-as-slot",
        "the block's number was added as if it were the number of its first slot; in front of block b are b blocks, not b slots",
        lambda table, positions, size: [table[p // size] + p % size for p in positions],
    ),
    Mistake(
        "ignores-the-table",
        "each position was taken for its slot, as in a contiguous cache; which block a token lies in, only the table knows",
        lambda _table, positions, _size: list(positions),
    ),
    Mistake(
        "forgets-the-offset",
        "all tokens of a block got the block's first slot; the position's place within its block is missing",
        lambda table, positions, size: [table[p // size] * size for p in positions],
    ),
    Mistake(
        "deals-out-round-robin",
        "neighbouring tokens went to different blocks; a block is filled before the next one is begun",
        lambda table, positions, size: [table[p % len(table)] * size + p // len(table) for p in positions],
    ),
    Mistake(
        "counts-from-one",
        "every token is one slot too far; positions and slots both start at 0",
        lambda table, positions, size: [table[p // size] * size + p % size + 1 for p in positions],
    ),
    Mistake(
        "sorts-the-table",
        "the blocks were used in the order of their numbers; a table's order is the order of the text",
        lambda table, positions, size: [sorted(table)[p // size] * size + p % size for p in positions],
    ),
    Mistake(
        "times-the-tables-length",
        "the block's number was multiplied by the length of the table; in front of block b are b blocks, how many slots is that?",
        lambda table, positions, size: [table[p // size] * len(table) + p % size for p in positions],
    ),
    Mistake(
        "ignores-the-positions",
        "the slots of the first tokens came, whichever positions were asked for; they may start anywhere and stand in any order",
        lambda table, positions, size: [table[p // size] * size + p % size for p in range(len(positions))],
    ),
]
_BLOCK_INPUTS = [(tokens, new, size) for tokens in range(9) for new in range(1, 10) for size in (1, 3, 4)]
_BLOCK_MISTAKES = [
    Mistake(
        "ignores-the-last-block",
        "the empty slots of the last block were forgotten: new tokens go there first",
        lambda _tokens, new, size: -(-new // size),
    ),
    Mistake(
        "rounds-down",
        "the last block is only partly filled, and still a block: the division has to round up",
        lambda tokens, new, size: (tokens + new) // size - tokens // size,
    ),
    Mistake(
        "counts-held-blocks",
        "the blocks of all tokens were counted; those that the request holds already are not new",
        lambda tokens, new, size: -(-(tokens + new) // size),
    ),
    Mistake(
        "one-to-spare",
        "one block more came than tokens need; nothing is reserved",
        lambda tokens, new, size: -(-(tokens + new) // size) - -(-tokens // size) + 1,
    ),
    Mistake(
        "phantom-room",
        "a last block that is exactly full was taken for an empty one: `tokens % block_size` is 0 for both",
        lambda tokens, new, size: max(0, -(-(new - (size - tokens % size)) // size)),
    ),
    Mistake(
        "one-at-most",
        "never more than one block came; a prompt brings many tokens at once",
        lambda tokens, new, size: min(1, -(-(tokens + new) // size) - -(-tokens // size)),
    ),
    Mistake(
        "slots-not-blocks",
        "slots came, and blocks were asked for",
        lambda tokens, new, size: size * (-(-(tokens + new) // size) - -(-tokens // size)),
    ),
]


@slot_mapping.part(6, "every token lies in its own block, at its own offset")
def _whole_text(answer: Answer) -> None:
    for_all(
        lambda table, size: _look_up(answer, table, list(range(len(table) * size)), size),
        examples=60,
        table=_TABLES,
        size=st.integers(1, 5),
    )


@slot_mapping.part(4, "any positions, in the order asked for")
def _any_positions(answer: Answer) -> None:
    for_all(
        lambda table, size, asked: _look_up(
            answer, table, list(dict.fromkeys(p % (len(table) * size) for p in asked)), size
        ),
        examples=60,
        table=_TABLES,
        size=st.integers(1, 5),
        asked=st.lists(st.integers(0, 19), max_size=5),
    )


@new_blocks.part(4, "a new request gets enough blocks for its prompt, and not one more")
def _prompt(answer: Answer) -> None:
    for_all(lambda new, size: _grow(answer, 0, new, size), examples=60, new=st.integers(1, 40), size=st.integers(1, 17))


@new_blocks.part(6, "a request that grows fills its last block first")
def _growing(answer: Answer) -> None:
    for_all(
        lambda tokens, new, size: _grow(answer, tokens, new, size),
        examples=100,
        tokens=st.integers(1, 40),
        new=st.integers(1, 40),
        size=st.integers(1, 17),
    )


def _look_up(answer: Answer, table: list[int], positions: list[int], size: int) -> None:
    # The pool as it is: one block after another, each with its slots. What a token is asked for is what lies there.
    blocks = [(block, offset) for block in range(10) for offset in range(size)]
    wanted = [(table[position // size], position % size) for position in positions]
    got = call(answer, list(table), list(positions), size)
    slots = _numbers(got)
    if slots is None or len(slots) != len(positions):
        raise WrongAnswer("no-list-of-slots", f"a list of {len(positions)} slot numbers was expected, and {got!r} came")
    found = [blocks[slot] if 0 <= slot < len(blocks) else None for slot in slots]
    if found == wanted:
        return
    mistake = recognise(answer, _SLOT_MISTAKES, _SLOT_INPUTS, lambda a, b: _numbers(a) == b)
    name, why = (mistake.name, mistake.why) if mistake else ("wrong-slots", "follow the first wrong token by hand")
    worst = next(place for place, pair in enumerate(found) if pair != wanted[place])
    where = f"block {wanted[worst][0]} at offset {wanted[worst][1]}"
    said = (
        f"table {table}, blocks of {size}: token {positions[worst]} is in {where}, and slot {slots[worst]} came; {why}"
    )
    raise WrongAnswer(name, said, _slots_table(positions, slots, found, wanted))


def _numbers(got: Any) -> list[int] | None:
    """Return a list, a tensor or an array of numbers as a list of ints; None where it is something else."""
    try:
        return [int(slot) for slot in got]
    except (TypeError, ValueError):
        return None


def _slots_table(positions: list[int], slots: list[int], found: list[Any], wanted: list[Any]) -> Table:
    rows: list[list[Cell | str]] = [
        [str(position), str(slot), Cell(str(pair or "outside"), "right" if pair == right else "wrong"), str(right)]
        for position, slot, pair, right in zip(positions, slots, found, wanted, strict=True)
    ]
    columns = [">position", ">your slot", "is (block, offset)", "should be"]
    return Table("Each token, and where your slot is", columns, rows[:16])


def _grow(answer: Answer, tokens: int, new: int, size: int) -> None:
    manager = PagedKVManager(100, size, enable_caching=False)
    if tokens:
        manager.allocate_slots("request", tokens)
    right = len(manager.allocate_slots("request", tokens + new) or [])
    got = call(answer, tokens, new, size)
    if isinstance(got, bool) or not isinstance(got, int):
        raise WrongAnswer("no-number", f"a whole number of blocks was expected, and {got!r} came")
    if got == right:
        return
    mistake = recognise(answer, _BLOCK_MISTAKES, _BLOCK_INPUTS)
    name, why = (mistake.name, mistake.why) if mistake else ("wrong-number", "draw the last block and its empty slots")
    given = f"{tokens} tokens stored, {new} more, blocks of {size}"
    raise WrongAnswer(name, f"{given}: vLLM's manager takes {right} new, and {got} came; {why}")
