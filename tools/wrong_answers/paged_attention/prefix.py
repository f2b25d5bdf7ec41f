# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The prefix cache's look-up."""

from course_lib.paged_attention import block_hash
from wrong_answers import wrong


@wrong("03.prefix_lookup", "hits-the-whole-prompt", "Leaves nothing to compute.")
def whole_prompt(tokens, cache, block_size):
    found, parent = [], b""
    for end in range(block_size, len(tokens) + 1, block_size):
        parent = block_hash(parent, tokens[end - block_size : end])
        if parent not in cache:
            break
        found.append(cache[parent])
    return found


@wrong("03.prefix_lookup", "hash-without-parent", "Names a block by its own tokens.")
def no_parent(tokens, cache, block_size):
    found = []
    for end in range(block_size, len(tokens), block_size):
        name = block_hash(b"", tokens[end - block_size : end])
        if name not in cache:
            break
        found.append(cache[name])
    return found


@wrong("03.prefix_lookup", "chain-of-two", "Makes the parent's name from the parent's tokens alone.")
def two_blocks(tokens, cache, block_size):
    found, parent = [], b""
    for end in range(block_size, len(tokens), block_size):
        block = tokens[end - block_size : end]
        name, parent = block_hash(parent, block), block_hash(b"", block)
        if name not in cache:
            break
        found.append(cache[name])
    return found


@wrong("03.prefix_lookup", "hashes-all-tokens", "Hashes everything from the start, which is another hash.")
def everything(tokens, cache, block_size):
    found = []
    for end in range(block_size, len(tokens), block_size):
        name = block_hash(b"", tokens[:end])
        if name not in cache:
            break
        found.append(cache[name])
    return found


@wrong("03.prefix_lookup", "goes-on-after-a-miss", "Takes every block that is there, with holes between them.")
def with_holes(tokens, cache, block_size):
    found, parent = [], b""
    for end in range(block_size, len(tokens), block_size):
        parent = block_hash(parent, tokens[end - block_size : end])
        if parent in cache:
            found.append(cache[parent])
    return found


@wrong("03.prefix_lookup", "gives-up-a-block", "Always leaves out the last full block.")
def one_less(tokens, cache, block_size):
    found, parent = [], b""
    for place in range(len(tokens) // block_size - 1):
        parent = block_hash(parent, tokens[place * block_size : (place + 1) * block_size])
        if parent not in cache:
            break
        found.append(cache[parent])
    return found


@wrong("03.prefix_lookup", "counts-tokens", "Returns how many tokens are there.")
def tokens_found(tokens, cache, block_size):
    found, parent = 0, b""
    for end in range(block_size, len(tokens), block_size):
        parent = block_hash(parent, tokens[end - block_size : end])
        if parent not in cache:
            break
        found += block_size
    return found


@wrong("03.prefix_lookup", "none-for-a-miss", "Looks every block up with `get`.")
def with_none(tokens, cache, block_size):
    found, parent = [], b""
    for end in range(block_size, len(tokens), block_size):
        parent = block_hash(parent, tokens[end - block_size : end])
        found.append(cache.get(parent))
    return found
