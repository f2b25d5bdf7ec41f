# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 07 Exercises: policy gradients
#
# Replace each `raise NotImplementedError` by your code, run the cell, then the one with `check`. It says what holds, what does
# not, and shows a small input on which your code goes wrong. You can run it as often as you like.
# The exercises do not depend on one another, and need PyTorch alone. Together they are a policy-gradient step: a reward, a mask,
# an advantage, a loss, and its average. Your reward, advantage and loss run in the loop of lesson 08.
# The lesson is [07_policy_gradients](../notebooks/07_policy_gradients.ipynb).

# %%
import re

import torch
from torch import Tensor

from course_lib.grading import check
from course_lib.viz.tables import Table

# %% [markdown] exercise="07.number_reward"
# ## Right or wrong, by a rule
#
# A policy learns what its reward pays, not what you meant. A rule that misreads one answer in twenty pays for wrong answers and
# punishes right ones, and in a few hundred steps the policy has found out how.
#
# Write `number_reward`: 1.0 where the **last number** of a completion equals the problem's answer, else 0.0. The model may say
# what it likes before it.
#
# - A completion may hold no number at all: 0.0. One exception, or one NaN, would end the run.
# - Commas between groups of three digits belong to their number: `1,234`. Other commas don't: `(3,4)` ends in 4.
# - So does a decimal part: `2.5`. A full stop doesn't: `It is 12.` ends in 12.
# - A minus directly in front is the sign, unless a letter or digit stands before it: `x=-3` ends in -3, `20-7` in 7.
# - Numbers are compared as numbers: 12.0 is 12.
#
# **Expected**: for the answers `12`, `-3`, `1234` and `5` and the completions `7 + 5 = 12.`, `It is 3`, `So 1,234!` and
# `I don't know`, the rewards are `[1.0, 0.0, 1.0, 0.0]`.
#
# <details><summary>Hint 1: all numbers, then the last one</summary>
#
# `re.findall(pattern, text)` returns all matches, or an empty list. Write groups as `(?:...)`: with a plain `(...)` it returns the
# groups and not the matches.
#
# </details>
#
# <details><summary>Hint 2: a pattern in pieces</summary>
#
# `\d{1,3}(?:,\d{3})+` is a number with commas, and `|\d+` one without, in this order. `(?!\d)` behind the first says that no digit
# follows. A decimal part is `(?:\.\d+)?`.
#
# </details>
#
# <details><summary>Hint 3: the sign</summary>
#
# `(?<!...)` looks back: `(?<![0-9A-Za-z])-` is a minus with no letter or digit before it.
#
# </details>


# %% exercise="07.number_reward"
def number_reward(problems: list, completions: list[str]) -> list[float]:
    """Return 1.0 for each completion whose last number is the answer, 0.0 for the others.

    Args:
        problems: one for each completion; `problem.answer` is the right number, as text such as `-12`.
        completions: what the policy said.
    """
    # SOLUTION
    number = r"(?:(?<![0-9A-Za-z])-)?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?"
    rewards = []
    for problem, completion in zip(problems, completions, strict=True):
        found = re.findall(number, completion)
        right = bool(found) and float(found[-1].replace(",", "")) == float(problem.answer)
        rewards.append(float(right))
    return rewards
    # END SOLUTION


# %% exercise="07.number_reward"
check("07.number_reward", number_reward)

# %% [markdown] exercise="07.response_mask"
# ## Who said that?
#
# The loss is about tokens that the **policy** chose. A row of token ids holds others, too: the prompt, and padding. Most models
# have no padding token of their own, and pad with the token that ends a turn. Then two tokens of the same id stand side by side:
# the first was chosen by the policy, the next is filling. Who masks by value drops both, and the policy never learns to stop.
#
# Write `response_mask` for rows as transformers' `generate` returns them. The prompts stand in the first `prompt_width` columns,
# padded on the left. The responses stand after them, padded on the right. All padding is `eos_id`.
#
# - True: each response token up to its first `eos_id`, and that one, too. False: everything else.
# - A response that reached the length limit has no `eos_id`: all of its tokens count.
# - A chat prompt holds an `eos_id` at the end of each turn. Those are not the policy's.
#
# **Expected**: with `eos_id=2` and `prompt_width=3`, `[2, 11, 12, 20, 2, 2]` and `[13, 2, 14, 25, 26, 27]` give
# `[0, 0, 0, 1, 1, 0]` and `[0, 0, 0, 1, 1, 1]` (as bools).
#
# <details><summary>Hint 1: what has happened before?</summary>
#
# A token of the response counts where no `eos_id` stands before it in the response. How many stood before is a running sum.
#
# </details>
#
# <details><summary>Hint 2: before, and not up to</summary>
#
# `x.cumsum(1)` counts each place itself. `x.cumsum(1) - x` counts what comes before it.
#
# </details>


