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
# # 06 Exercises: training
#
# Replace each `raise NotImplementedError` by your code, run the cell, then the one with `check`. It says what holds, what does
# not, and shows a small input on which your code goes wrong. You can run it as often as you like.
# The exercises do not depend on one another. They need PyTorch alone: where an exercise has several ranks, they are threads
# of this kernel. The lesson is [06_deepspeed_training](../notebooks/06_deepspeed_training.ipynb).

# %%
import math

import torch
from torch import Tensor
from torch.nn import functional as F

from course_lib.grading import check

# %% [markdown] exercise="06.zero_memory"
# ## Who pays for 16 bytes?
#
# Will it fit? That is the first question of every training run, and for all but activations the answer is arithmetic.
# Mixed-precision Adam keeps five tensors, each with as many elements as the model has parameters: bf16 `weights` and
# `gradients`, and in fp32 the `master` copy of the weights and Adam's moments `exp_avg` and `exp_avg_sq`. ZeRO's stages differ
# only in which of them a rank holds as a whole, and of which it holds a slice.
#
# Write `zero_memory`: the bytes of these five that **one rank** holds. Return two dicts with the five names
# as keys, for the device's memory and for the host's. What is not there is left out, or 0.
#
# - Stage 0 partitions nothing; stage 1 master and moments; stage 2 the gradients, too; stage 3 the weights, too.
# - What is partitioned is padded at the end, by as little as makes all ranks' slices equal. Each tensor is padded as a whole.
# - With `offload_optimizer`, asked for with stages 2 and 3 only, the host updates the weights: the rank's slices of master,
#   moments and gradients are in the host's memory, the weights on the device (ZeRO-Offload, arXiv 2101.06840).
#
# This is the papers' accounting. What DeepSpeed holds besides, buffers and further copies of gradients, the lesson counts.
#
# **Expected**: for 10 parameters on 4 ranks at stage 2, the device has
# `{"weights": 20, "gradients": 6, "master": 12, "exp_avg": 12, "exp_avg_sq": 12}` and the host `{}`.
#
# <details><summary>Hint 1: five names, two numbers each</summary>
#
# A dict from each name to its bytes an element and the first stage that partitions it makes the rest a loop.
#
# </details>
#
# <details><summary>Hint 2: rounding up</summary>
#
# `-(-numel // ranks)` is numel / ranks rounded up. Round the elements, and multiply after that.
#
# </details>


