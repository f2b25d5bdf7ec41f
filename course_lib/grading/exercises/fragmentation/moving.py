"""A compaction plan, carried out slot by slot."""

from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation.contiguous import Hole
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Mistakes, Strips, named, strips
from course_lib.grading.judge import call, for_all

compaction_plan = Exercise(
    "02.compaction", "compaction_plan", "A compaction that overwrites nothing", difficulty=3, importance=3, minutes=20
)
Held = dict[str, Hole]
Move = tuple[int, int, int]
"""Source, target, and how many slots."""


@st.composite
def _held(draw: st.DrawFn) -> Held:
    """Who holds what, in the order in which they came, which is not that of their addresses."""
    places, end = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 6)), max_size=5)):
        places.append((end + gap, length))
        end += gap + length
    return {f"r{number}": place for number, place in enumerate(draw(st.permutations(places)))}


@compaction_plan.part(4, "carried out one after the other, the moves leave everybody's slots whole")
def _whole(answer: Answer) -> None:
    _judged(answer, lambda held: _whole_after(held, _moves(answer, held)))


@compaction_plan.part(4, "then all free slots are behind the last one's, and nobody has overtaken")
def _packed(answer: Answer) -> None:
    def look(held: Held) -> None:
        moves = _moves(answer, held)
        slots = _carried_out(held, moves)
        right = [(owner, number) for owner, (_, length) in _by_address(held) for number in range(length)]
        if slots[: len(right)] != right:
            raise WrongAnswer("not-packed", _told(held, moves), _picture(held, slots))

    _judged(answer, look)


@compaction_plan.part(2, "nothing is copied that lies right already, and nothing twice")
def _least(answer: Answer) -> None:
    def look(held: Held) -> None:
        moves = _moves(answer, held)
        copied, needed = (sum(length for _, _, length in plan) for plan in (moves, _right(held)))
        if copied != needed:
            raise WrongAnswer("copies-too-much", f"{_told(held, moves)}: {copied} slots are copied, {needed} would do")

    _judged(answer, look)


def _judged(answer: Answer, look: Any) -> None:
    try:
        for_all(look, examples=200, held=_held())
    except WrongAnswer as wrong:
        raise named(answer, wrong, _MISTAKES, [(held,) for held in _INPUTS], _same) from None


def _moves(answer: Answer, held: Held) -> list[Move]:
    got = call(answer, dict(held))
    end = max((start + length for start, length in held.values()), default=0)
    try:
        moves = [(int(source), int(target), int(length)) for source, target, length in got]
    except (TypeError, ValueError):
        said = f"expected a list of (source, target, length), got {got!r}"
        raise WrongAnswer("no-moves", said) from None
    for source, target, length in moves:
        if min(source, target, length) < 0 or max(source, target) + length > end:
            said = f"{_told(held, moves)}: ({source}, {target}, {length}) leaves the memory, which ends at slot {end}"
            raise WrongAnswer("outside-the-memory", said)
    return moves


def _carried_out(held: Held, moves: list[Move]) -> list[Any]:
    """What lies in each slot afterwards: the owner, and which of its slots' content."""
    slots: list[Any] = [None] * max((start + length for start, length in held.values()), default=0)
    for owner, (start, length) in held.items():
        slots[start : start + length] = [(owner, number) for number in range(length)]
    for source, target, length in moves:
        slots[target : target + length] = slots[source : source + length]
    return slots


def _whole_after(held: Held, moves: list[Move]) -> None:
    slots = _carried_out(held, moves)
    for owner, (_, length) in held.items():
        content = [(owner, number) for number in range(length)]
        if not any(slots[start : start + length] == content for start in range(len(slots))):
            said = (
                f"{_told(held, moves)}: after that {owner}'s {length} slots are nowhere in a row, some were overwritten"
            )
            raise WrongAnswer("overwrites", said, _picture(held, slots))


def _by_address(held: Held) -> list[tuple[str, Hole]]:
    return sorted(held.items(), key=lambda item: item[1])


def _right(held: Held) -> list[Move]:
    moves, end = [], 0
    for _, (start, length) in _by_address(held):
        if start != end:
            moves.append((start, end, length))
        end += length
    return moves


def _told(held: Held, moves: list[Move]) -> str:
    return f"compaction_plan({held}) gave {moves}"


def _picture(held: Held, slots: list[Any]) -> Strips:
    after = [(place, 1, content[0]) for place, content in enumerate(slots) if content]
    joined: list[tuple[int, int, str]] = []
    for place, _, owner in after:
        if joined and joined[-1][2] == owner and sum(joined[-1][:2]) == place:
            joined[-1] = (joined[-1][0], joined[-1][1] + 1, owner)
        else:
            joined.append((place, 1, owner))
    before = [(start, length, owner) for owner, (start, length) in held.items()]
    return strips(("before", len(slots), before), ("whose content lies where after your moves", len(slots), joined))


def _same(got: Any, mistaken: Any) -> bool:
    try:
        return [tuple(move) for move in got] == mistaken
    except TypeError:
        return False


def _in_order(order: Any) -> Any:
    """The right moves in another order."""
    return lambda held: order(held, _right(held))


def _as_they_came(held: Held) -> list[Move]:
    moves, end = [], 0
    for start, length in held.values():
        if start != end:
            moves.append((start, end, length))
        end += length
    return moves


def _first_gap(held: Held) -> list[Move]:
    right = _right(held)
    gap = right[0][0] - right[0][1] if right else 0
    return [(source, source - gap, length) for source, _, length in right]


def _own_gap(held: Held) -> list[Move]:
    """Each moves down to where the one before it ended, before that one moved."""
    moves, end = [], 0
    for _, (start, length) in _by_address(held):
        if start != end:
            moves.append((start, end, length))
        end = start + length
    return moves


def _to_the_end(held: Held) -> list[Move]:
    moves, end = [], max((start + length for start, length in held.values()), default=0)
    for _, (start, length) in reversed(_by_address(held)):
        end -= length
        if start != end:
            moves.append((start, end, length))
    return moves


def _everything(held: Held) -> list[Move]:
    starts = [0]
    for _, (_, length) in _by_address(held):
        starts.append(starts[-1] + length)
    return [(start, end, length) for (_, (start, length)), end in zip(_by_address(held), starts, strict=False)]


_INPUTS: list[Held] = [
    {"a": (0, 5), "b": (8, 3), "c": (14, 6)},
    {"c": (14, 6), "a": (2, 5), "b": (8, 4)},
    {"b": (9, 2), "d": (20, 4), "a": (1, 6), "c": (13, 5)},
    {"a": (0, 3), "b": (3, 2)},
    {},
]
_MISTAKES: Mistakes = {
    "highest-first": (
        "The upper ones move first, onto slots that lower ones still hold",
        _in_order(lambda _held, moves: moves[::-1]),
    ),
    "in-order-of-arrival": (
        "The requests are taken in the order of the dictionary, not of their addresses",
        _as_they_came,
    ),
    "first-gap-only": ("Everybody moves down by the first gap; later gaps stay open", _first_gap),
    "forgets-earlier-moves": ("Each moves down to where its neighbour ended before it moved", _own_gap),
    "packs-upwards": ("The free slots are in front, not behind", _to_the_end),
    "moves-what-lies-right": ("A move from a place to itself copies all the same", _everything),
    "source-and-target-swapped": (
        "A move is (source, target, length), in this order",
        lambda held: [(target, source, length) for source, target, length in _right(held)],
    ),
}
