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
# # 07 Policy gradients: from one number to a gradient, and what breaks on the way
#
# **After this lesson** you can give a policy a reward and say how it will be cheated, derive the policy gradient and check it on
# six numbers, say in one line what REINFORCE, RLOO, GRPO, Dr. GRPO, DAPO, GSPO and PPO each decide, choose a clip range from a
# measurement, and name eight bugs that ship without an error message, with what catches each.
#
# **Time** 60 minutes, of which about two are computing. **You need** [lesson 00](00_the_loop.ipynb), and to know what a
# gradient and a logprob are. A prompt with its samples is called a **group**.
#
# > **The question.** A model writes twenty tokens, and then somebody says: 1. Or 0. No gradient flows through that number: it
# > comes from a rule, from another model, from a person. How can it tell 135 million weights which way to move? And when the
# > curve stays flat: is it the algorithm, or a bug?

# %%
import os
import tempfile
import time
from pathlib import Path

import torch

from course_lib import machine, viz
from course_lib.models import load_policy
from course_lib.rl import Addition, LoopConfig, RLLoop, VLLMRollout
from course_lib.training import PolicyTrainer, TrainerConfig
from course_lib.viz import lesson_07 as pictures

started = time.perf_counter()
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=0, micro_batch_tokens=512))
rollout = VLLMRollout(folder)
machine.versions()

# %% [markdown]
# ## One batch for the whole lesson
#
# vLLM answers 16 additions, 8 times each, at temperature 1. A rule gives the reward: 1 where the last number in the answer is the
# sum, else 0. Samples of this one batch will meet every loss of the lesson.
#
# **Predict, then measure.** What share of the samples is right? And in how many of the 16 groups are all samples equally good or
# bad, so that there is nothing to compare?

# %%
scratch = tempfile.TemporaryDirectory()
numbers = LoopConfig(steps=1, prompts_per_step=16, samples_per_prompt=8, max_new_tokens=24, seed=1)
loop = RLLoop(trainer, rollout, Addition(), Path(scratch.name, "run"), config=numbers)
batch = loop.generate(1)
loop.judge(batch)
successes = batch.rewards.view(-1, 8).sum(dim=1)
silent = float(((successes == 0) | (successes == 8)).float().mean())
print(f"right: {float(batch.rewards.mean()):.0%}; groups with nothing to compare: {silent:.0%}")
print("right samples, group by group:", *successes.int().tolist())

# %%
by_signal = (successes - 4).abs().argsort(stable=True).tolist()  # groups that are half right come first
viz.samples_table({"step": 1, "samples": batch.take(by_signal[:1]).table()})

# %% [markdown]
# The advantage in the last column is what the trainer will see of the reward. Most of this lesson is about how the one becomes
# the other. But first: the reward itself.
#
# ## Rewards
#
# ### By rule
#
# A rule is a function: problems and completions in, a number each out. It is fast, it costs nothing, and it is never in a good
# or bad mood. It is also literal. Here are six answers to one question, judged by five rules.
#
# **Predict, then measure.** Which rule can tell the two right and readable answers from all others?

# %%
from course_lib.rl import Problem, exact_match, number_match
from course_lib.rl.math_reward import math_match
from course_lib.rl.mixture import Mixture
from course_lib.rl.shaping import brevity, format_match

question = Problem("What is 7+5? Answer with just the number.", "12")
answers = [
    "12",
    "7 + 5 = 12.",
    "<answer>12</answer>",
    r"$\frac{24}{2}$",
    "12 or 13",
    "I was told that 12 is right. Or 11?",
]

# %%
rules = {"exact": exact_match, "last number": number_match, "math-verify": math_match}
rules |= {"format": format_match(), "brief": brevity(2, 40)}
rules["mixture"] = Mixture({"correct": (1.0, number_match), "brief": (0.2, brevity(2, 40))})
graded = {name: rule([question] * len(answers), answers) for name, rule in rules.items()}
rows = [[text, *(f"{graded[name][place]:.2f}" for name in rules)] for place, text in enumerate(answers)]
viz.Table("One question, six answers, and what each rule says", ["answer", *(f">{name}" for name in rules)], rows)

# %% [markdown]
# None. `exact` wants one form. `last number` takes whatever came last. math-verify reads formulas, and so it finds an equal value
# in another form. The format rule doesn't look at the answer at all. A **mixture** adds such parts with weights, and the loop
# logs every part by itself: a sum that rises says nothing about which part rose.
#
# Tasks are as easy to exchange: `Addition`, `Countdown`, or any data set of the reasoning-gym package, graded by its own rule.

# %%
import random

from course_lib.rl.countdown import Countdown
from course_lib.rl.reasoning import ReasoningGym

for task in (Countdown(), ReasoningGym("chain_sum", size=100)):
    drawn = task.draw(1, random.Random(0))[0]
    print(f"{task.name}: {drawn.question.strip()[:150]}\n   right answer: {drawn.answer[:60]}")

# %% [markdown]
# ### A reward that fails
#
# A reward is code, and it meets text that nobody foresaw. This one turns the answer into a number, and it works for hours until
# a sample has none. What then? A crash loses the run, and a silent 0 is worse: it teaches the policy something.
#
# So each fault is reported with the sample that did it. A run stops with a checkpoint, or goes on without that sample, as
# `LoopConfig(on_reward_error=...)` says.

# %%
from course_lib.rl.rewards import compute_rewards


def distance(problems, completions):
    """Nearer is better."""
    return [1 / (1 + abs(int(problem.answer) - int(text))) for problem, text in zip(problems, completions, strict=True)]


judged = compute_rewards(distance, [question] * 3, ["12", "twelve", "13"], on_error="go_on")
print(judged.rewards, *judged.faults, sep="\n")

# %% [markdown]
# ### A reward that is cheated
#
# A generous rule: the answer is right if the sum stands **anywhere** in it. On every honest answer it agrees with the strict
# rule. Here are three ways to answer, each judged by both rules on 64 problems.

# %%
import re

problems = loop.task.held_out
ways = {
    "guess": ["20"] * len(problems),
    "add, rightly half the time": [str(int(one.answer) + place % 2) for place, one in enumerate(problems)],
    "say all numbers": [" ".join(map(str, range(41)))] * len(problems),
}


def anywhere(problems, completions):
    """The sum stands in the completion."""
    return [float(one.answer in re.findall(r"\d+", text)) for one, text in zip(problems, completions, strict=True)]


