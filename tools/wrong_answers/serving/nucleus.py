# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Temperature, top-k, top-p, min-p."""

import torch

from wrong_answers import wrong


def _greedy(logits):
    return torch.eye(len(logits))[logits.argmax()]


def _min_p(logits, min_p):
    probs = logits.softmax(-1)
    return logits.masked_fill(probs < min_p * probs.max(), -torch.inf)


def _top_k(logits, top_k):
    if top_k <= 0 or top_k >= len(logits):
        return logits
    return logits.masked_fill(logits < logits.topk(top_k).values[-1], -torch.inf)


def _top_p(logits, top_p, crossing=0):
    if top_p >= 1:
        return logits
    probs, order = logits.softmax(-1).sort(descending=True)
    kept = max(1, int((probs.cumsum(-1) - probs < top_p).sum()) + crossing)
    return logits.index_fill(0, order[kept:], -torch.inf)


@wrong("05.sampling", "temperature-multiplied", "Multiplies by the temperature.")
def multiplied(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    return _top_p(_top_k(_min_p(logits * temperature, min_p), top_k), top_p).softmax(-1)


@wrong("05.sampling", "temperature-has-no-effect", "Divides the probabilities by the temperature, and normalises them.")
def divides_probs(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    probs = _top_p(_top_k(_min_p(logits, min_p), top_k), top_p).softmax(-1) / temperature
    return probs / probs.sum()


@wrong("05.sampling", "not-a-number", "Divides by a temperature of 0.")
def zero(logits, temperature, top_k, top_p, min_p):
    return _top_p(_top_k(_min_p(logits / temperature, min_p), top_k), top_p).softmax(-1)


@wrong("05.sampling", "off-is-on", "Counts on top_k=0 for off, and slices with -1.")
def minus_one(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    scaled = _min_p(logits / temperature, min_p)
    if top_k:
        scaled = scaled.index_fill(0, scaled.argsort(descending=True)[top_k:], -torch.inf)
    return _top_p(scaled, top_p).softmax(-1)


@wrong("05.sampling", "temperature-last", "Cuts first, and divides by the temperature at the end.")
def temperature_last(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    return (_top_p(_top_k(_min_p(logits, min_p), top_k), top_p) / temperature).softmax(-1)


@wrong("05.sampling", "min-p-absolute", "Compares min_p with the probability itself.")
def absolute(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    scaled = logits / temperature
    scaled = scaled.masked_fill(scaled.softmax(-1) < min_p, -torch.inf)
    return _top_p(_top_k(scaled, top_k), top_p).softmax(-1)


@wrong("05.sampling", "drops-the-crossing-token", "Keeps tokens while their sum stays below top_p.")
def drops(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    return _top_p(_top_k(_min_p(logits / temperature, min_p), top_k), top_p, crossing=-1).softmax(-1)


@wrong("05.sampling", "keeps-one-too-many", "Keeps the token after the one that gets to top_p.")
def one_more(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    scaled = _top_k(_min_p(logits / temperature, min_p), top_k)
    return _top_p(scaled, top_p, crossing=1).softmax(-1)


@wrong("05.sampling", "top-p-of-the-whole", "Applies top-p before top-k and min-p.")
def top_p_first(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    return _top_k(_min_p(_top_p(logits / temperature, top_p), min_p), top_k).softmax(-1)


@wrong("05.sampling", "min-p-last", "Applies min-p after top-p.")
def min_p_last(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    return _min_p(_top_p(_top_k(logits / temperature, top_k), top_p), min_p).softmax(-1)


@wrong("05.sampling", "not-divided", "Sets probabilities to 0, and does not divide again.")
def not_divided(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    scaled = logits / temperature
    kept = _top_p(_top_k(_min_p(scaled, min_p), top_k), top_p)
    return scaled.softmax(-1) * ~torch.isinf(kept)


@wrong("05.sampling", "sorted-for-good", "Returns the probabilities in sorted order.")
def stays_sorted(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    scaled = _top_p(_top_k(_min_p(logits / temperature, min_p), top_k), top_p)
    return scaled.softmax(-1).sort(descending=True).values


@wrong("05.sampling", "changes-the-logits", "Works in the caller's memory.")
def in_place(logits, temperature, top_k, top_p, min_p):
    if temperature == 0:
        return _greedy(logits)
    logits /= temperature
    return _top_p(_top_k(_min_p(logits, min_p), top_k), top_p).softmax(-1)
