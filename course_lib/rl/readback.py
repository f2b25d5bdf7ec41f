"""What weights does the engine really use? Read them back through its own kernels.

vLLM's CPU build packs every linear layer into a form that can't be looked at, and leaves an empty `weight` behind; our engine
packs a copy, and a look at the original would tell nothing of the one that computes. But a linear layer that is given the
unit vector e_j returns column j of its matrix, and exactly: the sum has one product that is not zero, and that one is 1 * w.
So a few unit vectors read a few columns, whatever the kernel did with the matrix.
"""

from collections.abc import Iterator
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn

from course_lib.serving.fused_model import FusedTransformer
from course_lib.serving.linear import PackedLinear

COLUMNS = 32
"""Columns of each matrix that are compared; a step of AdamW moves every column."""


def columns(width: int) -> Tensor:
    """Return which columns of a matrix of this width are compared: the same at every sync, evenly spread."""
    return torch.arange(width)[_spread(width)]


def fingerprint(weight: Tensor) -> Tensor:
    """Return a copy of the values of a trainer's weight that are compared: a few columns of a matrix, a vector whole.

    It stays on the weight's device: hundreds of small copies to the host, and comparisons there, take longer than the sync.
    """
    # A slice, and no list of columns: that would take two and a half times as long, which is a tenth of a sync.
    return (weight[:, _spread(weight.shape[1])] if weight.dim() == 2 else weight).detach().clone()


def _spread(width: int) -> slice:
    step = max(1, width // COLUMNS)
    return slice(0, COLUMNS * step, step)


def read_back(model: nn.Module) -> dict[str, Tensor]:
    """Return `{Hugging Face name: fingerprint}` of the weights that a vLLM model computes with.

    Runs inside the engine, by `LLM.apply_model(read_back)`.
    """
    packed: dict[str, list[str]] = getattr(model, "packed_modules_mapping", {})
    units, modules = _Units(), model.named_modules()
    return {name: value for path, module in modules for name, value in _values(path, module, packed, units)}


def _values(
    path: str, module: nn.Module, packed: dict[str, list[str]], units: "_Units"
) -> Iterator[tuple[str, Tensor]]:
    from vllm.model_executor.layers.linear import LinearBase
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding

    layer: Any = module  # what vLLM's types say of its layers is less than what they have
    if isinstance(module, LinearBase):
        read = _columns_through_kernel(layer, int(layer.input_size), units)
        parent, _, last = path.rpartition(".")
        parts = packed.get(last, [last])
        # q, k and v (gate and up) are one matrix in the engine, one after another.
        sizes = list(layer.output_sizes) if len(parts) > 1 else [read.shape[0]]
        for part, rows in zip(parts, read.split(sizes), strict=True):
            yield f"{parent}.{part}.weight", rows
        if layer.bias is not None:
            for part, values in zip(parts, layer.bias.data.clone().split(sizes), strict=True):
                yield f"{parent}.{part}.bias", values
    elif isinstance(module, ParallelLMHead):
        yield f"{path}.weight", _columns_through_kernel(layer, int(layer.embedding_dim), units)[: layer.org_vocab_size]
    elif isinstance(module, VocabParallelEmbedding):
        yield f"{path}.weight", fingerprint(layer.weight.data)[: layer.org_vocab_size]
    else:
        for name, parameter in module.named_parameters(recurse=False):
            yield f"{path}.{name}", parameter.data.clone()


def read_back_fused(model: FusedTransformer) -> dict[str, Tensor]:
    """Return `{Hugging Face name: fingerprint}` of the weights that our engine computes with."""
    own = model.model
    found = {"model.embed_tokens.weight": fingerprint(own.embed_tokens.weight)}
    units = _Units()
    for index, fused in enumerate(model.layers):
        layer, path = fused.layer, f"model.layers.{index}"
        attention, mlp = layer.self_attn, layer.mlp
        merged = [
            (fused.qkv, {f"self_attn.{name}": getattr(attention, name) for name in ("q_proj", "k_proj", "v_proj")}),
            (fused.out, {"self_attn.o_proj": attention.o_proj}),
            (fused.gate_up, {"mlp.gate_proj": mlp.gate_proj, "mlp.up_proj": mlp.up_proj}),
            (fused.down, {"mlp.down_proj": mlp.down_proj}),
        ]
        for product, parts in merged:
            rows = _columns_of_product(product, units).split([part.out_features for part in parts.values()])
            found |= {f"{path}.{name}.weight": read for name, read in zip(parts, rows, strict=True)}
        # Norms and biases are used as they are.
        found |= {
            f"{path}.{name}": value.detach().clone() for name, value in layer.named_parameters() if value.dim() == 1
        }
    found["model.norm.weight"] = own.norm.weight.detach().clone()
    found["lm_head.weight"] = _columns_of_product(model._head, units)  # noqa: SLF001  it has no other name
    return found


class _Units(dict[tuple[int, torch.dtype, torch.device], Tensor]):
    """The unit vectors of the compared columns, [columns, width]: made once for all matrices of a width."""

    def __missing__(self, kind: tuple[int, torch.dtype, torch.device]) -> Tensor:
        width, dtype, device = kind
        units = torch.zeros((len(columns(width)), width), dtype=dtype, device=device)
        units[:, _spread(width)].fill_diagonal_(1)  # no list of places: a GPU would wait for each to be copied
        self[kind] = units
        return units


def _columns_of_product(product: PackedLinear, units: _Units) -> Tensor:
    """Return the compared columns of the matrix that a product multiplies with: [rows, columns]."""
    bare, weight = copy(product), product.weight
    bare.bias = None
    return bare(units[weight.shape[1], weight.dtype, weight.device]).T


def _columns_through_kernel(layer: Any, width: int, units: _Units) -> Tensor:
    """Return the compared columns of a vLLM layer's matrix, as its kernel multiplies with them: [rows, columns]."""
    weight = next(iter(layer.parameters()))
    result: Tensor = layer.quant_method.apply(layer, units[width, weight.dtype, weight.device], bias=None)
    return result.detach().T
