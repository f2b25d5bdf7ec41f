"""The memory map's static form: some events as strips of slots, one under the other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Patch, Rectangle

from course_lib.fragmentation.memory import Waste
from course_lib.fragmentation.memory_map import Segment, Snapshot
from course_lib.viz.picture import OWNER_COLORS, OWNER_INKS, WIDTH, key_frames, sheet, write
from course_lib.viz.theme import CARD, COLORS, CourseFigure

STATES = ("used", "reserved", "internal", "free")
_HATCH = {"used": "", "reserved": "////", "internal": "xxxx", "free": ""}
_FILL = {"used": 1.0, "reserved": 0.25, "internal": 0.0, "free": 0.0}
_STRIP_WIDTH = 8.15  # inches of it that slots get
_EVENT_HEIGHT, _ROW_HEIGHT, _GAP = 0.24, 0.27, 0.16  # inches


def owners_of(snapshots: Sequence[Snapshot]) -> list[str]:
    """Return the owners in the order of their first appearance."""
    names = (segment.owner for snapshot in snapshots for segment in snapshot.segments if segment.owner)
    return list(dict.fromkeys(names))


def shares(snapshot: Snapshot) -> dict[str, float]:
    """Return the share of the memory in each state."""
    slots = dict.fromkeys(STATES, 0)
    for segment in snapshot.segments:
        slots[segment.state] += segment.length
    return {state: count / snapshot.size for state, count in slots.items()}


def row_length(size: int) -> int:
    """Return the slots in a row, as the widget's `rowLength` does: one row for a small memory, at most eight."""
    rows = max(1, min(8, -(-size // 512)))
    return -(-size // rows)


@dataclass(frozen=True)
class Run:
    """One simulation's bar.

    Attributes:
        label: its settings.
        waste: where the memory went, on average over time.
        mean_batch: requests in a step, on average.
    """

    label: str
    waste: Waste
    mean_batch: float

    def shares(self) -> dict[str, float]:
        """Return the mean shares of the memory."""
        return {part: getattr(self.waste, part) for part in ("used", "reserved", "internal", "external")}


def filmstrip(snapshots: Sequence[Snapshot], title: str = "", runs: Sequence[Run] = (), limit: int = 8) -> CourseFigure:
    """Return at most `limit` events as strips, one under the other, and bars of `runs` below."""
    row = row_length(snapshots[0].size)
    rows = -(-snapshots[0].size // row)
    places = key_frames(snapshots, [shot.refused for shot in snapshots], max(2, min(limit, 20 // rows)))
    owners = owners_of(snapshots)
    y = 0.42 if title else 0.12
    height = (
        y + len(places) * (_EVENT_HEIGHT + rows * _ROW_HEIGHT + _GAP) + 0.4 + bool(runs) * (len(runs) + 1) * _ROW_HEIGHT
    )
    with sheet(height, title) as (figure, axes):
        for place in places:
            _event(axes, snapshots[place], y)
            y += _EVENT_HEIGHT
            for number in range(rows):
                _row(axes, snapshots[place], number * row, row, owners, y)
                y += _ROW_HEIGHT
            y += _GAP
        if runs:
            write(axes, 0.2, y + 0.1, "Where the memory went, on average over time", 9, fontweight="bold")
        for number, run in enumerate(runs, 1):
            _bar(axes, run, y + number * _ROW_HEIGHT)
        _key(axes, external=bool(runs))
    return figure


def _bar(axes: Axes, run: Run, y: float) -> None:
    """Draw where the memory went in one run."""
    left, width, height = 4.2, 3.5, _ROW_HEIGHT - 0.05
    middle = y + height / 2
    write(axes, 0.2, middle, run.label)
    write(axes, WIDTH - 0.2, middle, f"mean batch {run.mean_batch:.1f}", ha="right")
    for part, share in run.shares().items():
        state = "free" if part == "external" else part
        axes.add_patch(Rectangle((left, y), share * width, height, **_look(state, COLORS["grey"])))
        if share > 0.1:
            ink = CARD if state == "used" else COLORS["black"]
            ground = None if state in {"used", "free"} else {"facecolor": CARD, "edgecolor": "none", "pad": 1.2}
            write(axes, left + 0.05, middle, f"{share:.0%}", color=ink, bbox=ground)
        left += share * width


def _event(axes: Axes, snapshot: Snapshot, y: float) -> None:
    color = COLORS["vermillion"] if snapshot.refused else COLORS["black"]
    said = snapshot.event if len(snapshot.event) <= 70 else f"{snapshot.event[:69]}…"
    text = f"t = {snapshot.time:.4g}   {'✗ refused: ' * snapshot.refused}{said}"
    write(axes, 0.2, y + 0.12, text, 9, color=color)
    told = ", ".join(f"{state} {share:.0%}" for state, share in shares(snapshot).items() if share)
    write(axes, WIDTH - 0.2, y + 0.12, told, ha="right", color=COLORS["grey"])


def _row(axes: Axes, snapshot: Snapshot, first: int, row: int, owners: list[str], y: float) -> None:
    """Draw the slots from `first` on, as many as a row has."""
    inch = _STRIP_WIDTH / row
    left = WIDTH - 0.2 - _STRIP_WIDTH
    middle = y + (_ROW_HEIGHT - 0.05) / 2
    write(axes, left - 0.08, middle, f"{first:,}", 7.5, ha="right", color=COLORS["grey"])
    for segment in snapshot.segments:
        start, end = max(segment.start, first), min(segment.start + segment.length, first + row)
        if start < end:
            where = (left + (start - first) * inch, y)
            _piece(axes, segment, owners, where, (end - start) * inch, label=start == segment.start)


def _piece(
    axes: Axes, segment: Segment, owners: list[str], where: tuple[float, float], width: float, *, label: bool
) -> None:
    owner = owners.index(segment.owner) % len(OWNER_COLORS) if segment.owner else None
    height = _ROW_HEIGHT - 0.05
    look = _look(segment.state, COLORS["grey"] if owner is None else OWNER_COLORS[owner])
    axes.add_patch(Rectangle(where, width, height, **look))
    name = segment.owner or segment.state
    text = next((text for text in (f"{name} {segment.length}", name) if len(text) * 0.075 + 0.08 < width), "")
    if label and text:
        ink = OWNER_INKS[owner] if owner is not None and segment.state == "used" else COLORS["black"]
        ground = None if segment.state in {"used", "free"} else {"facecolor": CARD, "edgecolor": "none", "pad": 1.2}
        write(axes, where[0] + 0.05, where[1] + height / 2, text, color=ink, bbox=ground)


def _look(state: str, color: str) -> dict[str, Any]:
    """Return a patch's look: the colour is the owner's, the pattern the state's."""
    if state == "free":
        return {"facecolor": "none", "edgecolor": COLORS["grey"], "linewidth": 0.6, "linestyle": (0, (3, 3))}
    fill = (color, _FILL[state])
    return {"facecolor": fill, "edgecolor": color, "linewidth": 0.8, "hatch": _HATCH[state]}


def _key(axes: Axes, *, external: bool) -> None:
    says = {
        "used": "used: holds tokens",
        "reserved": "reserved: will hold some",
        "internal": "internal: never used",
        "free": "free (in the bars: external)" if external else "free",
    }
    patches = [Patch(label=text, **_look(state, COLORS["grey"])) for state, text in says.items()]
    axes.legend(
        handles=patches, loc="lower left", ncols=4, bbox_to_anchor=(0.012, 0), handlelength=2.4, handleheight=1.1
    )
