"""Caches that watch another cache at work: what a layer's queries look at, and how long that takes."""

import time

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.kv_cache.attention import attention_weights
from course_lib.kv_cache.cache import KVCache, NoCache


class Recorder:
    """Computes without a cache, and keeps what went through: `queries`, `keys` and `values`, one tensor a layer."""

    def __init__(self) -> None:
        self.queries: list[Float[Tensor, "tokens heads head_dim"]] = []
        self.keys: list[Float[Tensor, "tokens kv_heads head_dim"]] = []
        self.values: list[Float[Tensor, "tokens kv_heads head_dim"]] = []

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Attend within the tokens given, and keep them."""
        for kept, tensor in ((self.queries, q), (self.keys, k), (self.values, v)):
            kept.append(tensor)
        return NoCache().attend(layer, q, k, v)

    def weights(self, layer: int) -> Float[Tensor, "heads queries keys"]:
        """Return the attention weights of a layer."""
        return attention_weights(self.queries[layer], self.keys[layer])

    def __repr__(self) -> str:
        tokens = len(self.keys[0]) if self.keys else 0
        return f"Recorder({tokens} tokens, {len(self.keys)} layers)"


class Stopwatch:
    """Hands everything to another cache, and adds up the seconds that it takes: attention's share of a step.

    Args:
        cache: the one that does the work.
    """

    def __init__(self, cache: KVCache):
        self.cache = cache
        self.seconds = 0.0

    def attend(
        self,
        layer: int,
        q: Float[Tensor, "tokens heads head_dim"],
        k: Float[Tensor, "tokens kv_heads head_dim"],
        v: Float[Tensor, "tokens kv_heads head_dim"],
    ) -> Float[Tensor, "tokens heads head_dim"]:
        """Attend, and take the time."""
        start = now(q.device)
        out = self.cache.attend(layer, q, k, v)
        self.seconds += now(q.device) - start
        return out

    def __repr__(self) -> str:
        return f"Stopwatch({self.seconds:.3f} s in {self.cache})"


def now(device: torch.device) -> float:
    """Return the time in seconds, once the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
