"""Wrong answers to 02.best_fit."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: ARG001, D103

from wrong_answers import wrong


@wrong("02.best_fit", "first-fit", "Takes the first hole that is long enough.")
def first(holes, length):
    return next((start for start, hole in holes if hole >= length), None)


@wrong("02.best_fit", "worst-fit", "Takes the longest hole.")
def worst(holes, length):
    hole, start = max(((hole, -start) for start, hole in holes), default=(0, 0))
    return -start if hole >= length else None


@wrong("02.best_fit", "refuses-an-exact-fit", "Asks for a hole that is longer than the request.")
def strict(holes, length):
    return min(((hole, start) for start, hole in holes if hole > length), default=(0, None))[1]


@wrong("02.best_fit", "too-short", "Takes the shortest hole, whether the request fits or not.")
def shortest(holes, length):
    return min(((hole, start) for start, hole in holes), default=(0, None))[1]


@wrong("02.best_fit", "last-of-equals", "Takes the last of equally short holes.")
def last(holes, length):
    best = None
    for start, hole in holes:
        if hole >= length and (best is None or hole <= best[1]):
            best = start, hole
    return best and best[0]


@wrong("02.best_fit", "gives-the-length", "Returns the hole's length.")
def gives_length(holes, length):
    return min((hole for _, hole in holes if hole >= length), default=None)


@wrong("02.best_fit", "gives-the-place-in-the-list", "Returns the hole's index in the list.")
def gives_index(holes, length):
    fitting = [(hole, place) for place, (_, hole) in enumerate(holes) if hole >= length]
    return min(fitting)[1] if fitting else None


@wrong("02.best_fit", "zero-for-none", "Returns 0 where nothing fits.")
def zero(holes, length):
    fitting = [(hole, start) for start, hole in holes if hole >= length]
    return min(fitting)[1] if fitting else 0


@wrong("02.best_fit", "changes-the-list", "Sorts the caller's list by length.")
def sorts(holes, length):
    holes.sort(key=lambda hole: (hole[1], hole[0]))
    return next((start for start, hole in holes if hole >= length), None)


@wrong("02.best_fit", "the-hole-s-end", "Puts the request at the end of the hole.")
def at_the_end(holes, length):
    fitting = [(hole, start) for start, hole in holes if hole >= length]
    return min(fitting)[1] + min(fitting)[0] - length if fitting else None
