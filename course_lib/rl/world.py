"""The ranks of a loop: each generates and trains a share of every step, and all of them know the whole of it."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class World:
    """This process among the data-parallel ranks of a run; alone, nothing here costs anything.

    What is exchanged are Python objects of a step's samples (kilobytes). Gradients travel in DeepSpeed.

    Args:
        rank: this process's number, from 0.
        size: how many there are. Above 1 torch's default process group has to be there, as DeepSpeed forms it.
    """

    def __init__(self, rank: int = 0, size: int = 1):
        self.rank, self.size = rank, size

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the run's folder and shows the run."""
        return self.rank == 0

    def share(self, items: Sequence[T]) -> tuple[int, Sequence[T]]:
        """Return where this rank's part of `items` begins, and the part: neighbours stay together, parts differ by one at most."""
        start, end = (len(items) * rank // self.size for rank in (self.rank, self.rank + 1))
        return start, items[start:end]

    def deal(self, items: Sequence[T]) -> list[T]:
        """Return every `size`-th item from this rank's number on: with items sorted by length, all ranks get like work."""
        return list(items[self.rank :: self.size])

    def gather(self, value: T) -> list[T]:
        """Return every rank's value, in the order of ranks."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        torch.distributed.all_gather_object(values, value)
        return values

    def from_first(self, work: Callable[[], T]) -> T:
        """Let the first rank do some work and return on every rank what came of it: the result, or the exception, raised."""
        if self.size == 1:
            return work()
        outcome: list[Any] = [None, None]
        if self.first:
            try:
                outcome[0] = work()
            except Exception as error:  # noqa: BLE001  whatever it is, the other ranks must not wait for a result
                outcome[1] = error
        torch.distributed.broadcast_object_list(outcome)
        if outcome[1] is not None:
            raise outcome[1]
        result: T = outcome[0]
        return result

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set on any rank."""
        return any(self.gather(flag))

    def sum(self, tensors: Iterator[Tensor]) -> None:
        """Replace each tensor, of the same shape on every rank, by its sum over the ranks."""
        if self.size > 1:
            for tensor in tensors:
                tensor.copy_(torch.stack(self.gather(tensor)).sum(dim=0))

    def __repr__(self) -> str:
        return f"World(rank {self.rank} of {self.size})"
