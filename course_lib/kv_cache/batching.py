"""Static batching: the first idea of how to serve several requests at once, and where its time goes."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """One request's turn in a batch. Times are steps of the model.

    Attributes:
        request: its number, in order of arrival.
        arrival: when it came.
        start: when its batch started.
        end: when it had all its tokens.
        batch_end: when the last of its batch had.
    """

    request: int
    arrival: int
    start: int
    end: int
    batch_end: int


def static_batches(arrivals: Sequence[int], lengths: Sequence[int], size: int) -> list[Turn]:
    """Serve requests in fixed batches: one starts when it is full and the one before has ended, and ends all together.

    Args:
        arrivals: when each request comes, in steps, in order.
        lengths: how many steps each request needs.
        size: requests in a batch; the last batch may have fewer.

    Raises:
        ValueError: arrivals are not in order, or do not match the lengths, or the size is below 1.
    """
    if size < 1 or len(arrivals) != len(lengths) or list(arrivals) != sorted(arrivals):
        raise ValueError(
            f"{len(arrivals)} arrivals, {len(lengths)} lengths, size {size}: expected one length an arrival, arrivals in "
            "order, and a size of at least 1"
        )
    turns: list[Turn] = []
    clock = 0
    for first in range(0, len(arrivals), size):
        members = range(first, min(first + size, len(arrivals)))
        start = max(clock, arrivals[members[-1]])
        clock = start + max(lengths[member] for member in members)
        turns += [Turn(member, arrivals[member], start, start + lengths[member], clock) for member in members]
    return turns


def slot_use(turns: Sequence[Turn]) -> float:
    """Return the share of the batches' slots that made a token; the rest waited for the longest of their batch."""
    return sum(turn.end - turn.start for turn in turns) / sum(turn.batch_end - turn.start for turn in turns)