proxy = torch.tensor([anywhere(problems, texts) for texts in ways.values()]).mean(dim=1)
true = torch.tensor([number_match(problems, texts) for texts in ways.values()]).mean(dim=1)
rows = [[way, f"{proxy[place]:.2f}", f"{true[place]:.2f}"] for place, way in enumerate(ways)]
viz.Table("Three ways to answer", ["way", ">generous rule", ">strict rule"], rows)

# %% [markdown]
# Now a policy that only decides between the three ways. At first it says all numbers in 3 of 100 answers. It follows the exact
# gradient of the generous reward.
#
# **Predict, then measure.** Draw both rewards over 60 steps. When does somebody who watches only the generous one see that
# something is wrong?

# %%
logits = torch.tensor([0.67, 0.30, 0.03]).log()
seen = []
for _ in range(60):
    policy = logits.softmax(0)
    seen.append((float(policy @ proxy), float(policy @ true), float(policy[2])))
    logits = logits + 4 * policy * (proxy - policy @ proxy)  # the gradient of policy @ proxy
names = ("generous rule: what is trained", "strict rule: what was meant", "says all numbers (dashed)")
lines = {name: list(enumerate(values)) for name, values in zip(names, zip(*seen, strict=True), strict=True)}
peak = max(range(60), key=lambda step: seen[step][1])
assert peak > 3 and seen[-1][1] < 0.2 < 0.95 < seen[-1][0]
title = f"Both rise until step {peak}, then one is paid for by the other"
pictures.curves(lines, title, "step", "reward, or share of answers")

# %% [markdown]
# Never: its curve is perfect. This is **reward hacking**, and the policy did nothing wrong. It was asked for exactly this. The
# rare cheat waits until the honest way is used up, and then it wins, because it is worth more. Gao et al. (2022) measured the same
# rise and fall with reward models of all sizes.
#
# Three things help, and all are in the loop: measure on held-out problems with **another** rule than the one that is trained
# (`held_out`), log the parts, and read samples.
#
# ### By a model, by a person
#
# Where no rule can judge, a reward model does. [Lesson 06](06_deepspeed_training.ipynb) trained one on preferences, saw what it
# learned first (manner), and served it through vLLM. `ModelReward` makes a reward of it, to be used like any rule here, and
# [lesson 08](08_capstone.ipynb) runs the loop with it. It is cheated like any rule, too.
#
# The preferences come from people. Below are pairs of different answers to one prompt, from our batch. Choose with the buttons
# or the arrow keys. Each choice is on disk at once, in the format that the reward model is trained on.

# %%
from course_lib.rl.preference_pairs import preference_pairs
from course_lib.viz.preference_widget import collect_preferences

pairs = preference_pairs(batch, count=4, seed=0)
collect_preferences(pairs, Path("../runs/preferences.jsonl"))

# %% [markdown]
# ## Why a policy gradient works
#
# Now the gradient. The expected reward is a sum over everything that the policy could say,
# $J = \sum_a \pi(a)\, r(a)$. Only $\pi$ depends on the weights. So differentiate, and multiply and divide by $\pi(a)$:
#
# $$ \nabla J = \sum_a r(a)\, \nabla \pi(a) = \sum_a \pi(a)\, r(a)\, \frac{\nabla \pi(a)}{\pi(a)}
# = \mathbb{E}_{a \sim \pi}\bigl[\, r(a)\, \nabla \log \pi(a) \,\bigr] $$
#
# The sum over everything has become a mean over samples. The reward is not differentiated: a number is enough. That is all.
# It is called the score-function identity, and REINFORCE (Williams 1992) is this line.
#
# Six possible answers, two of them right. Few enough to have the exact gradient by autograd.
#
# **Predict, then measure.** How good is the estimate from 8 samples? And from 8 samples, 20,000 times?

# %%
logits = torch.tensor([2.0, 1.2, 0.9, 0.4, 0.0, -0.5], requires_grad=True)
reward = torch.tensor([0.0, 1.0, 0.0, 0.0, 1.0, 0.0])
(exact,) = torch.autograd.grad(logits.softmax(0) @ reward, logits)

policy = logits.detach().softmax(0)
torch.manual_seed(0)
drawn = torch.multinomial(policy, 20_000 * 8, replacement=True).view(20_000, 8)
scores = torch.eye(6)[drawn] - policy  # the gradient of log softmax: what was drawn, minus what was to be expected
estimates = (reward[drawn][..., None] * scores).mean(dim=1)
panels = {"8 samples": estimates[1].tolist(), "8 others": estimates[2].tolist()}
panels["mean of 20,000 of them"] = estimates.mean(dim=0).tolist()
pictures.gradient_bars(exact.tolist(), panels, reward.bool().tolist())

# %% [markdown]
# Right on average, and far off each time. **Unbiased** says only the first. What an algorithm can improve is the second.
#
# ### A baseline: the same mean, less noise
#
# The score has mean zero, $\mathbb{E}[\nabla \log \pi] = \nabla \sum_a \pi(a) = \nabla 1 = 0$. So any number $b$ that does not
# depend on the sample may be subtracted from the reward, and the mean stays. The noise does not. Such a $b$ is a **baseline**, and
# $r - b$ the **advantage**.
#
# **Predict, then measure.** A reward of 10 and 11 instead of 0 and 1 asks for the same. What does it do to the noise without a
# baseline? And if the baseline is the mean of the same 8 samples, is the estimate still unbiased?

# %%
from course_lib.rl.advantages import batch_baseline, group_mean_baseline, group_relative_advantages, leave_one_out

given = reward[drawn]
weights = {"the reward itself": given, "the reward + 10": given + 10, "minus the batch's mean": batch_baseline(given)}
weights["minus the group's mean (Dr. GRPO)"] = group_mean_baseline(given)
weights["minus the siblings' mean (RLOO)"] = leave_one_out(given)
weights["group's mean, over its deviation (GRPO)"] = group_relative_advantages(given)
found, rows = {}, []
for name, advantage in weights.items():
    estimates = (advantage[..., None] * scores).mean(dim=1)
    length = float(estimates.mean(dim=0) @ exact / (exact @ exact))
    found[name] = (length, float(estimates.std(dim=0).norm() / exact.norm()))
    rows.append([name, f"{length:.2f}", f"{found[name][1]:.2f}", f"{found[name][1] / length:.2f}"])
viz.Table("The same samples", ["a sample's weight", ">mean / exact", ">spread of one estimate", ">spread / mean"], rows)

