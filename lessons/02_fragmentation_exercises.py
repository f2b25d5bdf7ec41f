# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 02 Exercises: fragmentation
#
# Replace each `raise NotImplementedError(...)` by your own code and run the cell with `check(...)` below it: it says what holds
# already, and shows the smallest input on which something does not. Hints unfold; the solutions are in `solutions/`. The lesson
# is [02 Fragmentation](../notebooks/02_fragmentation.ipynb).

# %%
import numpy as np

from course_lib import viz
from course_lib.fragmentation import History, Waste, paper, reserve_exact, sharegpt
from course_lib.fragmentation.memory_map import Holding
from course_lib.grading import check
from course_lib.viz import lesson_02

# %% [markdown] exercise="02.best_fit"
# ## Best fit: which hole?
#
# An allocator keeps its free memory as **holes**, `(first slot, number of slots)`, by address. For each request it has to choose
# one. Best fit takes the shortest hole that is long enough, so that long holes stay long for those who need them.
#
# Write `best_fit`. Of equally short holes it takes the first. It does not change the list.
#
# **Expected:** `best_fit([(0, 20), (24, 9), (37, 27)], 8)` is `24`, and with `30` instead of `8` it is `None`.
#
# <details><summary>Hint 1: two questions</summary>Which holes are long enough? And which of these is the shortest? A hole
# of exactly the right length is the best of all.</details>
#
# <details><summary>Hint 2: ties</summary>Python's <code>min</code> keeps the first of equal items, and pairs are compared by
# their first entry, then by their second.</details>


# %% exercise="02.best_fit"
def best_fit(holes: list[tuple[int, int]], length: int) -> int | None:
    """Return the first slot of the hole to put a request in.

    Args:
        holes: first slot and number of slots of each hole, by address.
        length: slots that the request needs.

    Returns:
        The hole's first slot, or None where no hole is long enough.
    """
    # SOLUTION
    fitting = [(slots, start) for start, slots in holes if slots >= length]
    return min(fitting)[1] if fitting else None
    # END SOLUTION


# %% exercise="02.best_fit"
check("02.best_fit", best_fit)

# %% [markdown] exercise="02.first_fit"
# ## A first-fit allocator
#
# Now the whole allocator, with first fit. The choice of a hole is the easy half. The other half is **giving back**: freed slots
# must become one hole with the free slots on *both* sides. An allocator that forgets this works for a while, and then its memory
# is full of free slots that serve nobody.
#
# Write `MyFirstFit`. Slots are given out from the start of a hole.
#
# **Expected:** after `a = MyFirstFit(10)`, `a.allocate("x", 4)` is `0`, `a.allocate("y", 7)` is `None`, `a.holes()` is `[(4, 6)]`,
# and after `a.free("x")` it is `[(0, 10)]`.
#
# <details><summary>Hint 1: what to remember</summary>Two things: the holes, by address, and for each owner its first slot and its
# number of slots.</details>
#
# <details><summary>Hint 2: a hole that is used up</summary>A hole of no slots is no hole. Take it out of the list.</details>
#
# <details><summary>Hint 3: one way to merge</summary>Put the freed run into the list, sort it, and go through it once: where a
# run starts exactly where the one before it ends, make the one before it longer.</details>


# %% exercise="02.first_fit"
class MyFirstFit:
    """Gives out the start of the first hole, by address, that is long enough."""

    def __init__(self, size: int):
        self.size = size
        # SOLUTION
        self._holes = [(0, size)]
        self._held: dict[str, tuple[int, int]] = {}
        # END SOLUTION

    def allocate(self, owner: str, length: int) -> int | None:
        """Give `owner` `length` slots in a row; return the first one, or None where nothing fits."""
        # SOLUTION
        for place, (start, slots) in enumerate(self._holes):
            if slots >= length:
                self._holes[place : place + 1] = [(start + length, slots - length)] if slots > length else []
                self._held[owner] = (start, length)
                return start
        return None
        # END SOLUTION

    def free(self, owner: str) -> None:
        """Take back what `owner` holds."""
        # SOLUTION
        merged: list[tuple[int, int]] = []
        for start, slots in sorted([*self._holes, self._held.pop(owner)]):
            if merged and sum(merged[-1]) == start:
                merged[-1] = (merged[-1][0], merged[-1][1] + slots)
            else:
                merged.append((start, slots))
        self._holes = merged
        # END SOLUTION

    def holes(self) -> list[tuple[int, int]]:
        """Return first slot and number of slots of each hole, by address."""
        # SOLUTION
        return list(self._holes)
        # END SOLUTION


