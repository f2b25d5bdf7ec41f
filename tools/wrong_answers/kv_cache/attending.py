"""Wrong answers to 01.attention."""

# The mistakes are the content here: unused arguments, magic numbers and missing docstrings are what people write.
# ruff: noqa: D103, ARG001

import torch

from wrong_answers import wrong


def _attend(q, k, v, scale=None, keep=lambda pairs, offset: pairs.tril(offset), spread=None, dim=-1):
    group = q.shape[1] // k.shape[1]
    spread = spread or (lambda x: x.repeat_interleave(group, 1))
    q, k, v = q.transpose(0, 1), spread(k).transpose(0, 1), spread(v).transpose(0, 1)
    scores = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    seen = keep(torch.ones(scores.shape[1:], dtype=torch.bool), k.shape[1] - q.shape[1])
    return (scores.masked_fill(~seen, -torch.inf).softmax(dim) @ v).transpose(0, 1)


@wrong("01.attention", "no-scale", "Does not divide the scores by the root of head_dim.")
def unscaled(q, k, v):
    return _attend(q, k, v, scale=1.0)


@wrong("01.attention", "scaled-by-head-dim", "Divides the scores by head_dim, not by its root.")
def scaled_twice(q, k, v):
    return _attend(q, k, v, scale=1 / q.shape[-1])


@wrong("01.attention", "no-mask", "Lets every query see every key.")
def unmasked(q, k, v):
    return _attend(q, k, v, keep=lambda pairs, _offset: pairs)


@wrong("01.attention", "top-left-mask", "Takes query 0 for token 0, as PyTorch's is_causal does.")
def top_left(q, k, v):
    return _attend(q, k, v, keep=lambda pairs, _offset: pairs.tril())


@wrong("01.attention", "hides-itself", "Masks one key too many: a token does not see itself.")
def strict_mask(q, k, v):
    return _attend(q, k, v, keep=lambda pairs, offset: pairs.tril(offset - 1))


@wrong("01.attention", "heads-tiled", "Repeats the KV heads as a whole, so that neighbours read different ones.")
def tiled(q, k, v):
    return _attend(q, k, v, spread=lambda x: x.repeat(1, q.shape[1] // k.shape[1], 1))


@wrong("01.attention", "softmax-over-queries", "Takes softmax along the wrong axis.")
def wrong_axis(q, k, v):
    return _attend(q, k, v, dim=-2)


@wrong("01.attention", "keys-as-values", "Mixes the keys where the values belong.")
def mixes_keys(q, k, v):
    return _attend(q, k, k)


@wrong("01.attention", "wrong-shape", "Returns heads first.")
def heads_first(q, k, v):
    return _attend(q, k, v).transpose(0, 1).unsqueeze(0)


@wrong("01.attention", "masked-after-softmax", "Sets the future to 0 after softmax, and does not divide again.")
def late_mask(q, k, v):
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
    weights = (torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights.tril(len(k) - len(q)), v)
