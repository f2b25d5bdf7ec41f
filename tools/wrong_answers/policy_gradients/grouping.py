# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Group-relative advantages."""

from wrong_answers import wrong

EPS = 1e-5


def _centred(rewards):
    return rewards - rewards.mean(1, keepdim=True)


def _deviation(rewards):
    return rewards.std(1, keepdim=True) + EPS


@wrong("07.group_advantages", "nan", "Divides by the deviation as it is: 0 in a group of equal rewards.")
def no_epsilon(rewards, normalize=True):
    return _centred(rewards) / rewards.std(1, keepdim=True) if normalize else _centred(rewards)


@wrong("07.group_advantages", "rounding-as-signal", "Adds 1e-8, which is less than what rounding leaves.")
def small_epsilon(rewards, normalize=True):
    return _centred(rewards) / (rewards.std(1, keepdim=True) + 1e-8) if normalize else _centred(rewards)


@wrong("07.group_advantages", "batch-std", "Divides by the standard deviation of the whole batch.")
def batch_std(rewards, normalize=True):
    return _centred(rewards) / (rewards.std() + EPS) if normalize else _centred(rewards)


@wrong("07.group_advantages", "batch-mean", "Subtracts the mean of the whole batch.")
def batch_mean(rewards, normalize=True):
    return (rewards - rewards.mean()) / (_deviation(rewards) if normalize else 1)


@wrong("07.group_advantages", "whole-batch", "Normalizes over the whole batch.")
def whole_batch(rewards, normalize=True):
    return (rewards - rewards.mean()) / (rewards.std() + EPS if normalize else 1)


@wrong("07.group_advantages", "across-groups", "Takes a column for a group.")
def columns(rewards, normalize=True):
    centred = rewards - rewards.mean(0, keepdim=True)
    variance = centred.square().sum(0) / (len(rewards) - 1)
    return centred / (variance.sqrt() + EPS) if normalize else centred


@wrong("07.group_advantages", "variance", "Divides by the variance.")
def variance(rewards, normalize=True):
    return _centred(rewards) / (rewards.var(1, keepdim=True) + EPS) if normalize else _centred(rewards)


@wrong("07.group_advantages", "not-centred", "Divides, and subtracts nothing.")
def not_centred(rewards, normalize=True):
    return rewards / _deviation(rewards) if normalize else rewards


@wrong("07.group_advantages", "population-std", "Divides the squares by n.")
def population(rewards, normalize=True):
    return _centred(rewards) / (rewards.std(1, keepdim=True, correction=0) + EPS) if normalize else _centred(rewards)


@wrong("07.group_advantages", "always-normalises", "Divides with normalize=False, too.")
def always(rewards, normalize=True):
    return _centred(rewards) / _deviation(rewards)


@wrong("07.group_advantages", "large-epsilon", "Adds 0.1 to the deviation, to be safe.")
def large_epsilon(rewards, normalize=True):
    return _centred(rewards) / (rewards.std(1, keepdim=True) + 0.1) if normalize else _centred(rewards)
