"""The block explorer of lesson 03: requests, their block tables, the physical pool and the free list, scrubbed through time."""

from collections.abc import Sequence
from typing import Any

from course_lib.paged_attention.snapshot import PoolSnapshot
from course_lib.viz.block_strip import frames_that_fit, pool_strip
from course_lib.viz.picture import Picture, bundle, key_frames
from course_lib.viz.theme import CourseFigure


def block_explorer(snapshots: Sequence[PoolSnapshot], title: str = "") -> "BlockExplorer":
    """Return the pool after each event as a picture with a time slider.

    Pointing at a request, one of its tokens or a block shows what it maps to, both ways, and works out the token's slot.

    Args:
        snapshots: the pool after each event, in order.
        title: what to see in it.

    Raises:
        ValueError: there is no snapshot, their pools differ, or a table names a block that the pool does not have.
    """
    return BlockExplorer(snapshots, title)


class BlockExplorer(Picture):
    """The picture that `block_explorer` returns.

    Args:
        snapshots: the pool after each event, in order.
        title: what to see in it.
    """

    _esm = bundle("block_explorer.mjs")

    def __init__(self, snapshots: Sequence[PoolSnapshot], title: str = ""):
        self.snapshots = tuple(snapshots)
        super().__init__(payload=payload(self.snapshots, title))

    def figure(self) -> CourseFigure:
        """Return some events, one under the other, with the mapping drawn."""
        told = [shot for shot in self.snapshots if shot.tables] or self.snapshots
        shared = [any(block.ref_cnt > 1 for block in shot.blocks) for shot in told]
        chosen = [told[place] for place in key_frames(told, shared, frames_that_fit(told))]
        return pool_strip(chosen, self.payload["owners"], self.payload["title"])

    def words(self) -> str:
        """Return the block tables and the free list after each event, or after some of them."""
        shot = self.snapshots[0]
        blocks = f"{len(shot.blocks)} blocks of {shot.block_size} slots, {len(self.snapshots)} event(s)"
        lines = [f"{self.payload['title'] or 'Block tables'}: {blocks}"]
        for place in key_frames(self.snapshots, [False] * len(self.snapshots), 12):
            lines.append(f"  {in_words(self.snapshots[place])}")
        return "\n".join(lines)


def in_words(snapshot: PoolSnapshot) -> str:
    """Return one line: the event, the block tables, how many blocks are free."""
    tables = "; ".join(
        f"{request} ({snapshot.lengths[request]} tokens): {list(table)}" for request, table in snapshot.tables.items()
    )
    return f"{snapshot.event}: {tables or 'no tables'}; {len(snapshot.free)} free"


def payload(snapshots: Sequence[PoolSnapshot], title: str) -> dict[str, Any]:
    """Return what the widget draws."""
    check(snapshots)
    owners = list(dict.fromkeys(request for snapshot in snapshots for request in snapshot.tables))
    frames = [
        {
            "event": snapshot.event,
            "blocks": [
                {"refs": block.ref_cnt, "tokens": [visible(token) for token in block.tokens], "key": block.key}
                for block in snapshot.blocks
            ],
            "tables": {request: list(table) for request, table in snapshot.tables.items()},
            "lengths": dict(snapshot.lengths),
            "free": list(snapshot.free),
        }
        for snapshot in snapshots
    ]
    return {"title": title, "block_size": snapshots[0].block_size, "owners": owners, "frames": frames}


def check(snapshots: Sequence[PoolSnapshot]) -> None:
    """Raise a ValueError where the snapshots are not those of one pool, or contradict themselves."""
    if not snapshots:
        raise ValueError("there is nothing to draw: pass at least one PoolSnapshot")
    blocks, block_size = len(snapshots[0].blocks), snapshots[0].block_size
    for number, snapshot in enumerate(snapshots):
        where = f"snapshot {number} ({snapshot.event!r})"
        if [block.block_id for block in snapshot.blocks] != list(range(blocks)) or snapshot.block_size != block_size:
            raise ValueError(
                f"{where}: expected the first one's {blocks} blocks of {block_size} slots, by number from 0; "
                "draw one pool at a time"
            )
        for request, table in snapshot.tables.items():
            unknown = [block for block in table if not 0 <= block < blocks]
            if unknown:
                raise ValueError(f"{where}: the table of {request!r} names blocks {unknown} of a pool of {blocks}")
            if not 0 <= snapshot.lengths.get(request, -1) <= len(table) * block_size:
                raise ValueError(
                    f"{where}: {request!r} has {snapshot.lengths.get(request)} tokens; its {len(table)} blocks of "
                    f"{block_size} hold 0 to {len(table) * block_size}"
                )


def visible(token: str) -> str:
    """Return a token's text with its line breaks and tabs made visible."""
    return token.replace("\n", "↵").replace("\t", "→")
