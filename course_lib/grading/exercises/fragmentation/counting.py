"""Waste: what each slot of a memory is doing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation.memory import Waste
from course_lib.fragmentation.memory_map import Holding, snapshot
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Mistakes, Strips, named
from course_lib.grading.judge import call, for_all

count_waste = Exercise(
    "02.waste", "count_waste", "Used, reserved, internal, external", difficulty=2, importance=4, minutes=15
)
PARTS = ("used", "reserved", "internal", "external")


@st.composite
def _memory(draw: st.DrawFn) -> tuple[int, list[Holding]]:
    """Requests in their reservations, some with a hole behind them."""
    holdings, end = [], 0
    for used, more, over, gap in draw(
        st.lists(st.tuples(st.integers(1, 9), st.integers(0, 9), st.integers(0, 9), st.integers(0, 5)), max_size=4)
    ):
        holdings.append(Holding(end, used + more + over, used, used + more))
        end += used + more + over + gap
    return max(1, end + draw(st.integers(0, 9))), holdings


@count_waste.part(2, "used: the slots that hold tokens, as a share of the memory")
def _used(answer: Answer) -> None:
    _judged(answer, ("used",))


@count_waste.part(3, "reserved: what a request will still fill")
def _reserved(answer: Answer) -> None:
    _judged(answer, ("reserved",))


@count_waste.part(3, "internal: what a request holds and never fills")
def _internal(answer: Answer) -> None:
    _judged(answer, ("internal",))


@count_waste.part(2, "external: what nobody holds; all four add up to 1")
def _external(answer: Answer) -> None:
    _judged(answer, PARTS)


def _judged(answer: Answer, parts: tuple[str, ...]) -> None:
    try:
        for_all(lambda memory: _compare(answer, memory[0], memory[1], parts), examples=80, memory=_memory())
    except WrongAnswer as wrong:
        raise named(answer, wrong, _MISTAKES, _INPUTS, _same) from None


def _compare(answer: Answer, size: int, holdings: list[Holding], parts: tuple[str, ...]) -> None:
    got, right = call(answer, size, list(holdings)), _right(size, holdings)
    if not isinstance(got, Waste):
        raise WrongAnswer("no-waste", f"expected a Waste(used, reserved, internal, external), got {type(got).__name__}")
    for part in parts:
        found, expected = getattr(got, part), getattr(right, part)
        if not isinstance(found, int | float) or abs(found - expected) > 1e-9:
            said = f"of {size} slots, with {holdings}: {part} is {found!r}, expected {expected:.4f}"
            owners = {f"r{number}": holding for number, holding in enumerate(holdings)}
            raise WrongAnswer(
                f"wrong-{part}", said, Strips((snapshot(0.0, "the memory", size, owners, _holes(size, holdings)),))
            )


def _right(size: int, holdings: list[Holding]) -> Waste:
    used, needed = sum(item.used for item in holdings), sum(item.needed for item in holdings)
    held = sum(item.length for item in holdings)
    return Waste(used / size, (needed - used) / size, (held - needed) / size, (size - held) / size)


def _holes(size: int, holdings: list[Holding]) -> list[tuple[int, int]]:
    ends = [0, *(item.start + item.length for item in holdings)]
    starts = [*(item.start for item in holdings), size]
    return [(end, start - end) for end, start in zip(ends, starts, strict=True) if start > end]


def _same(got: Any, mistaken: Any) -> bool:
    if not isinstance(got, Waste) or not isinstance(mistaken, Waste):
        return type(got) is type(mistaken)
    return all(
        isinstance(getattr(got, part), int | float) and abs(getattr(got, part) - getattr(mistaken, part)) < 1e-9
        for part in PARTS
    )


@dataclass(frozen=True)
class _Sums:
    """Slots of all requests together."""

    used: int
    needed: int
    held: int
    size: int


def _with(**changes: Callable[[_Sums], float]) -> Callable[[int, list[Holding]], Waste]:
    """Return the right count with some of its parts counted otherwise."""

    def mistake(size: int, holdings: list[Holding]) -> Waste:
        used, needed = sum(item.used for item in holdings), sum(item.needed for item in holdings)
        sums = _Sums(used, needed, sum(item.length for item in holdings), size)
        right = _right(size, holdings)
        return Waste(*(changes[part](sums) if part in changes else getattr(right, part) for part in PARTS))

    return mistake


_INPUTS = [
    (40, [Holding(0, 10, 4, 7), Holding(12, 8, 3, 8), Holding(25, 6, 1, 2)]),
    (20, [Holding(3, 9, 2, 6)]),
    (64, [Holding(0, 16, 5, 9), Holding(16, 16, 16, 16), Holding(40, 20, 11, 18)]),
]
_MISTAKES: Mistakes = {
    "slots-not-shares": (
        "These are slots; divide by the memory's size",
        _with(
            used=lambda s: s.used,
            reserved=lambda s: s.needed - s.used,
            internal=lambda s: s.held - s.needed,
            external=lambda s: s.size - s.held,
        ),
    ),
    "percent": (
        "These are percent; a share of everything is 1",
        _with(
            used=lambda s: 100 * s.used / s.size,
            reserved=lambda s: 100 * (s.needed - s.used) / s.size,
            internal=lambda s: 100 * (s.held - s.needed) / s.size,
            external=lambda s: 100 * (s.size - s.held) / s.size,
        ),
    ),
    "share-of-what-is-held": (
        "These are shares of the slots that requests hold; the memory is larger",
        _with(
            used=lambda s: s.used / s.held,
            reserved=lambda s: (s.needed - s.used) / s.held,
            internal=lambda s: (s.held - s.needed) / s.held,
            external=lambda s: (s.size - s.held) / s.held,
        ),
    ),
    "reserved-counts-the-used": (
        "What a request needs in all includes the tokens that it has, and those are used",
        _with(reserved=lambda s: s.needed / s.size),
    ),
    "reserved-is-all-that-is-empty": (
        "Part of a request's empty slots will stay empty, and that part is internal",
        _with(reserved=lambda s: (s.held - s.used) / s.size),
    ),
    "internal-counts-the-reserved": (
        "Part of a request's empty slots will be filled by it, and that part is reserved",
        _with(internal=lambda s: (s.held - s.used) / s.size),
    ),
    "used-counts-the-future": (
        "Tokens that do not exist yet take no slot",
        _with(used=lambda s: s.needed / s.size, reserved=lambda _: 0.0),
    ),
    "swaps-reserved-and-internal": (
        "Reserved and internal have changed places",
        _with(reserved=lambda s: (s.held - s.needed) / s.size, internal=lambda s: (s.needed - s.used) / s.size),
    ),
    "external-counts-what-is-held": (
        "What a request holds is not external, however empty it is",
        _with(external=lambda s: (s.size - s.used) / s.size),
    ),
}
