# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""An advantage of one's own."""

from wrong_answers import wrong

EPS = 1e-5


def _centred(rewards):
    return rewards - rewards.mean(1, keepdim=True)


@wrong("08.advantage", "nan", "Divides by the deviation as it is: 0 in a group of equal rewards.")
def no_epsilon(rewards):
    return _centred(rewards) / rewards.std(1, keepdim=True)


@wrong("08.advantage", "rounding-as-signal", "Adds 1e-8, which is less than what rounding leaves.")
def small_epsilon(rewards):
    return _centred(rewards) / (rewards.std(1, keepdim=True) + 1e-8)


@wrong("08.advantage", "batch-mean", "Subtracts the mean of the whole batch.")
def batch_mean(rewards):
    return rewards - rewards.mean()


@wrong("08.advantage", "notices-others", "Divides by the deviation of the whole batch.")
def batch_std(rewards):
    return _centred(rewards) / (rewards.std() + EPS)


@wrong("08.advantage", "across-groups", "Takes a column for a group.")
def columns(rewards):
    return rewards - rewards.mean(0, keepdim=True)


@wrong("08.advantage", "not-centred", "Divides, and subtracts nothing.")
def not_centred(rewards):
    return rewards / (rewards.std(1, keepdim=True) + EPS)


@wrong("08.advantage", "wrong-sign", "Takes the reward off the mean.")
def upside_down(rewards):
    return -_centred(rewards)


@wrong("08.advantage", "explodes", "Divides by the variance.")
def variance(rewards):
    return _centred(rewards) / (rewards.var(1, keepdim=True) + EPS)


@wrong("08.advantage", "changes-its-input", "Subtracts the mean in place, and the run records what is left.")
def in_place(rewards):
    rewards -= rewards.mean(1, keepdim=True)
    return rewards / (rewards.std(1, keepdim=True) + EPS)


@wrong("08.advantage", "other-shape", "Returns one number for each sample, in one row.")
def flat(rewards):
    return _centred(rewards).flatten()


@wrong("08.advantage", "wrong-order", "Praises the best sample of each group, and blames all others alike.")
def winner(rewards):
    best = (rewards == rewards.amax(1, keepdim=True)).float()
    return best - best.mean(1, keepdim=True)
