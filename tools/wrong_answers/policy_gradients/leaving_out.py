# ruff: noqa: D103  (what each gets wrong stands in its decorator)
"""The leave-one-out advantage."""

from wrong_answers import wrong


def _advantages(rewards):
    return (rewards - rewards.mean(1, keepdim=True)) * rewards.shape[1] / (rewards.shape[1] - 1)


@wrong("07.leave_one_out", "includes-itself", "Subtracts the mean of all, the sample itself among them.")
def includes_itself(rewards):
    return rewards - rewards.mean(1, keepdim=True)


@wrong("07.leave_one_out", "divides-by-all", "Adds the others up, and divides by the number of all.")
def divides_by_all(rewards):
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / rewards.shape[1]


@wrong("07.leave_one_out", "keeps-itself-in-the-sum", "Adds all up, and divides by the number of the others.")
def keeps_itself(rewards):
    return rewards - rewards.sum(1, keepdim=True) / (rewards.shape[1] - 1)


@wrong("07.leave_one_out", "others-not-averaged", "Subtracts the others' sum.")
def summed(rewards):
    return rewards - (rewards.sum(1, keepdim=True) - rewards)


@wrong("07.leave_one_out", "others-of-the-batch", "Compares with the samples of all prompts.")
def whole_batch(rewards):
    return rewards - (rewards.sum() - rewards) / (rewards.numel() - 1)


@wrong("07.leave_one_out", "across-groups", "Takes a column for a group.")
def columns(rewards):
    return rewards - (rewards.sum(0, keepdim=True) - rewards) / (rewards.shape[0] - 1)


@wrong("07.leave_one_out", "normalised", "Divides by the standard deviation, as GRPO does.")
def normalised(rewards):
    return _advantages(rewards) / rewards.std(1, keepdim=True)


@wrong("07.leave_one_out", "wrong-sign", "Subtracts the reward from its baseline.")
def wrong_sign(rewards):
    return -_advantages(rewards)


@wrong("07.leave_one_out", "baseline-only", "Returns the baseline.")
def baseline(rewards):
    return (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)


@wrong("07.leave_one_out", "changes-its-input", "Subtracts in place.")
def in_place(rewards):
    rewards -= (rewards.sum(1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards
