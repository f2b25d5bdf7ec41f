"""The block pool and the block tables at one moment: what the pictures of lesson 03 are drawn from."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BlockView:
    """One physical block.

    Attributes:
        block_id: its number.
        ref_cnt: how many block tables hold it.
        tokens: the tokens whose keys and values lie in it, as text, first slot first; empty slots are left out.
        key: the start of its hash where it is in the prefix cache, else empty.
    """

    block_id: int
    ref_cnt: int
    tokens: tuple[str, ...] = ()
    key: str = ""


@dataclass(frozen=True)
class PoolSnapshot:
    """The pool after one event.

    Attributes:
        event: what happened, in words.
        block_size: slots in a block.
        blocks: every block, by number.
        tables: each request's block table, logical order.
        lengths: each request's number of tokens.
        free: the free list's block numbers, the next one to be taken first.
    """

    event: str
    block_size: int
    blocks: tuple[BlockView, ...]
    tables: Mapping[str, tuple[int, ...]]
    lengths: Mapping[str, int]
    free: tuple[int, ...]