# %%
centred = found["minus the group's mean (Dr. GRPO)"][0]
assert abs(centred - 7 / 8) < 0.05 and abs(found["minus the siblings' mean (RLOO)"][0] - 1) < 0.05
assert found["the reward + 10"][1] > 10 * found["minus the batch's mean"][1]
print(f"mean of 8 as baseline: {centred:.3f} of the gradient; 7/8 = {7 / 8}")

# %% [markdown]
# Two things to remember.
#
# "The group's mean is an unbiased baseline" is often said and **not right**: the mean contains the sample itself, so the estimate
# is too short, by exactly $(n-1)/n$. It points the right way, so only the learning rate notices. RLOO leaves the sample out, and
# is the group mean times $n/(n-1)$, nothing else.
#
# And GRPO's estimate is neither 1 nor 7/8 long, but something that depends on the question. The next section is about that.
#
# ## Dividing by the deviation
#
# GRPO divides by the deviation of the group's rewards. It looks like harmless scaling. But it scales each **question** by itself.
# With rewards 0 and 1 the deviation is $\sqrt{p(1-p)}$, where $p$ is the share of right samples: large for an open question,
# small for one that is nearly always or nearly never solved. Dividing weighs those up.
#
# **Predict, then measure.** A question is solved once in 50 times. By how much is it weighed up against one that is solved half
# the time? (No sampling here: of each possible group the advantage, times its probability.)

# %%
from torch.distributions import Binomial

chances, lines = torch.arange(1, 100) / 100, {}
cases = {"GRPO, groups of 64": (group_relative_advantages, 64), "GRPO, groups of 8": (group_relative_advantages, 8)}
cases |= {"RLOO": (leave_one_out, 8), "Dr. GRPO": (group_mean_baseline, 8)}
for name, (function, n) in cases.items():
    patterns = torch.ones(n + 1, n).tril(diagonal=-1)  # row k: a group with k right samples
    probability = Binomial(n, chances[:, None]).log_prob(torch.arange(n + 1.0)).exp()
    pull = (function(patterns) * patterns).mean(dim=1)  # how hard the group pulls towards what was right
    lines[name] = probability @ pull / (chances * (1 - chances))
    print(f"{name}: a question of 2 % counts {float(lines[name][1] / lines[name][49]):.2f} times one of 50 %")
points = {name: list(zip(chances.tolist(), values.tolist(), strict=True)) for name, values in lines.items()}
title = "GRPO weighs up what is nearly never or nearly always solved"
pictures.curves(points, title, "chance of a right sample", "gradient / exact gradient")

# %% [markdown]
# $1/\sqrt{p(1-p)}$ alone would make that 3.6. It takes large groups to come near: in a group of 8 a rare success is one of 8 at
# least, and the deviation that it is divided by no smaller than 0.35.
#
# Whether that is a bias (Dr. GRPO says so) or what one wants depends on the goal. It can be said exactly: for large groups GRPO
# climbs not the mean of $p$ over the questions, but the mean of $2 \arcsin\sqrt{p}$, whose slope is $1/\sqrt{p(1-p)}$ (Davis and
# Recht 2025). Both are highest where every question is solved.
#
# What surely hurts is the following. All 8 samples are right, and the mixture from above gives a little for brevity.

# %%
nearly = torch.tensor([[1.200, 1.199, 1.199, 1.199, 1.199, 1.199, 1.199, 1.199]])
half = torch.tensor([[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]])
for name, rewards in (("a thousandth briefer", nearly), ("half of them right", half)):
    print(f"{name}: advantage of the first {float(group_relative_advantages(rewards)[0, 0]):+.2f}", end=", ")
    print(f"without the division {float(group_mean_baseline(rewards)[0, 0]):+.4f}")

# %% [markdown]
# A thousandth of reward pulls harder than being right or wrong. In a group where all else is equal, the smallest part of a
# mixture is all that is left, and the division makes it large. So a run that has learned the task begins to learn its noise.
#
# ## Several updates from one batch: the clip
#
# Samples are expensive, so one would like several steps from a batch. After the first, the policy is no longer the one that drew
# the samples. Importance sampling corrects that: each token counts by its **ratio**, new probability over old. But the ratio may
# become anything. PPO's objective (Schulman et al. 2017, equation 7) takes away the reason to move it far:
#
# $$ \min\bigl(\rho A,\ \mathrm{clip}(\rho,\ 1-\epsilon_\text{low},\ 1+\epsilon_\text{high})\, A\bigr) $$
#
# Here it is as our loss computes it. Where it is flat, the token has no gradient.
#
# **Predict, then look.** For a sample that was worse than its siblings: on which side of 1 is its curve flat?

# %%
from course_lib.rl.losses import LossConfig, ResponseTokens, policy_gradient_loss

ratios, nothing = torch.linspace(0.3, 1.8, 151), torch.zeros(151)


def gain(sign, config):
    return -policy_gradient_loss(
        ResponseTokens(ratios.log(), nothing, nothing, nothing + sign, torch.arange(151)), config
    ).loss


settings = {"no clip": LossConfig(clip_low=1.0, clip_high=float("inf")), "PPO, GRPO: 0.2": LossConfig()}
settings["DAPO: 0.2 and 0.28"] = LossConfig(clip_low=0.2, clip_high=0.28)
pictures.clipped_objective(ratios, {name: (gain(1.0, one), gain(-1.0, one)) for name, one in settings.items()})

# %% [markdown]
# Each sign is flat on one side only. A good token that has become **less** likely is pulled back as hard as ever, and a bad one
# that has become more likely too: the `min` sees to that. Swapping the sides is a favourite mistake, and it makes no noise.
#
# Two common sentences about it are wrong. Let a policy over the six answers take steps on one batch, and see.
#
# - "Clipping keeps the ratio within the range." It only stops pushing. What is on its way may go further.
# - "Clipping stabilizes every step." In the first step on a batch, every ratio is 1.

# %%
torch.manual_seed(1)
before = logits.detach().log_softmax(0)
sampled = torch.multinomial(before.exp(), 64, replacement=True)
pulls, old = batch_baseline(reward[sampled].view(8, 8)).flatten(), before[sampled]
moved, steps = logits.detach().clone().requires_grad_(), []
adam = torch.optim.Adam([moved], lr=0.1)
for _ in range(10):
    tokens = ResponseTokens(moved.log_softmax(0)[sampled], old, old, pulls, torch.arange(64))
    token = policy_gradient_loss(tokens, LossConfig())
    ratio = (tokens.logprobs - old).exp().detach()
    steps.append((float(ratio.min()), float(ratio.max()), float(token.clipped.mean())))
    adam.zero_grad()
    token.loss.mean().backward()
    adam.step()

