"""What compaction's copies cost."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Shaped
from torch import Tensor

from course_lib.fragmentation.contiguous import Move


@dataclass(frozen=True)
class CopyCost:
    """What it takes to carry out moves.

    Attributes:
        slots: slots that are copied.
        bytes: bytes that go over the memory's bus: each is read once and written once.
    """

    slots: int
    bytes: int

    def __repr__(self) -> str:
        return f"CopyCost({self.slots} slots, {self.bytes / 1e9:.2f} GB over the bus)"

    def seconds(self, bandwidth: float) -> float:
        """Return the least time at so many bytes a second; nothing else gets to this memory meanwhile."""
        return self.bytes / bandwidth


def copy_cost(moves: Sequence[Move], bytes_per_slot: int) -> CopyCost:
    """Return what the moves cost.

    Args:
        moves: the copies, as `FirstFit.compact()` returns them.
        bytes_per_slot: bytes of a token's keys and values in all layers.
    """
    if bytes_per_slot < 1:
        raise ValueError(f"{bytes_per_slot} bytes a slot; expected at least 1")
    slots = sum(move.length for move in moves)
    return CopyCost(slots, 2 * slots * bytes_per_slot)


def carry_out(moves: Sequence[Move], cache: Shaped[Tensor, "slots ..."]) -> None:
    """Copy the slots of a cache as the moves say, in place and in their order.

    A move whose source and target overlap goes through a copy at the side: PyTorch does not say what copying a tensor onto
    a part of itself gives.
    """
    for move in moves:
        source = cache[move.source : move.source + move.length]
        if move.target + move.length > move.source:
            source = source.clone()
        cache[move.target : move.target + move.length] = source