# %% exercise="07.response_mask"
def response_mask(ids: Tensor, prompt_width: int, eos_id: int) -> Tensor:
    """Return which tokens the policy said, bool `[rows, width]`.

    Args:
        ids: `[rows, width]`, prompts and responses.
        prompt_width: how many columns the prompts have.
        eos_id: ends a turn, and pads.
    """
    # SOLUTION
    mask = torch.zeros_like(ids, dtype=torch.bool)
    ends = (ids[:, prompt_width:] == eos_id).long()
    mask[:, prompt_width:] = ends.cumsum(1) - ends == 0
    return mask
    # END SOLUTION


# %% exercise="07.response_mask"
check("07.response_mask", response_mask)

# %% [markdown] exercise="07.leave_one_out"
# ## Better than the others
#
# A reward of 1 says little when everybody gets 1. So a baseline is subtracted: what was to be expected of this prompt. Any
# baseline leaves the gradient unbiased, as long as it does not depend on the sample itself. REINFORCE leave-one-out (RLOO) takes
# the mean reward of the **other** samples of the same prompt ([Ahmadian et al.](https://arxiv.org/abs/2402.14740)).
#
# Write `leave_one_out`. A row is a group: the samples of one prompt, two or more.
#
# **Expected**: the group `[1., 0., 0., 0.]` gives `[1.0, -0.3333, -0.3333, -0.3333]`.
#
# <details><summary>Hint 1: no loop over samples</summary>
#
# The sum of the others is the sum of all, less the sample's own reward. How many others are there?
#
# </details>
#
# <details><summary>Hint 2: shapes</summary>
#
# `rewards.sum(1, keepdim=True)` has shape `[groups, 1]` and is broadcast along the samples.
#
# </details>


# %% exercise="07.leave_one_out"
def leave_one_out(rewards: Tensor) -> Tensor:
    """Return the advantages `[groups, samples]`.

    Args:
        rewards: `[groups, samples]`.
    """
    # SOLUTION
    others = rewards.shape[1] - 1
    return rewards - (rewards.sum(1, keepdim=True) - rewards) / others
    # END SOLUTION


# %% exercise="07.leave_one_out"
check("07.leave_one_out", leave_one_out)

# %% [markdown] exercise="07.group_advantages"
# ## Better than the group
#
# GRPO's advantage compares a sample with its group, and measures the difference in the group's own standard deviations
# ([DeepSeekMath](https://arxiv.org/abs/2402.03300), section 4.1.2). Dr. GRPO leaves out the division, because it makes much of
# groups that are nearly always or nearly never right ([Liu et al.](https://arxiv.org/abs/2503.20783), section 3.1).
#
# Write `group_advantages`: each reward minus its group's mean, and with `normalize` divided by its group's standard deviation,
# the one with n - 1 below the line. A row is a group of two samples or more.
#
# A group whose rewards are all equal has advantages of 0. There are many such groups, above all at the end of training, and one
# NaN is enough to lose the policy. Rounding is to be no signal either: in float32, the mean of seven times 0.7 need not be 0.7.
# Other advantages may be off by 1 in 1,000.
#
# **Expected**: `[[1., 0., 0., 0.], [0.7, 0.7, 0.7, 0.7]]` gives `[[1.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]]`, and with
# `normalize=False` `[[0.75, -0.25, -0.25, -0.25], [0, 0, 0, 0]]`.
#
# <details><summary>Hint 1: 0 / 0</summary>
#
# A small number below the line, added to the deviation, makes it 0 / small.
#
# </details>
#
# <details><summary>Hint 2: how small?</summary>
#
# Rounding leaves a deviation of about 1e-7 of a reward. The number has to be large beside that, and small beside real deviations,
# which are 0.1 and more here. TRL takes 1e-4, verl 1e-6.
#
# </details>


