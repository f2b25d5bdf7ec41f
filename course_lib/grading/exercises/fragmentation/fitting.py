"""Best fit: which hole?"""

from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation.contiguous import Hole
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Mistakes, around, named, strips
from course_lib.grading.judge import call, for_all

best_fit = Exercise("02.best_fit", "best_fit", "Best fit: which hole?", difficulty=1, importance=3, minutes=10)


@st.composite
def _holes(draw: st.DrawFn, longest: int = 8) -> list[Hole]:
    """Holes by address, between which somebody sits."""
    holes, end = [], 0
    for gap, length in draw(st.lists(st.tuples(st.integers(1, 3), st.integers(1, longest)), max_size=6)):
        holes.append((end + gap, length))
        end += gap + length
    return holes


@best_fit.part(4, "the hole is the shortest one that is long enough")
def _shortest(answer: Answer) -> None:
    def look(holes: list[Hole], length: int) -> None:
        lengths = [hole for _, hole in holes]
        if len(set(lengths)) == len(lengths) and max(lengths, default=0) >= length:
            _compare(answer, holes, length)

    _judged(answer, look, 200)


@best_fit.part(2, "of equally short holes it is the first, and the list stays as it is")
def _ties(answer: Answer) -> None:
    def look(holes: list[Hole], length: int) -> None:
        if max((hole for _, hole in holes), default=0) >= length:
            _compare(answer, holes, length)

    _judged(answer, look, 200)


@best_fit.part(2, "None, and no slot's number, where no hole is long enough")
def _none(answer: Answer) -> None:
    def look(holes: list[Hole], length: int) -> None:
        _compare(answer, holes, length + max((hole for _, hole in holes), default=0))

    _judged(answer, look, 60)


def _judged(answer: Answer, look: Any, examples: int) -> None:
    try:
        for_all(look, examples=examples, holes=_holes(), length=st.integers(1, 8))
    except WrongAnswer as wrong:
        raise named(answer, wrong, _MISTAKES, _INPUTS, lambda got, mistaken: _exact(got) == _exact(mistaken)) from None


def _compare(answer: Answer, holes: list[Hole], length: int) -> None:
    given = list(holes)
    got, right = call(answer, given, length), _right(holes, length)
    if given != holes:
        said = f"best_fit({holes}, {length}) left the caller's list as {given}: the allocator still needs it by address"
        raise WrongAnswer("changes-the-list", said)
    if _exact(got) == _exact(right):
        return
    said = f"best_fit({holes}, {length}) gave {got!r}, expected {right!r}"
    if got is not None and right is None:
        said += ": no hole has so many slots"
    raise WrongAnswer("wrong-hole", said, _picture(holes, length, got, right))


def _right(holes: list[Hole], length: int) -> int | None:
    fitting = [(hole, start) for start, hole in holes if hole >= length]
    return min(fitting)[1] if fitting else None


def _exact(value: Any) -> Any:
    """False is not 0 here."""
    return type(value), str(value) if isinstance(value, Exception) else value


def _picture(holes: list[Hole], length: int, got: Any, right: int | None) -> Any:
    size = max((start + hole for start, hole in holes), default=0) + 2
    around_holes = around(size, [(*hole, "") for hole in holes])
    taken = [piece for piece in around_holes if piece[2]]
    rows = [(f"the holes; {length} slots are asked for", size, around_holes)]
    for who, first in (("yours", got), ("expected", right)):
        if isinstance(first, int) and any(start <= first and first + length <= start + hole for start, hole in holes):
            rows.append((f"{who}: slot {first}", size, [*taken, (first, length, who)]))
    return strips(*rows)


def _mistaken(fitting: Any, choose: Any) -> Any:
    def mistake(holes: list[Hole], length: int) -> int | None:
        found = [hole for hole in holes if fitting(hole[1], length)]
        return choose(found, length) if found else None

    return mistake


def _enough(hole: int, length: int) -> bool:
    return hole >= length


def _shorter(hole: Hole) -> tuple[int, int]:
    return hole[1], hole[0]


def _end(holes: list[Hole], length: int) -> int | None:
    right = _right(holes, length)
    return None if right is None else next(start + hole - length for start, hole in holes if start == right)


_INPUTS: list[tuple[list[Hole], int]] = [
    ([(3, 7), (12, 5), (20, 9), (31, 2)], 5),
    ([(1, 3), (6, 4), (12, 4), (18, 6)], 4),
    ([(1, 3), (6, 5), (12, 4), (18, 4)], 3),
    ([(2, 6), (9, 8), (20, 6)], 4),
    ([(1, 2), (5, 3)], 4),
    ([(5, 2), (9, 1)], 2),
    ([(0, 4)], 4),
    ([(0, 2)], 3),
    ([], 1),
]
_MISTAKES: Mistakes = {
    "first-fit": ("That is the first hole that is long enough", _mistaken(_enough, lambda found, _: found[0][0])),
    "worst-fit": (
        "That is the longest hole",
        _mistaken(_enough, lambda found, _: max(found, key=lambda hole: (hole[1], -hole[0]))[0]),
    ),
    "refuses-an-exact-fit": (
        "A hole of exactly that length is passed over, and nothing fits better",
        _mistaken(lambda hole, length: hole > length, lambda found, _: min(found, key=_shorter)[0]),
    ),
    "too-short": (
        "That is the shortest hole, whether the request fits in it or not",
        _mistaken(lambda _hole, _length: True, lambda found, _: min(found, key=_shorter)[0]),
    ),
    "last-of-equals": (
        "Of equally short holes that is the last one",
        _mistaken(_enough, lambda found, _: min(found, key=lambda hole: (hole[1], -hole[0]))[0]),
    ),
    "gives-the-length": (
        "That is the hole's length, not its first slot",
        _mistaken(_enough, lambda found, _: min(found, key=_shorter)[1]),
    ),
    "gives-the-place-in-the-list": (
        "That is the hole's place in the list, not its first slot",
        lambda holes, length: next((i for i, hole in enumerate(holes) if hole[0] == _right(holes, length)), None),
    ),
    "zero-for-none": (
        "0 is a slot's number: the caller takes it for a place",
        lambda holes, length: _right(holes, length) or 0,
    ),
    "the-hole-s-end": (
        "The request's slots are at the end of the hole, and what is left is at its start",
        _end,
    ),
}
