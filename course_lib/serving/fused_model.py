"""Lesson 01's model in fewer and larger operations: what an engine runs."""

from collections.abc import Iterable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812  its name everywhere

from course_lib.kv_cache.cache import KVCache
from course_lib.kv_cache.rope import rotation
from course_lib.kv_cache.transformer import Layer, RMSNorm, Transformer
from course_lib.serving.linear import PackedLinear


class FusedTransformer:
    """`Transformer`'s arithmetic with its matrices merged: what reads the same input is one product.

        q_proj, k_proj, v_proj  ->  one product of the normed tokens      and queries and keys are rotated together
        gate_proj, up_proj      ->  one product

    Three small products cost more than one large one: on a GPU each is a launch, on a CPU each splits its work over the cores
    and waits for the last. The model's own weights become views of the merged ones, so that nothing is stored twice and
    loading weights into the model loads them here.

    Args:
        model: the model; it goes on working, on the same memory.
    """

    def __init__(self, model: Transformer):
        self.model = model
        self.config = model.config
        self.layers = [FusedLayer(layer) for layer in model.layers if isinstance(layer, Layer)]
        self._head = PackedLinear((model.embed_tokens if model.config.tied_embeddings else model.lm_head).weight)

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> None:
        """Copy weights in, in place, by transformers' names.

        Raises:
            ValueError: a weight is missing, unknown or of the wrong shape.
        """
        try:
            self.model.load_weights(weights)
        finally:  # what was copied before an error counts too: model and packed copies stay the same
            for linear in [self._head, *(linear for layer in self.layers for linear in layer.linears)]:
                linear.pack()

    def hidden_states(
        self, tokens: Int[Tensor, " tokens"], positions: Int[Tensor, " tokens"], cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return what the layers make of each token: see `Transformer.hidden_states`."""
        x = self.model.embed_tokens(tokens)
        cos, sin = rotation(positions, self.model.frequencies, x.dtype)
        cos, sin = torch.cat((cos, cos), dim=-1), torch.cat((-sin, sin), dim=-1)
        for index, layer in enumerate(self.layers):
            x = layer(index, x, cos, sin, cache)
        return _normed(self.model.norm, x)

    def logits(self, hidden: Float[Tensor, "tokens hidden"]) -> Float[Tensor, "tokens vocab"]:
        """Return the logits of the tokens that come after these."""
        return self._head(hidden)

    def logits_into(self, out: Float[Tensor, "tokens vocab"], hidden: Float[Tensor, "tokens hidden"]) -> None:
        """Write the logits into `out`, on a GPU."""
        torch.mm(hidden, self._head.weight.t(), out=out)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights, and of keys and values."""
        return self.model.embed_tokens.weight.dtype

    def __repr__(self) -> str:
        return f"FusedTransformer({self.model})"


class FusedLayer:
    """A layer of a `Transformer`, its projections merged.

    Args:
        layer: the layer; its weights become views of the merged ones.
    """

    def __init__(self, layer: Layer):
        attention, mlp = layer.self_attn, layer.mlp
        self.layer, self.head_dim = layer, attention.head_dim
        self.heads = attention.q_proj.out_features // self.head_dim
        self.kv_heads = attention.k_proj.out_features // self.head_dim
        self.qkv = _merge([attention.q_proj, attention.k_proj, attention.v_proj])
        self.gate_up = _merge([mlp.gate_proj, mlp.up_proj])
        self.out, self.down = PackedLinear(attention.o_proj.weight), PackedLinear(mlp.down_proj.weight)

    @property
    def linears(self) -> list[PackedLinear]:
        """Its matrices."""
        return [self.qkv, self.out, self.gate_up, self.down]

    def __call__(
        self, index: int, x: Float[Tensor, "tokens hidden"], cos: Tensor, sin: Tensor, cache: KVCache
    ) -> Float[Tensor, "tokens hidden"]:
        """Return the tokens after this layer."""
        qkv = self.qkv(_normed(self.layer.input_layernorm, x)).unflatten(-1, (-1, self.head_dim))
        q, k, v = qkv.split((self.heads, self.kv_heads, self.kv_heads), dim=1)
        q_norm, k_norm = self.layer.self_attn.q_norm, self.layer.self_attn.k_norm
        if isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm):
            qk = torch.cat((_normed(q_norm, q), _normed(k_norm, k)), dim=1)
        else:
            qk = qkv[:, : self.heads + self.kv_heads]
        # (a, b) turns into (a cos - b sin, b cos + a sin): the pair times cos, and the swapped pair times (-sin, sin).
        q, k = torch.addcmul(qk * cos, qk.roll(self.head_dim // 2, -1), sin).split((self.heads, self.kv_heads), dim=1)
        x = x + self.out(cache.attend(index, q, k, v).flatten(1))
        gate, up = self.gate_up(_normed(self.layer.post_attention_layernorm, x)).chunk(2, dim=-1)
        return x + self.down(F.silu(gate) * up)


def _normed(norm: RMSNorm, x: Float[Tensor, "*rows size"]) -> Float[Tensor, "*rows size"]:
    """Return the scaled vectors: `RMSNorm` as one of torch's operations, on a GPU one kernel."""
    return F.rms_norm(x, x.shape[-1:], norm.weight, norm.eps)


def _merge(linears: Sequence[nn.Linear]) -> PackedLinear:
    """Return one product that does all of these, whose weights become views of the merged one."""
    sizes = [linear.out_features for linear in linears]
    weight = torch.cat([linear.weight.data for linear in linears])
    for linear, view in zip(linears, weight.split(sizes), strict=True):
        linear.weight = nn.Parameter(view, requires_grad=False)
    biases = [linear.bias.data for linear in linears if linear.bias is not None]
    if not biases:
        return PackedLinear(weight)
    bias = torch.cat(biases)
    for linear, view in zip(linears, bias.split(sizes), strict=True):
        linear.bias = nn.Parameter(view, requires_grad=False)
    return PackedLinear(weight, bias)
