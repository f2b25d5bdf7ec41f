"""Where training's memory goes, read off the living tensors of this process rather than computed."""

import gc
from collections import Counter

import torch


def tensor_bytes() -> dict[str, int]:
    """Return `{dtype: bytes}` of every tensor that Python can reach, gradients included; memory shared by views counts once.

    What torch allocates and no Python object refers to, such as a forward pass's saved activations, is not seen.
    """
    # A storage is one piece of memory, whatever number of tensors look at it.
    storages: dict[int, tuple[str, int]] = {}
    gc.collect()
    for tensor in filter(_is_tensor, gc.get_objects()):
        # A leaf's gradient is an object of C++ until somebody asks for it.
        for found in (tensor, tensor.grad if tensor.is_leaf else None):
            if found is not None and found.layout is torch.strided and found.untyped_storage().data_ptr():
                storage = found.untyped_storage()
                storages[storage.data_ptr()] = (str(found.dtype).removeprefix("torch."), storage.nbytes())
    total: Counter[str] = Counter()
    for dtype, size in storages.values():
        total[dtype] += size
    return dict(total)


def _is_tensor(thing: object) -> bool:
    # `isinstance` asks an object for its class, which lazy and deprecated ones answer with an import or a warning.
    return issubclass(type(thing), torch.Tensor)
