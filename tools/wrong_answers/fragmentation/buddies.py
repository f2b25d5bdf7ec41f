"""Wrong answers to 02.buddy."""

# The mistakes are the content here: unused arguments and missing docstrings are what people write.
# ruff: noqa: ARG005, D103

from wrong_answers import wrong


def merging(buddy, *, upper=False, once=False, keep=False):
    """Return a way of taking a block back; `buddy` says where the other half starts."""

    def answer(free, start, length):
        free = set(free)
        while (buddy(start, length), length) in free:
            other = buddy(start, length)
            if not keep:
                free.remove((other, length))
            start, length = (start if upper else min(start, other)), 2 * length
            if once:
                break
        free.add((start, length))
        return free

    return answer


def half(start, length):
    return start ^ length


wrong("02.buddy", "never-merges", "Only adds the block to the free ones.")(merging(lambda start, length: -1))
wrong("02.buddy", "merges-once", "Merges once and stops.")(merging(half, once=True))
wrong("02.buddy", "looks-behind-only", "Looks for the buddy only behind the block.")(
    merging(lambda start, length: start + length if start // length % 2 == 0 else -1)
)
wrong("02.buddy", "looks-in-front-only", "Looks for the buddy only in front of the block.")(
    merging(lambda start, length: start - length if start // length % 2 else -1)
)
wrong("02.buddy", "starts-at-the-upper-half", "Lets the merged block start at the block that came back.")(
    merging(half, upper=True)
)
wrong("02.buddy", "keeps-the-buddy", "Leaves the buddy among the free blocks.")(merging(half, keep=True))


@wrong("02.buddy", "touching-is-not-enough", "Merges any two blocks of the same length that touch.")
def touching(free, start, length):
    free = set(free)
    while True:
        near = next(((other, length) for other in (start + length, start - length) if (other, length) in free), None)
        if near is None:
            return free | {(start, length)}
        free.remove(near)
        start, length = min(start, near[0]), 2 * length


@wrong("02.buddy", "any-length", "Takes whatever starts at the buddy's place for the buddy.")
def any_length(free, start, length):
    free = set(free)
    while near := next((block for block in free if block[0] == start ^ length), None):
        free.remove(near)
        start, length = min(start, near[0]), length + near[1]
    return free | {(start, length)}
