"""Wrong answers to 02.first_fit."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: ARG002, D101, D102

from wrong_answers import wrong


class Allocator:
    """A right first-fit allocator; each mistake changes one thing of it."""

    def __init__(self, size):
        self.size, self.free_runs, self.taken = size, [(0, size)], {}

    def pick(self, length):
        return next((place for place, hole in enumerate(self.free_runs) if hole[1] >= length), None)

    def rest(self, start, hole, length):
        return [(start + length, hole - length)] if hole > length else []

    def allocate(self, owner, length):
        place = self.pick(length)
        if place is None:
            return None
        start, hole = self.free_runs[place]
        self.free_runs[place : place + 1] = self.rest(start, hole, length)
        self.taken[owner] = (start, length)
        return start

    def joins(self, before, behind):
        return sum(before) == behind[0]

    def free(self, owner):
        runs = []
        for hole in sorted([*self.free_runs, self.taken.pop(owner)]):
            if runs and self.joins(runs[-1], hole):
                runs[-1] = (runs[-1][0], runs[-1][1] + hole[1])
            else:
                runs.append(hole)
        self.free_runs = runs

    def holes(self):
        return list(self.free_runs)


@wrong("02.first_fit", "never-merges", "Puts freed slots back as a hole of their own.")
class NeverMerges(Allocator):
    def joins(self, before, behind):
        return False


@wrong("02.first_fit", "forgets-the-hole-before", "Joins freed slots only with the hole behind them.")
class JoinsBehind(Allocator):
    def free(self, owner):
        start, length = self.taken.pop(owner)
        behind = next((hole for hole in self.free_runs if hole[0] == start + length), None)
        if behind:
            self.free_runs.remove(behind)
            length += behind[1]
        self.free_runs = sorted([*self.free_runs, (start, length)])


@wrong("02.first_fit", "forgets-the-hole-behind", "Joins freed slots only with the hole before them.")
class JoinsBefore(Allocator):
    def free(self, owner):
        start, length = self.taken.pop(owner)
        before = next((hole for hole in self.free_runs if sum(hole) == start), None)
        if before:
            self.free_runs.remove(before)
            start, length = before[0], before[1] + length
        self.free_runs = sorted([*self.free_runs, (start, length)])


@wrong("02.first_fit", "takes-the-whole-hole", "Gives the whole hole away, whatever was asked for.")
class WholeHole(Allocator):
    def rest(self, start, hole, length):
        return []


@wrong("02.first_fit", "gives-the-same-slot-twice", "Does not take what it gives out of the holes.")
class SameSlot(Allocator):
    def rest(self, start, hole, length):
        return [(start, hole)]


@wrong("02.first_fit", "refuses-an-exact-fit", "Asks for a hole that is longer than the request.")
class Strict(Allocator):
    def pick(self, length):
        return next((place for place, hole in enumerate(self.free_runs) if hole[1] > length), None)


@wrong("02.first_fit", "never-reuses", "Gives out slots behind the last one for ever.")
class Bump(Allocator):
    def free(self, owner):
        del self.taken[owner]


@wrong("02.first_fit", "best-fit", "Takes the shortest hole that is long enough.")
class Best(Allocator):
    def pick(self, length):
        fitting = [(hole[1], place) for place, hole in enumerate(self.free_runs) if hole[1] >= length]
        return min(fitting)[1] if fitting else None


@wrong("02.first_fit", "raises-when-full", "Raises an error where nothing fits.")
class Raises(Allocator):
    def allocate(self, owner, length):
        if self.pick(length) is None:
            raise MemoryError("out of memory")
        return super().allocate(owner, length)


@wrong("02.first_fit", "empty-hole", "Keeps a hole of no slots where a request fits exactly.")
class EmptyHole(Allocator):
    def rest(self, start, hole, length):
        return [(start + length, hole - length)]


@wrong("02.first_fit", "takes-the-last-hole", "Looks at the holes from the highest address.")
class Last(Allocator):
    def pick(self, length):
        fitting = [place for place, hole in enumerate(self.free_runs) if hole[1] >= length]
        return fitting[-1] if fitting else None
