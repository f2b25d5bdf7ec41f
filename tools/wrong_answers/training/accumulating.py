# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""Gradient accumulation."""

import torch
from torch.nn import functional as F  # noqa: N812  its name everywhere

from wrong_answers import wrong


def _loss(model, ids, labels, reduction="mean"):
    return F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction=reduction)


def _targets(labels):
    return int((labels != -100).sum())


def _accumulated(weight, reduction="mean"):
    """Return an answer that weighs each micro-batch's loss by what `weight(labels, micro_batches)` says."""

    def train_step(model, optimizer, micro_batches):
        optimizer.zero_grad()
        total = 0.0
        for ids, labels in micro_batches:
            share = _loss(model, ids, labels, reduction) * weight(labels, micro_batches)
            share.backward()
            total += share.item()
        optimizer.step()
        return total

    return train_step


wrong("06.accumulate", "mean-of-means", "Averages the micro-batches' mean losses.")(
    _accumulated(lambda labels, batches: 1 / len(batches) if _targets(labels) else 0.0)
)
wrong("06.accumulate", "sum-of-means", "Adds up the micro-batches' mean losses.")(_accumulated(lambda *_: 1.0))
wrong("06.accumulate", "sum-of-losses", "Adds up the tokens' losses, and does not divide.")(
    _accumulated(lambda *_: 1.0, "sum")
)
wrong("06.accumulate", "divides-by-micro-batches", "Adds up the tokens' losses, and divides by the micro-batches.")(
    _accumulated(lambda _, batches: 1 / len(batches), "sum")
)
wrong("06.accumulate", "counts-all-positions", "Divides by all positions, also those without a target.")(
    _accumulated(lambda _, batches: 1 / sum(labels.numel() for _, labels in batches), "sum")
)
wrong("06.accumulate", "nan", "Weighs the mean losses right, but the mean over no tokens is NaN.")(
    _accumulated(lambda labels, batches: _targets(labels) / sum(_targets(other) for _, other in batches))
)


@wrong("06.accumulate", "last-micro-batch-only", "Throws the gradients away before each micro-batch.")
def zeroes_each(model, optimizer, micro_batches):
    tokens, total = sum(_targets(labels) for _, labels in micro_batches), 0.0
    for ids, labels in micro_batches:
        optimizer.zero_grad()
        share = _loss(model, ids, labels, "sum") / tokens
        share.backward()
        total += share.item()
    optimizer.step()
    return total


@wrong("06.accumulate", "forgets-zero-grad", "Never throws the gradients away.")
def never_zeroes(model, optimizer, micro_batches):
    tokens, total = sum(_targets(labels) for _, labels in micro_batches), 0.0
    for ids, labels in micro_batches:
        share = _loss(model, ids, labels, "sum") / tokens
        share.backward()
        total += share.item()
    optimizer.step()
    return total


@wrong("06.accumulate", "steps-each-micro-batch", "Steps after each micro-batch.")
def steps_each(model, optimizer, micro_batches):
    tokens, total = sum(_targets(labels) for _, labels in micro_batches), 0.0
    for ids, labels in micro_batches:
        optimizer.zero_grad()
        share = _loss(model, ids, labels, "sum") / tokens
        share.backward()
        optimizer.step()
        total += share.item()
    return total


@wrong("06.accumulate", "one-big-batch", "Joins the micro-batches again.")
def joined(model, optimizer, micro_batches):
    ids, labels = (torch.cat(parts) for parts in zip(*micro_batches, strict=True))
    optimizer.zero_grad()
    loss = _loss(model, ids, labels)
    loss.backward()
    optimizer.step()
    return loss.item()


@wrong("06.accumulate", "one-backward", "Adds the losses up, and goes backward once: all activations wait for that.")
def one_backward(model, optimizer, micro_batches):
    tokens = sum(_targets(labels) for _, labels in micro_batches)
    optimizer.zero_grad()
    loss = sum(_loss(model, ids, labels, "sum") for ids, labels in micro_batches) / tokens
    loss.backward()
    optimizer.step()
    return loss.item()


@wrong("06.accumulate", "another-loss", "Returns the last micro-batch's loss.")
def last_loss(model, optimizer, micro_batches):
    tokens = sum(_targets(labels) for _, labels in micro_batches)
    optimizer.zero_grad()
    for ids, labels in micro_batches:
        loss = _loss(model, ids, labels, "sum")
        (loss / tokens).backward()
    optimizer.step()
    return loss.item() / max(1, _targets(labels))
