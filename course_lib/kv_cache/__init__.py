"""Decoding with and without a KV cache, and what it costs."""

from course_lib.kv_cache.attention import attention, attention_weights
from course_lib.kv_cache.cache import ContiguousCache, KVCache, LockstepCache, NoCache
from course_lib.kv_cache.config import TransformerConfig
from course_lib.kv_cache.cost import (
    HARDWARE,
    MODELS,
    Cost,
    Hardware,
    ModelShape,
    kv_bytes_per_token,
    sequence_cost,
    step_cost,
    weight_bytes,
)
from course_lib.kv_cache.decoding import generate_with_cache, generate_without_cache
from course_lib.kv_cache.transformer import Transformer

__all__ = [
    "HARDWARE",
    "MODELS",
    "ContiguousCache",
    "Cost",
    "Hardware",
    "KVCache",
    "LockstepCache",
    "ModelShape",
    "NoCache",
    "Transformer",
    "TransformerConfig",
    "attention",
    "attention_weights",
    "generate_with_cache",
    "generate_without_cache",
    "kv_bytes_per_token",
    "sequence_cost",
    "step_cost",
    "weight_bytes",
]
