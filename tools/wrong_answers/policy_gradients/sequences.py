# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""GSPO's ratio."""

import torch

from wrong_answers import wrong


def _change(logprobs, old_logprobs, mask):
    return (logprobs - old_logprobs) * mask


@wrong("07.sequence_ratio", "not-normalised", "Multiplies the tokens' ratios.")
def product(logprobs, old_logprobs, mask):
    return _change(logprobs, old_logprobs, mask).sum(1).exp()


@wrong("07.sequence_ratio", "arithmetic-mean", "Averages the tokens' ratios.")
def arithmetic(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs).exp() * mask).sum(1) / mask.sum(1)


@wrong("07.sequence_ratio", "divides-by-the-width", "Divides by the number of columns.")
def width(logprobs, old_logprobs, mask):
    return _change(logprobs, old_logprobs, mask).mean(1).exp()


@wrong("07.sequence_ratio", "whole-row", "Forgets the mask.")
def whole_row(logprobs, old_logprobs, mask):
    return (logprobs - old_logprobs).mean(1).exp()


@wrong("07.sequence_ratio", "prompt-in-the-sum", "Has the mask in the length alone.")
def prompt(logprobs, old_logprobs, mask):
    return ((logprobs - old_logprobs).sum(1) / mask.sum(1)).exp()


@wrong("07.sequence_ratio", "one-ratio-for-all", "Averages over the batch.")
def batch(logprobs, old_logprobs, mask):
    return (logprobs - old_logprobs)[mask].mean().exp().expand(len(mask))


@wrong("07.sequence_ratio", "no-exponential", "Returns the ratio's logarithm.")
def logarithm(logprobs, old_logprobs, mask):
    return _change(logprobs, old_logprobs, mask).sum(1) / mask.sum(1)


@wrong("07.sequence_ratio", "ratio-upside-down", "Divides the old probability by the new one.")
def upside_down(logprobs, old_logprobs, mask):
    return (_change(old_logprobs, logprobs, mask).sum(1) / mask.sum(1)).exp()


@wrong("07.sequence_ratio", "product-of-ratios-first", "Multiplies the ratios, and takes the root of the product.")
def root(logprobs, old_logprobs, mask):
    return _change(logprobs, old_logprobs, mask).exp().prod(1) ** (1 / mask.sum(1))


@wrong("07.sequence_ratio", "no-gradient", "Loses the gradient on the way.")
def detached(logprobs, old_logprobs, mask):
    return torch.exp(_change(logprobs, old_logprobs, mask).detach().sum(1) / mask.sum(1))
