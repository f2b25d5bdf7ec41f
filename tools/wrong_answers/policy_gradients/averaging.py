# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""Shares of the batch's loss."""

import torch

from wrong_answers import wrong


def _shares(losses, masks, average, max_new_tokens, **changed):
    """Return shares in which one average is divided by something else, said as a function of (mask, masks, longest)."""
    below = {
        "token": lambda _mask, masks, _most: sum(int(mask.sum()) for mask in masks),
        "sequence": lambda mask, masks, _most: sum(map(len, masks)) * mask.sum(1, keepdim=True).clamp(min=1),
        "constant": lambda _mask, masks, most: sum(map(len, masks)) * most,
    } | changed
    return [
        (loss.where(mask, 0.0) / below[average](mask, masks, max_new_tokens)).sum()
        for loss, mask in zip(losses, masks, strict=True)
    ]


def _samples(masks):
    return sum(map(len, masks))


@wrong("07.loss_shares", "sequence-mean-for-token", "Averages over samples where tokens were asked for.")
def sequence_for_token(losses, masks, average, max_new_tokens):
    return _shares(losses, masks, "sequence" if average == "token" else average, max_new_tokens)


@wrong("07.loss_shares", "token-mean-for-sequence", "Averages over tokens where samples were asked for.")
def token_for_sequence(losses, masks, average, max_new_tokens):
    return _shares(losses, masks, "token" if average == "sequence" else average, max_new_tokens)


@wrong("07.loss_shares", "mean-of-means", "Averages the micro-batches' means.")
def mean_of_means(losses, masks, average, max_new_tokens):
    pairs = zip(losses, masks, strict=True)
    return [_shares([loss], [mask], average, max_new_tokens)[0] / len(losses) for loss, mask in pairs]


@wrong("07.loss_shares", "sum-of-means", "Adds up the micro-batches' means.")
def sum_of_means(losses, masks, average, max_new_tokens):
    pairs = zip(losses, masks, strict=True)
    return [_shares([loss], [mask], average, max_new_tokens)[0] for loss, mask in pairs]


@wrong("07.loss_shares", "counts-padding", "Divides by the number of all places.")
def all_places(losses, masks, average, max_new_tokens):
    places = sum(mask.numel() for mask in masks)
    return _shares(losses, masks, average, max_new_tokens, token=lambda *_: places)


@wrong("07.loss_shares", "no-mask", "Adds up all places, padding among them.")
def no_mask(losses, masks, average, max_new_tokens):
    samples, tokens = _samples(masks), sum(int(mask.sum()) for mask in masks)
    below = {"token": tokens, "constant": samples * max_new_tokens}
    return [
        (loss / below.get(average, samples * mask.sum(1, keepdim=True))).sum()
        for loss, mask in zip(losses, masks, strict=True)
    ]


@wrong("07.loss_shares", "constant-is-the-width", "Divides by the micro-batch's longest response.")
def width(losses, masks, average, max_new_tokens):
    return _shares(
        losses, masks, average, max_new_tokens, constant=lambda mask, masks, _: _samples(masks) * mask.shape[1]
    )


@wrong("07.loss_shares", "forgets-the-samples", "Divides by max_new_tokens alone.")
def forgets_samples(losses, masks, average, max_new_tokens):
    return _shares(losses, masks, average, max_new_tokens, constant=lambda _mask, _masks, most: most)


@wrong("07.loss_shares", "nan-of-an-empty-sample", "Divides by a length of 0.")
def nan(losses, masks, average, max_new_tokens):
    return _shares(
        losses, masks, average, max_new_tokens, sequence=lambda mask, masks, _: _samples(masks) * mask.sum(1, True)
    )


@wrong("07.loss_shares", "forgets-empty-samples", "Does not count samples that were masked out.")
def forgets_empty(losses, masks, average, max_new_tokens):
    alive = sum(int(mask.any(1).sum()) for mask in masks)
    return _shares(
        losses,
        masks,
        average,
        max_new_tokens,
        sequence=lambda mask, *_: alive * mask.sum(1, keepdim=True).clamp(min=1),
        constant=lambda _mask, _masks, most: alive * most,
    )


@wrong("07.loss_shares", "no-gradient", "Returns numbers of Python, made tensors again.")
def numbers(losses, masks, average, max_new_tokens):
    return [torch.tensor(share.item()) for share in _shares(losses, masks, average, max_new_tokens)]