# %% exercise="07.group_advantages"
def group_advantages(rewards: Tensor, normalize: bool = True) -> Tensor:
    """Return the advantages `[groups, samples]`.

    Args:
        rewards: `[groups, samples]`, around 1 in size.
        normalize: whether to divide by the group's standard deviation.
    """
    # SOLUTION
    centred = rewards - rewards.mean(1, keepdim=True)
    if not normalize:
        return centred
    return centred / (rewards.std(1, keepdim=True) + 1e-5)
    # END SOLUTION


# %% exercise="07.group_advantages"
check("07.group_advantages", group_advantages)

# %% [markdown] exercise="07.clipped_loss"
# ## So far, and no further
#
# Samples are expensive, so one batch is used for several updates. After the first one the policy is not the one that drew them
# any more. PPO's objective ([Schulman et al.](https://arxiv.org/abs/1707.06347), equation 7) stops a token's gain there:
#
# $$ \text{loss} = -\min\bigl(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\, A\bigr),
# \qquad \rho = \frac{\pi(\text{token})}{\pi_\text{old}(\text{token})} $$
#
# A good token's probability may rise to 1 + ε_high of the old one; beyond that it has no gradient. A bad one's may fall to
# 1 - ε_low. But a token that moved to the **wrong** side keeps its gradient, however far it is: it has to find its way back. The
# minimum does that.
#
# Write `clipped_loss`. `mask` is True at response tokens. Elsewhere stand prompt and padding, whose logprobs mean nothing: their
# loss is 0. Each sample has one advantage, and all of its tokens get it. Return the loss of each token; nothing is averaged here.
#
# **Expected**: with the default ranges and advantages of 1 and -1, ratios of 0.5, 1.0 and 1.5 give losses of
# `[-0.5, -1.0, -1.28]` and `[0.8, 1.0, 1.5]`.
#
# <details><summary>Hint 1: shapes</summary>
#
# Advantages of shape `[samples]` times ratios of shape `[samples, length]` are matched along the **last** dimension: a token's
# place then picks the advantage. With as many tokens as samples there is not even an error. `advantages[:, None]` has shape
# `[samples, 1]`.
#
# </details>
#
# <details><summary>Hint 2: which is the minimum?</summary>
#
# The minimum is of two gains, and the loss is the gain's negative. `torch.minimum` takes two tensors.
#
# </details>
#
# <details><summary>Hint 3: nothing outside the mask</summary>
#
# `loss.where(mask, 0.0)` keeps the loss where the mask is True.
#
# </details>


# %% exercise="07.clipped_loss"
def clipped_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """Return the loss of each token `[samples, length]`, 0 outside the mask.

    Args:
        logprobs: `[samples, length]`, of the weights that are trained; with a gradient.
        old_logprobs: `[samples, length]`, of the weights that the samples were drawn with.
        advantages: `[samples]`.
        mask: bool `[samples, length]`, True at response tokens.
        clip_low: how far below 1 a ratio may fall; 1 and more for as far as it likes.
        clip_high: how far above 1 a ratio may rise.
    """
    # SOLUTION
    ratio = torch.exp(logprobs - old_logprobs)
    clipped = ratio.clamp(1 - clip_low, 1 + clip_high)
    gain = torch.minimum(ratio * advantages[:, None], clipped * advantages[:, None])
    return (-gain).where(mask, 0.0)
    # END SOLUTION


# %% [markdown] exercise="07.clipped_loss"
# Your loss and its slope, a ratio at a time. Which tokens have no gradient left?

# %% exercise="07.clipped_loss"
rows = []
for advantage in (1.0, -1.0):
    for ratio in (0.5, 0.9, 1.0, 1.2, 1.5):
        logprob = torch.tensor([[ratio]]).log().requires_grad_()
        loss = clipped_loss(logprob, torch.zeros(1, 1), torch.tensor([advantage]), torch.ones(1, 1, dtype=torch.bool))
        (slope,) = torch.autograd.grad(loss.sum(), logprob)
        rows.append([f"{advantage:+g}", f"{ratio:g}", f"{loss.item():.2f}", f"{slope.item():+.2f}"])
Table("A token's loss", [">advantage", ">ratio", ">loss", ">slope of the loss"], rows)

# %% exercise="07.clipped_loss"
check("07.clipped_loss", clipped_loss)

