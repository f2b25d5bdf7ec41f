"""A contiguous memory that remembers every event, for stories that are told by hand."""

from course_lib.fragmentation.contiguous import Allocator, Move
from course_lib.fragmentation.memory_map import Holding, Snapshot, snapshot


class History:
    """Asks an allocator on behalf of owners, and draws the memory after each event.

    Args:
        allocator: gives out the memory.

    Attributes:
        snapshots: the memory after each event; its time is the event's number.
    """

    def __init__(self, allocator: Allocator):
        self.allocator = allocator
        self.snapshots: list[Snapshot] = []
        self._holdings: dict[str, Holding] = {}
        self._note(f"{allocator.size} slots, all free")

    def __repr__(self) -> str:
        return "\n".join(f"{shot.time:2.0f}  {'✗' if shot.refused else ' '} {shot.event}" for shot in self.snapshots)

    def allocate(self, owner: str, tokens: int) -> bool:
        """Ask for a run of slots that tokens fill at once; return whether there was one."""
        start = self.allocator.allocate(owner, tokens)
        if start is None:
            holes = [length for _, length in self.allocator.holes()]
            said = f"{sum(holes)} slots are free, {max(holes, default=0)} of them in a row"
            self._note(f"{owner} ({tokens} tokens) does not fit: {said}", refused=True)
            return False
        self._holdings[owner] = Holding(start, tokens, tokens, tokens)
        self._note(f"{owner} ({tokens} tokens) starts at slot {start}")
        return True

    def grow(self, owner: str, tokens: int) -> bool:
        """Ask for slots behind the owner's last one, `tokens` in all; return whether they were free."""
        if not self.allocator.grow(owner, tokens):
            self._note(f"{owner} cannot grow to {tokens} tokens: the slots behind it are not free", refused=True)
            return False
        item = self._holdings[owner]
        item.length = item.used = item.needed = tokens
        self._note(f"{owner} grows to {tokens} tokens")
        return True

    def free(self, owner: str) -> None:
        """Let the owner end."""
        self.allocator.free(owner)
        tokens = self._holdings.pop(owner).used
        self._note(f"{owner} ({tokens} tokens) ends")

    def moved(self, moves: list[Move]) -> None:
        """Note that compaction moved these, as `FirstFit.compact()` returns them."""
        for move in moves:
            self._holdings[move.owner].start = move.target
        said = ", ".join(f"{move.owner} from {move.source} to {move.target}" for move in moves)
        self._note(f"compaction moves {said}" if moves else "compaction finds nothing to move")

    def _note(self, event: str, refused: bool = False) -> None:
        time, size = float(len(self.snapshots)), self.allocator.size
        self.snapshots.append(snapshot(time, event, size, self._holdings, self.allocator.holes(), refused))
