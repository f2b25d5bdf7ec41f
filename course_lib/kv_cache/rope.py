"""Rotary position embeddings (Su et al. 2021).

A query and a key are turned by their positions, so that their product knows how far apart they are. A key is turned once,
before it is cached, and never again.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor


def inverse_frequencies(head_dim: int, rope: Mapping[str, Any]) -> Float[Tensor, " half_head_dim"]:
    """Return the angle, in radians, by which each pair of numbers turns from one position to the next.

    Args:
        head_dim: numbers in a head.
        rope: `rope_theta`, and `rope_type` (`default` or `llama3`) with its numbers.

    Raises:
        ValueError: a scaling that is not known here.
    """
    frequencies = 1.0 / rope["rope_theta"] ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return frequencies
    if kind == "llama3":
        return _stretched(frequencies, rope)
    raise ValueError(f"rope_type {kind!r} is not known: expected 'default' or 'llama3'; use another model")


def _stretched(frequencies: Tensor, rope: Mapping[str, Any]) -> Tensor:
    """Llama 3.1's scaling: slow turns, which tell far positions apart, get slower by `factor`; fast ones stay; smooth between."""
    turns = rope["original_max_position_embeddings"] * frequencies / (2 * math.pi)  # in the context of pre-training
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return frequencies * (keep + (1 - keep) / rope["factor"])


def rotation(
    positions: Int[Tensor, " tokens"], frequencies: Float[Tensor, " half_head_dim"], dtype: torch.dtype
) -> tuple[Float[Tensor, "tokens 1 half_head_dim"], Float[Tensor, "tokens 1 half_head_dim"]]:
    """Return cosine and sine of each token's angles. They are made in fp32: bf16 has no more than 256 exact positions."""
    angles = (positions[:, None].float() * frequencies)[:, None]
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(
    x: Float[Tensor, "tokens heads head_dim"],
    cos: Float[Tensor, "tokens 1 half_head_dim"],
    sin: Float[Tensor, "tokens 1 half_head_dim"],
) -> Float[Tensor, "tokens heads head_dim"]:
    """Turn the pairs (x[i], x[i + head_dim / 2]): the pairing of transformers' weights; llama.cpp's are (x[2i], x[2i + 1])."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)
