"""The trace viewer's static form: the steps that tell the story, one under the other, and the lines over all steps."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Polygon, Rectangle

from course_lib.viz.picture import OWNER_COLORS, OWNER_INKS, WIDTH, sheet, write
from course_lib.viz.theme import CARD, COLORS, CourseFigure
from course_lib.viz.trace_frames import Cell, Frame, Row, View, cells
from course_lib.viz.trace_lines import draw_lines, lines_height

SIGNS = {"": "", "taken": "+", "hit": "✓", "evicted": "✕", "freed": "○"}
_KEY = (
    "a block's colour and letter: who holds it; a bar at its foot: partly computed; slanted: shared; dotted: free, its tokens "
    "cached; + taken, ✓ found in the cache, ✕ evicted, ○ given back"
)
# All in inches, from the upper left corner.
_MARGIN, _LEFT_WIDTH, _GRID_LEFT = 0.2, 4.25, 4.6
_LINE = 0.2
_MOST_ROWS, _MOST_WAITING, _MOST_LETTERS = 8, 7, 132
_TALLEST = 12.0  # a page


def trace_strip(
    views: Sequence[View], short: Sequence[str], title: str = "", verdict: str = "", parting: int | None = None
) -> CourseFigure:
    """Return the steps that tell the story as drawings, and under them the lines over all steps.

    Args:
        views: one trace, or two to compare.
        short: all requests' short names.
        title: what to see.
        verdict: whether two traces are the same, in words.
        parting: the first step in which they differ, if there is one.
    """
    top = 0.42 if title else 0.14
    heading = 0.26 if verdict else 0.0
    # Two runs that differ at most in their times need no second drawing where times are not drawn.
    alike = len(views) > 1 and parting is None and len({len(view.frames) for view in views}) == 1
    timed = views[:1] if alike and not views[0].timeline.seconds else views
    lines = sum(lines_height(view) for view in timed)
    bands = _fitting(views, key_steps(views[0], parting), _TALLEST - top - heading - lines)
    heights = [_height(view, view.frames[step]) for view, step in bands]
    total = top + heading + sum(heights) + 0.3 + lines
    with sheet(total, title) as (figure, axes):
        if verdict:
            write(axes, _MARGIN, top + 0.06, _short(verdict, 120), 9)
        y = top + heading
        for (view, step), height in zip(bands, heights, strict=True):
            _Band(axes, view, step, short, y).draw()
            y += height
        write(axes, _MARGIN, y + 0.08, _KEY, 6.8, color=COLORS["grey"])
        y += 0.3
        marked = sorted({step for _, step in bands})
        for view in timed:
            draw_lines(figure, view, short, y, total, marked, "" if len(timed) < 2 else view.source)
            y += lines_height(view)
    return figure


def key_steps(view: View, parting: int | None = None) -> list[int]:
    """Return the steps that tell the story, the most telling first: where two traces part, a preemption, the fullest, a hit.

    The first and the last step come after them.
    """
    line = view.timeline
    hits = [step for step, frame in enumerate(view.frames) if any(row.cached for row in frame.running)]
    preemptions = [step for step, count in enumerate(line.preempted) if count]
    fullest = line.kv.index(max(line.kv))
    story = [parting, *preemptions[:1], fullest, *hits[:1], 0, len(view.frames) - 1]
    return list(dict.fromkeys(step for step in story if step is not None and step < len(view.frames)))


def _fitting(views: Sequence[View], steps: Sequence[int], room: float) -> list[tuple[View, int]]:
    """Return the drawings that a page has room for, at least those of one step, in the order of time."""
    chosen: list[int] = []
    for step in steps[: 4 // len(views)]:
        tall = sum(_height(view, view.frames[step]) for view in views if step < len(view.frames))
        if chosen and tall > room:
            break
        chosen.append(step)
        room -= tall
    return [(view, step) for step in sorted(chosen) for view in views if step < len(view.frames)]


def _shape(blocks: int) -> tuple[int, float]:
    """Return a grid's columns, and how high a block is."""
    return (8, 0.3) if blocks <= 32 else (16, 0.34) if blocks <= 96 else (24, 0.16) if blocks <= 264 else (32, 0.11)


