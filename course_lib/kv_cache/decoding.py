"""Greedy decoding, twice: without a cache and with one. The tokens are the same; the work is not."""

from collections.abc import Sequence

import torch

from course_lib.kv_cache.cache import ContiguousCache, KVCache, NoCache
from course_lib.kv_cache.transformer import Transformer


def generate_without_cache(model: Transformer, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Return the new tokens; each step computes the whole sequence from its first token on.

    Args:
        model: what predicts.
        prompt: token ids, at least one.
        new_tokens: how many to make; nothing ends them early.

    Raises:
        ValueError: the prompt is empty.
    """
    tokens = _checked(prompt)
    for _ in range(new_tokens):
        tokens.append(next_token(model, tokens, 0, NoCache()))
    return tokens[len(prompt) :]


def generate_with_cache(model: Transformer, prompt: Sequence[int], new_tokens: int) -> list[int]:
    """Return the new tokens; after the prompt, each step computes the newest token alone. Arguments as above."""
    tokens = _checked(prompt)
    cache = ContiguousCache.for_model(model, capacity=len(tokens) + max(new_tokens, 1))
    computed = 0
    for _ in range(new_tokens):
        new = tokens[computed:]  # first the whole prompt (prefill), from then on one token (decode)
        tokens.append(next_token(model, new, computed, cache))
        computed += len(new)
    return tokens[len(prompt) :]


def next_token(model: Transformer, tokens: Sequence[int], start: int, cache: KVCache) -> int:
    """Run tokens that stand at positions start, start + 1, ... through the model; return the likeliest token after them."""
    positions = torch.arange(start, start + len(tokens), device=model.device)
    hidden = model.hidden_states(torch.tensor(tokens, device=model.device), positions, cache)
    return int(model.logits(hidden[-1:]).argmax())


def _checked(prompt: Sequence[int]) -> list[int]:
    if not len(prompt):
        raise ValueError("the prompt is empty: give at least one token, such as the tokenizer's bos token")
    return list(prompt)
