"""KV caches. A model hands each layer's new queries, keys and values to a cache; where the old ones are, only the cache knows."""

from typing import TYPE_CHECKING, Protocol

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.kv_cache.attention import attention

if TYPE_CHECKING:
    from course_lib.kv_cache.transformer import Transformer


class KVCache(Protocol):
    """What a model asks of a cache."""

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Keep the new tokens' keys and values of a layer, then attend causally from the new tokens to all tokens so far."""
        ...


class NoCache:
    """Keeps nothing: the tokens of the call are the whole sequence, from the first one on."""

    def attend(
        self,
        layer: int,  # noqa: ARG002  the protocol's; without a memory all layers are alike
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Attend within the tokens given."""
        return attention(q, k, v)

    def __repr__(self) -> str:
        return "NoCache()"


class ContiguousCache:
    """Keys and values of one sequence, in one piece of memory that is reserved in advance.

        slot     0    1    2    3    4    5    6    7
        layer 0  k v  k v  k v  k v  .    .    .    .      length = 4, capacity = 8
        layer 1  k v  k v  k v  k v  .    .    .    .

    Args:
        layers: layers of the model.
        capacity: tokens that fit.
        kv_heads: KV heads, not query heads.
        head_dim: numbers in a head's key.
        dtype: of keys and values.
        device: where they lie.
    """

    def __init__(
        self,
        layers: int,
        capacity: int,
        kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ):
        if min(layers, capacity, kv_heads, head_dim) < 1:
            raise ValueError(
                f"layers={layers}, capacity={capacity}, kv_heads={kv_heads}, head_dim={head_dim}: each must be at least 1"
            )
        shape = (layers, capacity, kv_heads, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.length = 0

    @classmethod
    def for_model(cls, model: "Transformer", capacity: int, sequences: int = 1) -> "ContiguousCache":
        """Return an empty cache for `capacity` tokens of a model (see `LockstepCache` for several sequences)."""
        config, weight = model.config, model.embed_tokens.weight
        return cls(
            config.layers, capacity, sequences * config.kv_heads, config.head_dim, weight.dtype, device=weight.device
        )

    @property
    def capacity(self) -> int:
        """Tokens that fit."""
        return self.keys.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all slots, filled or not."""
        return self.keys.nbytes + self.values.nbytes

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Append the new keys and values of a layer, then attend to all so far.

        Raises:
            ValueError: the new tokens do not fit; nothing was stored.
        """
        end = self.length + len(k)
        if end > self.capacity:
            raise ValueError(
                f"the cache holds {self.length} of {self.capacity} tokens and {len(k)} more do not fit: "
                "reserve a larger capacity, or generate fewer tokens"
            )
        self.keys[layer, self.length : end] = k
        self.values[layer, self.length : end] = v
        out = attention(q, self.keys[layer, :end], self.values[layer, :end])
        if layer == len(self.keys) - 1:  # every layer sees the same old length, so only the last one moves it
            self.length = end
        return out

    def __repr__(self) -> str:
        layers, capacity, kv_heads, head_dim = self.keys.shape
        return (
            f"ContiguousCache({self.length} of {capacity} tokens, {layers} layers, {kv_heads} KV heads of {head_dim}, "
            f"{self.nbytes / 2**20:.1f} MiB)"
        )


class LockstepCache:
    """Several sequences that all have the same length, and each get the same number of tokens in each step.

    That is what makes a batch of them one rectangular tensor, and what real requests never do: lesson 02 begins here.
    A call's tokens come sequence after sequence. Attention treats heads one by one, so a sequence more is nothing but
    some heads more: the keys of S sequences with H heads lie in a `ContiguousCache` with S * H heads.

    Args:
        sequences: how many there are.
        cache: one made for S * kv_heads heads: `ContiguousCache.for_model(model, capacity, sequences=S)`.
    """

    def __init__(self, sequences: int, cache: ContiguousCache):
        if sequences < 1 or cache.keys.shape[2] % sequences:
            raise ValueError(
                f"{sequences} sequences do not fit a cache with {cache.keys.shape[2]} heads: "
                "make it with ContiguousCache.for_model(model, capacity, sequences=...)"
            )
        self.sequences = sequences
        self.cache = cache

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Append each sequence's new keys and values of a layer, then attend, each sequence to itself alone."""
        out = self.cache.attend(layer, self._fold(q), self._fold(k), self._fold(v))
        return out.unflatten(1, (self.sequences, -1)).transpose(0, 1).flatten(0, 1)

    def _fold(self, x: Tensor) -> Tensor:
        """[sequences * tokens, heads, head_dim] -> [tokens, sequences * heads, head_dim]."""
        return x.unflatten(0, (self.sequences, -1)).transpose(0, 1).flatten(1, 2)

    def __repr__(self) -> str:
        return f"LockstepCache({self.sequences} sequences, {self.cache})"
