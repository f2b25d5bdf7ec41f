"""Where each of the trainer's weights lies in an engine's memory, learned by watching the engine's own loader once."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_AT_ONCE = 64  # under ZeRO-3 a weight is a gathered copy, so not all of them may be there at a time


class CopyPlan:
    """Loads weights to where a model's `load_weights` put them, without its Python: hundreds of copies in a few launches.

    vLLM finds the place of a weight by its name, through rules for stacked parameters and shards (q, k and v are one matrix
    there). Where nothing is packed or quantized, all that it does in the end is a copy. The first load is watched, and later
    ones make the same copies. Whether they are the right ones is for the receipt to say, which reads weights back its own way.

    Args:
        model: has `load_weights(iterator of (name, tensor))`.
        weights: what it loads first.

    Attributes:
        complete: each weight was copied once, whole, into the model's own memory: only then is the plan of use.
    """

    def __init__(self, model: Any, weights: Iterator[tuple[str, Tensor]]):
        with _Copies(model) as copies:
            model.load_weights(copies.named(weights))
        self._places, self.complete = copies.places, copies.finished and not copies.strange

    @staticmethod
    def fits(model: nn.Module) -> bool:
        """Whether a model computes with its weights just as they come: bf16 vectors and matrices, so no experts, no fp8."""
        return all(weight.dtype == torch.bfloat16 and weight.dim() <= 2 for weight in model.parameters())

    def load(self, weights: Iterator[tuple[str, Tensor]]) -> None:
        """Copy weights to their places.

        Raises:
            ValueError: there is no place for one of that name and shape; those before it may have been copied.
        """
        while some := dict(islice(weights, _AT_ONCE)):
            for name, weight in some.items():
                if name not in self._places or self._places[name].shape != weight.shape:
                    raise ValueError(f"there is no place for {name} of shape {tuple(weight.shape)}")
            torch._foreach_copy_([self._places[name] for name in some], list(some.values()))


class _Copies(TorchDispatchMode):
    """Writes down where each weight is copied to."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.places: dict[str, Tensor] = {}
        self.finished = self.strange = False
        self._memory = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
        self._current: tuple[str, Tensor] | None = None

    def named(self, weights: Iterator[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        for name, weight in weights:
            self._current = (name, weight)
            yield name, weight
            self._current = None  # copies that the trainer makes to gather the next one are none of the model's
            self.strange |= name not in self.places
        self.finished = True

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten.copy_.default and self._current is not None:
            (name, weight), (target, source) = self._current, args[:2]
            self.strange |= (
                name in self.places
                or source.data_ptr() != weight.data_ptr()
                or not source.shape == weight.shape == target.shape
                or target.dtype != weight.dtype
                or target.untyped_storage().data_ptr() not in self._memory
            )
            self.places[name] = target
        return func(*args, **(kwargs or {}))
