# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 01 Exercises: the KV cache
#
# Replace each `raise NotImplementedError` and run the cell with `check(...)` below it: it says what holds, what does not, and shows
# an input where it does not. Points are given part by part, so a half answer counts. The lesson is
# [notebooks/01_kv_cache.ipynb](../notebooks/01_kv_cache.ipynb); the exercises do not depend on one another.

# %%
import math

import torch
from jaxtyping import Float
from torch import Tensor

from course_lib.grading import check
from course_lib.kv_cache import ContiguousCache, Hardware, ModelShape, Transformer, step_cost
from course_lib.models import load_policy

# %% [markdown] exercise="01.attention"
# ## Scaled dot-product attention
#
# $$ \mathrm{attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V $$
#
# Write it from PyTorch's elementary operations (no `scaled_dot_product_attention`), as a decoder with a cache needs it:
#
# - tokens come first: `q` is `[queries, heads, head_dim]`, `k` and `v` are `[keys, kv_heads, head_dim]`;
# - the queries belong to the **last** tokens of the keys, and none sees a later token: the last query sees every key;
# - `heads` is a multiple of `kv_heads`, and heads that stand side by side share a KV head: with 4 and 2, query heads 0 and 1 read
#   KV head 0, and 2 and 3 read KV head 1.
#
# **Expected:** what PyTorch gives, to four digits.
#
# <details><summary>Hint 1: how do I start?</summary>Leave GQA away at first, take one query, and get part 1.
# <code>torch.einsum("qhd,khd->hqk", q, k)</code> gives the scores as heads, queries, keys.</details>
#
# <details><summary>Hint 2: where is the triangle?</summary>With 2 queries and 6 keys, the queries are tokens 4 and 5. Draw the
# table of who sees whom, and count from its lower right corner. <code>triu</code> and <code>tril</code> take an offset.</details>
#
# <details><summary>Hint 3: how do heads share?</summary><code>repeat_interleave</code> gives a a b b; <code>repeat</code> gives
# a b a b. Which of them puts heads 0 and 1 on the same KV head?</details>


# %% exercise="01.attention"
def attention(
    q: Float[Tensor, "queries heads head_dim"],
    k: Float[Tensor, "keys kv_heads head_dim"],
    v: Float[Tensor, "keys kv_heads head_dim"],
) -> Float[Tensor, "queries heads head_dim"]:
    """Return causal attention of the last tokens' queries over all keys; query heads share KV heads in groups."""
    # SOLUTION
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
    scores = torch.einsum("qhd,khd->hqk", q, k) / math.sqrt(q.shape[-1])
    future = torch.ones(len(q), len(k), dtype=torch.bool).triu(len(k) - len(q) + 1)
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, v)
    # END SOLUTION


# %% exercise="01.attention"
check("01.attention", attention)

# %% [markdown] exercise="01.kv_bytes"
# ## Bytes of KV per token
#
# How many requests fit on a GPU is decided by one number that stands in no config: the bytes that a token leaves in the cache.
# Compute it from the mapping in a model's `config.json`. Its keys: `num_hidden_layers`, `num_attention_heads` (query heads),
# `hidden_size`; newer configs also have `num_key_value_heads`, and some `head_dim`. Where these are missing, each query head
# has its own keys and values, and the heads share `hidden_size` evenly.
#
# **Expected:** 147,456 bytes for Qwen3-4B in bf16.
#
# <details><summary>Hint 1: what is kept?</summary>A key and a value. In each layer. Queries are used once and forgotten.</details>
#
# <details><summary>Hint 2: part 3 fails</summary>Qwen3-4B has a hidden size of 2560 and 32 heads of 128: 32 * 128 is not 2560. If the
# config says a head's size, believe it.</details>


# %% exercise="01.kv_bytes"
def kv_bytes_per_token(config: dict, bytes_per_number: int = 2) -> int:
    """Return the bytes that one token leaves in the KV cache of the model with this config."""
    # SOLUTION
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", config["hidden_size"] // heads)
    return 2 * config["num_hidden_layers"] * kv_heads * head_dim * bytes_per_number
    # END SOLUTION


