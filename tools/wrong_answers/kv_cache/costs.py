"""Wrong answers to 01.generation_flops and 01.ridge_batch."""

# The mistakes are the content here: unused arguments, magic numbers and missing docstrings are what people write.
# ruff: noqa: D103, ARG001

import math

from course_lib.kv_cache import sequence_cost, step_cost
from wrong_answers import wrong


def _flops(shape, prompt, new_tokens, cached, *, pair=4, heads=None, off=0, head=2, layer=2):
    total = 0
    for step in range(new_tokens):
        context = prompt + step
        new = 1 if cached and step else context
        attention = pair * shape.layers * (heads or shape.heads) * shape.head_dim * new * (context + off)
        total += layer * new * shape.layer_weights + head * shape.head_weights + attention
    return total


@wrong("01.generation_flops", "half", "Counts a multiplication and an addition as one.")
def macs(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, pair=2, head=1, layer=1)


@wrong("01.generation_flops", "scores-only", "Forgets the sum of the values.")
def scores_only(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, pair=2)


@wrong("01.generation_flops", "no-attention", "Counts 2 FLOPs a parameter and token, and no attention.")
def parameters_only(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, pair=0)


@wrong("01.generation_flops", "no-lm-head", "Forgets the LM head.")
def headless(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, head=0)


@wrong("01.generation_flops", "lm-head-for-all", "Makes logits of every token of a step.")
def all_logits(shape, prompt, new_tokens, cached):
    computed = sum(1 if cached and step else prompt + step for step in range(new_tokens))
    return _flops(shape, prompt, new_tokens, cached, head=0) + 2 * shape.head_weights * computed


@wrong("01.generation_flops", "kv-heads", "Counts attention by KV heads.")
def by_kv_heads(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, heads=shape.kv_heads)


@wrong("01.generation_flops", "ignores-the-cache", "Computes the whole sequence at each step in both cases.")
def never_cached(shape, prompt, new_tokens, cached):
    return sequence_cost(shape, prompt, new_tokens, cached=False).flops


@wrong("01.generation_flops", "attention-still-squared", "With a cache, lets all queries look again.")
def all_queries(shape, prompt, new_tokens, cached):
    pair = 4 * shape.layers * shape.heads * shape.head_dim
    squared = sum(pair * (prompt + step) ** 2 for step in range(new_tokens))
    return _flops(shape, prompt, new_tokens, cached, pair=0) + squared


@wrong("01.generation_flops", "prompt-for-free", "With a cache, never computes the prompt.")
def no_prefill(shape, prompt, new_tokens, cached):
    if not cached:
        return _flops(shape, prompt, new_tokens, cached)
    return sum(step_cost(shape, 1, prompt + step).flops for step in range(new_tokens))


@wrong("01.generation_flops", "context-off-by-one", "Lets a token attend to the one that it makes.")
def one_more_key(shape, prompt, new_tokens, cached):
    return _flops(shape, prompt, new_tokens, cached, off=1)


def _ridge_batch(ridge, flops, weights, kv, rounded=math.ceil):
    left = flops - ridge * kv
    return rounded(ridge * weights / left) if left > 0 else None


@wrong("01.ridge_batch", "ridge-is-the-batch", "Takes the ridge for the batch.")
def the_ridge(shape, hardware, context):
    return math.ceil(hardware.ridge)


@wrong("01.ridge_batch", "keys-are-free", "Forgets the bytes of keys and values.")
def free_keys(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return _ridge_batch(hardware.ridge, cost.flops, cost.weight_bytes, 0)


@wrong("01.ridge_batch", "keys-shared", "Lets the whole batch share one sequence's keys and values.")
def shared_keys(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return _ridge_batch(hardware.ridge, cost.flops, cost.bytes, 0)


@wrong("01.ridge_batch", "no-such-batch", "Divides without asking whether the result is negative.")
def negative(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return math.ceil(hardware.ridge * cost.weight_bytes / (cost.flops - hardware.ridge * cost.kv_bytes))


@wrong("01.ridge_batch", "one-below", "Rounds down.")
def rounds_down(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return _ridge_batch(hardware.ridge, cost.flops, cost.weight_bytes, cost.kv_bytes, math.floor)


@wrong("01.ridge_batch", "attention-forgotten", "Counts the projections' FLOPs only.")
def projections_only(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return _ridge_batch(hardware.ridge, cost.projection_flops, cost.weight_bytes, cost.kv_bytes)


@wrong("01.ridge_batch", "ridge-upside-down", "Divides bytes/s by FLOP/s.")
def upside_down(shape, hardware, context):
    cost = step_cost(shape, 1, context)
    return _ridge_batch(hardware.bandwidth / hardware.flops, cost.flops, cost.weight_bytes, cost.kv_bytes)


@wrong("01.ridge_batch", "prefill", "Takes the cost of a prefill for that of a decode.")
def of_prefill(shape, hardware, context):
    cost = step_cost(shape, context, context)
    return _ridge_batch(hardware.ridge, cost.flops, cost.weight_bytes, cost.kv_bytes)


@wrong("01.ridge_batch", "gives-up", "Asks whether one sequence reaches the ridge, and stops there.")
def only_one(shape, hardware, context):
    return 1 if step_cost(shape, 1, context).intensity >= hardware.ridge else None


@wrong("01.ridge_batch", "too-large", "Doubles the batch until it is large enough, and does not go back.")
def doubling(shape, hardware, context):
    batch = 1
    while step_cost(shape, 1, context, batch).intensity < hardware.ridge:
        batch *= 2
        if batch > 2**40:
            return None
    return batch