# %% [markdown] exercise="02.first_fit"
# Your allocator in a story, and in the paper's simulation: an hour of OPT-13B with reservations by an oracle. The paper's buddy
# allocator gets 13.62 requests into the batch. How many does yours?

# %% exercise="02.first_fit"
story = History(MyFirstFit(200))
for owner, tokens in {"A": 50, "B": 30, "C": 80}.items():
    story.allocate(owner, tokens)
story.free("B")
story.allocate("D", 60)
story.free("C")
story.allocate("D", 60)
viz.memory_map(story.snapshots, title="Your allocator at work")

# %% exercise="02.first_fit"
mine = paper.orca(reserve_exact, allocator=MyFirstFit(paper.KV_SLOTS))
print(f"{mine.mean_batch:.2f} requests at once")
lesson_02.waste_bars(
    {"paper (buddy)": paper.ORCA["Orca (Oracle)"].waste, "your allocator": mine.waste}, "OPT-13B, reserved by an oracle"
)

# %% exercise="02.first_fit"
check("02.first_fit", MyFirstFit)

# %% [markdown] exercise="02.waste"
# ## Used, reserved, internal, external
#
# "The memory is full" says nothing. Count what it is full of. Each request holds a run of `length` slots; `used` of them hold
# tokens now, and when it ends `needed` of them will. What is in no request's run is free; in a server with a queue at the
# door, that is external waste.
#
# Write `count_waste`: the four shares of the **whole memory**. Together they are 1.
#
# **Expected:** a memory of 40 slots with `[Holding(start=0, length=10, used=4, needed=7)]` is used to 10 %, reserved to 7.5 %,
# internal 7.5 %, external 75 %.
#
# <details><summary>Hint 1: one request</summary>Draw its run as a line from 0 to <code>length</code> and mark <code>used</code> and
# <code>needed</code> on it. The line falls into three pieces.</details>
#
# <details><summary>Hint 2: the fourth</summary>External waste is what is left of the memory when all runs are taken away.</details>


# %% exercise="02.waste"
def count_waste(size: int, holdings: list[Holding]) -> Waste:
    """Return what the slots of a memory are doing.

    Args:
        size: slots of the memory.
        holdings: what each request holds: `length`, `used` and `needed` in slots, used <= needed <= length.

    Returns:
        Waste(used, reserved, internal, external), each a share of the memory from 0 to 1.
    """
    # SOLUTION
    used = sum(holding.used for holding in holdings)
    needed = sum(holding.needed for holding in holdings)
    held = sum(holding.length for holding in holdings)
    return Waste(used / size, (needed - used) / size, (held - needed) / size, (size - held) / size)
    # END SOLUTION


# %% exercise="02.waste"
requests = [Holding(0, 2048, 300, 500), Holding(2048, 2048, 100, 1200), Holding(4096, 2048, 30, 60)]
lesson_02.waste_bars({"three chats, 2048 slots each": count_waste(8192, requests)}, "Your count of 8192 slots")

# %% exercise="02.waste"
check("02.waste", count_waste)

# %% [markdown] exercise="02.buddy"
# ## Buddies find each other
#
# In a buddy allocator every block has a power of two of slots and starts at a multiple of its length. A block was made by
# halving one of twice the length; the other half is its **buddy**. When a block comes back and its buddy is free, the two become
# one block again, and that one has a buddy as well.
#
# Two blocks of the same length that touch need not be buddies. Of the blocks of 8 slots at 8 and at 16, neither is the other's
# buddy: 8 was cut from 0 to 15, and 16 from 16 to 31.
#
# Write `give_back`: the set of free blocks after a block came back.
#
# **Expected:** `give_back({(8, 8), (16, 16)}, 0, 8)` is `{(0, 32)}`; `give_back({(16, 8)}, 8, 8)` is `{(8, 8), (16, 8)}`.
#
# <details><summary>Hint 1: lower or upper half?</summary>A block of n slots is a lower half if its start is a multiple of 2n. Then
# its buddy is behind it, else in front of it.</details>
#
# <details><summary>Hint 2: without asking</summary>The two halves' starts differ in one binary digit, the one that n stands for.
# Which operator flips a digit?</details>
#
# <details><summary>Hint 3: again</summary>After a merge, the block has a new start (that of the lower half) and twice the length.
# Ask the same question of it, in a loop.</details>


