"""What an object keeps in memory: every tensor that can be reached from it."""

from collections.abc import Iterator
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor

from course_lib.grading.exercises.training.ranks import Communicator

_NOT_LOOKED_INTO = (
    str, bytes, int, float, complex, type, FunctionType, MethodType, BuiltinFunctionType, ModuleType, Communicator,
)  # fmt: skip


@dataclass(frozen=True)
class Held:
    """Memory that an object keeps.

    Attributes:
        path: how it is reached, `adam.state.exp_avg`.
        dtype: of the tensor that was found there, `float32`.
        numel: the tensor's elements.
        itemsize: bytes of an element.
        nbytes: of its storage: a view keeps all of the tensor that it was cut from.
    """

    path: str
    dtype: str
    numel: int
    itemsize: int
    nbytes: int


def held_tensors(owner: object) -> list[Held]:
    """Return all tensors that an object keeps alive, each storage once."""
    found: dict[int, Held] = {}
    for path, tensor in _tensors(owner, "", set()):
        storage = tensor.untyped_storage()
        dtype = str(tensor.dtype).removeprefix("torch.")
        one = Held(path, dtype, tensor.numel(), tensor.itemsize, storage.nbytes())
        before = found.get(storage.data_ptr())
        if storage.nbytes() and (before is None or before.numel < one.numel):
            found[storage.data_ptr()] = one
    return list(found.values())


def _tensors(thing: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    if id(thing) in seen or thing is None or isinstance(thing, _NOT_LOOKED_INTO):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        yield path, thing
        yield from _tensors(thing.grad if thing.is_leaf else None, f"{path}.grad", seen)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from _tensors(key, path, seen)
            yield from _tensors(value, _join(path, key) if isinstance(key, str) else path, seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for value in thing:
            yield from _tensors(value, path, seen)
    elif hasattr(thing, "__dict__"):
        yield from _tensors(vars(thing), path, seen)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
