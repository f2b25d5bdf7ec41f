# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The order of the free list."""

from collections import deque

from wrong_answers import wrong


@wrong("03.free_order", "all-to-the-back", "vLLM's order until 2025: every block goes to the back.")
def all_back(free, table, hashed):
    return [*free, *reversed(table)]


@wrong("03.free_order", "all-to-the-front", "The block that was used last is taken first, hash or not.")
def all_front(free, table, hashed):
    return [*reversed(table), *free]


@wrong("03.free_order", "forward-order", "Gives the blocks back in the order of the text.")
def forward(free, table, hashed):
    return [*(b for b in table if b not in hashed), *free, *(b for b in table if b in hashed)]


@wrong("03.free_order", "front-and-back-swapped", "Blocks with a hash to the front, the others to the back.")
def swapped(free, table, hashed):
    back = table[::-1]
    return [*(b for b in back if b in hashed), *free, *(b for b in back if b not in hashed)]


@wrong("03.free_order", "front-turned-round", "Puts blocks one by one before the first, which turns them round.")
def one_by_one(free, table, hashed):
    order = deque(free)
    for block in reversed(table):
        if block in hashed:
            order.append(block)
        else:
            order.appendleft(block)
    return list(order)


@wrong("03.free_order", "hashed-turned-round", "Turns the blocks without a hash round, and not the others.")
def hashed_forward(free, table, hashed):
    return [*(b for b in reversed(table) if b not in hashed), *free, *(b for b in table if b in hashed)]


@wrong("03.free_order", "sorted-by-number", "Keeps the free list sorted.")
def by_number(free, table, hashed):
    return sorted([*free, *table])


@wrong("03.free_order", "loses-blocks", "Keeps blocks with a hash out of the free list.")
def keeps_cached(free, table, hashed):
    return [*(block for block in reversed(table) if block not in hashed), *free]


@wrong("03.free_order", "changes-its-arguments", "Works in the caller's list.")
def in_place(free, table, hashed):
    free[:0] = [block for block in reversed(table) if block not in hashed]
    free += [block for block in reversed(table) if block in hashed]
    return free
