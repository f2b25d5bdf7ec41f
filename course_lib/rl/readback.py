"""What weights does the engine really use? Read them back through its own kernels.

vLLM's CPU build packs every linear layer into a form that can't be looked at, and leaves an empty `weight` behind. But a
linear layer that is given the unit vector e_j returns column j of its matrix, and exactly: the sum has one product that is
not zero, and that one is 1 * w. So a few unit vectors read a few columns, whatever the kernel did with the matrix.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

COLUMNS = 32
"""Columns of each matrix that are compared; a step of AdamW moves every column."""


def columns(width: int) -> Tensor:
    """Return which columns of a matrix of this width are compared: the same at every sync, spread by a fixed seed."""
    return torch.randperm(width, generator=torch.Generator().manual_seed(width))[:COLUMNS]


def fingerprint(weight: Tensor) -> Tensor:
    """Return the values of a trainer's weight that are compared: a few columns of a matrix, a vector whole, on the CPU."""
    return (weight[:, columns(weight.shape[1]).to(weight.device)] if weight.dim() == 2 else weight).to("cpu", copy=True)


def read_back(model: nn.Module) -> dict[str, Tensor]:
    """Return `{Hugging Face name: fingerprint}` of the weights that a vLLM model computes with.

    Runs inside the engine, by `LLM.apply_model(read_back)`.
    """
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    return {
        name: value.cpu() for path, module in model.named_modules() for name, value in _values(path, module, packed)
    }


def _values(path: str, module: nn.Module, packed: dict[str, list[str]]) -> Iterator[tuple[str, Tensor]]:
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    layer: Any = module  # what vLLM's types say of its layers is less than what they have
    if isinstance(module, LinearBase):
        read = _columns_through_kernel(layer, int(layer.input_size))
        parent, _, last = path.rpartition(".")
        parts = packed.get(last, [last])
        # q, k and v (gate and up) are one matrix in the engine, one after another.
        sizes = list(layer.output_sizes) if len(parts) > 1 else [read.shape[0]]
        for part, rows in zip(parts, read.split(sizes), strict=True):
            yield f"{parent}.{part}.weight", rows
        if layer.bias is not None:
            for part, values in zip(parts, layer.bias.data.split(sizes), strict=True):
                yield f"{parent}.{part}.bias", values
    elif isinstance(module, ParallelLMHead):
        yield f"{path}.weight", _columns_through_kernel(layer, int(layer.embedding_dim))[: layer.org_vocab_size]
    elif isinstance(module, VocabParallelEmbedding):
        yield f"{path}.weight", fingerprint(layer.weight.data)[: layer.org_vocab_size]
    else:
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.data


def _columns_through_kernel(layer: Any, width: int) -> Tensor:
    """Return the compared columns of a layer's matrix, as its kernel multiplies with them: [rows, columns]."""
    chosen = columns(width)
    reference = next(iter(layer.parameters()))
    units = torch.zeros((len(chosen), width), dtype=reference.dtype, device=reference.device)
    units[torch.arange(len(chosen)), chosen.to(reference.device)] = 1
    result: Tensor = layer.quant_method.apply(layer, units, bias=None)
    return result.T
