# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""The clipped loss of each token."""

import torch

from wrong_answers import wrong


def _gains(logprobs, old_logprobs, advantages, low, high):
    ratio = torch.exp(logprobs - old_logprobs)
    return ratio * advantages[:, None], ratio.clamp(1 - low, 1 + high) * advantages[:, None]


@wrong("07.clipped_loss", "wrong-clip-side", "Takes the larger gain: it clips where a token has to be brought back.")
def larger_gain(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.maximum(*_gains(logprobs, old_logprobs, advantages, clip_low, clip_high)) * mask


@wrong("07.clipped_loss", "wrong-sign", "Returns the gain.")
def gain(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return torch.minimum(*_gains(logprobs, old_logprobs, advantages, clip_low, clip_high)) * mask


@wrong("07.clipped_loss", "always-clipped", "Clips on both sides, whatever the advantage.")
def always_clipped(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -_gains(logprobs, old_logprobs, advantages, clip_low, clip_high)[1] * mask


@wrong("07.clipped_loss", "smaller-ratio", "Takes the smaller ratio, and then the advantage.")
def smaller_ratio(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.minimum(ratio, ratio.clamp(1 - clip_low, 1 + clip_high)) * advantages[:, None] * mask


@wrong("07.clipped_loss", "sides-swapped", "Exchanges the two ranges.")
def swapped(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(logprobs, old_logprobs, advantages, clip_high, clip_low)) * mask


@wrong("07.clipped_loss", "one-side-for-both", "Has one range for both sides.")
def one_range(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(logprobs, old_logprobs, advantages, clip_low, clip_low)) * mask


@wrong("07.clipped_loss", "ratio-upside-down", "Divides the old probability by the new one.")
def upside_down(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(old_logprobs, logprobs, advantages, clip_low, clip_high)) * mask


@wrong("07.clipped_loss", "ratio-always-1", "Takes its own logprobs for the old ones.")
def always_1(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(logprobs, logprobs.detach(), advantages, clip_low, clip_high)) * mask


@wrong("07.clipped_loss", "prompt-in-the-loss", "Forgets the mask.")
def no_mask(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(logprobs, old_logprobs, advantages, clip_low, clip_high))


@wrong("07.clipped_loss", "advantage-not-broadcast", "Multiplies [samples, length] by [samples].")
def along_tokens(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    ratio = torch.exp(logprobs - old_logprobs)
    return -torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages) * mask


@wrong("07.clipped_loss", "no-gradient", "Computes the ratio without a gradient.")
@torch.no_grad()
def no_gradient(logprobs, old_logprobs, advantages, mask, clip_low=0.2, clip_high=0.28):
    return -torch.minimum(*_gains(logprobs, old_logprobs, advantages, clip_low, clip_high)) * mask
