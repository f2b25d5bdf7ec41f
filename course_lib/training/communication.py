"""What ranks tell one another: every collective of torch.distributed, counted as it is called."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# By the names that torch's dispatcher has for them (`c10d::...`), with or without `_base_`, `_coalesced_` and the like.
_KINDS = {"allreduce": "all-reduce", "allgather": "all-gather", "reduce_scatter": "reduce-scatter"}
_KINDS |= {"alltoall": "all-to-all", "broadcast": "broadcast", "barrier": "barrier", "reduce": "reduce"}
_ROUNDS = {"all-reduce": 2, "barrier": 0}


@dataclass(frozen=True)
class Traffic:
    """The calls of one collective.

    Attributes:
        kind: `all-reduce`, `all-gather`, `reduce-scatter`, ...
        calls: how often.
        bytes: moved through this rank, counted as the ZeRO paper counts (arXiv 1910.02054, section 7): the whole tensor,
            gathered or not yet scattered, and twice that for an all-reduce, which is a reduce-scatter and an all-gather. A
            ring of N ranks sends (N - 1) / N of it, and receives as much.
    """

    kind: str
    calls: int
    bytes: int


class CommunicationLog(TorchDispatchMode):
    """Counts the collectives of a `with` block, whoever calls them: DeepSpeed's forward, backward and step too.

    Every operation of torch passes through it, so time nothing under it.
    """

    def __init__(self) -> None:
        super().__init__()
        self._traffic: dict[str, Traffic] = {}

    @property
    def bytes(self) -> int:
        """All bytes moved through this rank, as `Traffic` counts them."""
        return sum(traffic.bytes for traffic in self)

    def __iter__(self) -> Iterator[Traffic]:
        return iter(self._traffic.values())

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        # A rank alone calls collectives too, and they move nothing.
        if func.namespace == "c10d" and torch.distributed.get_world_size() > 1:
            name = func.__name__
            kind = next((kind for part, kind in _KINDS.items() if part in name), name)
            size = _ROUNDS.get(kind, 1) * _payload(args)
            before = self._traffic.get(kind, Traffic(kind, 0, 0))
            self._traffic[kind] = Traffic(kind, before.calls + 1, before.bytes + size)
        return func(*args, **(kwargs or {}))

    def __repr__(self) -> str:
        listed = ", ".join(f"{traffic.calls} x {traffic.kind} {traffic.bytes / 2**20:.1f} MiB" for traffic in self)
        return f"CommunicationLog({listed})"


def _payload(args: tuple[Any, ...]) -> int:
    """Return the bytes of the larger of a collective's first two arguments.

    They are output and input: the whole tensor is the output of an all-gather, and the input of a reduce-scatter.
    """
    sides = [[leaf for leaf in tree_leaves(arg) if isinstance(leaf, Tensor)] for arg in args[:2]]
    return max((sum(tensor.numel() * tensor.element_size() for tensor in side) for side in sides), default=0)
