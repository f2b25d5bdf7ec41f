# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The floor of a serving benchmark."""

import math

from course_lib.kv_cache import kv_bytes_per_token
from wrong_answers import wrong


def _steps(requests, places):
    outputs = [output for _, output in requests]
    return max(*outputs, math.ceil(sum(outputs) / places))


def _kv_tokens(prompt, output):
    return prompt + output - 1 + sum(range(prompt + 1, prompt + output))


def _memory(shape, hardware, requests, steps, kv_tokens=_kv_tokens):
    kv = sum(kv_tokens(prompt, output) for prompt, output in requests) * kv_bytes_per_token(shape)
    return (steps * 2 * (shape.layer_weights + shape.head_weights) + kv) / hardware.bandwidth


def _arithmetic(shape, hardware, requests, computed=None, made=None, pairs=None):
    flops = 0
    for prompt, output in requests:
        count = computed(prompt, output) if computed else prompt + output - 1
        heads = made(prompt, output) if made else output
        seen = pairs(prompt, output) if pairs else sum(range(1, prompt + output))
        flops += 2 * (shape.layer_weights * count + shape.head_weights * heads)
        flops += 4 * shape.layers * shape.heads * shape.head_dim * seen
    return flops / hardware.flops


def _floor(shape, hardware, requests, steps, **kv):
    return max(_memory(shape, hardware, requests, steps, **kv), _arithmetic(shape, hardware, requests))


@wrong("05.floor", "weights-for-each", "Reads the weights for each request.")
def for_each(shape, hardware, requests, places):
    return _floor(shape, hardware, requests, sum(output for _, output in requests))


@wrong("05.floor", "forgets-places", "Lets all requests run at once.")
def all_at_once(shape, hardware, requests, places):
    return _floor(shape, hardware, requests, max(output for _, output in requests))


@wrong("05.floor", "half-a-step", "Divides tokens by places, and does not round.")
def half_steps(shape, hardware, requests, places):
    outputs = [output for _, output in requests]
    return _floor(shape, hardware, requests, max(*outputs, sum(outputs) / places))


@wrong("05.floor", "forgets-the-longest", "Fills every place in every step.")
def always_full(shape, hardware, requests, places):
    return _floor(shape, hardware, requests, math.ceil(sum(output for _, output in requests) / places))


@wrong("05.floor", "static-batches", "Serves one batch after the other.")
def static(shape, hardware, requests, places):
    batches = [requests[start : start + places] for start in range(0, len(requests), places)]
    steps = sum(max(output for _, output in batch) for batch in batches)
    return _floor(shape, hardware, requests, steps)


@wrong("05.floor", "no-kv", "Counts the weights alone.")
def no_kv(shape, hardware, requests, places):
    return _floor(shape, hardware, requests, _steps(requests, places), kv_tokens=lambda *_: 0)


@wrong("05.floor", "never-grows", "Reads the prompt's keys and values in each step.")
def never_grows(shape, hardware, requests, places):
    def kv_tokens(prompt, output):
        return prompt + output - 1 + prompt * (output - 1)

    return _floor(shape, hardware, requests, _steps(requests, places), kv_tokens=kv_tokens)


@wrong("05.floor", "forgets-the-writes", "Reads keys and values that nobody wrote.")
def no_writes(shape, hardware, requests, places):
    def kv_tokens(prompt, output):
        return sum(range(prompt + 1, prompt + output))

    return _floor(shape, hardware, requests, _steps(requests, places), kv_tokens=kv_tokens)


@wrong("05.floor", "computes-the-last-token", "Puts the last token through the model, too.")
def last_token(shape, hardware, requests, places):
    longer = [(prompt, output + 1) for prompt, output in requests]
    memory = _memory(shape, hardware, longer, _steps(requests, places))
    return max(memory, _arithmetic(shape, hardware, longer, made=lambda _, output: output - 1))


@wrong("05.floor", "adds-both", "Adds arithmetic and memory.")
def adds(shape, hardware, requests, places):
    return _memory(shape, hardware, requests, _steps(requests, places)) + _arithmetic(shape, hardware, requests)


@wrong("05.floor", "memory-only", "Looks at memory alone.")
def memory_only(shape, hardware, requests, places):
    return _memory(shape, hardware, requests, _steps(requests, places))


@wrong("05.floor", "prompt-for-free", "Computes the answers' tokens alone.")
def free_prompt(shape, hardware, requests, places):
    arithmetic = _arithmetic(
        shape,
        hardware,
        requests,
        computed=lambda _, output: output - 1,
        pairs=lambda prompt, output: sum(range(prompt + 1, prompt + output)),
    )
    return max(_memory(shape, hardware, requests, _steps(requests, places)), arithmetic)


@wrong("05.floor", "sees-the-future", "Pairs each of the prompt's tokens with the whole prompt.")
def future(shape, hardware, requests, places):
    def pairs(prompt, output):
        return prompt**2 + sum(range(prompt + 1, prompt + output))

    arithmetic = _arithmetic(shape, hardware, requests, pairs=pairs)
    return max(_memory(shape, hardware, requests, _steps(requests, places)), arithmetic)
