# ruff: noqa: D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Estimates of the KL divergence."""

import torch

from wrong_answers import wrong


def _estimate(logprobs, reference_logprobs, estimator, **changed):
    formulas = {"k1": lambda d: -d, "k2": lambda d: d**2 / 2, "k3": lambda d: torch.expm1(d) - d} | changed
    return formulas[estimator](reference_logprobs - logprobs)


@wrong("07.kl_estimate", "k3-reversed", "Has k3's ratio upside down.")
def k3_reversed(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k3=lambda d: torch.expm1(-d) + d)


@wrong("07.kl_estimate", "everything-reversed", "Exchanges policy and reference.")
def reversed_all(logprobs, reference_logprobs, estimator):
    return _estimate(reference_logprobs, logprobs, estimator)


@wrong("07.kl_estimate", "k1-sign", "Gives k1 the wrong sign.")
def k1_sign(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k1=lambda d: d)


@wrong("07.kl_estimate", "k1-absolute", "Takes k1 without its sign.")
def k1_absolute(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k1=torch.abs)


@wrong("07.kl_estimate", "k2-without-half", "Forgets k2's half.")
def k2_whole(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k2=torch.square)


@wrong("07.kl_estimate", "k3-without-log", "Stops at r - 1.")
def k3_without_log(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k3=torch.expm1)


@wrong("07.kl_estimate", "k3-without-one", "Forgets the 1.")
def k3_without_one(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k3=lambda d: d.exp() - d)


@wrong("07.kl_estimate", "k3-log-added", "Adds log r instead of subtracting it.")
def k3_added(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k3=lambda d: torch.expm1(d) + d)


@wrong("07.kl_estimate", "weighs-by-probability", "Weighs each token by its probability once more.")
def weighted(logprobs, reference_logprobs, estimator):
    return logprobs.exp() * _estimate(logprobs, reference_logprobs, estimator)


@wrong("07.kl_estimate", "rounds-away", "Computes exp(log r) - 1 as it is written.")
def rounds_away(logprobs, reference_logprobs, estimator):
    return _estimate(logprobs, reference_logprobs, estimator, k3=lambda d: d.exp() - 1 - d)