# %%
rows = [[str(place), *(f"{ratio:.2f}" for ratio in step[:2]), f"{step[2]:.0%}"] for place, step in enumerate(steps)]
assert steps[0] == (1.0, 1.0, 0.0) and steps[-1][2] == 1.0 and steps[-1][1] > 1.5
viz.Table("Ten updates on one batch", [">updates before", ">lowest ratio", ">highest ratio", ">clipped"], rows)

# %% [markdown]
# In the end every token is clipped, there is no gradient at all, and still the ratios run on: the optimizer's momentum carries them.
# The clip takes the foot off the accelerator. It is no brake: how far a batch can carry the policy is decided by the learning rate and
# the number of updates.
#
# **Clip-higher.** DAPO raises the upper limit only. A limit is a factor: at 1.2, a token of probability 0.9 never meets it, and one of
# 0.01 meets it at 0.012. So the upper limit holds back what is rare, and all that is new is rare at first. The lower limit stays: a
# wider one would let tokens be pushed down to nothing.
#
# ## Adding up tokens: three averages, one bias
#
# A response's advantage goes to each of its tokens. How are the tokens of all responses averaged?
#
# | average | weight of a token | used by |
# |---|---|---|
# | `sequence` | 1 / (samples × length of its response) | GRPO |
# | `token` | 1 / tokens of all responses | DAPO |
# | `constant` | 1 / (samples × a constant) | Dr. GRPO, REINFORCE, RLOO |

# %%
from course_lib.rl.losses import token_weights

lengths = torch.tensor([4, 20])
rows = []
for average in ("sequence", "token", "constant"):
    weight = token_weights(lengths, average, max_new_tokens=24)
    rows.append([average, *(f"{value:.4f}" for value in weight), *(f"{value:.2f}" for value in weight * lengths)])
columns = ["average", ">token of the 4", ">token of the 20", ">all 4", ">all 20"]
viz.Table("Weights in a response of 4 and one of 20 tokens", columns, rows)

# %% [markdown]
# It seems a matter of taste. It isn't: with `sequence`, a long wrong answer is punished less per token than a short wrong one. Let
# us see what that does. A toy writes right answers and wrong ones. After each token it stops with some probability, one for right
# answers, one for wrong ones, and that is all that it can learn. **Length has nothing to do with the reward**, so an honest gradient
# leaves both lengths where they are, at 10 tokens.
#
# **Predict, then measure.** What do the three averages do to the lengths in 100 steps? And which of them does it matter for how
# many samples a batch has?


# %%
from course_lib.rl.length_toy import length_drift

cases = (("sequence", 64), ("token", 8), ("token", 64), ("constant", 64))
drifts = {(average, group): length_drift(average, group) for average, group in cases}
for (average, group), drift in drifts.items():
    print(
        f"{average:>8}, {group:>2} samples: wrong answers {drift.wrong[-1]:4.1f} tokens, right ones {drift.right[-1]:4.1f}"
    )
ends = {case: drift.wrong[-1] for case, drift in drifts.items()}
assert ends["sequence", 64] > 30 > ends["token", 8] > 12 > ends["constant", 64] > 8
lines = {f"{average}, {group} samples": list(enumerate(drift.wrong)) for (average, group), drift in drifts.items()}
title = "Wrong answers grow, though nobody asked for it"
pictures.curves(lines, title, "step", "mean length of wrong answers (tokens)", log=True)

# %% [markdown]
# With `sequence`, wrong answers grow and right ones shrink to nothing. That is the length bias that Dr. GRPO found in growing
# responses, made pure. `token` is often said to be free of it. Not quite: its divisor contains the sample's own length, so
# it has the same bias, which fades as the batch grows. `constant` has none, because it is the policy gradient itself: a response's
# logprob is the **sum** of its tokens'.
#
# **TRL today.** `loss_type="grpo"`, `"dapo"` (its default), `"dr_grpo"` in `trl/trainer/grpo_trainer.py`. In verl: `agg_loss` in
# `verl/trainer/ppo/core_algos.py`.
#
# ## One ratio for the whole response: GSPO
#
# The reward judges the response. Yet PPO's ratio is a token's. GSPO (Zheng et al. 2025) takes one ratio for the whole, the
# geometric mean of the tokens'. It is **not** the importance weight of the response. That would be the product.
#
# To see the three, we need ratios that are not 1. There is a natural source: the trainer's logprobs of our batch against
# vLLM's. Both hold the same weights, so all of these ratios should be 1.
#
# **Predict, then measure.** How far are they from it? Which of the three is nearest, and which farthest?


# %%
def log_ratios(samples):
    """Return log(trainer / sampler) of each response token, 0 after the response's end."""
    own = samples.padded(trainer.logprobs(samples.groups()))
    return torch.where(samples.rollout.response_mask, own - samples.rollout.logprobs, 0.0)


gap, mask = log_ratios(batch), batch.rollout.response_mask
kinds = {"each token": gap[mask].exp(), "geometric mean": (gap.sum(1) / mask.sum(1)).exp(), "product": gap.sum(1).exp()}
rows = {name: values.clamp(0.1, 10).tolist() for name, values in kinds.items()}
pictures.ratio_strips(rows, (0.8, 1.2), "Equal weights, two engines: three ratios of one batch")

# %% [markdown]
# The errors of $L$ tokens add up in the product, like $\sqrt{L}$ where they are independent, and average out in the mean, like
# $1/\sqrt{L}$. So a product over a thousand tokens is noise, and a clip range for the mean has to be far narrower than a token's:
# GSPO's is 0.0003 and 0.0004. A common mistake is to switch to sequence ratios and keep 0.2, which never clips.
#
# ## Credit to single tokens: PPO's critic
#
# Until here all tokens of a response share one advantage. PPO has a second model, the **critic**, which foretells the reward before
# each token. Where the forecast falls, something went wrong. One token's surprise is $\delta_t = V_{t+1} - V_t$ (at the end, the
# reward takes the next value's place), and GAE (Schulman et al. 2015) spreads it over the tokens before:
# $A_t = \delta_t + \lambda A_{t+1}$ (for $\gamma = 1$, as usual with language models).
#
# A response to 7 + 5, with the values that a good critic might give it. **Predict, then look.** Which token gets the blame: with
# $\lambda = 0$, with 0.95, with 1? And what would GRPO say?

