"""The block explorer's static form: block tables on the left, the pool on the right, and who is where."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, Rectangle

from course_lib.paged_attention.snapshot import BlockView, PoolSnapshot
from course_lib.viz.picture import OWNER_COLORS, OWNER_INKS, WIDTH, sheet, write
from course_lib.viz.theme import CARD, COLORS, CourseFigure

# All in inches, from the upper left corner.
_MARGIN = 0.2
_TABLES_WIDTH, _POOL_LEFT = 2.9, 3.7
_LINE, _CARD_HEIGHT, _CARD_GAP = 0.23, 0.58, 0.1
_MOST_WIRES = 32  # with more of them nobody can follow one
_ALL_CARDS, _MOST_CARDS = 16, 48  # of a larger pool, only blocks that hold or held something are drawn


def frames_that_fit(snapshots: Sequence[PoolSnapshot]) -> int:
    """Return how many events a picture of about a page's height has room for."""
    cards = len(_cards(snapshots))
    return max(2, min(4, int(11 / max(_height(snapshot, cards) for snapshot in snapshots))))


def pool_strip(snapshots: Sequence[PoolSnapshot], owners: Sequence[str], title: str = "") -> CourseFigure:
    """Return the events as drawings of the pool, one under the other.

    Args:
        snapshots: what to draw.
        owners: all requests, which decides their colours.
        title: what to see.
    """
    top = 0.42 if title else 0.12
    cards = _cards(snapshots)
    heights = [_height(snapshot, len(cards)) for snapshot in snapshots]
    total = top + sum(heights) + 0.1
    with sheet(total, title) as (figure, axes):
        y = top
        for snapshot, height in zip(snapshots, heights, strict=True):
            _Frame(axes, snapshot, owners, cards, (y, y + height)).draw()
            y += height
    return figure


def _cards(snapshots: Sequence[PoolSnapshot]) -> list[int]:
    """Return the blocks to draw."""
    blocks = range(len(snapshots[0].blocks))
    if len(blocks) <= _ALL_CARDS:
        return list(blocks)
    touched = {block.block_id for shot in snapshots for block in shot.blocks if block.ref_cnt or block.tokens}
    return sorted(touched)[:_MOST_CARDS]


def _columns(block_size: int) -> int:
    """Return the blocks in a row of the pool: as many as leave room for what is written in them."""
    return 4 if block_size <= 4 else 5


