"""The waste that a memory counts, against a count of its slots one by one."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.fragmentation import (
    BestFit,
    Buddy,
    FirstFit,
    History,
    Request,
    Reservations,
    reserve_exact,
    reserve_max,
    reserve_nothing,
    reserve_pow2,
)
from course_lib.fragmentation.memory_map import Snapshot

RESERVES = [reserve_max, reserve_pow2, reserve_exact, reserve_nothing]
LIMIT = 64


def slots(snapshot: Snapshot) -> Counter[str]:
    """Count the slots in each state; the segments must cover the memory without a gap."""
    counted: Counter[str] = Counter()
    end = 0
    for segment in snapshot.segments:
        assert segment.start == end
        assert segment.length > 0
        assert (segment.state == "free") == (segment.owner == "")
        counted[segment.state] += segment.length
        end += segment.length
    assert end == snapshot.size
    return counted


@given(
    kind=st.sampled_from([FirstFit, BestFit, Buddy]),
    reserve=st.sampled_from(RESERVES),
    size=st.integers(64, 300),
    requests=st.lists(st.tuples(st.integers(1, 32), st.integers(1, 32)), min_size=1, max_size=12),
    choices=st.lists(st.tuples(st.booleans(), st.integers(0, 100)), max_size=60),
)
def test_waste_is_what_the_slots_say(kind, reserve, size, requests, choices) -> None:
    memory = Reservations(kind(size), reserve, LIMIT)
    made = {}
    for number, (prompt, output) in enumerate(requests):
        if memory.admit(Request(f"r{number}", 0.0, prompt, output)):
            made[f"r{number}"] = output
    for release, choice in choices:
        if not made:
            break
        owner = list(made)[choice % len(made)]
        if release or not made[owner]:
            memory.release(owner)
            del made[owner]
        elif memory.grow(owner):
            made[owner] -= 1
    waste, counted = memory.waste(), slots(memory.snapshot(0.0, "now"))
    held = memory.holdings.values()
    over = sum(item.length - max(item.used, min(item.needed, item.length)) for item in held)
    assert waste.used * size == pytest.approx(counted["used"]) == pytest.approx(sum(item.used for item in held))
    assert waste.reserved * size == pytest.approx(counted["reserved"])
    assert waste.internal * size == pytest.approx(over)
    # The map draws an allocator's rounding as the request's own; the paper's bars count it with the holes.
    assert waste.rounding * size == pytest.approx(counted["internal"] - over)
    assert waste.external * size == pytest.approx(counted["free"] + waste.rounding * size)
    assert waste.used + waste.reserved + waste.internal + waste.external == pytest.approx(1)
    if kind is not Buddy:
        assert waste.rounding == 0


@given(prompt=st.integers(1, 1000), output=st.integers(1, 1048))
def test_reservations_hold_the_request(prompt: int, output: int) -> None:
    request = Request("r", 0.0, prompt, output)
    assert (
        reserve_exact(request, 2048)
        == prompt + output
        <= reserve_pow2(request, 2048)
        <= 2048
        == reserve_max(request, 2048)
    )
    assert reserve_pow2(request, 10**6) - prompt < 2 * output
    assert reserve_nothing(request, 2048) == prompt + 1


def test_a_paper_s_example_of_pow2() -> None:
    """Section 6.1: where the output has 25 tokens, it reserves 32."""
    assert reserve_pow2(Request("r", 0.0, 7, 25), 2048) == 7 + 32


def test_a_token_without_a_slot_is_refused() -> None:
    memory = Reservations(FirstFit(20), reserve_nothing)
    assert memory.admit(Request("a", 0.0, 5, 9)) and memory.admit(Request("b", 0.0, 5, 9))
    assert memory.grow("a") and memory.grow("b")
    assert not memory.grow("a"), "b begins right behind a"
    assert memory.grow("b")
    memory.release("b")
    assert memory.grow("a")
    assert memory.holdings["a"].used == 7


def test_bad_requests_are_refused_with_a_reason() -> None:
    memory = Reservations(FirstFit(100), lambda request, limit: 3, limit=50)
    with pytest.raises(ValueError, match=r"request long has 40 \+ 20 tokens, more than the limit of 50"):
        memory.admit(Request("long", 0.0, 40, 20))
    with pytest.raises(ValueError, match="3 slots reserved for request r, whose prompt has 5"):
        memory.admit(Request("r", 0.0, 5, 2))
    with pytest.raises(ValueError, match="expected at least 1 of each"):
        Request("r", 0.0, 0, 5)


def test_the_story_of_a_b_c_and_d() -> None:
    story = History(FirstFit(200))
    assert story.allocate("A", 50) and story.allocate("B", 30) and story.allocate("C", 80)
    assert not story.grow("A", 51)
    story.free("B")
    assert not story.allocate("D", 60)
    assert "70 slots are free, 40 of them in a row" in story.snapshots[-1].event
    assert story.grow("A", 51)
    assert isinstance(story.allocator, FirstFit)
    story.moved(story.allocator.compact())
    assert story.allocate("D", 60)
    assert [shot.refused for shot in story.snapshots].count(True) == 2
    assert [(s.owner, s.start, s.length) for s in story.snapshots[-1].segments] == [
        ("A", 0, 51),
        ("C", 51, 80),
        ("D", 131, 60),
        ("", 191, 9),
    ]
    for shot in story.snapshots:
        slots(shot)
