"""Two ways to fill a batch of fixed width: wait for its longest request, or refill it at every iteration."""

import heapq
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Turn:
    """A request's place in a schedule.

    Attributes:
        request: its number in the queue.
        row: its row of the batch.
        start: the step in which it makes its first token.
        length: the steps that it runs, one token each.
    """

    request: int
    row: int
    start: int
    length: int


@dataclass(frozen=True)
class Schedule:
    """Who has which row of the batch when.

    Attributes:
        rows: width of the batch.
        turns: every request's turn, in the queue's order.
    """

    rows: int
    turns: tuple[Turn, ...]

    def __repr__(self) -> str:
        return f"Schedule({len(self.turns)} requests, {self.rows} rows, {self.steps} steps, idle {self.idle:.1%})"

    @property
    def steps(self) -> int:
        """Steps until the last request has ended."""
        return max(turn.start + turn.length for turn in self.turns)

    @property
    def tokens(self) -> int:
        """Tokens that all requests make."""
        return sum(turn.length for turn in self.turns)

    @property
    def idle(self) -> float:
        """Share of the batch's places, rows times steps, in which no token is made."""
        return 1 - self.tokens / (self.rows * self.steps)


def static_batches(output_tokens: Sequence[int], rows: int) -> Schedule:
    """Take `rows` requests at a time; the next ones start when the longest of these has ended.

    Args:
        output_tokens: tokens that each request makes, in the queue's order.
        rows: width of the batch.
    """
    _check(output_tokens, rows)
    turns, start = [], 0
    for first in range(0, len(output_tokens), rows):
        batch = output_tokens[first : first + rows]
        turns += [Turn(first + row, row, start, length) for row, length in enumerate(batch)]
        start += max(batch)
    return Schedule(rows, tuple(turns))


def iteration_level(output_tokens: Sequence[int], rows: int) -> Schedule:
    """Give a row to the next request in the very step after its last one ended (Yu et al., Orca, OSDI 2022).

    Args:
        output_tokens: tokens that each request makes, in the queue's order.
        rows: width of the batch.
    """
    _check(output_tokens, rows)
    ends = [(0, row) for row in range(rows)]
    turns = []
    for request, length in enumerate(output_tokens):
        start, row = ends[0]
        heapq.heapreplace(ends, (start + length, row))
        turns.append(Turn(request, row, start, length))
    return Schedule(rows, tuple(turns))


def _check(output_tokens: Sequence[int], rows: int) -> None:
    if rows < 1 or not output_tokens or min(output_tokens) < 1:
        raise ValueError(
            f"{len(output_tokens)} requests in {rows} rows: expected at least one request, one row, and a token each"
        )
