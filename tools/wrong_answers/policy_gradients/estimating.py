# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Generalized advantage estimation."""

import torch

from wrong_answers import wrong


def _paid(rewards, mask):
    paid = torch.zeros(mask.shape)
    paid[torch.arange(len(mask)), mask.sum(1) - 1] = rewards
    return paid


def _following(values):
    return torch.cat([values[:, 1:], torch.zeros(len(values), 1)], 1)


def _summed(errors, decay, forward=False):
    advantages, trace = torch.zeros_like(errors), torch.zeros(len(errors))
    places = range(errors.shape[1])
    for place in places if forward else reversed(places):
        trace = errors[:, place] + decay * trace
        advantages[:, place] = trace
    return advantages


@wrong("07.gae", "forward-in-time", "Runs from the first token to the last.")
def forward(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    errors = _paid(rewards, mask) + gamma * _following(values) - values
    return _summed(errors, gamma * lam, forward=True) * mask


@wrong("07.gae", "reward-at-every-token", "Pays the reward at every token.")
def every_token(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    return _summed(rewards[:, None] * mask + gamma * _following(values) - values, gamma * lam) * mask


@wrong("07.gae", "reward-in-the-last-column", "Pays the reward in the last column.")
def last_column(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    paid = torch.zeros_like(values)
    paid[:, -1] = rewards
    return _summed((paid + gamma * _following(values) - values) * mask, gamma * lam) * mask


@wrong("07.gae", "value-of-the-padding", "Takes the padding's value for what comes after the end.")
def padding_value(rewards, values, mask, gamma=1.0, lam=0.95):
    errors = _paid(rewards, mask) + gamma * _following(values) - values
    return _summed(errors * mask, gamma * lam) * mask


@wrong("07.gae", "padding-in-the-sum", "Forgets the mask until the end.")
def padding_errors(rewards, values, mask, gamma=1.0, lam=0.95):
    return _summed(_paid(rewards, mask) + gamma * _following(values) - values, gamma * lam) * mask


@wrong("07.gae", "goes-on-after-the-end", "Expects the last token's own value to follow it.")
def goes_on(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    following = _following(values)
    rows, last = torch.arange(len(mask)), mask.sum(1) - 1
    following[rows, last] = values[rows, last]
    return _summed(_paid(rewards, mask) + gamma * following - values, gamma * lam) * mask


@wrong("07.gae", "no-value-subtracted", "Forgets the value in the error.")
def no_value(rewards, values, mask, gamma=1.0, lam=0.95):
    return _summed(_paid(rewards, mask) + gamma * _following(values * mask), gamma * lam) * mask


@wrong("07.gae", "forgets-gamma-in-the-sum", "Discounts the sum by lam alone.")
def lam_alone(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    return _summed(_paid(rewards, mask) + gamma * _following(values) - values, lam) * mask


@wrong("07.gae", "forgets-lam", "Discounts the sum by gamma alone.")
def gamma_alone(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    return _summed(_paid(rewards, mask) + gamma * _following(values) - values, gamma) * mask


@wrong("07.gae", "returns", "Returns the critic's targets.")
def returns(rewards, values, mask, gamma=1.0, lam=0.95):
    values = values * mask
    return (_summed(_paid(rewards, mask) + gamma * _following(values) - values, gamma * lam) + values) * mask
