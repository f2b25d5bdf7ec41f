# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""What a hit spares and costs."""

from wrong_answers import wrong


def _usable(num_tokens, found, block_size):
    return found[: (num_tokens - 1) // block_size]


def _leaving(num_tokens, usable, block_size):
    return -(-num_tokens // block_size) - len(usable) + sum(block.ref_cnt == 0 for block in usable)


@wrong("04.hits", "whole-prompt-hit", "Takes over the block with the last token.")
def whole(num_tokens, found, block_size):
    return len(found) * block_size, _leaving(num_tokens, found, block_size)


@wrong("04.hits", "part-of-a-block", "Computes the last token only.")
def part(num_tokens, found, block_size):
    return min(len(found) * block_size, num_tokens - 1), _leaving(num_tokens, found, block_size)


@wrong("04.hits", "one-block-too-few", "Gives up the last full block even where more tokens follow.")
def too_few(num_tokens, found, block_size):
    usable = found[: max(0, -(-num_tokens // block_size) - 2)]
    return len(usable) * block_size, _leaving(num_tokens, usable, block_size)


@wrong("04.hits", "counts-blocks", "Returns blocks where tokens are asked for.")
def blocks(num_tokens, found, block_size):
    usable = _usable(num_tokens, found, block_size)
    return len(usable), _leaving(num_tokens, usable, block_size)


@wrong("04.hits", "held-hits-only", "Takes over only what somebody holds.")
def held_only(num_tokens, found, block_size):
    usable = [block for block in _usable(num_tokens, found, block_size) if block.ref_cnt]
    return len(usable) * block_size, _leaving(num_tokens, usable, block_size)


@wrong("04.hits", "hits-are-free", "Counts new blocks only.")
def free(num_tokens, found, block_size):
    usable = _usable(num_tokens, found, block_size)
    return len(usable) * block_size, -(-num_tokens // block_size) - len(usable)


@wrong("04.hits", "all-hits-leave", "Counts every block of the text.")
def every(num_tokens, found, block_size):
    return len(_usable(num_tokens, found, block_size)) * block_size, -(-num_tokens // block_size)


@wrong("04.hits", "held-for-free", "Takes the held hits for the free ones.")
def swapped(num_tokens, found, block_size):
    usable = _usable(num_tokens, found, block_size)
    new = -(-num_tokens // block_size) - len(usable)
    return len(usable) * block_size, new + sum(block.ref_cnt > 0 for block in usable)


@wrong("04.hits", "rounds-down", "Forgets the block that is not full.")
def rounds_down(num_tokens, found, block_size):
    usable = _usable(num_tokens, found, block_size)
    new = num_tokens // block_size - len(usable)
    return len(usable) * block_size, new + sum(block.ref_cnt == 0 for block in usable)


@wrong("04.hits", "forgets-the-last-block", "Takes off a cached block that it may not use.")
def forgets(num_tokens, found, block_size):
    usable = _usable(num_tokens, found, block_size)
    new = -(-num_tokens // block_size) - len(found)
    return len(usable) * block_size, new + sum(block.ref_cnt == 0 for block in usable)
