"""The time of a run: what ran when, where nothing ran, and how full the KV cache was."""

from dataclasses import dataclass
from typing import Any

from course_lib.viz.series import PHASES, Records

IDLE = "idle"
_SHORTEST = 1e-3
"""Seconds; less between two phases is the loop's own work."""


@dataclass(frozen=True)
class Span:
    """A phase from `start` to `end`, in seconds since the run's first phase."""

    phase: str
    start: float
    end: float

    @property
    def length(self) -> float:
        """Seconds that it took."""
        return self.end - self.start


def timeline(records: Records) -> tuple[list[list[Span]], bool]:
    """Return the spans of each record, and whether they were measured.

    A gap between two phases becomes a span of its own, `idle`, in the step before it. A record without a timeline gets its
    phases' seconds one after the other: where they ran is then unknown, and so is idle time.
    """
    steps: list[list[Span]] = []
    clock = 0.0
    measured = any(record.get("timeline") for record in records)
    for record, shift in zip(records, _shifts(records), strict=True):
        step: list[Span] = []
        for phase, start, end in record.get("timeline") or _in_a_row(record, clock - shift):
            begin = start + shift
            if (step or steps) and begin - clock > _SHORTEST:
                (step or steps[-1]).append(Span(IDLE, clock, begin))
            step.append(Span(phase, begin, end + shift))
            clock = end + shift
        steps.append(step)
    return steps, measured


def curves(records: Records, limit: int) -> list[list[list[Any]]]:
    """Return each record's KV use, `[seconds, share, running, waiting]`, on the clock of `timeline`, thinned to `limit` in all.

    Neighbours that become one keep the fullest moment: a peak is what one looks for.
    """
    room = max(8, limit // max(1, sum(bool(record.get("kv")) for record in records)))
    found = []
    for record, shift in zip(records, _shifts(records), strict=True):
        points = record.get("kv") or []
        count = min(room, len(points))
        parts = [points[place * len(points) // count : (place + 1) * len(points) // count] for place in range(count)]
        fullest = [max(part, key=lambda point: point[1]) for part in parts]
        found.append([[at + shift, *rest] for at, *rest in fullest])
    return found


def _shifts(records: Records) -> list[float]:
    """Return for each record what to add to its seconds, so that a start whose clock began anew goes on behind the one before."""
    shifts, shift, clock = [], 0.0, None
    for record in records:
        spans = record.get("timeline") or []
        if spans:
            if clock is None:
                shift = -spans[0][1]
            elif spans[0][1] + shift < clock - _SHORTEST:
                shift = clock - spans[0][1]
            clock = spans[-1][2] + shift
        shifts.append(shift)
    return shifts


def _in_a_row(record: dict[str, Any], clock: float) -> list[tuple[str, float, float]]:
    """Return the phases from `clock` on, each from where the one before it ends."""
    seconds = record.get("seconds") or {}
    others = [name for name in seconds if name not in (*PHASES, "step")]
    spans = []
    for phase in (*PHASES, *others):
        length = seconds.get(phase) or 0.0
        if length > 0:  # NaN is not
            spans.append((phase, clock, clock + length))
            clock += length
    return spans