# %% [markdown] exercise="07.loss_shares"
# ## What is one token worth?
#
# The tokens' losses become one number, and there are three ways that people take the mean. They differ in how much a token of a
# long response counts:
#
# | `average` | the step's loss | a token counts |
# |---|---|---|
# | `"token"` ([DAPO](https://arxiv.org/abs/2503.14476)) | sum over all tokens / number of all tokens | the same everywhere |
# | `"sequence"` ([GRPO](https://arxiv.org/abs/2402.03300)) | mean over samples of each sample's mean | less in a long response |
# | `"constant"` ([Dr. GRPO](https://arxiv.org/abs/2503.20783)) | sum over all tokens / (samples · `max_new_tokens`) | the same, in every step |
#
# The batch comes in micro-batches, because it does not fit into memory as a whole. Each one's share of the loss is backpropagated
# alone, and the gradients add up. So the shares have to add up to the loss of the **whole batch**, wherever it was cut.
#
# Write `loss_shares`: a scalar for each micro-batch. `losses` and `masks` are lists of tensors `[samples, length]`, and each
# micro-batch has its own number of samples and its own length. Outside the mask the losses mean nothing. A sample of which no token
# counts (an overlong response, say, that was masked out) adds 0, and still counts as a sample.
#
# **Expected**: two micro-batches, one with the loss 1 at each of 6 tokens of one sample, one with the loss 4 at each of 2 tokens of
# another, with `max_new_tokens=8`: `"token"` gives 0.75 and 1, `"sequence"` 0.5 and 2, `"constant"` 0.375 and 0.5.
#
# <details><summary>Hint 1: count first</summary>
#
# Samples and tokens of the whole batch can be counted from the masks before any loss is looked at.
#
# </details>
#
# <details><summary>Hint 2: what is each token's loss divided by?</summary>
#
# Every average is a sum of losses, each divided by something: the number of all tokens; the number of samples times its own
# response's length; the number of samples times `max_new_tokens`.
#
# </details>
#
# <details><summary>Hint 3: samples without tokens</summary>
#
# 0 / 0 is NaN. A length of 0 can be taken for 1: there is nothing to divide.
#
# </details>


# %% exercise="07.loss_shares"
def loss_shares(losses: list[Tensor], masks: list[Tensor], average: str, max_new_tokens: int) -> list[Tensor]:
    """Return each micro-batch's share of the loss, scalars with a gradient.

    Args:
        losses: each micro-batch's token losses `[samples, length]`.
        masks: bool, of the same shapes, True at the tokens that count.
        average: `token`, `sequence` or `constant`.
        max_new_tokens: how long a response may get.
    """
    # SOLUTION
    samples = sum(len(mask) for mask in masks)
    tokens = sum(int(mask.sum()) for mask in masks)
    shares = []
    for loss, mask in zip(losses, masks, strict=True):
        lengths = mask.sum(1, keepdim=True)
        if average == "token":
            below = tokens
        elif average == "sequence":
            below = samples * lengths.clamp(min=1)
        else:
            below = samples * max_new_tokens
        shares.append((loss.where(mask, 0.0) / below).sum())
    return shares
    # END SOLUTION


# %% exercise="07.loss_shares"
check("07.loss_shares", loss_shares)

# %% [markdown] exercise="07.sequence_ratio"
# ## One ratio for a whole answer
#
# The reward is for the whole answer, and a ratio for each token is a noisy thing: trainer and sampler round differently, and a
# rare token's ratio can be anything. GSPO ([Zheng et al.](https://arxiv.org/abs/2507.18071), equation 7) has one ratio for the
# whole response, the geometric mean of its tokens' ratios:
#
# $$ s_i = \left(\frac{\pi(y_i)}{\pi_\text{old}(y_i)}\right)^{1 / |y_i|} $$
#
# where π(y) is the product of the probabilities of the response's tokens and |y| their number.
#
# Write `sequence_ratio`. It has to be right for responses of 2,000 tokens, too, and its gradient reaches all tokens of the response.
# Every row has a response token.
#
# **Expected**: a response of two tokens with ratios of 2 and 0.5 has the ratio 1.0; with ratios of 4 and 1, 2.0.
#
# <details><summary>Hint 1: stay with logarithms</summary>
#
# The logarithm of a product is a sum, and that of the |y|-th root a division. What is left is a mean of differences.
#
# </details>
#
# <details><summary>Hint 2: a mean over some of the places</summary>
#
# Put a 0 where the mask is False, add up, and divide by the number of places where it is True. `x.mean(1)` divides by all.
#
# </details>


