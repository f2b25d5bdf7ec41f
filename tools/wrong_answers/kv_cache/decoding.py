"""Wrong answers to 01.decoding."""

# The mistakes are the content here: unused arguments, magic numbers and missing docstrings are what people write.
# ruff: noqa: D103

import torch

from course_lib.kv_cache import ContiguousCache, NoCache
from wrong_answers import wrong


def _decode(model, prompt, new_tokens, *, place=None, again=False, cache=None, row=-1, first=None):
    """A decoding loop with places to go wrong in."""
    cache = cache or ContiguousCache.for_model(model, 200)
    tokens, new, start = list(prompt), list(first or prompt), 0
    while len(tokens) < len(prompt) + new_tokens:
        at = start if place is None else place(start)
        logits = model(torch.tensor(new), torch.arange(at, at + len(new)), cache)
        start += len(new)
        tokens.append(int(logits[row].argmax()))
        new = list(tokens) if again else tokens[-1:]
    return tokens[len(prompt) :]


@wrong("01.decoding", "positions-restart", "Gives every new token position 0.")
def restarting(model, prompt, new_tokens):
    return _decode(model, prompt, new_tokens, place=lambda _start: 0)


@wrong("01.decoding", "returns-the-prompt", "Returns the prompt with the new tokens.")
def with_prompt(model, prompt, new_tokens):
    return list(prompt) + _decode(model, prompt, new_tokens)


@wrong("01.decoding", "stored-twice", "Gives the whole sequence again at each step although the cache holds it.")
def whole_again(model, prompt, new_tokens):
    return _decode(model, prompt, new_tokens, again=True)


@wrong(
    "01.decoding",
    "last-token-twice",
    "Prefills the whole prompt, throws the logits away, and decodes its last token again.",
)
def last_twice(model, prompt, new_tokens):
    cache = ContiguousCache.for_model(model, 200)
    model(torch.tensor(prompt), torch.arange(len(prompt)), cache)
    tokens = list(prompt)
    for _ in range(new_tokens):
        at = cache.length
        tokens.append(int(model(torch.tensor(tokens[-1:]), torch.arange(at, at + 1), cache)[-1].argmax()))
    return tokens[len(prompt) :]


@wrong("01.decoding", "new-cache-each-step", "Makes the cache inside the loop.")
def forgetful(model, prompt, new_tokens):
    tokens, new, start = list(prompt), list(prompt), 0
    for _ in range(new_tokens):
        cache = ContiguousCache.for_model(model, 50)
        logits = model(torch.tensor(new), torch.arange(start, start + len(new)), cache)
        start += len(new)
        new = [int(logits[-1].argmax())]
        tokens += new
    return tokens[len(prompt) :]


@wrong("01.decoding", "wrong-logits", "Takes the logits of the first token of a call, not of the last.")
def first_row(model, prompt, new_tokens):
    return _decode(model, prompt, new_tokens, row=0)


@wrong("01.decoding", "recomputes", "Decodes without a cache.")
def uncached(model, prompt, new_tokens):
    tokens = list(prompt)
    for _ in range(new_tokens):
        tokens.append(int(model(torch.tensor(tokens), torch.arange(len(tokens)), NoCache())[-1].argmax()))
    return tokens[len(prompt) :]


@wrong("01.decoding", "prefill-token-by-token", "Feeds the prompt one token at a time.")
def slow_prefill(model, prompt, new_tokens):
    cache, tokens, token = ContiguousCache.for_model(model, 200), [], 0
    for at in range(len(prompt) + new_tokens - 1):
        given = prompt[at] if at < len(prompt) else tokens[-1]
        token = int(model(torch.tensor([given]), torch.tensor([at]), cache)[-1].argmax())
        tokens += [token] if at >= len(prompt) - 1 else []
    return tokens


@wrong("01.decoding", "one-token-lost", "Throws away the token that the prefill's logits give.")
def loses_first(model, prompt, new_tokens):
    return _decode(model, prompt, new_tokens)[1:]


@wrong("01.decoding", "one-step-too-many", "Runs the last token too, and throws its logits away.")
def one_more(model, prompt, new_tokens):
    return _decode(model, prompt, new_tokens + 1)[:new_tokens]
