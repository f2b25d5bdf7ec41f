"""Who holds which part of a contiguous memory at one moment: what the pictures of lesson 02 are drawn from."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

State = Literal["used", "reserved", "internal", "free"]
"""Of the paper's terms (Kwon et al., SOSP 2023, section 3.1): `used` holds tokens, `reserved` will hold some of this request's
later, `internal` is the request's and never will; `free` belongs to nobody, and what of it nobody can use is external waste."""


@dataclass(frozen=True)
class Segment:
    """A run of token slots in one state.

    Attributes:
        start: its first slot.
        length: how many slots it has.
        state: what they are.
        owner: the request that holds them, empty where they are free.
    """

    start: int
    length: int
    state: State
    owner: str = ""


@dataclass(frozen=True)
class Snapshot:
    """The memory after one event.

    Attributes:
        time: when, in seconds or steps of the simulation.
        event: what happened, in words: `B (30 tokens) ends`, `D (60 tokens) does not fit`.
        size: slots in all.
        segments: all of the memory, in order, without gaps.
        refused: whether the event is a request that got no memory.
    """

    time: float
    event: str
    size: int
    segments: tuple[Segment, ...]
    refused: bool = False


@dataclass
class Holding:
    """What one request holds of a contiguous memory.

    Attributes:
        start: its first slot.
        length: the slots that it asked for.
        used: those that hold tokens.
        needed: those that will hold tokens when it ends; known in hindsight alone.
    """

    start: int
    length: int
    used: int
    needed: int


def snapshot(
    time: float,
    event: str,
    size: int,
    holdings: Mapping[str, Holding],
    holes: Iterable[tuple[int, int]],
    refused: bool = False,
) -> Snapshot:
    """Draw up who holds what.

    Slots that are in no holding and in no hole are what an allocator gave on top of what was asked: they belong to the
    request before them and will never hold a token of it, so they are `internal`.

    Args:
        time: when, in seconds or steps.
        event: what happened, in words.
        size: slots in all.
        holdings: what each request holds.
        holes: first slot and length of each free run.
        refused: whether the event is a request that got no memory.
    """
    starts = sorted([*((item.start, owner) for owner, item in holdings.items()), *((start, "") for start, _ in holes)])
    ends = [start for start, _ in starts[1:]] + [size]
    segments: list[Segment] = []
    for (start, owner), end in zip(starts, ends, strict=True):
        if not owner:
            segments.append(Segment(start, end - start, "free"))
            continue
        item = holdings[owner]
        used, needed = start + item.used, max(item.used, min(item.needed, item.length)) + start
        parts: list[tuple[int, int, State]] = [
            (start, used, "used"),
            (used, needed, "reserved"),
            (needed, end, "internal"),
        ]
        segments += [Segment(first, last - first, state, owner) for first, last, state in parts if last > first]
    return Snapshot(time, event, size, tuple(segments), refused)
