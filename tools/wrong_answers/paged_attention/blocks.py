# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Slots and blocks."""

from wrong_answers import wrong


@wrong(
    "03.slot_mapping", "block-number-as-slot", "The formula that is often printed: the block's number plus the offset."
)
def short_formula(table, positions, block_size):
    return [table[p // block_size] + p % block_size for p in positions]


@wrong("03.slot_mapping", "ignores-the-table", "Takes the position for the slot, as in a contiguous cache.")
def contiguous(table, positions, block_size):
    return list(positions)


@wrong("03.slot_mapping", "forgets-the-offset", "Gives every token of a block the block's first slot.")
def first_slots(table, positions, block_size):
    return [table[p // block_size] * block_size for p in positions]


@wrong("03.slot_mapping", "deals-out-round-robin", "Divides and takes the remainder by the number of blocks.")
def striped(table, positions, block_size):
    slots = []
    for position in positions:
        offset, entry = divmod(position, len(table))
        slots.append(table[entry] * block_size + offset)
    return slots


@wrong("03.slot_mapping", "counts-from-one", "Counts offsets from 1.")
def from_one(table, positions, block_size):
    return [table[p // block_size] * block_size + p % block_size + 1 for p in positions]


@wrong("03.slot_mapping", "sorts-the-table", "Uses the blocks in the order of their numbers.")
def in_order(table, positions, block_size):
    blocks = sorted(table)
    return [blocks[p // block_size] * block_size + p % block_size for p in positions]


@wrong("03.slot_mapping", "times-the-tables-length", "Multiplies by the length of the table.")
def by_length(table, positions, block_size):
    return [table[p // block_size] * len(table) + p % block_size for p in positions]


@wrong("03.slot_mapping", "ignores-the-positions", "Gives the slots of the first tokens, whichever are asked for.")
def from_the_start(table, positions, block_size):
    return [table[p // block_size] * block_size + p % block_size for p in range(len(positions))]


@wrong("03.slot_mapping", "no-list-of-slots", "Returns the last token's slot alone.")
def one_slot(table, positions, block_size):
    slot = -1
    for position in positions:
        slot = table[position // block_size] * block_size + position % block_size
    return slot


@wrong("03.new_blocks", "ignores-the-last-block", "Rounds the new tokens up, whatever room the last block has.")
def new_alone(tokens, new_tokens, block_size):
    return -(-new_tokens // block_size)


@wrong("03.new_blocks", "rounds-down", "Counts full blocks.")
def full_blocks(tokens, new_tokens, block_size):
    return (tokens + new_tokens) // block_size - tokens // block_size


@wrong("03.new_blocks", "counts-held-blocks", "Counts all of the request's blocks.")
def all_blocks(tokens, new_tokens, block_size):
    return (tokens + new_tokens + block_size - 1) // block_size


@wrong("03.new_blocks", "one-to-spare", "Adds a block for the next token.")
def spare(tokens, new_tokens, block_size):
    held = -(-tokens // block_size)
    return -(-(tokens + new_tokens) // block_size) + 1 - held


@wrong("03.new_blocks", "phantom-room", "Takes a full last block for an empty one.")
def room_of_a_full_block(tokens, new_tokens, block_size):
    room = block_size - tokens % block_size
    return max(0, -(-(new_tokens - room) // block_size))


@wrong("03.new_blocks", "one-at-most", "Takes one block when the last one is full, however many tokens come.")
def only_one(tokens, new_tokens, block_size):
    held = -(-tokens // block_size)
    return 1 if tokens + new_tokens > held * block_size else 0


@wrong("03.new_blocks", "slots-not-blocks", "Returns the slots of the new blocks.")
def slots(tokens, new_tokens, block_size):
    held = -(-tokens // block_size)
    return (-(-(tokens + new_tokens) // block_size) - held) * block_size


@wrong("03.new_blocks", "no-number", "Divides with / and returns a float.")
def as_float(tokens, new_tokens, block_size):
    return (tokens + new_tokens + block_size - 1) // block_size - tokens / block_size