# %%
from course_lib.rl.gae import generalized_advantages

tokens = ["7", " +", " 5", " =", " 1", "3", "."]
values = torch.tensor([[0.55, 0.60, 0.60, 0.65, 0.70, 0.75, 0.05]])
wrong, whole = torch.zeros(1), torch.ones(1, 7, dtype=torch.bool)
rows = {}
for lam in (0.0, 0.95, 1.0):
    rows[f"GAE, λ = {lam:g}"] = generalized_advantages(wrong, values, whole, lam=lam)[0][0].tolist()
rows["group mean"] = [-0.5] * 7  # half of its siblings were right
assert min(rows["GAE, λ = 0"]) == rows["GAE, λ = 0"][5]
pictures.credit(tokens, values[0].tolist(), rows)

# %% [markdown]
# With $\lambda = 0$ the blame is exact, if the critic is. With $\lambda = 1$ it is the reward minus the forecast: the critic may be
# wrong, and the gradient stays unbiased. In between is a trade of one for the other. The critic costs a second model, with all
# sixteen bytes a parameter, and it has to learn first. That is why group-relative methods are so popular: the siblings are the
# critic. (`ValueTrainer` is ours; `loop = RLLoop(..., algorithm="ppo", critic=...)`.)
#
# ## Staying close: three estimators of the KL divergence
#
# Many runs hold on to the policy that they began with, by the KL divergence between the two. Schulman (2020) gives three estimates
# from a sample, with $d = \log \pi_\text{ref} - \log \pi$: k1 $= -d$, k2 $= d^2/2$, k3 $= e^d - d - 1$.
#
# It is often said: use k3, it is unbiased, never negative and has the lowest variance. Distributions over 50 tokens are small
# enough to compute bias and variance exactly.
#
# **Predict, then measure.** Is k3's variance the lowest everywhere?

# %%
from torch.distributions import Categorical, kl_divergence

from course_lib.rl.kl import KL_ESTIMATORS

torch.manual_seed(0)
base, direction = torch.randn(2, 50)
exact_kl, bias, spread = [], {name: [] for name in KL_ESTIMATORS}, {name: [] for name in KL_ESTIMATORS}
for size in (0.1, 0.2, 0.4, 0.8, 1.2, 1.6, 2.0, 2.6):
    policy, reference = base.log_softmax(0), (base + size * direction).log_softmax(0)
    exact_kl.append(float(kl_divergence(Categorical(logits=policy), Categorical(logits=reference))))
    for name, estimator in KL_ESTIMATORS.items():
        value = estimator(policy, reference)
        mean = float(policy.exp() @ value)
        bias[name].append(mean / exact_kl[-1] - 1)
        spread[name].append(float(policy.exp() @ (value - mean) ** 2) ** 0.5 / exact_kl[-1])
pictures.kl_estimators(exact_kl, bias, spread)

# %% [markdown]
# k1 and k3 are unbiased, k2 is not (but it is nearly so while the policies are close, and then it varies least of all three). k3
# varies far less than k1 where a KL term keeps the policies, close together. Far away it varies **more**: $e^d$ explodes where the
# reference gives a token much more than the policy does. (For two normal distributions of equal width k1 wins beyond a KL of about
# 0.63 nats.)
#
# ### As a loss, it is another matter
#
# Here is the claim that deserves care: "k3 is the best estimate of the KL, so put it into the loss". Differentiating an estimate is
# not estimating the derivative: the policy also decides **which** tokens are sampled, and autograd knows nothing of that. The mean
# gradient of each, computed exactly, beside the exact gradients of the divergence in both directions:
#
# **Predict, then measure.** k1 is unbiased. What is its mean gradient?

# %%
policy = base.clone().requires_grad_()
logp, reference = policy.log_softmax(0), (base + 0.8 * direction).log_softmax(0)
p, fixed = logp.exp().detach(), logp.detach()


def slope(value):
    return torch.autograd.grad(value, policy, retain_graph=True)[0]


wanted = slope(logp.exp() @ (logp - reference))  # KL(policy || reference)
other_way = slope(-(reference.exp() @ logp))  # KL(reference || policy)
means = {f"{name} in the loss": slope(p @ estimator(logp, reference)) for name, estimator in KL_ESTIMATORS.items()}
means["k1 in the reward"] = slope(p @ (KL_ESTIMATORS["k1"](fixed, reference) * logp))
means["k3 in the reward"] = slope(p @ (KL_ESTIMATORS["k3"](fixed, reference) * logp))
means["ratio × k3 in the loss"] = slope(p @ ((logp - fixed).exp() * KL_ESTIMATORS["k3"](logp, reference)))

# %%
rows = []
for name, mean in means.items():
    off = [float((mean - target).norm() / target.norm()) for target in (wanted, other_way)]
    rows.append([name, f"{float(mean.norm() / wanted.norm()):.2f}", *(f"{error:.0%}" for error in off)])
    means[name] = off
assert means["k2 in the loss"][0] < 1e-3 > means["k3 in the loss"][1] and means["k3 in the loss"][0] > 0.05
columns = ["where it stands", ">length", ">off KL(policy ‖ ref)", ">off KL(ref ‖ policy)"]
viz.Table("Mean gradient of a KL term, against the exact ones", columns, rows)

# %% [markdown]
# - **k1 in the loss does nothing**, on average. It is pure noise.
# - **k2 in the loss** has exactly the gradient that is wanted, though its value is biased.
# - **k3 in the loss**, as in GRPO's paper, has exactly the gradient of the divergence **the other way round**. It still pulls towards
#   the reference, and near it the two directions agree. But it is not the gradient of the number in your plot.
# - k1 in the **reward** (PPO's way) is right, too. k3 there is not.
# - k3 times the ratio is right, at ratio 1 and beyond: the ratio puts the missing part back (DeepSeek-V3.2, section 3.1; in TRL
#   `use_bias_correction_kl`).
#
# All this is about one token. With several there is one thing more: early tokens also decide where the later ones are. No form in
# the loss sees that, only the reward does, where each token answers for the KL of all that follows. Tang and Munos (2025) work out
# both pitfalls. So: k3 to measure; k2, k3 with the ratio, or k1 in the reward to train. `LossConfig` has `kl_estimator`, and k3 as in
# GRPO's paper is its default.
#
# ## Two more ideas of DAPO
#
# **Overlong shaping.** A response that is cut at the limit gets a wrong answer's reward, whatever it was about to say. DAPO lets
# the punishment grow over the last tokens before the limit, so that there is a slope to feel.
#
# **Dynamic sampling.** A group whose samples are all right or all wrong has advantage 0: it was generated for nothing. DAPO draws
# more prompts until enough groups have a signal.
#
# **Predict, then measure.** At a chance of 0.9 a sample, what share of groups of 8 says nothing? And in our batch? (You predicted
# that above.)