# %% exercise="01.kv_bytes"
qwen3_4b = {"num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "hidden_size": 2560}
try:
    print(kv_bytes_per_token(qwen3_4b | {"head_dim": 128}))
except NotImplementedError as error:
    print(error)

# %% exercise="01.kv_bytes"
check("01.kv_bytes", kv_bytes_per_token)

# %% [markdown] exercise="01.cache"
# ## A contiguous KV cache
#
# Write the cache of one layer. `__init__` reserves memory for `capacity` tokens, once. `append` writes new keys and values behind the
# old ones and returns **all** keys and **all** values so far. If the new tokens do not fit, it raises a `ValueError` and changes nothing.
#
# An append must not copy what is there already: `torch.cat` at each step would copy all old keys for each new token, and a text of
# T tokens would cost T² / 2 copies.
#
# **Expected:** `append` of two tokens, then of one, returns keys of shape `[3, kv_heads, head_dim]`, at the same place in memory.
#
# <details><summary>Hint 1: how can it return all without a copy?</summary>A slice of a tensor is a view:
# <code>self.keys[:n]</code> copies nothing.</details>
#
# <details><summary>Hint 2: how do I write into a slice?</summary><code>self.keys[a:b] = k</code> copies k's numbers into the memory
# of self.keys.</details>


# %% exercise="01.cache"
class LayerCache:
    """Keys and values of one layer, in memory that is reserved once. `length` is the number of tokens stored."""

    def __init__(self, capacity: int, kv_heads: int, head_dim: int) -> None:
        # SOLUTION
        self.keys = torch.zeros(capacity, kv_heads, head_dim)
        self.values = torch.zeros(capacity, kv_heads, head_dim)
        self.length = 0
        # END SOLUTION

    def append(
        self, k: Float[Tensor, "new kv_heads head_dim"], v: Float[Tensor, "new kv_heads head_dim"]
    ) -> tuple[Float[Tensor, "all kv_heads head_dim"], Float[Tensor, "all kv_heads head_dim"]]:
        """Store the new tokens' keys and values; return those of all tokens, oldest first."""
        # SOLUTION
        end = self.length + len(k)
        if end > len(self.keys):
            raise ValueError(f"{len(k)} tokens do not fit: {self.length} of {len(self.keys)} slots are taken")
        self.keys[self.length : end] = k
        self.values[self.length : end] = v
        self.length = end
        return self.keys[:end], self.values[:end]
        # END SOLUTION


# %% exercise="01.cache"
check("01.cache", LayerCache)

# %% [markdown] exercise="01.decoding"
# ## Decoding with a cache
#
# Write the greedy loop: the prompt in one call (prefill), then one token a call (decode). `model(tokens, positions, cache)` takes
# token ids and their positions, both one-dimensional tensors of whole numbers, and returns logits `[tokens, vocab]`.
# `ContiguousCache.for_model(model, capacity)` makes an empty cache for `capacity` tokens.
#
# **Expected:** the same tokens as without a cache, and not one token computed twice.
#
# <details><summary>Hint 1: which logits?</summary>A call returns a row for each of its tokens. Only the row of the last token tells
# what comes next; the prefill's last row already gives the first new token.</details>
#
# <details><summary>Hint 2: which positions?</summary>A token's position is the number of tokens before it, in this call and in the
# calls before. <code>cache.length</code> knows the latter.</details>
#
# <details><summary>Hint 3: how large a cache?</summary>The prompt and the new tokens. (The last new token is never stored, but one
# slot too many does no harm.)</details>


# %% exercise="01.decoding"
def generate(model: Transformer, prompt: list[int], new_tokens: int) -> list[int]:
    """Return `new_tokens` new tokens after the prompt (without it), the likeliest one each time."""
    # SOLUTION
    cache = ContiguousCache.for_model(model, capacity=len(prompt) + new_tokens)
    generated: list[int] = []
    step = prompt
    for _ in range(new_tokens):
        positions = torch.arange(cache.length, cache.length + len(step))
        logits = model(torch.tensor(step), positions, cache)
        step = [int(logits[-1].argmax())]
        generated += step
    return generated
    # END SOLUTION


# %% [markdown] exercise="01.decoding"
# Look at it run (`tiny` is a model of random weights; it babbles, but always the same):

# %% exercise="01.decoding"
try:
    print(generate(Transformer.load(load_policy("tiny")), prompt=[5, 6, 7], new_tokens=8))
except NotImplementedError as error:
    print(error)

# %% exercise="01.decoding"
check("01.decoding", generate)

# %% [markdown] exercise="01.generation_flops"
# ## FLOPs of a whole generation
#
# Count what `new_tokens` steps cost after a prompt, with and without a cache. A multiplication and an addition are 2 FLOPs. Count
#
# - **projections:** each computed token is multiplied by each of `shape.layer_weights` numbers, once;
# - **the LM head:** `shape.head_weights` numbers, for the last token of each step only;
# - **attention:** in each of `shape.layers` layers and `shape.heads` heads, each computed token with each token of the context: a
#   product of `shape.head_dim` numbers for the score, and as many again for the sum of values. Count hidden pairs too, as the plain
#   formula computes them.
#
# The context of a step are the tokens that are there before it, its own inputs counted: `prompt` tokens at the first step, one more at
# each later one.
#
# **Expected:** SmolLM2-135M, a prompt of 100 and 100 new tokens: 3.34 TFLOPs without a cache, 0.05 with one.
#
# <details><summary>Hint 1: what is different with a cache?</summary>Only how many tokens a step computes. The first step computes the
# prompt in both cases.</details>
#
# <details><summary>Hint 2: attention's FLOPs</summary>Pairs are (computed tokens) * (context). Each pair costs
# 2 * head_dim FLOPs for its score and 2 * head_dim for its value, in each query head of each layer.</details>


# %% exercise="01.generation_flops"
def generation_flops(shape: ModelShape, prompt: int, new_tokens: int, cached: bool) -> int:
    """Return the FLOPs of generating `new_tokens` tokens after a prompt of `prompt` tokens."""
    # SOLUTION
    total = 0
    for step in range(new_tokens):
        context = prompt + step
        computed = 1 if cached and step else context
        projections = 2 * (computed * shape.layer_weights + shape.head_weights)
        attention = 4 * shape.layers * shape.heads * shape.head_dim * computed * context
        total += projections + attention
    return total
    # END SOLUTION


# %% exercise="01.generation_flops"
check("01.generation_flops", generation_flops)

# %% [markdown] exercise="01.ridge_batch"
# ## The batch that leaves the slope
#
# A decode step of one sequence waits for memory. A larger batch shares the weights, and its arithmetic intensity grows. Find the
# smallest batch at which a decode step is no longer bound by memory: the first whose intensity is at least `hardware.ridge`. Each
# sequence has `context` tokens (its new one counted), numbers are bf16.
#
# `step_cost(shape, new_tokens=1, context=context, batch=batch)` gives a step's cost, with `flops`, `weight_bytes`, `kv_bytes`, `bytes` and
# `intensity`. Two of them do not depend on the batch in the way that you might wish. What does that mean for long contexts?
#
# **Expected:** Llama-3.1-8B on an A100: 168 with 64 tokens of context, 440 with 500. And with 1,024?
#
# <details><summary>Hint 1: what grows with the batch?</summary>FLOPs and KV bytes grow with the batch, the weights' bytes do not. Write
# intensity as a fraction with the batch in it.</details>
#
# <details><summary>Hint 2: does it always get there?</summary>Let the batch grow without end in that fraction. What remains is the
# FLOPs of one sequence over the KV bytes of one sequence. If that is below the ridge, return None.</details>
#
# <details><summary>Hint 3: solve or search?</summary>Both work. When you solve the inequality, mind which way to round; when you search,
# double the batch until it is enough, then halve the interval.</details>


# %% exercise="01.ridge_batch"
def ridge_batch(shape: ModelShape, hardware: Hardware, context: int) -> int | None:
    """Return the smallest batch whose decode step has an intensity of at least the ridge, None where there is none."""
    # SOLUTION
    one = step_cost(shape, new_tokens=1, context=context)
    # batch * flops >= ridge * (weights + batch * kv)
    spare = one.flops - hardware.ridge * one.kv_bytes
    if spare <= 0:
        return None
    return math.ceil(hardware.ridge * one.weight_bytes / spare)
    # END SOLUTION


# %% exercise="01.ridge_batch"
check("01.ridge_batch", ridge_batch)
