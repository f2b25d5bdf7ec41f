"""A first-fit allocator, watched by a list that says of each slot whose it is."""

from typing import Any

from hypothesis import strategies as st

from course_lib.fragmentation import FirstFit, Request, reserve_exact, simulate
from course_lib.grading.exercise import Answer, Exercise, WrongAnswer
from course_lib.grading.exercises.fragmentation.mistakes import Strips, strips
from course_lib.grading.judge import call, for_all

first_fit = Exercise("02.first_fit", "MyFirstFit", "A first-fit allocator", difficulty=3, importance=5, minutes=25)
Event = tuple[str, str, int]
"""`allocate` or `free`, the owner, and how many slots are asked for."""


class _Watched:
    """An answer at work, and beside it what ours does; every event is compared."""

    def __init__(self, answer: Answer, size: int):
        self.mine: Any = call(answer, size)
        self.ours = FirstFit(size)
        self.said = f"MyFirstFit({size})"

    def allocate(self, owner: str, length: int) -> tuple[Any, int | None]:
        """Return the first slot that the answer gives, and the right one."""
        before = self.ours.held
        self.said += f", allocate({owner!r}, {length})"
        return call(self.mine.allocate, owner, length), self.ours.allocate(
            owner, length
        ) if owner not in before else None

    def free(self, owner: str) -> None:
        self.said += f", free({owner!r})"
        call(self.mine.free, owner)
        self.ours.free(owner)

    def expect(self, owner: str, length: int, mistakes: dict[Any, tuple[str, str]]) -> None:
        """Allocate; where the wrong slot comes, raise what `mistakes` says of it."""
        held = self.ours.held
        got, right = self.allocate(owner, length)
        if type(got) is not type(right) or got != right:
            self.blame(got, right, owner, length, held, *mistakes.get(got, ("wrong-slot", "")))

    def look(self, diagnosis: str, why: str) -> None:
        """Compare the holes."""
        got = call(self.mine.holes)
        shown = [tuple(hole) for hole in got] if isinstance(got, list | tuple) else got
        if shown == self.ours.holes():
            return
        if isinstance(shown, list) and sorted(shown) == self.ours.holes():
            diagnosis, why = "holes-out-of-order", "The right holes, but not by address"
        elif isinstance(shown, list) and [hole for hole in shown if hole[-1] != 0] == self.ours.holes():
            diagnosis, why = "empty-hole", "A hole without a slot is none"
        raise WrongAnswer(
            diagnosis, f"{self.said}: holes() gave {got}, expected {self.ours.holes()}. {why}", self.picture()
        )

    def blame(
        self,
        got: Any,
        right: int | None,
        owner: str,
        length: int,
        held: dict[str, tuple[int, int]],
        name: str,
        why: str,
    ) -> None:
        """Raise the mistake, with a picture of the memory before it."""
        said = f"{self.said} gave {got!r}, expected {right!r}. {why}".rstrip()
        events = [("before", self.ours.size, [(start, size, who) for who, (start, size) in held.items()])]
        if right is not None:
            events.append((f"expected: {owner} ({length}) at slot {right}", self.ours.size, self._held()))
        raise WrongAnswer(name, said, strips(*events))

    def picture(self) -> Strips:
        return strips(("what is held", self.ours.size, self._held()))

    def _held(self) -> list[tuple[int, int, str]]:
        return [(start, length, who) for who, (start, length) in self.ours.held.items()]


@first_fit.part(3, "a request gets the start of the first hole that is long enough")
def _places(answer: Answer) -> None:
    watched = _Watched(answer, 20)
    watched.expect("a", 6, {14: ("from-the-far-end", "Slots are given out from the end of the hole")})
    watched.expect(
        "b",
        4,
        {
            0: ("gives-the-same-slot-twice", "Slot 0 is a's: what is given must leave the holes"),
            None: ("takes-the-whole-hole", "The rest of a hole that is too long stays free"),
        },
    )
    watched.expect("c", 10, {None: ("refuses-an-exact-fit", "10 slots are free, and 10 are asked for")})
    watched.look("wrong-holes", "The memory is full")
    try:
        watched.expect("d", 1, {False: ("no-none", "None says that nothing fits")})
    except WrongAnswer as wrong:
        if wrong.diagnosis == "crash":
            raise WrongAnswer("raises-when-full", f"{wrong.message}. A full memory is no error: return None") from wrong
        raise
    watched.free("a")
    watched.free("c")
    watched.expect(
        "e",
        5,
        {
            10: ("takes-the-last-hole", "Holes are looked at from the lowest address"),
            None: ("never-reuses", "What is freed can be given out again"),
        },
    )
    watched.look("wrong-holes", "")
    other = _Watched(answer, 8)
    other.look("shared-between-memories", "A new memory is free, whatever another one holds: state belongs in __init__")
    chooser = _Watched(answer, 20)
    for owner, length in (("a", 6), ("b", 2), ("c", 4), ("d", 8)):
        chooser.expect(owner, length, {})
    chooser.free("a")
    chooser.free("c")
    chooser.expect("e", 3, {8: ("best-fit", "That is the shortest hole that is long enough, not the first one")})


@first_fit.part(4, "freed slots become one hole with the free slots on both sides")
def _merges(answer: Answer) -> None:
    apart = {order: len(call(_freed(answer, order).mine.holes)) > 1 for order in ("ab", "ba")}
    for order, name, why in (
        ("ab", "forgets-the-hole-before", "Freed slots join the hole that ends where they start"),
        ("ba", "forgets-the-hole-behind", "Freed slots join the hole that starts where they end"),
        ("acb", "leaves-pieces", "Freed slots between two holes make one of all three"),
        ("acbz", "leaves-pieces", "All is free again"),
    ):
        if all(apart.values()):
            always = "Freed slots join the free ones beside them, or long requests never fit again"
            _freed(answer, order).look("never-merges", always)
        _freed(answer, order).look(name, why)


def _freed(answer: Answer, order: str) -> _Watched:
    """Four requests side by side, some of which end in this order."""
    watched = _Watched(answer, 12)
    for owner in "abcz":
        watched.allocate(owner, 3)
    for owner in order:
        watched.free(owner)
    return watched


@first_fit.part(3, "after any events the holes and the slots are right, and it serves a simulation")
def _any(answer: Answer) -> None:
    def play(size: int, events: list[tuple[int, int]]) -> None:
        watched = _Watched(answer, size)
        for number, (length, choice) in enumerate(events):
            held = list(watched.ours.held)
            if length == 0 and held:
                watched.free(held[choice % len(held)])
            else:
                watched.expect(f"o{number}", max(length, 1), {})
            watched.look("wrong-holes", "")

    length = st.one_of(st.just(0), st.integers(1, 9))
    events = st.lists(st.tuples(length, st.integers(0, 9)), max_size=12)
    for_all(play, examples=150, size=st.integers(4, 20), events=events)
    requests = [Request(f"r{i}", i / 9, 3 + i * 7 % 11, 2 + i * 5 % 13) for i in range(40)]
    mine, ours = (simulate(requests, kind(60), reserve_exact, limit=40) for kind in (answer, FirstFit))
    if mine != ours:
        said = f"in the simulation it serves {mine.mean_batch:.2f} requests at once, first fit {ours.mean_batch:.2f}"
        raise WrongAnswer("wrong-in-the-simulation", said)