# %%
from course_lib.rl.overlong import overlong_penalty

tokens_written = torch.arange(1, 25)
penalty = overlong_penalty(tokens_written, longest=24, buffer=8)
chances = torch.arange(0, 101) / 100
lines = {"penalty (limit 24, buffer 8)": list(zip(tokens_written.tolist(), penalty.tolist(), strict=True))}
pictures.curves(
    lines, "Overlong shaping: a slope before the wall", "tokens of the response", "added to the reward", low=-1.1
)

# %%
lines = {}
for n in (4, 8, 16):
    nothing_said = chances**n + (1 - chances) ** n
    lines[f"groups of {n}"] = list(zip(chances.tolist(), nothing_said.tolist(), strict=True))
mean = float(batch.rewards.mean())
print(f"our batch: {silent:.0%} of groups say nothing; if all were equally hard: {mean**8 + (1 - mean) ** 8:.0%}")
pictures.curves(
    lines, "The better the policy, the more groups say nothing", "chance of a right sample", "share of groups"
)

# %% [markdown]
# Real questions differ, so more of them are silent than if all were average. Their gradient is zero, so the loop never spends a pass
# on them. What dynamic sampling adds is to **replace** them: the batch keeps its size, at the price of more generation.
#
# ## Replay: one batch, every loss
#
# An algorithm is a handful of decisions on a common core. Here they are.

# %%
from course_lib.rl.algorithms import ALGORITHMS

rows = []
for name, algorithm in ALGORITHMS.items():
    decided, one = algorithm.decisions(), algorithm.loss
    off = one.clip_high == float("inf")
    clip = "off" if off else f"{one.clip_low:g} / {one.clip_high:g}"
    extras = [text for text, on in (("new prompts", decided["dynamic_sampling"]), ("critic", decided["critic"])) if on]
    extras += [f"overlong {decided['overlong_buffer']}"] * bool(decided["overlong_buffer"])
    rows.append([name, decided["advantage"], one.ratio, clip, one.average, ", ".join(extras)])
viz.Table("Seven algorithms", ["name", "advantage", "ratio", "clip low / high", "average", "beside"], rows)

# %% [markdown]
# Comparing them by training seven policies says little: each soon sees other samples, and one run is one throw of dice. So take
# **one** saved batch, and ask each for its gradient on it. Nothing is updated, so all stand on the same weights.
#
# **Predict, then measure.** What is the value of GRPO's loss in the first step on a batch? And which algorithm's gradient points
# away furthest from that of plain REINFORCE?
#
# The batch is two groups in which some samples were right, and two in which all or none were. So that these have something to say
# too, the reward is a mixture here: right, and a little for brevity.

# %%
from course_lib.rl.replay import load_batch, replay, save_batch

mixture = Mixture({"correct": (1.0, number_match), "brief": (0.2, brevity(2, 100))})
few = batch.take(by_signal[:2] + by_signal[-2:])  # two open questions, and two on which all were alike
few.rewards = torch.tensor(mixture(few.problems, few.completions))
save_batch(few, Path(scratch.name, "batch.pt"))
saved = load_batch(Path(scratch.name, "batch.pt"))
first = replay(trainer, saved, max_new_tokens=24, dtype=torch.bfloat16)
cosines = {one.name: one.cosine for one in first}
assert not abs(cosines["rloo"] - cosines["dr_grpo"]) > 0.02
pictures.replay_table(first, "One batch, seven algorithms, the first update")

# %% [markdown]
# **The loss's value says nothing.** Advantages of a group add up to zero. So a loss in which every response counts alike is about
# zero, today and when the policy is perfect. Its gradient is not. Don't watch the value, and don't compare it between algorithms. The
# gradient's norm is no better: it differs by factors, and Adam divides them out.
#
# The **cosine** is what counts. RLOO and Dr. GRPO are multiples of each other, as derived above. REINFORCE differs from them by its
# baseline: the batch's mean pushes down all samples of a hard question, whichever is better. With the division by the deviation,
# brevity in the two groups that have nothing else to say weighs as much as being right in the others. And each average gives
# long responses another say.
#
# What an algorithm does can be seen token by token, too. Here are three responses of one group: the best, and of the others the
# shortest and the longest. Violet tokens are made more likely, orange ones less. Each row is scaled to
# its own largest push.

# %%
order = few.rollout.response_lengths[:8].argsort(stable=True).tolist()
others = [row for row in order if few.rewards[row] < few.rewards[:8].max()] or order
shown, responses = [int(few.rewards[:8].argmax()), others[0], others[-1]], few.rollout.responses()
spoken = [[rollout.tokenizer.decode([token]) for token in responses[row]] for row in shown]
rows = {}
for one in first:
    push = -torch.cat([one.token_gradient[row, : len(responses[row])] for row in shown])
    rows[one.name] = (push / push.abs().max().clamp(min=1e-12)).tolist()
pictures.pushes(
    spoken, rows, "The best response, the shortest of the others and the longest: how hard each token is pushed"
)

# %% [markdown]
# Where the two others differ in length, compare their tokens: with GRPO and GSPO, which average by response, those of the longer one
# get less. Within a response, the small differences are the importance weights of trainer against vLLM. GSPO has none, since its one
# ratio passes the push on to all tokens alike. DAPO may even push a
# short wrong answer up: overlong shaping punished its siblings more. PPO has no critic yet that could tell tokens apart: with one that says 0 everywhere,
# credit fades towards a response's beginning.
#
# ### The second update
#
# In the first update on a batch no clip can act. So take one real step with GRPO, and replay the **same** batch on the weights that
# came of it: now ratios differ from 1.
#
# The replay before that step, but with the trainer's own logprobs for old ones, shows what is clipped for **nothing**: the weights are
# the same, only the micro-batches have another shape.
#
# **Predict, then measure.** Which algorithm clips the most, and why?

