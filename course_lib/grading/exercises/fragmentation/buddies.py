"""The buddy allocator's way of taking a block back."""

from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation.contiguous import Hole
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Mistakes, Piece, Strips, around, named, strips
from course_lib.grading.judge import call, for_all

give_back = Exercise("02.buddy", "give_back", "Buddies find each other", difficulty=3, importance=2, minutes=20)
SIZE = 64


@st.composite
def _memory(draw: st.DrawFn) -> tuple[set[Hole], Hole]:
    """A memory of 64 slots cut into blocks, some of them free and merged as they should be, and one that comes back."""
    blocks = [(0, SIZE)]
    for _ in range(draw(st.integers(1, 7))):
        start, length = blocks.pop(draw(st.integers(0, len(blocks) - 1)))
        if length == 1:
            blocks.append((start, length))
            continue
        blocks += [(start, length // 2), (start + length // 2, length // 2)]
    back = blocks.pop(draw(st.integers(0, len(blocks) - 1)))
    free: set[Hole] = set()
    for block in blocks:
        # A block of which the other half is free too would have been merged long ago.
        if draw(st.booleans()) and (block[0] ^ block[1], block[1]) not in free:
            free.add(block)
    return free, back


@give_back.part(3, "a block whose buddy is taken stays as it is")
def _alone(answer: Answer) -> None:
    def look(memory: tuple[set[Hole], Hole]) -> None:
        free, (start, length) = memory
        if (start ^ length, length) not in free:
            _compare(answer, free, start, length)

    _judged(answer, look)


@give_back.part(3, "with its free buddy it makes one block of twice the length")
def _once(answer: Answer) -> None:
    def look(memory: tuple[set[Hole], Hole]) -> None:
        free, (start, length) = memory
        if len(_right(free, start, length)) == len(free):
            _compare(answer, free, start, length)

    _judged(answer, look)


@give_back.part(4, "that block looks for its own buddy, and so on")
def _chain(answer: Answer) -> None:
    _judged(answer, lambda memory: _compare(answer, memory[0], *memory[1]))


def _judged(answer: Answer, look: Any) -> None:
    try:
        for_all(look, examples=300, memory=_memory())
    except WrongAnswer as wrong:
        raise named(
            answer, wrong, _MISTAKES, _INPUTS, lambda got, mistaken: _blocks(got) == _blocks(mistaken)
        ) from None


def _compare(answer: Answer, free: set[Hole], start: int, length: int) -> None:
    got, right = call(answer, set(free), start, length), _right(free, start, length)
    if not isinstance(got, set):
        raise WrongAnswer("no-set", f"give_back returns the set of free blocks; {type(got).__name__} came")
    if _blocks(got) != _blocks(right):
        said = f"give_back({sorted(free)}, {start}, {length}) gave {_shown(got)}, expected {sorted(right)}"
        raise WrongAnswer("wrong-blocks", said, _picture(free, got, right, (start, length)))


def _right(free: set[Hole], start: int, length: int) -> set[Hole]:
    left = set(free)
    while (start ^ length, length) in left:
        left.remove((start ^ length, length))
        start, length = min(start, start ^ length), 2 * length
    return left | {(start, length)}


def _blocks(value: Any) -> Any:
    return sorted(tuple(block) for block in value) if isinstance(value, set) else type(value)


def _shown(value: set[Any]) -> Any:
    try:
        return sorted(value)
    except TypeError:
        return value


def _picture(free: set[Hole], got: set[Any], right: set[Hole], back: Hole) -> Strips:
    rows = [("before; `back` comes back", SIZE, around(SIZE, [*_drawn(free), (*back, "back")]))]
    try:
        slots = [slot for start, length in got for slot in range(start, start + length)]
        if len(set(slots)) == len(slots) and max(slots) < SIZE:
            rows.append(("yours", SIZE, around(SIZE, _drawn(got))))
    except (TypeError, ValueError):
        pass  # what came is no set of blocks: the message shows it
    return strips(*rows, ("expected", SIZE, around(SIZE, _drawn(right))))


def _drawn(blocks: set[Hole]) -> list[Piece]:
    return [(start, length, "") for start, length in blocks]


def _merging(
    buddy_of: Any, joined: Any = min, again: bool = True, keeps: bool = False, any_length: bool = False
) -> Any:
    """Return a way of merging that is wrong in one point."""

    def mistake(free: set[Hole], start: int, length: int) -> set[Hole]:
        left = set(free)
        for _ in range(SIZE):
            near = [
                block for block in left if block[0] in buddy_of(start, length) and (any_length or block[1] == length)
            ]
            if not near:
                break
            other = near[0]
            if not keeps:
                left.remove(other)
            start, length = joined(start, other[0]), other[1] + length
            if not again:
                break
        return left | {(start, length)}

    return mistake


def _buddy(start: int, length: int) -> list[int]:
    return [start ^ length]


_INPUTS: list[tuple[set[Hole], int, int]] = [
    (set(), 8, 8),
    ({(8, 8)}, 0, 8),
    ({(0, 8)}, 8, 8),
    ({(16, 8)}, 8, 8),
    ({(8, 8), (48, 16)}, 16, 8),
    ({(0, 4), (4, 2), (32, 32)}, 6, 2),
    ({(4, 4), (8, 8), (16, 16), (32, 32)}, 0, 4),
    ({(0, 32), (32, 16), (48, 8), (56, 4)}, 60, 4),
    ({(8, 4)}, 0, 8),
    ({(0, 16)}, 16, 8),
]
_MISTAKES: Mistakes = {
    "never-merges": ("Blocks only ever get smaller so, until nothing long fits", _merging(lambda _s, _l: [])),
    "merges-once": ("The merged block may have a free buddy as well", _merging(_buddy, again=False)),
    "touching-is-not-enough": (
        "Blocks that touch are buddies only where they were cut from the same block",
        _merging(lambda start, length: [start + length, start - length]),
    ),
    "looks-behind-only": (
        "A block in an upper half has its buddy in front of it",
        _merging(lambda start, length: [start + length] if start % (2 * length) == 0 else []),
    ),
    "looks-in-front-only": (
        "A block in a lower half has its buddy behind it",
        _merging(lambda start, length: [start - length] if start % (2 * length) else []),
    ),
    "starts-at-the-upper-half": (
        "The merged block starts where the lower half does",
        _merging(_buddy, joined=lambda s, _o: s),
    ),
    "keeps-the-buddy": ("The buddy is in the merged block, and still free on its own", _merging(_buddy, keeps=True)),
    "any-length": (
        "What starts at the buddy's place is the buddy only if it has the same length",
        _merging(_buddy, any_length=True),
    ),
}
