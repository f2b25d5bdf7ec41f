"""Where training's memory goes, read off the living tensors of this process rather than computed."""

import gc
import weakref
from collections import Counter
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def tensor_bytes() -> dict[str, int]:
    """Return `{dtype: bytes}` of every tensor that Python can reach, gradients included; memory shared by views counts once.

    What torch allocates and no Python object refers to, such as a forward pass's saved activations, is not seen.
    """
    # A storage is one piece of memory, whatever number of tensors look at it.
    storages = {tensor.untyped_storage().data_ptr(): tensor for tensor in _reachable()}
    total: Counter[str] = Counter()
    for tensor in storages.values():
        total[str(tensor.dtype).removeprefix("torch.")] += tensor.untyped_storage().nbytes()
    return dict(total)


class LiveStorages:
    """Counts the memory of tensors that it is shown, each piece once, for as long as it lives.

    Attributes:
        bytes: that are alive now.
        peak: the most that were alive at once.
    """

    def __init__(self) -> None:
        self.bytes = self.peak = 0
        self._alive: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    def __contains__(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._alive

    def add(self, tensor: Tensor) -> None:
        """Count a tensor's memory until nobody holds it any more."""
        storage = tensor.untyped_storage()
        key, size = storage.data_ptr(), storage.nbytes()
        if not key or key in self._alive:
            return
        self._alive[key] = weakref.ref(storage, lambda _: self._forget(key, size))
        self.bytes += size
        self.peak = max(self.peak, self.bytes)

    def _forget(self, key: int, size: int) -> None:
        del self._alive[key]
        self.bytes -= size

    def __repr__(self) -> str:
        return f"LiveStorages({self.bytes:,} bytes alive, {self.peak:,} at most)"


class PeakMemory(TorchDispatchMode):
    """The most bytes of tensors at one moment of a `with` block, those from before it included.

    On a GPU it is the allocator's own count (`torch.cuda.max_memory_allocated`), of the GPU's memory alone. On the CPU, whose
    allocator counts nothing, every operation's results are watched, of the backward pass too; that slows small operations
    down, so time nothing under it.

    Attributes:
        bytes: the most so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self._storages: LiveStorages | None = None

    @property
    def bytes(self) -> int:
        """The most bytes at one moment, so far."""
        return self._storages.peak if self._storages else torch.cuda.max_memory_allocated()

    def __enter__(self) -> Self:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            return self
        self._storages = LiveStorages()
        for tensor in _reachable():
            self._storages.add(tensor)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._storages:
            super().__exit__(kind, error, trace)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        assert self._storages is not None
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._storages.add(value)
        return result

    def __repr__(self) -> str:
        return f"PeakMemory({self.bytes:,} bytes)"


class SavedActivations(torch.autograd.graph.saved_tensors_hooks):
    """What autograd keeps for the backward pass of what runs in a `with` block: each piece of memory once, no weight.

    A checkpointed layer's activations are not seen while its backward pass makes them again.

    Args:
        module: whose weights not to count; autograd saves them too, but they are there anyway.

    Attributes:
        storages: what is saved at this moment, and at most was.
    """

    def __init__(self, module: torch.nn.Module):
        self.storages = LiveStorages()
        self._weights = list(module.parameters())
        super().__init__(self._save, lambda tensor: tensor)

    def __enter__(self) -> Self:  # type: ignore[override]  # torch's returns nothing
        super().__enter__()
        return self

    def _save(self, tensor: Tensor) -> Tensor:
        # Weights by their memory of this moment: ZeRO-3 gathers them into a new place for each pass.
        if tensor not in self.storages and not any(_same_memory(tensor, weight) for weight in self._weights):
            self.storages.add(tensor)
        return tensor

    def __repr__(self) -> str:
        return f"SavedActivations({self.storages!r})"


def _same_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _reachable() -> Iterator[Tensor]:
    """Yield every tensor that Python can reach and that has memory, and the gradients of leaves."""
    gc.collect()
    for tensor in filter(_is_tensor, gc.get_objects()):
        # A leaf's gradient is an object of C++ until somebody asks for it.
        for found in (tensor, tensor.grad if tensor.is_leaf else None):
            if found is not None and found.layout is torch.strided and _address(found):
                yield found


def _address(tensor: Tensor) -> int:
    """Return where a tensor's memory is; 0 where it has none, as torch.compile's stand-ins, which have a shape alone."""
    if isinstance(tensor, FakeTensor):
        return 0
    try:
        return tensor.untyped_storage().data_ptr()
    except RuntimeError:  # one of its other stand-ins
        return 0


def _is_tensor(thing: object) -> bool:
    # `isinstance` asks an object for its class, which lazy and deprecated ones answer with an import or a warning.
    return issubclass(type(thing), torch.Tensor)