# %% exercise="06.zero_memory"
def zero_memory(
    numel: int, ranks: int, stage: int, offload_optimizer: bool = False
) -> tuple[dict[str, int], dict[str, int]]:
    """Return a rank's bytes on the device and on the host, by tensor.

    Args:
        numel: the model's parameters.
        ranks: how many processes train together.
        stage: of ZeRO, 0 to 3.
        offload_optimizer: whether the optimizer's work is the host's.
    """
    # SOLUTION
    tensors = {"weights": (2, 3), "gradients": (2, 2), "master": (4, 1), "exp_avg": (4, 1), "exp_avg_sq": (4, 1)}
    device, host = {}, {}
    for name, (size, first_stage) in tensors.items():
        elements = -(-numel // ranks) if stage >= first_stage else numel
        place = host if offload_optimizer and name != "weights" else device
        place[name] = size * elements
    return device, host
    # END SOLUTION


# %% exercise="06.zero_memory"
check("06.zero_memory", zero_memory)

# %% [markdown] exercise="06.partition"
# ## An optimizer in slices
#
# This is ZeRO's first stage, and the idea of all of them. Every rank needs the updated weights. But nobody says that every rank
# has to compute all of them: each updates its own slice, and they tell one another the results.
#
# Write `ShardedAdamW`. Each rank makes one. `__init__` gets all weights, `step` gets this rank's own gradient of all weights, and
# both are flat bf16 tensors. After `step` every rank returns the same new weights: those that AdamW gives on the mean of all
# ranks' gradients. And:
#
# - a rank keeps master copy (fp32) and moments of **its slice only**. Rank 0 has the first of `comm.size` equal, contiguous
#   slices. What does not divide is padded with zeros at the end, and nobody outside sees the padding;
# - inside, `torch.optim.AdamW` with its defaults does the arithmetic;
# - what is sent is bf16, and no more than needed.
#
# `comm` has `rank`, `size` and three collectives. When one rank calls one, all ranks have to. They take a flat tensor, and what
# they return has its dtype; `size` must divide the length of what is scattered.
#
# | collective | returns | a rank that gave n bytes sends |
# |---|---|---:|
# | `reduce_scatter(tensor)` | this rank's slice of the mean of all tensors | n (size - 1) / size |
# | `all_gather(tensor)` | all ranks' tensors, joined | n (size - 1) |
# | `all_reduce(tensor)` | the mean of all tensors | 2 n (size - 1) / size |
#
# **Expected**: of 4,096 weights on 4 ranks, a slice is 1,024. A rank holds 3 · 4 · 1,024 = 12,288 bytes of it (and may keep the
# slice's gradient, 4,096 more), and sends 6,144 bytes of gradients and 6,144 of weights in a step.
#
# <details><summary>Hint 1: what DeepSpeed does</summary>
#
# It gives the optimizer one parameter only: this rank's slice of the master copy. Before a step, it sets that parameter's
# `.grad`.
#
# </details>
#
# <details><summary>Hint 2: padding</summary>
#
# `torch.nn.functional.pad(flat, (0, more))` adds zeros at the end, and `-len(flat) % comm.size` says how many.
#
# </details>
#
# <details><summary>Hint 3: a slice that is larger than it looks</summary>
#
# A slice of a tensor is a view: as long as it lives, the whole tensor's memory does. Make fp32 of the slice, not a slice of fp32.
#
# </details>


# %% exercise="06.partition"
class ShardedAdamW:
    """AdamW whose state is partitioned over the ranks.

    Args:
        weights: `[numel]`, bf16, the same on every rank.
        comm: this rank's `rank`, the `size` of the group, and its collectives.
        lr: the learning rate.
    """

    def __init__(self, weights: Tensor, comm, lr: float):
        # SOLUTION
        self.comm, self.numel = comm, len(weights)
        mine = self._padded(weights).chunk(comm.size)[comm.rank]
        self.master = torch.nn.Parameter(mine.float())
        self.adam = torch.optim.AdamW([self.master], lr=lr)
        # END SOLUTION

    def step(self, gradient: Tensor) -> Tensor:
        """Take a step with this rank's gradient `[numel]`, bf16; return all new weights `[numel]`, bf16."""
        # SOLUTION
        self.master.grad = self.comm.reduce_scatter(self._padded(gradient)).float()
        self.adam.step()
        return self.comm.all_gather(self.master.detach().bfloat16())[: self.numel]

    def _padded(self, flat: Tensor) -> Tensor:
        return F.pad(flat, (0, -len(flat) % self.comm.size))
        # END SOLUTION


# %% [markdown] exercise="06.partition"
# Your optimizer on two ranks with five weights. What each rank sent is in `comm.sent`.

# %% exercise="06.partition"
from course_lib.grading.exercises.training.ranks import run_ranks


def try_it(comm) -> tuple:
    weights = torch.ones(5, dtype=torch.bfloat16)
    new = ShardedAdamW(weights, comm, lr=0.1).step(weights * (comm.rank - 3))
    return comm, new.tolist(), comm.sent


run_ranks(2, try_it)

# %% exercise="06.partition"
check("06.partition", ShardedAdamW)

# %% [markdown] exercise="06.accumulate"
# ## Small batches, one big step
#
# A batch that does not fit into memory is cut into micro-batches, and their gradients add up. The step should be the one of the
# whole batch, but often it is not. Until late 2024, widely used libraries averaged each micro-batch's loss on its own
# ([Fixing Gradient Accumulation](https://huggingface.co/blog/gradient_accumulation)): a token in a micro-batch with few target
# tokens then counts more than one among many. The curves look fine. Adam hides even a gradient that is ten times too large, so
# the check uses SGD.
#
# Write `train_step`. Each micro-batch is a pair of `ids` and `labels`, both `[rows, length]`. `labels` holds for each position
# the token to predict there, or -100 where there is nothing to learn; it is shifted already. `model(ids)` returns the logits
# `[rows, length, vocab]`. The loss is the mean cross entropy over **all target tokens of all micro-batches**.
#
# - Take one optimizer step, and return the batch's loss, a float.
# - One micro-batch's activations are in memory at a time.
# - A micro-batch may have no target tokens at all; the whole batch has some.
#
# **Expected**: with 30 target tokens in one micro-batch and 10 in the other, each of the 40 tokens counts 1/40. If the mean
# losses are 2.0 and 4.0, 2.5 is returned.
#
# <details><summary>Hint 1: what you must know before the first backward pass</summary>
#
# The number of target tokens of the whole batch. You need no model to count them.
#
# </details>
#
# <details><summary>Hint 2: sums, not means</summary>
#
# `F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="sum")` adds up the target tokens' losses and leaves out
# those of -100. Of no tokens, it is 0; a mean would be NaN.
#
# </details>
#
# <details><summary>Hint 3: memory</summary>
#
# `backward()` frees a micro-batch's activations. When does it have to be called?
#
# </details>


# %% exercise="06.accumulate"
def train_step(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, micro_batches: list[tuple[Tensor, Tensor]]
) -> float:
    """Take one optimizer step on the whole batch; return its mean loss over target tokens.

    Args:
        model: gives the logits `[rows, length, vocab]` of ids `[rows, length]`.
        optimizer: of the model's parameters, whose gradients may hold something from before.
        micro_batches: pairs of ids and labels `[rows, length]`; a label of -100 is no target.
    """
    # SOLUTION
    tokens = sum(int((labels != -100).sum()) for _, labels in micro_batches)
    optimizer.zero_grad()
    total = 0.0
    for ids, labels in micro_batches:
        summed = F.cross_entropy(model(ids).flatten(0, 1), labels.flatten(), reduction="sum")
        share = summed / tokens
        share.backward()
        total += share.item()
    optimizer.step()
    return total
    # END SOLUTION


# %% exercise="06.accumulate"
check("06.accumulate", train_step)

# %% [markdown] exercise="06.master_weights"
# ## Changes too small for bf16
#
# A bf16 number has 8 bits of precision. Between 1 and 2 the next number is 1/128 away, and a change by less than half of that is
# rounded away. Learning rates of RL are around 1e-6. A model that was updated in bf16 would not learn slowly: most of its
# weights would not move at all. So the optimizer keeps an fp32 copy, and the model gets it rounded.
#
# Write `mixed_precision_step`: one step of Adam (no weight decay) for one tensor.
#
# - `weight` is the model's own bf16 tensor: change it **in place**.
# - `state` is a dict that is empty at the first step, and belongs to you. Keep the fp32 tensors `master`, `exp_avg` and
#   `exp_avg_sq` in it, under these names, and what else you need.
#
# Adam, for step t = 1, 2, ... with the gradient g, and m and v (`exp_avg` and `exp_avg_sq`) 0 at the start:
#
# ```
# m = betas[0] · m + (1 - betas[0]) · g
# v = betas[1] · v + (1 - betas[1]) · g²
# master = master - lr · (m / (1 - betas[0]ᵗ)) / (√(v / (1 - betas[1]ᵗ)) + eps)
# ```
#
# **Expected**: a weight of 1.0 with gradients of 1.0 at `lr=5e-4` is 1.0 still after three steps, and 0.9961 after four.
#
# <details><summary>Hint 1: in which dtype is this computed?</summary>
#
# PyTorch computes bf16 with bf16 in bf16. `gradient.float()` first, and all that follows is fp32.
#
# </details>
#
# <details><summary>Hint 2: in place</summary>
#
# `weight.copy_(x)` writes into the tensor's memory, and rounds. `weight = x` only gives a name of your function another meaning.
#
# </details>


# %% exercise="06.master_weights"
def mixed_precision_step(
    weight: Tensor,
    gradient: Tensor,
    state: dict,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
) -> None:
    """Take one Adam step in fp32, and round the result into `weight`.

    Args:
        weight: bf16, changed in place.
        gradient: bf16, of the same shape; it stays as it is.
        state: what the steps before left here.
        lr: the learning rate.
        betas: how much of each moment stays from step to step.
        eps: added to the root of the second moment.
    """
    # SOLUTION
    if not state:
        zeros = torch.zeros_like(weight, dtype=torch.float32)
        state |= {"step": 0, "master": weight.float(), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
    state["step"] += 1
    g = gradient.float()
    for name, beta, new in zip(("exp_avg", "exp_avg_sq"), betas, (g, g * g), strict=True):
        state[name] = beta * state[name] + (1 - beta) * new
    mean, square = (
        state[name] / (1 - beta ** state["step"]) for name, beta in zip(("exp_avg", "exp_avg_sq"), betas, strict=True)
    )
    state["master"] -= lr * mean / (square.sqrt() + eps)
    weight.copy_(state["master"])
    # END SOLUTION


# %% exercise="06.master_weights"
check("06.master_weights", mixed_precision_step)

# %% [markdown] exercise="06.sft_labels"
# ## What is there to learn in a conversation?
#
# In supervised fine-tuning the policy reads the whole conversation, and learns what the assistant says: its text, and the token
# that ends its turn. Without that one it would never stop. Most ways to get this wrong leave no trace in the loss curve.
#
# Write `sft_batch`. A conversation is a list of turns `(role, header, content)`: `header` holds the ids that open the turn, such
# as those of `<|im_start|>assistant`, and `content` those of its text, the last one ending the turn. Return two tensors
# `[rows, longest]`:
#
# - `ids`: each conversation's tokens, turn after turn, padded at the end with `pad_id`;
# - `labels`: for each position the token that the logits **at this position** should predict, where the assistant's content has
#   that token; -100 everywhere else. The shift is done here, and by nobody after you.
#
# The token that pads may be the one that ends a turn; with many models it is.
#
# **Expected**: one conversation `[("user", [1, 6], [10, 2]), ("assistant", [1, 7], [11, 2])]` gives
# `ids = [[1, 6, 10, 2, 1, 7, 11, 2]]` and `labels = [[-100, -100, -100, -100, -100, 11, 2, -100]]`.
#
# <details><summary>Hint 1: two lists that grow together</summary>
#
# For each turn, lengthen a list of ids, and a list of labels that stand where their tokens stand. Shift when both are complete.
#
# </details>
#
# <details><summary>Hint 2: by position</summary>
#
# While you build the lists you know of each token who says it. Afterwards you would have to guess from its id.
#
# </details>


# %% exercise="06.sft_labels"
def sft_batch(conversations: list[list[tuple[str, list[int], list[int]]]], pad_id: int) -> tuple[Tensor, Tensor]:
    """Return ids and labels, both int64 `[rows, longest]`.

    Args:
        conversations: each a list of turns (role, header, content); roles are `system`, `user` and `assistant`.
        pad_id: fills the rows of `ids`.
    """
    # SOLUTION
    rows = []
    for conversation in conversations:
        ids, labels = [], []
        for role, header, content in conversation:
            ids += header + content
            labels += [-100] * len(header) + (content if role == "assistant" else [-100] * len(content))
        rows.append((ids, labels[1:]))
    longest = max(len(ids) for ids, _ in rows)
    padded_ids = [ids + [pad_id] * (longest - len(ids)) for ids, _ in rows]
    padded_labels = [labels + [-100] * (longest - len(labels)) for _, labels in rows]
    return torch.tensor(padded_ids), torch.tensor(padded_labels)
    # END SOLUTION


# %% exercise="06.sft_labels"
check("06.sft_labels", sft_batch)

# %% [markdown] exercise="06.bradley_terry"
# ## Which answer is better?
#
# People can't say that an answer is worth 0.73, but they can say which of two is better. Bradley and Terry's model makes a reward
# of such choices: the chosen answer wins with probability `sigmoid(r_chosen - r_rejected)`, and a reward model is trained to make
# the choices that were made likely.
#
# Write `bradley_terry_loss`: the mean over pairs of `-log sigmoid(r_chosen - r_rejected)`. A reward model gives a score for every
# token. An answer's reward r is the score of its **last token**, the first one that has seen all of it. Rows are padded at the
# end; scores in the padding mean nothing.
#
# Margins of a trained reward model get large, and a pair that is very wrong needs the strongest pull. Loss and gradient have to
# be right and finite for a margin of -3,000, too.
#
# **Expected**: for `chosen = [[0., 2., 9.]]` with length 2 and `rejected = [[0., 0., 1.]]` with length 3, the margin is 1 and the
# loss 0.3133.
#
# <details><summary>Hint 1: one score from each row</summary>
#
# `scores[torch.arange(rows), columns]` picks one element from each row; so does `scores.gather`. A text of n tokens has its last
# one at position n - 1.
#
# </details>
#
# <details><summary>Hint 2: large margins</summary>
#
# `sigmoid(-3000.)` is 0, and its logarithm -inf. `-log sigmoid(x)` is `log(1 + exp(-x))`, and PyTorch has functions that compute
# it in one.
#
# </details>


# %% exercise="06.bradley_terry"
def bradley_terry_loss(chosen: Tensor, rejected: Tensor, chosen_lengths: Tensor, rejected_lengths: Tensor) -> Tensor:
    """Return the loss, a scalar with a gradient.

    Args:
        chosen: scores `[pairs, length]` of the tokens of each pair's better text.
        rejected: scores `[pairs, length]` of the other one's.
        chosen_lengths: `[pairs]`, how many tokens each chosen text has, 1 or more.
        rejected_lengths: `[pairs]`, the same of the rejected ones.
    """
    # SOLUTION
    rows = torch.arange(len(chosen))
    margins = chosen[rows, chosen_lengths - 1] - rejected[rows, rejected_lengths - 1]
    return -F.logsigmoid(margins).mean()
    # END SOLUTION


# %% exercise="06.bradley_terry"
check("06.bradley_terry", bradley_terry_loss)

# %% [markdown] exercise="06.checkpoint"
# ## One model out of slices
#
# A ZeRO checkpoint is a file from each rank, with that rank's slice of the fp32 master copy. No other program can load that.
# DeepSpeed's `zero_to_fp32.py` makes one model of it, and so will you. With all parameters in one group, the slices were cut in one
# of two ways:
#
# - **stages 1 and 2**: all parameters were flattened and joined, in the order of `shapes`. That was padded at the end, perhaps by
#   more than needed, and cut into equal slices, one for each rank;
# - **stage 3**: each parameter was flattened, padded and cut **on its own**, with as little padding as gives equal slices. A
#   rank's slice is its pieces of all parameters, joined in the order of `shapes`.
#
# Write `consolidate`. It returns the model's state dict: every parameter in its shape, in fp32. `tied` names weights that are
# another one, such as `{"lm_head.weight": "model.embed_tokens.weight"}`. They were saved once; in the state dict the same tensor
# stands under both names.
#
# **Expected**: with `shapes = {"a": (3,), "b": (2, 2)}` on two ranks, stage 1 saves `[a0, a1, a2, b0]` and `[b1, b2, b3, pad]`,
# stage 3 saves `[a0, a1, b0, b1]` and `[a2, pad, b2, b3]`. Both give a = `[a0, a1, a2]` and b = `[[b0, b1], [b2, b3]]`.
#
# <details><summary>Hint 1: a place that moves on</summary>
#
# At stage 3 every rank's piece of a parameter begins at the same place of its slice. How far does that place move on for the next
# parameter?
#
# </details>
#
# <details><summary>Hint 2: sizes</summary>
#
# `math.prod(shape)` is the number of elements, also for a scalar, whose shape is `()`.
#
# </details>


# %% exercise="06.checkpoint"
def consolidate(
    shards: list[Tensor], shapes: dict[str, tuple[int, ...]], stage: int, tied: dict[str, str]
) -> dict[str, Tensor]:
    """Return the state dict of the model that was saved in slices.

    Args:
        shards: each rank's slice, flat fp32 tensors of one length, in the order of the ranks.
        shapes: each parameter's shape, by name, in the order in which they were saved.
        stage: of ZeRO, 1, 2 or 3.
        tied: names of further weights, and of the parameter that each of them is.
    """
    # SOLUTION
    state, start = {}, 0
    for name, shape in shapes.items():
        numel = math.prod(shape)
        if stage == 3:
            share = -(-numel // len(shards))
            flat = torch.cat([shard[start : start + share] for shard in shards])[:numel]
        else:
            share = numel
            flat = torch.cat(shards)[start : start + numel]
        state[name] = flat.view(shape)
        start += share
    return state | {name: state[other] for name, other in tied.items()}
    # END SOLUTION


# %% exercise="06.checkpoint"
check("06.checkpoint", consolidate)