# %%
few.advantages = group_relative_advantages(few.rewards.view(-1, 8)).flatten()
few.old_logprobs = few.padded(trainer.logprobs(few.groups()))
for one in replay(trainer, few, ["grpo", "gspo"], max_new_tokens=24, dtype=torch.bfloat16):
    print(f"{one.name} before the step: {one.clipped:.0%} of tokens clipped")
stats = loop.train(few)
second = replay(trainer, few, ["grpo", "dr_grpo", "dapo", "gspo"], max_new_tokens=24, dtype=torch.bfloat16)
pictures.replay_table(second, f"The same batch after one step (learning rate {stats.policy.learning_rate:g})")

# %% [markdown]
# GSPO's range is a thousandth of the others'. Compare its two numbers: what was clipped **before** the step is rounding in bf16 and
# nothing else. Its authors chose the range for responses of thousands of tokens, over which rounding averages out. **A clip range has
# no meaning by itself**: compare it with what a step does, and with the noise. The noise is next. But first the new weights have to go
# to vLLM, with a receipt.

# %%
receipt = loop.sync.push()
receipt.raise_if_failed()
print(receipt)

# %% [markdown]
# ## The mismatch: measure the noise, then choose
#
# vLLM drew the samples, DeepSpeed trains on them, and both hold the same weights. Still their logprobs differ: sums of bf16 numbers
# are rounded, and two programs add in different orders. What looks like a policy that moved may be nothing but that. So measure
# first what is there when **nothing is wrong**, the **noise floor**:
#
# - the trainer against itself, with the same samples in micro-batches of another shape;
# - the trainer against vLLM;
# - both against the same weights computed in fp32.
#
# **Predict, then measure.** In what share of tokens does the ratio lie outside 0.9 to 1.1, in each of the four?

# %%
from course_lib.rl.noise_floor import noise_floor
from course_lib.viz.bug_plots import noise_plot, zoo_plot, zoo_table

