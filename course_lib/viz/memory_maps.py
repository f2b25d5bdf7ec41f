"""The memory map of lesson 02: who holds which slots of a contiguous memory, scrubbed through time."""

from collections.abc import Sequence
from typing import Any

from course_lib.fragmentation.memory_map import Snapshot
from course_lib.viz.memory_strip import STATES, Run, filmstrip, owners_of, shares
from course_lib.viz.picture import Picture, bundle, key_frames
from course_lib.viz.theme import CourseFigure


def memory_map(snapshots: Sequence[Snapshot], title: str = "") -> "MemoryMap":
    """Return the memory after each event as a picture with a time slider.

    A piece's colour is its owner, its pattern is its state; the history under the slider shows the shares over all events.

    Args:
        snapshots: the memory after each event, in order.
        title: what to see in it.

    Raises:
        ValueError: there is no snapshot, their sizes differ, or one's segments leave a gap or overlap.
    """
    return MemoryMap(snapshots, title)


class MemoryMap(Picture):
    """The picture that `memory_map` returns.

    Args:
        snapshots: the memory after each event, in order.
        title: what to see in it.
    """

    _esm = bundle("memory_map.mjs")

    def __init__(self, snapshots: Sequence[Snapshot], title: str = ""):
        self.snapshots = tuple(snapshots)
        super().__init__(payload=payload(self.snapshots, title))

    def redraw(self, snapshots: Sequence[Snapshot], title: str, runs: Sequence[Run] = ()) -> None:
        """Show other snapshots, from the middle of the story, where the memory is busy.

        Args:
            snapshots: the memory after each event, in order.
            title: what to see in it.
            runs: simulations to compare in bars under the map.
        """
        self.snapshots = tuple(snapshots)
        bars = [
            {"label": run.label, "shares": list(run.shares().values()), "note": f"mean batch {run.mean_batch:.1f}"}
            for run in runs
        ]
        with self.hold_sync():
            self.frame = len(self.snapshots) // 2
            self.payload = {**payload(self.snapshots, title), "runs": bars}

    def figure(self) -> CourseFigure:
        """Return a filmstrip: up to eight events, one under the other."""
        return filmstrip(self.snapshots, self.payload["title"])

    def words(self) -> str:
        """Return the shares of the memory after each event, or after those that tell the story."""
        return in_words(self.snapshots, self.payload["title"])


def payload(snapshots: Sequence[Snapshot], title: str) -> dict[str, Any]:
    """Return what the widget draws: each segment is [start, length, place in STATES, place in `owners` or -1]."""
    check(snapshots)
    owners = owners_of(snapshots)
    place = {owner: number for number, owner in enumerate(owners)}
    frames = [
        {
            "time": snapshot.time,
            "event": snapshot.event,
            "refused": snapshot.refused,
            "segments": [
                [segment.start, segment.length, STATES.index(segment.state), place.get(segment.owner, -1)]
                for segment in snapshot.segments
            ],
        }
        for snapshot in snapshots
    ]
    return {"title": title, "size": snapshots[0].size, "owners": owners, "frames": frames}


def check(snapshots: Sequence[Snapshot]) -> None:
    """Raise a ValueError where the snapshots are not those of one memory, told completely."""
    if not snapshots:
        raise ValueError("there is nothing to draw: pass at least one Snapshot")
    size = snapshots[0].size
    for number, snapshot in enumerate(snapshots):
        where = f"snapshot {number} ({snapshot.event!r})"
        if snapshot.size != size:
            raise ValueError(f"{where} has {snapshot.size} slots and the first {size}: draw one memory at a time")
        slot = 0
        for segment in snapshot.segments:
            if segment.start != slot or segment.length < 1:
                raise ValueError(f"{where}: a segment should start at slot {slot}, but found {segment}")
            slot += segment.length
        if slot != size:
            raise ValueError(f"{where}: segments cover {slot} of {size} slots; free ones are segments too")


def in_words(snapshots: Sequence[Snapshot], title: str, limit: int = 12) -> str:
    """Return a line for each of at most `limit` events."""
    heading = f"{title or 'Memory map'}: {snapshots[0].size:,} slots, {len(snapshots)} event(s)"
    lines = []
    for place in key_frames(snapshots, [snapshot.refused for snapshot in snapshots], limit):
        snapshot = snapshots[place]
        told = ", ".join(f"{state} {share:.1%}" for state, share in shares(snapshot).items())
        lines.append(f"  t = {snapshot.time:g}  {'refused: ' * snapshot.refused}{snapshot.event}: {told}")
    return "\n".join([heading, *lines])