# %% exercise="07.sequence_ratio"
def sequence_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Return each response's ratio `[samples]`.

    Args:
        logprobs: `[samples, length]`, of the weights that are trained; with a gradient.
        old_logprobs: `[samples, length]`, of the weights that the samples were drawn with.
        mask: bool `[samples, length]`, True at response tokens.
    """
    # SOLUTION
    change = (logprobs - old_logprobs).where(mask, 0.0)
    return torch.exp(change.sum(1) / mask.sum(1))
    # END SOLUTION


# %% exercise="07.sequence_ratio"
check("07.sequence_ratio", sequence_ratio)

# %% [markdown] exercise="07.kl_estimate"
# ## How far from home?
#
# How far has the policy moved from the reference it started from? KL(policy || reference) is a mean over **all** texts, and there
# are only a few samples. Each token of them gives an estimate. With r = reference probability / policy probability of the token
# ([Schulman, 2020](http://joschu.net/blog/kl-approx.html)):
#
# | | formula | its mean over the policy's own tokens | |
# |---|---|---|---|
# | k1 | -log r | is the divergence | negative for about half of the tokens |
# | k2 | (log r)² / 2 | is off a little | never negative |
# | k3 | (r - 1) - log r | is the divergence | never negative |
#
# Write `kl_estimate` for all three. Early in training the two policies hardly differ, and log r is 0.0001 or so. The estimates are to
# be right to three digits there, too, in float32; k3 is 0.000000005 then.
#
# **Expected**: a token of probability 0.5 for the policy and 0.25 for the reference has k1 = 0.6931, k2 = 0.2402 and k3 = 0.1931.
# Exchanged, k1 = -0.6931, k2 = 0.2402 and k3 = 0.3069.
#
# <details><summary>Hint 1: which way round?</summary>
#
# log r is the reference's logprob minus the policy's. Try the expected result: k3 is not symmetric.
#
# </details>
#
# <details><summary>Hint 2: seven digits</summary>
#
# exp(0.0001) as float32 has seven digits, and the first four of them are `1.000`. After subtracting 1 there are three left, of which
# log r takes the rest. PyTorch has a function that computes exp(x) - 1 in one.
#
# </details>


# %% exercise="07.kl_estimate"
def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: str) -> Tensor:
    """Return each token's estimate of KL(policy || reference) `[tokens]`.

    Args:
        logprobs: `[tokens]`, under the policy, which drew these tokens.
        reference_logprobs: `[tokens]`, under the reference.
        estimator: `k1`, `k2` or `k3`.
    """
    # SOLUTION
    log_r = reference_logprobs - logprobs
    if estimator == "k1":
        return -log_r
    if estimator == "k2":
        return log_r**2 / 2
    return torch.expm1(log_r) - log_r
    # END SOLUTION


# %% exercise="07.kl_estimate"
check("07.kl_estimate", kl_estimate)

# %% [markdown] exercise="07.mismatch_weights"
# ## Two engines, one policy
#
# vLLM drew the tokens, DeepSpeed trains on them. Both hold the same weights, and still their probabilities differ a little, because
# they round in different places. So even the first update is off-policy. Importance sampling mends that: each token's gradient is
# multiplied by trainer probability / sampler probability. A few of these ratios are large, and then one token decides the
# step. Truncated importance sampling ([Yao et al., 2025](https://fengyao.notion.site/off-policy-rl)) cuts them off at
# `truncate_at`. And where a whole response looks different to the two engines, it is left out.
#
# Write `mismatch_weights`. It returns a weight for each token.
#
# - A response token's weight is its ratio, but no more than `truncate_at`. Small ones stay as they are.
# - Where `mask_above` is not 0: a response whose **mean** ratio (the geometric mean over its tokens, not truncated) is above
#   `mask_above` or below 1 / `mask_above` has weight 0 at all tokens.
# - Prompt and padding have weight 0.
# - The weights are constants. `old_logprobs` may carry a gradient, and nothing of it passes.
#
# **Expected**: a response with the ratios 0.5, 1 and 8 has the weights `[0.5, 1, 2]` at `truncate_at=2`. Their geometric mean is
# 1.587: with `mask_above=1.5` all three weights are 0, with `mask_above=1.6` they stay.
#
# <details><summary>Hint 1: which one stands below?</summary>
#
# The tokens were drawn with the sampler's probabilities. Importance sampling divides by the probability that they were drawn with.
#
# </details>
#
# <details><summary>Hint 2: the geometric mean</summary>
#
# It is the exponential of the mean of the logarithms, and the logarithms are there already: differences of logprobs.
#
# </details>
#
# <details><summary>Hint 3: constants</summary>
#
# `x.detach()` is x without its gradient.
#
# </details>


# %% exercise="07.mismatch_weights"
def mismatch_weights(
    old_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, truncate_at: float = 2.0, mask_above: float = 0.0
) -> Tensor:
    """Return the weight of each token `[samples, length]`, 0 outside the mask.

    Args:
        old_logprobs: `[samples, length]`, by the trainer, under the weights that the samples were drawn with.
        sampler_logprobs: `[samples, length]`, by the engine that drew them.
        mask: bool `[samples, length]`, True at response tokens; each row has one.
        truncate_at: the largest weight.
        mask_above: the largest mean ratio of a response, and one over the smallest; 0 leaves nothing out.
    """
    # SOLUTION
    difference = (old_logprobs - sampler_logprobs).detach()
    weights = difference.exp().clamp(max=truncate_at).where(mask, 0.0)
    if not mask_above:
        return weights
    mean = (difference.where(mask, 0.0).sum(1) / mask.sum(1)).exp()
    fits = (mean <= mask_above) & (mean >= 1 / mask_above)
    return weights.where(fits[:, None], 0.0)
    # END SOLUTION


# %% exercise="07.mismatch_weights"
check("07.mismatch_weights", mismatch_weights)

# %% [markdown] exercise="07.gae"
# ## Which token was it?
#
# GRPO gives every token of a response the same advantage. PPO has a second model, the critic, which says before each token how
# much reward it expects: the value V. Where the expectation jumps, something happened. Generalized advantage estimation
# ([Schulman et al.](https://arxiv.org/abs/1506.02438), equation 16) adds these jumps up:
#
# $$ \delta_t = r_t + \gamma V_{t+1} - V_t, \qquad A_t = \delta_t + \gamma\lambda\, A_{t+1} $$
#
# The reward of a response is paid at its last token; r is 0 before. After the last token comes nothing: V and A are 0 there.
#
# Write `generalized_advantages`. Rows are responses (no prompt), padded at the end. The critic gives values in the padding, too,
# which mean nothing. Advantages in the padding are 0.
#
# **Expected**: values of `[0.5, 0.75, 0.25]` and a reward of 1 give, with gamma 1 and lam 0.5, the advantages
# `[0.1875, -0.125, 0.75]`. With lam 1 they are `[0.5, 0.25, 0.75]`, the reward minus each value.
#
# <details><summary>Hint 1: from the end</summary>
#
# A_t needs A at the next token. Go through the columns from the last one to the first, and keep the A that you have just computed,
# one for each row.
#
# </details>
#
# <details><summary>Hint 2: where does a row end?</summary>
#
# A response of n tokens has its last one at place n - 1, and n is `mask.sum(1)`. If values and errors are 0 in the padding, nothing
# of it gets into the sum.
#
# </details>
#
# <details><summary>Hint 3: the value that follows</summary>
#
# With the padding's values set to 0 and one column of zeros at the end, V at the next token is the same tensor moved by one.
#
# </details>


# %% exercise="07.gae"
def generalized_advantages(
    rewards: Tensor, values: Tensor, mask: Tensor, gamma: float = 1.0, lam: float = 0.95
) -> Tensor:
    """Return the advantages `[samples, length]`, 0 in the padding.

    Args:
        rewards: `[samples]`, paid at each response's last token.
        values: `[samples, length]`, what the critic expected before each token.
        mask: bool `[samples, length]`, True at response tokens, which stand at the front of each row.
        gamma: what a reward is worth one token earlier.
        lam: how much of the later errors a token is answerable for.
    """
    # SOLUTION
    samples, length = values.shape
    values = torch.cat([values.where(mask, 0.0), torch.zeros(samples, 1)], 1)
    paid = torch.zeros(samples, length)
    paid[torch.arange(samples), mask.sum(1) - 1] = rewards
    advantages, later = torch.zeros(samples, length), torch.zeros(samples)
    for t in reversed(range(length)):
        delta = paid[:, t] + gamma * values[:, t + 1] - values[:, t]
        later = delta + gamma * lam * later
        advantages[:, t] = later
    return advantages
    # END SOLUTION


# %% exercise="07.gae"
check("07.gae", generalized_advantages)