def _height(snapshot: PoolSnapshot, cards: int) -> float:
    lines = sum(1.2 + len(table) for table in snapshot.tables.values())
    rows = -(-cards // _columns(snapshot.block_size))
    return 0.34 + max(lines * _LINE, rows * (_CARD_HEIGHT + _CARD_GAP)) + 0.42


class _Frame:
    """One event's drawing, between two heights."""

    def __init__(
        self, axes: Axes, snapshot: PoolSnapshot, owners: Sequence[str], shown: Sequence[int], span: tuple[float, float]
    ):
        self.axes, self.snapshot, self.shown = axes, snapshot, shown
        self.y, self.end = span
        self.place = {owner: number % len(OWNER_COLORS) for number, owner in enumerate(owners)}
        self.cards: dict[int, tuple[float, float]] = {}  # where lines to a block end

    def draw(self) -> None:
        """Draw it all."""
        write(self.axes, _MARGIN, self.y + 0.14, self.snapshot.event, 9.5, fontweight="bold")
        self._pool()
        self._tables()
        free = " → ".join(map(str, self.snapshot.free[:24])) + (" → …" if len(self.snapshot.free) > 24 else "")
        below = self.end - 0.3
        hidden = len(self.snapshot.blocks) - len(self.shown)
        text = f"free list: {f'next → {free}' if free else 'empty'}{f'; {hidden} blocks not drawn' if hidden else ''}"
        write(self.axes, _MARGIN, below, text, color=COLORS["grey"])
        self.axes.plot([_MARGIN, WIDTH - _MARGIN], [below + 0.16] * 2, color=COLORS["grey"], linewidth=0.4)

    def _pool(self) -> None:
        columns = _columns(self.snapshot.block_size)
        width = (WIDTH - _MARGIN - _POOL_LEFT + _CARD_GAP) / columns - _CARD_GAP
        for place, number in enumerate(self.shown):
            row, column = divmod(place, columns)
            x = _POOL_LEFT + column * (width + _CARD_GAP)
            y = self.y + 0.34 + row * (_CARD_HEIGHT + _CARD_GAP)
            self.cards[number] = (x, y + 0.14)
            self._card(self.snapshot.blocks[number], x, y, width)

    def _card(self, block: BlockView, x: float, y: float, width: float) -> None:
        holders = [request for request, table in self.snapshot.tables.items() if block.block_id in table]
        color = OWNER_COLORS[self.place[holders[0]]] if holders else COLORS["grey"]
        style = "solid" if block.ref_cnt else (0, (3, 2))
        # Its own ground, over the lines: they pass behind.
        look: dict[str, Any] = {
            "facecolor": CARD,
            "edgecolor": color,
            "linestyle": style,
            "linewidth": 1.2,
            "zorder": 3,
        }
        self.axes.add_patch(Rectangle((x, y), width, _CARD_HEIGHT, **look))
        held = _short("+".join(holders), int(width / 0.08) - 4)
        write(self.axes, x + 0.06, y + 0.13, str(block.block_id), 9, fontweight="bold", zorder=4)
        write(self.axes, x + width - 0.06, y + 0.13, held, ha="right", fontweight="bold", zorder=4)
        write(self.axes, x + 0.06, y + 0.28, f"ref {block.ref_cnt}{' · cached' if block.key else ''}", 6.5, zorder=4)
        self._slots(block.tokens, color, (x + 0.05, y + 0.36), width - 0.1)

    def _tables(self) -> None:
        y = self.y + 0.34
        wires = sum(map(len, self.snapshot.tables.values())) <= _MOST_WIRES
        for request, table in self.snapshot.tables.items():
            color, ink = OWNER_COLORS[self.place[request]], OWNER_INKS[self.place[request]]
            length = self.snapshot.lengths[request]
            box = {"facecolor": color, "edgecolor": "none", "boxstyle": "round,pad=0.2"}
            label = write(self.axes, _MARGIN + 0.05, y + 0.08, request, 8.5, color=ink, bbox=box)
            self.axes.annotate(
                f"{length} tokens", (1, 0), xycoords=label, textcoords="offset points", xytext=(10, 0), fontsize=8
            )
            y += _LINE
            for logical, block in enumerate(table):
                self._entry(logical, block, length, color, y)
                if wires and block in self.cards:
                    self._wire((_MARGIN + _TABLES_WIDTH, y + 0.09), self.cards[block], color)
                y += _LINE
            y += 0.2 * _LINE

    def _entry(self, logical: int, block: int, length: int, color: str, y: float) -> None:
        size = self.snapshot.block_size
        filled = max(0, min(size, length - logical * size))
        write(self.axes, _MARGIN + 0.2, y + 0.09, str(logical), ha="right", color=COLORS["grey"])
        self._slots(
            self.snapshot.blocks[block].tokens[:filled], color, (_MARGIN + 0.28, y), _TABLES_WIDTH - 0.72, filled
        )
        write(self.axes, _MARGIN + _TABLES_WIDTH - 0.04, y + 0.09, f"→ {block}", ha="right")

    def _slots(
        self, tokens: Sequence[str], color: str, where: tuple[float, float], width: float, filled: int | None = None
    ) -> None:
        """Draw a block's slots in a row: tinted where a token is, with its text where there is room."""
        size = self.snapshot.block_size
        filled = len(tokens) if filled is None else filled
        x, y = where
        step = width / size
        for offset in range(size):
            full = offset < filled
            fill = (color, 0.25) if full else "none"
            self.axes.add_patch(
                Rectangle((x + offset * step, y), step, 0.18, facecolor=fill, edgecolor=color, linewidth=0.5, zorder=4)
            )
            if offset < len(tokens) and size <= 4:
                text = _short(tokens[offset].strip(" ").replace("\n", "↵"), int(step / 0.056))
                write(self.axes, x + (offset + 0.5) * step, y + 0.095, text, 6.5, ha="center", zorder=5)

    def _wire(self, start: tuple[float, float], end: tuple[float, float], color: str) -> None:
        look: dict[str, Any] = {"color": color, "linewidth": 0.9, "zorder": 2, "shrinkA": 0, "shrinkB": 0}
        self.axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=7, **look))


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: max(1, most - 1)] + "…"
