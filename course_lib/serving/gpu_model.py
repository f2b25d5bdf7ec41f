"""The model in as few kernels as an engine on a GPU needs: what it runs where nobody has to read it."""

from typing import Protocol

import torch
from jaxtyping import Float, Int
from torch import Tensor

from course_lib.kv_cache.cache import KVCache
from course_lib.kv_cache.rope import rotation
from course_lib.kv_cache.transformer import RMSNorm
from course_lib.serving.fused_model import FusedLayer, FusedTransformer
from course_lib.serving.gpu_cache import GPUPagedCache
from course_lib.serving.gpu_kernels import add_rms_norm, rotate_and_store, silu_mul


class HiddenStates(Protocol):
    """The layers of a model, as a runner calls them."""

    def __call__(
        self, tokens: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], cache: KVCache, /
    ) -> Float[Tensor, "tokens hidden"]:
        """Return what the layers make of each token."""


class GPUTransformer:
    """A `FusedTransformer`'s layers with one kernel between two matrix products.

        norm (+ residual) | qkv | norm, turn, store | attention | out | norm (+ residual) | gate, up | SiLU x | down

    It has the model's own weights, so that loading weights into the model loads them here.

    Args:
        model: on a GPU.
        max_model_len: longest sequence.
    """

    def __init__(self, model: FusedTransformer, max_model_len: int):
        self.model = model
        positions = torch.arange(max_model_len, device=model.device)
        cos, sin = rotation(positions, model.model.frequencies, torch.float32)
        self.turns = torch.cat((cos, sin), dim=-1).squeeze(1)

    def __call__(
        self, tokens: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return what the layers make of each token."""
        assert isinstance(cache, GPUPagedCache)
        x, residual = self.model.model.embed_tokens(tokens), None
        for index, layer in enumerate(self.model.layers):
            x, residual = self._layer(index, layer, x, residual, positions, cache)
        norm = self.model.model.norm
        return add_rms_norm(x, residual, norm.weight, norm.eps)[0]

    def _layer(
        self, index: int, layer: FusedLayer, x: Tensor, residual: Tensor | None, positions: Tensor, cache: GPUPagedCache
    ) -> tuple[Tensor, Tensor]:
        """Return what the layer adds to its residual, and the residual."""
        before, attention, after = (
            layer.layer.input_layernorm,
            layer.layer.self_attn,
            layer.layer.post_attention_layernorm,
        )
        normed, residual = add_rms_norm(x, residual, before.weight, before.eps)
        qkv = layer.qkv(normed).unflatten(-1, (-1, layer.head_dim))
        q_norm, k_norm = attention.q_norm, attention.k_norm
        norms = None
        if isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm):
            norms = q_norm.weight, k_norm.weight, q_norm.eps
        keys, values = cache.kv[index]
        q = rotate_and_store(qkv, keys, values, cache.slots, positions, self.turns, norms)
        x = layer.out(cache.attend_stored(index, q).flatten(1))
        normed, residual = add_rms_norm(x, residual, after.weight, after.eps)
        return layer.down(silu_mul(layer.gate_up(normed))), residual

    def __repr__(self) -> str:
        return f"GPUTransformer({self.model.model}, positions below {len(self.turns)})"
