# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""Weights for the mismatch of trainer and sampler."""

from wrong_answers import wrong


def _difference(old_logprobs, sampler_logprobs):
    return (old_logprobs - sampler_logprobs).detach()


def _mean(difference, mask):
    return ((difference * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)).exp()


def _kept(mean, mask_above):
    return (mean <= mask_above) & (mean >= 1 / mask_above) if mask_above else mean > 0


def _weights(difference, mask, truncate_at, kept):
    return difference.exp().clamp(max=truncate_at) * mask * kept


@wrong("07.mismatch_weights", "upside-down", "Divides the sampler's probability by the trainer's.")
def upside_down(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(sampler_logprobs, old_logprobs)
    return _weights(difference, mask, truncate_at, _kept(_mean(difference, mask), mask_above))


@wrong("07.mismatch_weights", "cut-on-both-sides", "Raises small weights to 1 / truncate_at.")
def both_sides(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    kept = _kept(_mean(difference, mask), mask_above)
    return difference.exp().clamp(1 / truncate_at, truncate_at) * mask * kept


@wrong("07.mismatch_weights", "drops-instead", "Gives tokens with large ratios the weight 0.")
def drops(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    ratio = difference.exp()
    return ratio * (ratio <= truncate_at) * mask * _kept(_mean(difference, mask), mask_above)


@wrong("07.mismatch_weights", "cut-in-logarithms", "Cuts the difference of the logprobs.")
def logarithms(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    return difference.clamp(max=truncate_at).exp() * mask * _kept(_mean(difference, mask), mask_above)


@wrong("07.mismatch_weights", "one-weight-a-sequence", "Gives all tokens of a response its mean ratio.")
def sequence(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    mean = _mean(_difference(old_logprobs, sampler_logprobs), mask)
    return mean.clamp(max=truncate_at) * mask * _kept(mean, mask_above)


@wrong("07.mismatch_weights", "weighs-everything", "Gives prompt and padding a weight.")
def everything(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    return difference.exp().clamp(max=truncate_at) * _kept(_mean(difference, mask), mask_above)


@wrong("07.mismatch_weights", "masked-above-only", "Keeps responses whose mean ratio is far below 1.")
def above_only(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    kept = _mean(difference, mask) <= (mask_above or float("inf"))
    return _weights(difference, mask, truncate_at, kept)


@wrong("07.mismatch_weights", "masks-tokens", "Leaves out tokens, and not responses.")
def tokens(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    return _weights(difference, mask, truncate_at, _kept(difference.exp(), mask_above))


@wrong("07.mismatch_weights", "sum-for-mean", "Multiplies the ratios, and leaves out whatever is long.")
def product(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    kept = _kept((difference * mask).sum(1, keepdim=True).exp(), mask_above)
    return _weights(difference, mask, truncate_at, kept)


@wrong("07.mismatch_weights", "arithmetic-mean", "Averages the ratios themselves.")
def arithmetic(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = _difference(old_logprobs, sampler_logprobs)
    mean = (difference.exp() * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    return _weights(difference, mask, truncate_at, _kept(mean, mask_above))


@wrong("07.mismatch_weights", "keeps-the-gradient", "Lets the gradient flow through the weights.")
def gradient(old_logprobs, sampler_logprobs, mask, truncate_at=2.0, mask_above=0.0):
    difference = old_logprobs - sampler_logprobs
    return _weights(difference, mask, truncate_at, _kept(_mean(difference, mask), mask_above))
