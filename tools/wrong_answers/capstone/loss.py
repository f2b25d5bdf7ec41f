# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""The loss of each token, weighed for the mismatch."""

import torch

from wrong_answers import wrong


def _gains(tokens, config, old=None):
    ratio = torch.exp(tokens.logprobs - (tokens.old_logprobs if old is None else old))
    inside = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    return ratio * tokens.advantages, inside * tokens.advantages


def _weight(tokens, config):
    if not config.truncate_at:
        return 1.0
    return torch.exp(tokens.old_logprobs - tokens.sampler_logprobs).clamp(max=config.truncate_at)


def _right(tokens, config):
    return -_weight(tokens, config) * torch.minimum(*_gains(tokens, config))


@wrong("08.loss", "wrong-clip-side", "Takes the larger gain: it clips where a token has to be brought back.")
def larger_gain(tokens, config):
    return -_weight(tokens, config) * torch.maximum(*_gains(tokens, config))


@wrong("08.loss", "wrong-sign", "Returns the gain.")
def gain(tokens, config):
    return -_right(tokens, config)


@wrong("08.loss", "always-clipped", "Clips on both sides, whatever the advantage.")
def always_clipped(tokens, config):
    return -_weight(tokens, config) * _gains(tokens, config)[1]


@wrong("08.loss", "sequence-mean", "Divides by the response's length, as GRPO does: the loop does so, too.")
def sequence_mean(tokens, config):
    lengths = torch.stack([(tokens.samples == sample).sum() for sample in tokens.samples])
    return _right(tokens, config) / lengths


@wrong("08.loss", "averages-twice", "Divides by the micro-batch's tokens.")
def token_mean(tokens, config):
    return _right(tokens, config) / len(tokens.samples)


@wrong("08.loss", "one-number", "Returns the mean of all tokens, one number.")
def one_number(tokens, config):
    return _right(tokens, config).mean()


@wrong("08.loss", "no-weights", "Forgets that another engine drew the tokens.")
def no_weights(tokens, config):
    return -torch.minimum(*_gains(tokens, config))


@wrong("08.loss", "never-truncated", "Weighs a token with whatever comes.")
def never_truncated(tokens, config):
    weight = torch.exp(tokens.old_logprobs - tokens.sampler_logprobs) if config.truncate_at else 1.0
    return -weight * torch.minimum(*_gains(tokens, config))


@wrong("08.loss", "weights-upside-down", "Divides the sampler's probability by the trainer's.")
def upside_down(tokens, config):
    weight = torch.exp(tokens.sampler_logprobs - tokens.old_logprobs).clamp(max=config.truncate_at or 1.0)
    return -(weight if config.truncate_at else 1.0) * torch.minimum(*_gains(tokens, config))


@wrong("08.loss", "off-is-zero", "Takes truncate_at=0 for a limit.")
def off_is_zero(tokens, config):
    weight = torch.exp(tokens.old_logprobs - tokens.sampler_logprobs).clamp(max=config.truncate_at)
    return -weight * torch.minimum(*_gains(tokens, config))


@wrong("08.loss", "sampler-for-old", "Compares the new logprobs with the sampler's.")
def sampler_for_old(tokens, config):
    return -_weight(tokens, config) * torch.minimum(*_gains(tokens, config, tokens.sampler_logprobs))


@wrong("08.loss", "ratio-always-1", "Takes its own logprobs for the old ones.")
def always_1(tokens, config):
    return -_weight(tokens, config) * torch.minimum(*_gains(tokens, config, tokens.logprobs.detach()))


@wrong("08.loss", "fixed-range", "Writes the clip range into the loss.")
def fixed_range(tokens, config):
    ratio = torch.exp(tokens.logprobs - tokens.old_logprobs)
    gains = ratio * tokens.advantages, ratio.clamp(0.8, 1.28) * tokens.advantages
    return -_weight(tokens, config) * torch.minimum(*gains)


@wrong("08.loss", "no-gradient", "Computes without a gradient.")
@torch.no_grad()
def no_gradient(tokens, config):
    return _right(tokens, config)
