"""What contiguous allocators have in common: each owner gets one run of slots, and keeps it until it gives it back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Protocol

Hole = tuple[int, int]
"""A run of free slots: its first slot, and how many there are."""


@dataclass(frozen=True)
class Move:
    """A copy that compaction asks for.

    Attributes:
        owner: whose slots are copied.
        source: their first slot before.
        target: their first slot after, which is lower.
        length: how many slots.
    """

    owner: str
    source: int
    target: int
    length: int


class Allocator(Protocol):
    """What the simulation needs of an allocator; a class of your own with these works as well."""

    size: int

    def allocate(self, owner: str, length: int) -> int | None:
        """Give `owner` `length` slots in a row and return the first one's number, or None where nothing fits."""

    def free(self, owner: str) -> None:
        """Take back what `owner` holds."""

    def grow(self, owner: str, length: int) -> bool:
        """Make what `owner` holds `length` slots long without moving it; return False where that cannot be."""

    def holes(self) -> list[Hole]:
        """Return the free runs that can be given out, by address."""


class Contiguous(ABC):
    """What all allocators here share: who holds what.

    Args:
        size: slots in all.
    """

    def __init__(self, size: int):
        if size < 1:
            raise ValueError(f"a memory of {size} slots: expected at least 1")
        self.size = size
        self._held: dict[str, Hole] = {}

    def __repr__(self) -> str:
        free = sum(length for _, length in self.holes())
        return f"{type(self).__name__}({self.size} slots, {free} free in {len(self.holes())} holes, {len(self._held)} owners)"

    @property
    def held(self) -> dict[str, Hole]:
        """Each owner's first slot and number of slots, by address."""
        return dict(sorted(self._held.items(), key=lambda item: item[1]))

    def allocate(self, owner: str, length: int) -> int | None:
        """Give `owner` `length` slots in a row.

        Returns:
            The first slot, or None where no hole is long enough.

        Raises:
            ValueError: `owner` holds slots already, or `length` is not positive.
        """
        if owner in self._held:
            raise ValueError(f"{owner} holds slots already: free({owner!r}) first, or grow it")
        if length < 1:
            raise ValueError(f"{owner} asks for {length} slots; expected at least 1")
        taken = self._take(length)
        if taken is None:
            return None
        self._held[owner] = taken
        return taken[0]

    def free(self, owner: str) -> None:
        """Take back what `owner` holds.

        Raises:
            ValueError: it holds nothing.
        """
        self._give_back(*self._own(owner))
        del self._held[owner]

    def grow(self, owner: str, length: int) -> bool:
        """Make what `owner` holds `length` slots long, in place: keys and values are not copied.

        Returns:
            Whether it could; where not, nothing changed.

        Raises:
            ValueError: `owner` holds nothing.
        """
        start, now = self._own(owner)
        if length <= now:
            return True
        extended = self._extend(start, now, length)
        if extended:
            self._held[owner] = (start, extended)
        return extended > 0

    @abstractmethod
    def holes(self) -> list[Hole]:
        """Return the free runs that can be given out, by address."""

    @abstractmethod
    def _take(self, length: int) -> Hole | None:
        """Take a run of at least `length` slots out of the free ones."""

    @abstractmethod
    def _give_back(self, start: int, length: int) -> None:
        """Put a run back to the free ones."""

    @abstractmethod
    def _extend(self, start: int, now: int, length: int) -> int:
        """Take the slots behind a run of `now` slots until it has `length`; return its new length, 0 where that cannot be."""

    def _own(self, owner: str) -> Hole:
        if owner not in self._held:
            raise ValueError(f"{owner} holds no slots; owners: {', '.join(self.held) or 'none'}")
        return self._held[owner]
