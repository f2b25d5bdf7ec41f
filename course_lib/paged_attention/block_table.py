"""Where a token lies: from its position in the sequence, through the block table, to a slot of the pool."""

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor


def num_blocks_for(tokens: int, block_size: int) -> int:
    """Return how many blocks hold this many tokens: all are full except perhaps the last one.

    Raises:
        ValueError: a negative number of tokens, or blocks without slots.
    """
    _check_block_size(block_size)
    if tokens < 0:
        raise ValueError(f"tokens is {tokens}; expected 0 or more")
    return -(-tokens // block_size)  # rounded up


def slot(table: Sequence[int], position: int, block_size: int) -> int:
    """Return the slot that holds the token at a position of the sequence.

    The block table is the page table of an operating system, and a block is its page: the position's high part picks the
    entry, the low part is the offset, and only the high part is translated (Kwon et al., SOSP 2023, section 4.3).

    Args:
        table: the sequence's block numbers, in logical order.
        position: the token's place in the sequence, from 0.
        block_size: slots in a block.

    Returns:
        The slot's number, from 0 to `num_blocks * block_size - 1`: the slots of block b are b * block_size and those after it.

    Raises:
        ValueError: the table has no block for this position.
    """
    _check_block_size(block_size)
    if not 0 <= position < len(table) * block_size:
        raise ValueError(
            f"position {position} is not in the table: {len(table)} blocks of {block_size} slots hold positions 0 to "
            f"{len(table) * block_size - 1}; allocate a block before writing there."
        )
    return table[position // block_size] * block_size + position % block_size


def slot_mapping(
    table: Sequence[int], positions: Int[Tensor, "n"] | Sequence[int], block_size: int
) -> Int[Tensor, "n"]:
    """Return the slot of each position: `slot` for many tokens at once. vLLM gives the same tensor to its kernels.

    Args:
        table: the sequence's block numbers, in logical order.
        positions: places in the sequence, from 0, in any order.
        block_size: slots in a block.

    Raises:
        ValueError: the table has no block for one of the positions.
    """
    _check_block_size(block_size)
    places = torch.as_tensor(positions, dtype=torch.int64)
    outside = places[(places < 0) | (places >= len(table) * block_size)]
    if len(outside):
        slot(table, int(outside[0]), block_size)  # raises, and says why
    blocks = torch.tensor(table, dtype=torch.int64, device=places.device)
    return blocks[places // block_size] * block_size + places % block_size


def _check_block_size(block_size: int) -> None:
    if block_size < 1:
        raise ValueError(f"block_size is {block_size}; expected 1 or more (vLLM's default is 16)")