def _height(view: View, frame: Frame) -> float:
    columns, tall = _shape(len(view.blocks))
    rows = min(len(frame.running), _MOST_ROWS) + (len(frame.running) > _MOST_ROWS) + 1
    return 0.3 + max(rows * _LINE, -(-len(view.blocks) // columns) * tall) + 0.17 * len(frame.events) + 0.22


class _Band:
    """One step's drawing."""

    def __init__(self, axes: Axes, view: View, step: int, short: Sequence[str], y: float):
        self.axes, self.view, self.step, self.short, self.y = axes, view, step, short, y
        self.frame = view.frames[step]
        self.longest = max((row.known for frame in view.frames for row in frame.running), default=1)

    def draw(self) -> None:
        """Draw it all."""
        line, held = self.view.timeline, len(self.view.blocks) + self.view.hidden_blocks - self.frame.free_count
        tokens = f"{line.prefill[self.step]} prefill + {line.decode[self.step]} decode tokens"
        pool = f"{held} blocks held ({line.kv[self.step]:.0%}), {self.frame.free_count} free"
        free = ", ".join(map(str, self.frame.free[:5])) + (", …" if self.frame.free_count > 5 else "")
        text = f"Step {self.step}, {self.view.source}: {tokens}, {pool}"
        write(self.axes, _MARGIN, self.y + 0.12, text, 8.5, fontweight="bold")
        if free:
            write(self.axes, WIDTH - _MARGIN, self.y + 0.12, f"next free: {free}", 7.5, ha="right")
        self._people()
        self._blocks()
        below = self.y + _height(self.view, self.frame) - 0.17 * len(self.frame.events) - 0.12
        for place, event in enumerate(self.frame.events):
            write(self.axes, _MARGIN, below + 0.17 * place, event.kind, 7.5, fontweight="bold")
            write(self.axes, _MARGIN + 0.75, below + 0.17 * place, _short(event.text, _MOST_LETTERS), 7.5)
        end = self.y + _height(self.view, self.frame) - 0.04
        self.axes.plot([_MARGIN, WIDTH - _MARGIN], [end, end], color=COLORS["grey"], linewidth=0.4)

    def _people(self) -> None:
        y = self.y + 0.36
        write(self.axes, _MARGIN, y, "waiting" if self.frame.waiting else "nobody waits", 7.5, color=COLORS["grey"])
        for place, one in enumerate(self.frame.waiting[:_MOST_WAITING]):
            self._chip(one.request, _MARGIN + 0.55 + 0.45 * place, y, {"preempted": "↩", "new": "*"}.get(one.mark, ""))
        more = len(self.frame.waiting) - _MOST_WAITING
        if more > 0:
            write(self.axes, _MARGIN + 0.6 + 0.45 * _MOST_WAITING, y, f"+ {more}", 7.5)
        for row in self.frame.running[:_MOST_ROWS]:
            y += _LINE
            self._row(row, y)
        more = len(self.frame.running) - _MOST_ROWS
        if more > 0:
            write(self.axes, _MARGIN, y + _LINE, f"and {more} more running", 7.5, color=COLORS["grey"])

    def _chip(self, request: int, x: float, y: float, sign: str = "") -> None:
        color, ink = OWNER_COLORS[request % 6], OWNER_INKS[request % 6]
        self.axes.add_patch(Rectangle((x, y - 0.075), 0.4, 0.15, facecolor=color, edgecolor="none"))
        write(self.axes, x + 0.2, y, f"{self.short[request]}{sign}", 7, color=ink, ha="center", fontweight="bold")

    def _row(self, row: Row, y: float) -> None:
        self._chip(row.request, _MARGIN, y)
        x, width = _MARGIN + 0.48, 1.75
        color, scale = OWNER_COLORS[row.request % 6], width / self.longest
        self._box(x, y, width, facecolor=(COLORS["grey"], 0.12))
        self._box(x, y, row.known * scale, facecolor="none", edgecolor=color, linestyle=(0, (2, 2)), linewidth=0.6)
        self._box(x, y, row.computed * scale, facecolor=(color, 0.5))
        if row.cached:
            self._box(x, y, row.cached * scale, facecolor="none", edgecolor=COLORS["black"], hatch="....", linewidth=0)
        if row.tokens:
            start = row.computed - row.tokens
            look: dict[str, Any] = {"facecolor": color, "edgecolor": COLORS["black"], "linewidth": 0.7}
            self._box(x + start * scale, y, max(0.03, row.tokens * scale), **look)
        self.axes.plot([x + row.prompt * scale] * 2, [y - 0.08, y + 0.08], color=COLORS["black"], linewidth=0.8)
        does = f"+{row.tokens} {row.state}" if row.tokens else "idle"
        spared = f", {row.cached} cached" if row.cached else ""
        write(self.axes, x + width + 0.08, y, f"{row.computed}/{row.known}  {does}{spared}", 7.5)

    def _box(self, x: float, y: float, width: float, **look: Any) -> None:
        self.axes.add_patch(Rectangle((x, y - 0.06), width, 0.12, **look))

    def _blocks(self) -> None:
        columns, tall = _shape(len(self.view.blocks))
        step = (WIDTH - _MARGIN - _GRID_LEFT) / columns
        found = cells(self.frame, self.view.blocks, self.view.block_size)
        for place, (block, cell) in enumerate(zip(self.view.blocks, found, strict=True)):
            row, column = divmod(place, columns)
            x, y = _GRID_LEFT + column * step, self.y + 0.28 + row * tall
            self._block(block, cell, (x + 0.015, y + 0.015), (step - 0.03, tall - 0.03))

    def _block(self, block: int, cell: Cell, where: tuple[float, float], size: tuple[float, float]) -> None:
        (x, y), (width, height) = where, size
        color = OWNER_COLORS[cell.who[0] % 6] if cell.who else COLORS["grey"]
        full = cell.state == "held" and cell.filled == self.view.block_size
        fill: Any = color if full else (color, 0.25) if cell.who else CARD
        look: dict[str, Any] = {"facecolor": fill, "edgecolor": color, "linewidth": 0.5}
        if cell.state == "cached":
            look |= {"hatch": "....", "edgecolor": (COLORS["grey"], 0.7)}
        if cell.state == "free":
            look |= {"linestyle": (0, (2, 2)), "edgecolor": (COLORS["grey"], 0.6)}
        self.axes.add_patch(Rectangle(where, width, height, **look))
        if cell.state == "shared":
            corners = [(x + width, y), (x + width, y + height), (x, y + height)]
            self.axes.add_patch(Polygon(corners, facecolor=(OWNER_COLORS[cell.who[1] % 6], 0.4), edgecolor="none"))
        if cell.who and cell.filled < self.view.block_size:
            part = width * cell.filled / self.view.block_size
            self.axes.add_patch(Rectangle((x, y + height - 0.035), part, 0.035, facecolor=color))
        if cell.mark:
            self.axes.add_patch(
                Rectangle(where, width, height, facecolor="none", edgecolor=COLORS["black"], linewidth=1.1)
            )
        ink = OWNER_INKS[cell.who[0] % 6] if full else COLORS["black"]
        self._texts(block, cell, where, size, ink)

    def _texts(self, block: int, cell: Cell, where: tuple[float, float], size: tuple[float, float], ink: str) -> None:
        (x, y), (width, height) = where, size
        text = f"{len(cell.who)}x" if len(cell.who) > 1 else self.short[cell.who[0]] if cell.who else ""
        if height < 0.1:
            return  # a thousand dots: colours alone, and the widget for the rest
        if height < 0.2:
            small = f"{text}{SIGNS[cell.mark]}"
            write(
                self.axes,
                x + width / 2,
                y + height / 2,
                small if len(small) * 0.05 < width else text[:2],
                5.5,
                color=ink,
                ha="center",
            )
            return
        plate = (
            {"facecolor": CARD, "edgecolor": "none", "boxstyle": "square,pad=0.05"} if cell.state == "cached" else None
        )
        write(self.axes, x + 0.025, y + 0.06, str(block), 5.5, color=ink, bbox=plate)
        sign: dict[str, Any] = {"color": ink, "ha": "right", "fontweight": "bold", "bbox": plate if cell.mark else None}
        write(self.axes, x + width - 0.025, y + 0.065, SIGNS[cell.mark], 7, **sign)
        write(
            self.axes,
            x + width / 2,
            y + height - 0.09,
            text,
            7 if width > 0.3 else 6,
            color=ink,
            ha="center",
            fontweight="bold",
        )


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
