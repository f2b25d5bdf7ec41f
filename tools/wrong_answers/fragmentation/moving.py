"""Wrong answers to 02.compaction."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: D103

from wrong_answers import wrong


def planned(held, order):
    moves, end = [], 0
    for start, length in order(held.values()):
        if start != end:
            moves.append((start, end, length))
        end += length
    return moves


@wrong("02.compaction", "in-order-of-arrival", "Takes the requests in the order of the dictionary.")
def by_arrival(held):
    return planned(held, list)


@wrong("02.compaction", "highest-first", "Copies the highest addresses first.")
def highest_first(held):
    return planned(held, sorted)[::-1]


@wrong("02.compaction", "first-gap-only", "Moves everybody by the first gap.")
def first_gap(held):
    moves = planned(held, sorted)
    return [(source, source - (moves[0][0] - moves[0][1]), length) for source, _, length in moves]


@wrong("02.compaction", "forgets-earlier-moves", "Moves each down to where its neighbour ended before.")
def own_gap(held):
    moves, end = [], 0
    for start, length in sorted(held.values()):
        if start > end:
            moves.append((start, end, length))
        end = start + length
    return moves


@wrong("02.compaction", "packs-upwards", "Packs everything at the end of the memory.")
def upwards(held):
    moves, end = [], max((sum(place) for place in held.values()), default=0)
    for start, length in sorted(held.values(), reverse=True):
        end -= length
        if start != end:
            moves.append((start, end, length))
    return moves


@wrong("02.compaction", "moves-what-lies-right", "Copies runs that lie right already onto themselves.")
def everything(held):
    moves, end = [], 0
    for start, length in sorted(held.values()):
        moves.append((start, end, length))
        end += length
    return moves


@wrong("02.compaction", "source-and-target-swapped", "Writes moves as target, source, length.")
def swapped(held):
    return [(target, source, length) for source, target, length in planned(held, sorted)]
