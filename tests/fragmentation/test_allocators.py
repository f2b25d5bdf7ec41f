"""Every allocator against a shadow: a list that says of each slot whose it is."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from course_lib.fragmentation import BestFit, Buddy, FirstFit, carry_out, copy_cost
from course_lib.fragmentation.allocators import rounded
from course_lib.fragmentation.contiguous import Contiguous, Hole, Move

SIZES = st.integers(1, 97)
OPERATIONS = st.lists(
    st.tuples(st.sampled_from(["allocate", "free", "grow"]), st.integers(1, 40), st.integers(0, 30)), max_size=40
)
ALL = pytest.mark.parametrize("kind", [FirstFit, BestFit, Buddy])
FITS = pytest.mark.parametrize("kind", [FirstFit, BestFit])


class Shadow:
    """Carries out operations on an allocator and on a list of slots, and compares them after each."""

    def __init__(self, kind: type[Contiguous], size: int):
        self.memory = kind(size)
        self.slots = [""] * size
        self.names = 0

    def run(self, operation: str, length: int, choice: int) -> None:
        owners = list(self.memory.held)
        if operation == "allocate" or not owners:
            self.names += 1
            self.allocate(f"o{self.names}", length)
        elif operation == "free":
            owner = owners[choice % len(owners)]
            self.memory.free(owner)
            self.slots = ["" if slot == owner else slot for slot in self.slots]
        else:
            self.grow(owners[choice % len(owners)], length)
        self.check()

    def allocate(self, owner: str, length: int) -> None:
        expected = self.expected(length)
        start = self.memory.allocate(owner, length)
        assert start == expected
        if start is not None:
            self.give(owner, start, self.granted(length))

    def grow(self, owner: str, length: int) -> None:
        start, now = self.memory.held[owner]
        end = start + max(now, self.granted(length))
        free = end <= len(self.slots) and all(slot in ("", owner) for slot in self.slots[start:end])
        aligned = not isinstance(self.memory, Buddy) or start % (end - start) == 0
        assert self.memory.grow(owner, length) == (free and aligned)
        if free and aligned:
            self.slots[start:end] = [owner] * (end - start)

    def give(self, owner: str, start: int, length: int) -> None:
        assert set(self.slots[start : start + length]) == {""}, "the slots were somebody's"
        assert start + length <= len(self.slots)
        self.slots[start : start + length] = [owner] * length

    def granted(self, length: int) -> int:
        return rounded(length) if isinstance(self.memory, Buddy) else length

    def runs(self) -> list[Hole]:
        """The maximal runs of free slots."""
        padded = ["x", *self.slots, "x"]
        starts = [i for i in range(len(self.slots)) if padded[i + 1] == "" and padded[i] != ""]
        return [(start, next(n for n in range(len(padded)) if padded[start + 1 + n] != "")) for start in starts]

    def expected(self, length: int) -> int | None:
        """Where the slots must come from, found the slow way."""
        if isinstance(self.memory, Buddy):
            holes = [(hole, start) for start, hole in self.memory.holes() if hole >= rounded(length)]
            return min(holes)[1] if holes else None
        fitting = [(hole, start) for start, hole in self.runs() if hole >= length]
        if isinstance(self.memory, BestFit):
            return min(fitting)[1] if fitting else None
        return min((start for _, start in fitting), default=None)

    def check(self) -> None:
        for owner, (start, length) in self.memory.held.items():
            assert [place for place, slot in enumerate(self.slots) if slot == owner] == list(
                range(start, start + length)
            )
        free = [place for start, length in self.memory.holes() for place in range(start, start + length)]
        assert free == [place for place, slot in enumerate(self.slots) if slot == ""]
        if isinstance(self.memory, Buddy):
            blocks = [*self.memory.holes(), *self.memory.held.values()]
            assert all(length & (length - 1) == 0 and start % length == 0 for start, length in blocks)
            assert not {(start ^ length, length) for start, length in self.memory.holes()} & set(self.memory.holes()), (
                "two free buddies were not merged"
            )
        else:
            assert self.memory.holes() == self.runs()


@ALL
@given(size=SIZES, operations=OPERATIONS)
def test_shadow(kind: type[Contiguous], size: int, operations: list[tuple[str, int, int]]) -> None:
    shadow = Shadow(kind, size)
    for operation in operations:
        shadow.run(*operation)


@ALL
@given(size=SIZES, operations=OPERATIONS)
def test_everything_free_again_is_the_start(
    kind: type[Contiguous], size: int, operations: list[tuple[str, int, int]]
) -> None:
    shadow = Shadow(kind, size)
    fresh = shadow.memory.holes()
    for operation in operations:
        shadow.run(*operation)
    for owner in shadow.memory.held:
        shadow.memory.free(owner)
    assert shadow.memory.holes() == fresh


@given(size=SIZES)
def test_a_fresh_buddy_memory_has_a_block_for_each_binary_digit(size: int) -> None:
    lengths = [length for _, length in Buddy(size).holes()]
    assert sum(lengths) == size
    assert lengths == sorted(set(lengths), reverse=True)


@FITS
@given(size=SIZES, operations=OPERATIONS)
def test_compaction_keeps_every_slot_s_content(
    kind: type[FirstFit], size: int, operations: list[tuple[str, int, int]]
) -> None:
    shadow = Shadow(kind, size)
    for operation in operations:
        shadow.run(*operation)
    memory = shadow.memory
    assert isinstance(memory, FirstFit)
    cache = torch.arange(size, dtype=torch.float32)[:, None].repeat(1, 3)
    before = {owner: cache[start : start + length].clone() for owner, (start, length) in memory.held.items()}
    order = list(memory.held)
    moves = memory.compact()
    carry_out(moves, cache)
    assert list(memory.held) == order
    for owner, (start, length) in memory.held.items():
        assert torch.equal(cache[start : start + length], before[owner])
    used = sum(len(content) for content in before.values())
    assert memory.holes() == ([(used, size - used)] if used < size else [])
    assert all(move.target < move.source for move in moves)
    assert memory.compact() == []


def test_copy_cost_counts_reading_and_writing() -> None:
    cost = copy_cost([Move("a", 10, 0, 6), Move("b", 20, 6, 4)], bytes_per_slot=100)
    assert (cost.slots, cost.bytes, cost.seconds(1e3)) == (10, 2000, 2.0)
    with pytest.raises(ValueError, match="expected at least 1"):
        copy_cost([], 0)


@pytest.mark.parametrize(("length", "power"), [(1, 1), (2, 2), (3, 4), (64, 64), (65, 128)])
def test_rounded(length: int, power: int) -> None:
    assert rounded(length) == power


@ALL
def test_bad_input_is_refused_with_a_reason(kind: type[Contiguous]) -> None:
    memory = kind(32)
    memory.allocate("a", 4)
    with pytest.raises(ValueError, match="a holds slots already"):
        memory.allocate("a", 4)
    with pytest.raises(ValueError, match="asks for 0 slots"):
        memory.allocate("b", 0)
    with pytest.raises(ValueError, match="b holds no slots; owners: a"):
        memory.free("b")
    with pytest.raises(ValueError, match="expected at least 1"):
        kind(0)
    assert kind.__name__ in repr(memory)