# %% exercise="02.buddy"
def give_back(free: set[tuple[int, int]], start: int, length: int) -> set[tuple[int, int]]:
    """Return the free blocks after a block came back, merged with its buddy as often as that is possible.

    Args:
        free: first slot and length of each free block.
        start: first slot of the block that comes back.
        length: its length, a power of two.
    """
    # SOLUTION
    free = set(free)
    while (start ^ length, length) in free:
        free.remove((start ^ length, length))
        start, length = min(start, start ^ length), 2 * length
    return free | {(start, length)}
    # END SOLUTION


# %% exercise="02.buddy"
check("02.buddy", give_back)

# %% [markdown] exercise="02.compaction"
# ## A compaction that overwrites nothing
#
# Compaction slides every run down until the free slots are all behind the last one. The plan is a list of copies, and they are
# carried out one after the other. Here the order decides whether a request's keys survive: a copy must not land on slots that a
# later copy still has to read.
#
# Write `compaction_plan`. Nobody overtakes anybody, and what lies right already is not copied. (Source and target of one move may
# overlap: a single copy reads everything before it writes.)
#
# **Expected:** `compaction_plan({"c": (14, 6), "a": (2, 5), "b": (8, 4)})` is `[(2, 0, 5), (8, 5, 4), (14, 9, 6)]`.
#
# <details><summary>Hint 1: where does a run go?</summary>Its new place starts where the run below it ends <em>after</em> the
# compaction. So keep one number: the slots that are packed so far.</details>
#
# <details><summary>Hint 2: what can a copy destroy?</summary>All runs move down. A target is at or below its source, so it can only
# touch runs that are lower. Those should have left already.</details>


# %% exercise="02.compaction"
def compaction_plan(held: dict[str, tuple[int, int]]) -> list[tuple[int, int, int]]:
    """Return the copies that close all gaps, in an order in which none destroys what another one needs.

    Args:
        held: each owner's first slot and number of slots, in the order in which they came.

    Returns:
        Source, target and number of slots of each copy.
    """
    # SOLUTION
    moves, end = [], 0
    for start, length in sorted(held.values()):
        if start != end:
            moves.append((start, end, length))
        end += length
    return moves
    # END SOLUTION


# %% exercise="02.compaction"
check("02.compaction", compaction_plan)

# %% [markdown] exercise="02.batching"
# ## A batch that is refilled at every iteration
#
# A static batch waits for its longest request. Orca's idea is to give a row to the next request in the very step after its last
# one ended. No kernel changes, only this loop.
#
# Write `end_steps`: for each request, in the queue's order, the number of the step in which it makes its last token. Steps
# count from 1; every running request makes one token a step; nobody overtakes in the queue.
#
# **Expected:** `end_steps([5, 2, 7, 3], rows=2)` is `[5, 2, 9, 8]`.
#
# <details><summary>Hint 1: what to remember</summary>For each row, the step after which it is free. At the start that is 0 for all
# of them.</details>
#
# <details><summary>Hint 2: whose turn?</summary>The next request goes to the row that is free first. It starts when that row is
# free, and ends as many steps later as it has tokens.</details>


# %% exercise="02.batching"
def end_steps(output_tokens: list[int], rows: int) -> list[int]:
    """Return the step in which each request makes its last token.

    Args:
        output_tokens: tokens that each request makes, in the queue's order.
        rows: how many requests run at once at the most.
    """
    # SOLUTION
    free, ends = [0] * rows, []
    for length in output_tokens:
        row = free.index(min(free))
        free[row] += length
        ends.append(free[row])
    return ends
    # END SOLUTION


# %% exercise="02.batching"
outputs = [int(length) for length in sharegpt().draw(np.random.default_rng(1), 256)[:, 1]]
steps = max(end_steps(outputs, rows=32))
print(f"{steps} steps, {1 - sum(outputs) / (32 * steps):.0%} of the places idle")

# %% exercise="02.batching"
check("02.batching", end_steps)