floor = noise_floor(trainer, rollout, loop.task.draw(8, random.Random(0)))
print(floor)
noise = gap[mask].abs()[batch.rollout.logprobs[mask].argsort()]  # of the large batch, the least likely token first
rare, common = noise[: len(noise) // 2].mean(), noise[len(noise) // 2 :].mean()
print(
    f"trainer / vLLM: mean |log ratio| {rare:.4f} in the less likely half of tokens, {common:.4f} in the likelier half"
)
noise_plot(floor)

# %% [markdown]
# Nothing is wrong here, and the trainer can't even agree with itself: where it does not, no tuning of vLLM can help. A clip range
# inside this noise throws away tokens at random. And it isn't fair about it: the noise is in the unlikely tokens, and those are the
# ones from which there is most to learn.
#
# So the measurement suggests a range: the tightest that noise alone leaves in one token of a hundred. Where old logprobs are
# computed again by the trainer, its own noise counts. Where vLLM's are taken for old ones, which saves a pass, the noise between
# the two does.

# %%
for old in ("trainer", "sampler"):
    low, high = floor.suggested_clip(0.01, old=old)
    print(f"old logprobs by the {old}: clip_low and clip_high at least {low:.3f} and {high:.3f}")

# %% [markdown]
# ### Truncated importance sampling
#
# The samples come from vLLM's probabilities $\mu$, the gradient is wanted for the trainer's $\pi$. Weights $\pi / \mu$ make the mean
# right again. But one token with a tiny $\mu$ may then outweigh the whole batch, so the weight is cut at 2 or so (TIS, Yao et al. 2025).
#
# **Predict, then measure.** 50 tokens, a sampler that is a little off, as by rounding, and one that is far off. How far from the
# exact gradient is each way on average, and how much does one batch of 64 scatter?

# %%
torch.manual_seed(0)
policy, noise, worth = torch.randn(50).softmax(0), torch.randn(50), (torch.rand(50) < 0.3).float()
gain = worth - policy @ worth
exact, rows = policy * gain, []
for name, size in (("rounding", 0.05), ("far off", 1.0)):
    sampler = (policy.log() + size * noise).softmax(0)
    drawn = torch.multinomial(sampler, 4000 * 64, replacement=True).view(4000, 64)
    ratio, scores = (policy / sampler)[drawn], torch.eye(50)[drawn] - policy
    for way, weight in (("none", torch.ones_like(ratio)), ("full", ratio), ("cut at 2", ratio.clamp(max=2))):
        found = (weight * gain[drawn])[..., None].mul(scores).mean(dim=1)
        errors = [float(one.norm() / exact.norm()) for one in (found.mean(dim=0) - exact, found.std(dim=0))]
        rows.append([name, way, *(f"{error:.0%}" for error in errors)])
viz.Table("The price of each correction", ["sampler", "weights", ">off on average", ">scatter of a batch"], rows)

# %% [markdown]
# At the size of rounding, the correction hardly matters, and costs nothing. Far off, no correction is a wrong gradient, and the cut
# leaves a part of the error. It is a seat belt. It does not repair a broken sync.
#
# ### Leaving out whole sequences
#
# A few responses may come from somewhere else altogether: an old policy, a stale cache, another temperature. Correcting such
# tokens one by one is in vain. **Sequence masking** leaves out the whole response where the geometric mean of its ratios is too far
# from 1. The threshold comes from the noise floor again, and the geometric mean's noise is small (you saw the strips).
#
# To see it work: the same questions, sampled for real at a temperature of 1.5, in a loop that believes in 1.
#
# **Predict, then measure.** Which threshold tells the two batches apart: cutting tokens at 2, or masking sequences beyond 1.1?

# %%
from course_lib.rl import SamplingConfig
from course_lib.rl.sample_batch import sample_batch

asked = [batch.problems[row] for row in range(0, 64, 8)]
hot = sample_batch(rollout, asked, SamplingConfig(24, temperature=1.5, n_samples_per_prompt=8, seed=0))
rows, limits = [], (1.05, 1.1, 1.5)
for name, samples in (("healthy", batch.take(range(8))), ("too hot", hot)):
    gap, mask = log_ratios(samples), samples.rollout.response_mask
    mean = (gap.sum(1) / mask.sum(1)).abs().exp()
    masked = (f"{float((mean > limit).float().mean()):.0%}" for limit in limits)
    rows.append([name, f"{float((gap[mask].exp() > 2).float().mean()):.1%}", *masked])
columns = ["batch", ">tokens cut at 2", *(f">responses masked beyond {limit}" for limit in limits)]
viz.Table("What each correction sees", columns, rows)

# %% [markdown]
# The token weights say little: tokens of a hot sampler are mostly ones that the trainer finds **less** likely, and a cut from above
# does not see those. The sequence sees it at once.
#
# **Today.** TRL: `vllm_importance_sampling_correction` with its mode `sequence_mask`. verl: `rollout_corr_helper.py`. SkyRL and
# OpenRLHF have masks by geometric mean, too. All of them treat the symptom. The next section is about causes.
#
# ## The bug zoo
#
# Here are eight bugs that people really shipped. None of them raises an error. Most of them train, and some train quite well: an RL
# loop is so forgiving that a wrong gradient often still points uphill. That is what makes them expensive.

# %%
from course_lib.rl.bug_zoo import BUGS, BugLab, catch

rows = [[bug.title, bug.what, bug.source] for bug in BUGS.values()]
viz.Table("Eight bugs", ["bug", "what goes wrong", "seen in"], rows)

# %% [markdown]
# Each is a switch in our loop. It runs the faulty code on the real engines: the sync that loads nothing, the cache that is not
# reset, the mask that compares with the pad token. For each the lab takes the same batch twice, with the bug and without, and asks
# one **detector**, which a real run could have, too.
#
# **Predict, then measure.** Five of the eight lie between the engines, three between the samples and the loss. Which of them would
# you see in the curve of the loss? Which in the difference of trainer's and sampler's logprobs? And what could show the rest?

# %%
lab = BugLab(folder, trainer=trainer, rollout=rollout)
caught = [catch(bug, lab) for bug in BUGS.values()]
assert all(one.detected or one.absent for one in caught) and not any(one.false_alarm for one in caught)
zoo_table(caught)

# %%
zoo_plot(caught)

# %% [markdown]
# The first five change what stands between trainer and sampler, and each has a shape of its own: a stale engine scatters, a wrong
# temperature bends, a cut-off shifts. The stale `lm_head` is the hardest: so near to the new one that its picture is of the tensor
# itself. The **receipt** finds them, because it does not ask "how far?" but "which tensor, which cache,
# which temperature?".
#
# The last three leave all logprobs right. No comparison of engines can see them. What shows them is an **audit**: the loss's
# derivative by each token's logprob, divided by the advantage, is the weight that the token got. It should be 1 over the number of
# tokens, for every token, however the batch is cut. Three lines of autograd, once a run.

# %%
from textwrap import fill

for one in caught:
    print(fill(one.message, 110, subsequent_indent="    "))

# %% [markdown]
# ## The curve is flat. What now?
#
# In this order, because each step is cheaper than the next, and makes the next one mean something:
#
# 1. **Read ten samples**, with their rewards. (Cheated? Cut off? Always the same?)
# 2. Is there a signal at all: the share of groups that say something.
# 3. The receipts: are the weights that sample the weights that were trained?
# 4. The mismatch against the noise floor of **this** machine.
# 5. The audit of the loss, once.
# 6. The learning rate: 0 for ten steps. What moves now, is not learning.
# 7. Then the algorithm.
#
# ## What was measured
#
# On this machine, in this notebook.

# %%
drifted = " / ".join(f"{ends[kind, 64]:.1f}" for kind in ("sequence", "token", "constant"))
off = " and ".join(f"{error:.0%}" for error in means["k3 in the loss"])
summary = [
    ["Groups of our batch that say nothing", f"{silent:.0%}"],
    ["The group's mean as baseline: length of the gradient (7/8 by theory)", f"{centred:.3f}"],
    ["Reward hacking: generous and strict rule at the end", f"{seen[-1][0]:.2f} and {seen[-1][1]:.2f}"],
    ["Wrong answers after 100 steps: sequence / token / constant", f"{drifted} tokens"],
    ["k3 as a loss: off the gradient of KL(policy ‖ ref), of KL(ref ‖ policy)", off],
    *([f"Ratios outside 0.9 to 1.1, no bug: {one.name}", f"{one.outside():.1%}"] for one in floor),
    ["Bugs caught", f"{sum(one.detected for one in caught)} of {len(caught)}"],
    ["This notebook", f"{time.perf_counter() - started:.0f} s"],
]
viz.Table("Lesson 07 on this machine", ["what", ">found"], summary)

# %%
rollout.shutdown()
scratch.cleanup()

# %% [markdown]
# How can one number tell the weights which way to move? It doesn't. It says how much to trust a direction that the samples brought
# with them: the score of what was said. And whether a flat curve is the algorithm or a bug, one can't see in the curve.
#
# ## Exercises
#
# A reward, the response mask, the advantages of RLOO and GRPO, the clipped loss, its averages, GSPO's ratio, the KL terms, the
# correction of the mismatch, and GAE: [exercises/07_policy_gradients.ipynb](../exercises/07_policy_gradients.ipynb).
#
# ## Sources
#
# - Williams, *Simple statistical gradient-following algorithms for connectionist reinforcement learning* (Machine Learning, 1992):
#   the score function and the baseline.
# - Schulman et al., *Proximal policy optimization algorithms* (arXiv 1707.06347), and *High-dimensional continuous control using
#   generalized advantage estimation* (arXiv 1506.02438).
# - Ahmadian et al., *Back to basics: revisiting REINFORCE-style optimization* (arXiv 2402.14740): RLOO.
# - Shao et al., *DeepSeekMath* (arXiv 2402.03300): GRPO, section 4.1.
# - Liu et al., *Understanding R1-Zero-like training* (arXiv 2503.20783): Dr. GRPO, section 3.
# - Yu et al., *DAPO* (arXiv 2503.14476), section 3.
# - Zheng et al., *Group sequence policy optimization* (arXiv 2507.18071), sections 4 and 5.
# - Davis and Recht, *What is the objective of reasoning with reinforcement learning?* (arXiv 2510.13651): the arcsine.
# - Schulman, *Approximating KL divergence* (http://joschu.net/blog/kl-approx.html, 2020).
# - Tang and Munos, *On a few pitfalls in KL divergence gradient estimation for RL* (arXiv 2506.09477).
# - DeepSeek-AI, *DeepSeek-V3.2* (arXiv 2512.02556), section 3.1: k3 with the ratio, sequence masking.
# - Yao et al., *Your efficient RL framework secretly brings you off-policy RL training* (2025): the mismatch, and TIS.
# - Gao, Schulman and Hilton, *Scaling laws for reward model overoptimization* (arXiv 2210.10760).
# - Issues of TRL, verl, NeMo-RL, prime-rl, open-instruct and vLLM: as named in the zoo's table.
