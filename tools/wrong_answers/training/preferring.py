# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The Bradley-Terry loss."""

import torch
from torch.nn import functional as F  # noqa: N812  its name everywhere

from wrong_answers import wrong


def _last(scores, lengths):
    return scores[torch.arange(len(scores)), lengths - 1]


def _margins(chosen, rejected, chosen_lengths, rejected_lengths):
    return _last(chosen, chosen_lengths) - _last(rejected, rejected_lengths)


@wrong("06.bradley_terry", "not-stable", "Takes the sigmoid, then its logarithm.")
def in_two_steps(chosen, rejected, chosen_lengths, rejected_lengths):
    return -torch.log(torch.sigmoid(_margins(chosen, rejected, chosen_lengths, rejected_lengths))).mean()


@wrong("06.bradley_terry", "clamped", "Keeps the logarithm finite by a small number, and loses the pull with it.")
def clamped(chosen, rejected, chosen_lengths, rejected_lengths):
    probability = torch.sigmoid(_margins(chosen, rejected, chosen_lengths, rejected_lengths))
    return -torch.log(probability.clamp(min=1e-12)).mean()


@wrong("06.bradley_terry", "wrong-sign", "Subtracts the chosen text's reward from the rejected one's.")
def wrong_sign(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(-_margins(chosen, rejected, chosen_lengths, rejected_lengths)).mean()


@wrong("06.bradley_terry", "sum-over-pairs", "Adds the pairs up.")
def summed(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(_margins(chosen, rejected, chosen_lengths, rejected_lengths)).sum()


@wrong("06.bradley_terry", "mean-margin-first", "Averages the margins, and takes the loss of that.")
def mean_first(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(_margins(chosen, rejected, chosen_lengths, rejected_lengths).mean())


@wrong("06.bradley_terry", "hinge", "Uses a hinge instead of Bradley and Terry's model.")
def hinge(chosen, rejected, chosen_lengths, rejected_lengths):
    return F.relu(1 - _margins(chosen, rejected, chosen_lengths, rejected_lengths)).mean()


@wrong("06.bradley_terry", "reads-the-last-column", "Reads the last column, padding or not.")
def last_column(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(chosen[:, -1] - rejected[:, -1]).mean()


@wrong("06.bradley_terry", "one-too-far", "Reads at the length instead of one before it.")
def too_far(chosen, rejected, chosen_lengths, rejected_lengths):
    rows, end = torch.arange(len(chosen)), chosen.shape[1] - 1
    margins = chosen[rows, chosen_lengths.clamp(max=end)] - rejected[rows, rejected_lengths.clamp(max=end)]
    return -F.logsigmoid(margins).mean()


@wrong("06.bradley_terry", "mean-of-columns", "Averages over all columns, with the padding.")
def columns(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(chosen.mean(1) - rejected.mean(1)).mean()


@wrong("06.bradley_terry", "one-length-for-both", "Reads both texts at the chosen one's length.")
def one_length(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(_margins(chosen, rejected, chosen_lengths, chosen_lengths)).mean()


@wrong("06.bradley_terry", "everybody-against-everybody", "Subtracts a row from a column.")
def broadcast(chosen, rejected, chosen_lengths, rejected_lengths):
    margins = _last(chosen, chosen_lengths)[:, None] - _last(rejected, rejected_lengths)
    return -F.logsigmoid(margins).mean()


@wrong("06.bradley_terry", "no-gradient", "Returns a number of Python.")
def a_number(chosen, rejected, chosen_lengths, rejected_lengths):
    return -F.logsigmoid(_margins(chosen, rejected, chosen_lengths, rejected_lengths)).mean().item()
