"""Three contiguous allocators: first fit, best fit and buddy."""

from course_lib.fragmentation.contiguous import Contiguous, Hole, Move


class FirstFit(Contiguous):
    """Gives out the start of the first hole, by address, that is long enough."""

    def __init__(self, size: int):
        super().__init__(size)
        self._holes: list[Hole] = [(0, size)]

    def holes(self) -> list[Hole]:
        """Return the free runs, by address. No two of them touch."""
        return list(self._holes)

    def compact(self) -> list[Move]:
        """Slide every owner's slots down, so that all free slots form one hole at the end.

        Returns:
            The copies that this takes, lowest address first. In this order, and in no other, no copy overwrites what a
            later one still has to read.
        """
        moves, end = [], 0
        for owner, (start, length) in self.held.items():
            if start != end:
                moves.append(Move(owner, start, end, length))
            self._held[owner] = (end, length)
            end += length
        self._holes = [(end, self.size - end)] if end < self.size else []
        return moves

    def _choose(self, length: int) -> int | None:
        return next((place for place, (_, hole) in enumerate(self._holes) if hole >= length), None)

    def _take(self, length: int) -> Hole | None:
        place = self._choose(length)
        if place is None:
            return None
        start, hole = self._holes[place]
        self._holes[place : place + 1] = [(start + length, hole - length)] if hole > length else []
        return start, length

    def _give_back(self, start: int, length: int) -> None:
        merged: list[Hole] = []
        for hole in sorted([*self._holes, (start, length)]):
            if merged and sum(merged[-1]) == hole[0]:
                merged[-1] = (merged[-1][0], merged[-1][1] + hole[1])
            else:
                merged.append(hole)
        self._holes = merged

    def _extend(self, start: int, now: int, length: int) -> int:
        for place, (behind, hole) in enumerate(self._holes):
            if behind == start + now and hole >= length - now:
                rest = (start + length, hole - (length - now))
                self._holes[place : place + 1] = [rest] if rest[1] else []
                return length
        return 0


class BestFit(FirstFit):
    """Gives out the start of the shortest hole that is long enough; of equally short ones the first by address."""

    def _choose(self, length: int) -> int | None:
        fitting = [(hole, place) for place, (_, hole) in enumerate(self._holes) if hole >= length]
        return min(fitting)[1] if fitting else None


class Buddy(Contiguous):
    """Gives out blocks whose lengths are powers of two; a request for 65 slots gets 128.

    A block of n slots starts at a multiple of n, so the other half of the block that it was cut from, its buddy, starts at
    `start ^ n`. Finding it needs no search: that is what the rounding buys. Orca, which the paper compares with, is
    assumed to place its KV caches so (Kwon et al., SOSP 2023, section 6.1); the algorithm is Knowlton's (1965).

    Args:
        size: slots in all. Where it is no power of two the memory starts as several blocks, the longest first, one for
            each binary digit of `size`.
    """

    def __init__(self, size: int):
        super().__init__(size)
        self._free: dict[int, set[int]] = {1 << order: set() for order in range(size.bit_length())}
        start = 0
        for block in reversed(self._free):
            if size & block:
                self._free[block].add(start)
                start += block

    def holes(self) -> list[Hole]:
        """Return the free blocks, by address. Two that touch may not be buddies, and then they serve nobody as one."""
        return sorted((start, block) for block, starts in self._free.items() for start in starts)

    def _take(self, length: int) -> Hole | None:
        wanted = rounded(length)
        fitting = [block for block, starts in self._free.items() if block >= wanted and starts]
        if not fitting:
            return None
        block = min(fitting)
        start = min(self._free[block])
        self._free[block].remove(start)
        while block > wanted:  # keep the lower half, put the upper one on its list
            block //= 2
            self._free[block].add(start + block)
        return start, block

    def _give_back(self, start: int, length: int) -> None:
        while (start ^ length) in self._free.get(length, ()):
            self._free[length].remove(start ^ length)
            start, length = min(start, start ^ length), 2 * length
        self._free[length].add(start)

    def _extend(self, start: int, now: int, length: int) -> int:
        wanted, buddies = rounded(length), []
        while now < wanted:
            if start & now or start + now not in self._free.get(now, ()):
                return 0  # it is the upper half, or the half behind it is taken
            buddies.append((now, start + now))
            now *= 2
        for block, buddy in buddies:
            self._free[block].remove(buddy)
        return wanted


def rounded(length: int) -> int:
    """Return the shortest power of two that is at least `length`."""
    return 1 << (length - 1).bit_length()
