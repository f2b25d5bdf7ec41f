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
# # 06 Training with DeepSpeed: sixteen bytes a parameter, and how to spread them
#
# **After this lesson** you can say where training's memory goes and predict it, write one mixed-precision step in plain
# PyTorch that equals DeepSpeed's, say what each stage of ZeRO partitions and what it pays for that, start several processes
# and survive the death of one, fine-tune a policy, train a reward model, and carry both into vLLM.
#
# **Time** 60 minutes, of which about five are computing. **You need** [lesson 00](00_the_loop.ipynb), and to know what a
# gradient and an optimizer are. One process of a training job is called a **rank**.
#
# > **The question.** Llama-3.1-8B has 16 GB of weights in bf16. A GPU with 80 GB generates with it, with much room for text.
# > The same GPU can't take a single training step of it. Where do the bytes go? And if there are more GPUs, who holds what?

# %%
import os
import time
from pathlib import Path

import torch
from transformers import AutoTokenizer

from course_lib import machine, viz
from course_lib.kv_cache import MODELS, ModelShape
from course_lib.models import load_policy
from course_lib.training import Policy, PolicyTrainer, TrainerConfig, micro_batches, pack
from course_lib.viz import lesson_06 as pictures

started = time.perf_counter()
machine.prepare()
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
shape, tokenizer = ModelShape.from_config(folder), AutoTokenizer.from_pretrained(folder)
machine.versions()

# %% [markdown]
# ## The job of this lesson
#
# The policy is to answer every addition in one form, such as "7 + 5 = 12.". Conversations show it how: the user asks, the
# assistant answers. Training makes the assistant's tokens more likely. All others are only read. That is **supervised
# fine-tuning**, and most RL runs begin with it.

# %%
from course_lib.training import addition_conversations, supervised_groups, supervised_loss

chats = addition_conversations(320)
lessons, held_out = chats[:256], chats[256:]
groups = supervised_groups(tokenizer, lessons)
prompt, response = groups[0].prompt_ids, groups[0].responses[0]
pictures.loss_mask([tokenizer.decode([token]) for token in prompt + response], answer=len(prompt))

# %% [markdown]
# The last token that is trained ends the turn. Whoever leaves it out gets a policy that answers well and never stops.
#
# ## Sixteen bytes a parameter
#
# Training in mixed precision with Adam holds, for every weight:
#
# | what | bytes | what for |
# |---|---|---|
# | the weight in bf16 | 2 | the forward and the backward pass compute with it |
# | its gradient in bf16 | 2 | the backward pass writes it, the optimizer reads it |
# | the weight in fp32 | 4 | the **master copy**, to which updates are added |
# | the mean of its gradients, fp32 | 4 | Adam's first moment |
# | the mean of their squares, fp32 | 4 | Adam's second moment |
#
# Sixteen, and twelve of them are the optimizer's (ZeRO paper, section 3.1). Lesson 00 counted them all together. Here is each
# by its name, out of the tensors of a living DeepSpeed engine, in the middle of its second step.
#
# **Predict, then measure.** How many GB is that for the policy? (SmolLM2 has 134.5 million parameters.) And for
# Llama-3.1-8B?

# %%
from course_lib.training.holdings import STATES, before_each_step, holdings
from course_lib.training.memory import PeakMemory
from course_lib.training.zero_memory import ZeroPlan, training_memory

trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=0, micro_batch_tokens=512))
batch = groups[:16]
loss = supervised_loss(sum(len(group.responses[0]) for group in batch))
seen = []
with before_each_step(trainer, lambda _: seen.append(holdings(trainer))), PeakMemory() as peak:
    steps = [trainer.step(batch, loss) for _ in range(2)]
held, passes = seen[steps[0].micro_batches], steps[0].micro_batches
rows, length = pack(next(micro_batches(batch, 512))).input_ids.shape
predicted = training_memory(shape, ZeroPlan(stage=0), tokens=rows * length, length=length).device
found = {"predicted": predicted, "measured": {state: held.bytes(state) for state in STATES}}
pictures.memory({name: {state: parts[state] for state in STATES} for name, parts in found.items()}, held.parameters)

# %%
eight = training_memory(MODELS["Llama-3.1-8B"], ZeroPlan(stage=0), tokens=4096, length=4096).device
states = sum(held.bytes(state) for state in STATES)
print(f"{folder.name}: {states / 1e9:.2f} GB; Llama-3.1-8B: {sum(eight[state] for state in STATES) / 1e9:.0f} GB")
print(f"the fullest moment, per parameter: {peak.bytes / held.parameters:.1f} bytes")
print(f"predicted for it:                  {sum(predicted.values()) / held.parameters:.1f} bytes")

# %% [markdown]
# So that is why. And 16 bytes is what training holds **all the time**. The fullest moment holds more: it is the optimizer's step,
# which copies the gradients to fp32 before it uses them (4 bytes more), or, with much text, the beginning of the backward pass,
# when all activations are there. They have a section of their own below.
#
# A common mistake is to plan with "bf16 training needs 2 + 2 bytes": the weights and their gradients. That is a quarter of it.
#
# ## One step by hand
#
# What does DeepSpeed do with these tensors? Here is a step in plain PyTorch, on the same 16 conversations, cut into the same
# micro-batches. First what is held.

# %%
policy = Policy(folder).to(machine.device())  # in bf16
weights = list(policy.parameters())
master = [weight.detach().float() for weight in weights]
adam = torch.optim.AdamW(master, lr=TrainerConfig().learning_rate, weight_decay=0.0, fused=True)

# %% [markdown]
# Then two steps. Forward and backward pass see bf16 weights only. The optimizer sees fp32 weights only. Between the two stand
# two conversions: gradients go up to fp32, new weights come down to bf16. That is **mixed precision** (Micikevicius et al.
# 2017).
#
# **Predict, then measure.** DeepSpeed took the same two steps above. How many digits of the loss agree? And what share of the
# weights is equal, bit for bit?

# %%
by_hand = []
for _ in range(2):
    by_hand.append(0.0)
    for cut in micro_batches(batch, 512):
        packed = pack(cut).to(machine.device())
        share = loss(packed, *policy(packed))
        share.backward()
        by_hand[-1] += share.item()
    for copy, weight in zip(master, weights, strict=True):
        copy.grad, weight.grad = weight.grad.float(), None
    norm = float(torch.nn.utils.clip_grad_norm_(master, max_norm=1.0))
    adam.step()
    for copy, weight in zip(master, weights, strict=True):
        weight.data.copy_(copy)

# %%
pairs = zip(weights, (weight for _, weight in trainer.named_weights()), strict=True)
same = sum(int((mine == theirs).sum()) for mine, theirs in pairs) / held.parameters
for mine, theirs in zip(by_hand, steps, strict=True):
    print(f"loss by hand {mine:.6f}, DeepSpeed {theirs.loss:.6f}")
print(f"equal weights after two steps: {same:.4%}")
assert same > 0.99

# %% [markdown]
# That is all that DeepSpeed does on one rank. The rest of this lesson is about doing it on several.
#
# **DeepSpeed today.** A step is `DeepSpeedEngine.forward`, `backward` and `step` in `deepspeed/runtime/engine.py`. What a step
# does with the master copy depends on the stage: `deepspeed/runtime/zero/stage_1_and_2.py` and `stage3.py`. Ours around it is
# `course_lib/training/engine.py`.
#
# ## Gradients add up
#
# The step above made two passes, and `backward()` added the second's gradients to the first's. So a batch of any size fits
# into a memory of any size: cut it into **micro-batches**, add up, step once. This is **gradient accumulation**, and it must
# not change what is learned.
#
# It does, where the loss is a mean. The usual way to write it is: take each micro-batch's mean loss, and divide by the number
# of micro-batches. Here are three short answers and a long one, each in a micro-batch of its own, and weights in fp32, so that
# rounding hides nothing.
#
# **Predict, then measure.** By how much does the gradient differ from that of the whole batch: if shares of one common sum are
# added, and if means are averaged?

# %%
count = {"role": "assistant", "content": ", ".join(map(str, range(1, 31)))}
mixed = supervised_groups(tokenizer, [[{"role": "user", "content": "Count to 30."}, count], *lessons[:3]])
lengths = [len(group.responses[0]) for group in mixed]
exact = Policy(folder, dtype=torch.float32).to(machine.device())


def gradient(cuts, share):
    exact.zero_grad()
    for packed in (pack(cut).to(machine.device()) for cut in cuts):
        share(packed, *exact(packed)).backward()
    return torch.cat([weight.grad.flatten() for weight in exact.parameters()])


# %%
one_by_one = [[group] for group in mixed]
whole = gradient([mixed], supervised_loss(sum(lengths)))
added = gradient(one_by_one, supervised_loss(sum(lengths)))
means = gradient(one_by_one, lambda _, logprobs, __: -logprobs.mean() / len(mixed))
off = {name: float((found - whole).norm() / whole.norm()) for name, found in (("added", added), ("means", means))}
print(f"answers of {lengths} tokens; off by {off['added']:.4%} (shares added) and {off['means']:.0%} (means averaged)")
assert off["added"] < 1e-3 < 0.1 < off["means"]

# %% [markdown]
# The first is rounding. The second is a mistake: a token of the short answers pulls several times as hard as one
# of the long answer, and how hard depends on how the batch happened to be cut. It makes no noise at all, the loss goes down as
# it should, and it was in widely used trainers until late in 2024. So `supervised_loss` divides by the tokens of the **whole
# step**, over all micro-batches and all ranks, and adds up.
#
# ## Why a master copy?
#
# A bf16 number has 8 significant bits. So between 0.25 and 0.5, two neighbours are 0.002 apart. Adam moves a weight by about
# the learning rate, often 0.00002. What happens if that is added to a bf16 number?

# %%
alone, kept = [torch.tensor(0.3).bfloat16()], [torch.tensor(0.3)]
for _ in range(300):
    alone.append(alone[-1] - 2e-5)
    kept.append(kept[-1] - 2e-5)
pictures.vanishing([float(weight) for weight in alone], [float(weight) for weight in kept])

# %% [markdown]
# Nothing, three hundred times. The fp32 copy adds it all up, and its bf16 copy takes a step when enough has come together.
#
# **Predict, then measure.** One weight proves little: small numbers have near neighbours. Of all weights of the policy, how
# many would not move by an update of 0.00002 in bf16?

# %%
flat = torch.cat([weight.detach().flatten() for weight in weights])
stuck = float((flat - 2e-5 == flat).float().mean())
print(f"bf16 alone: {stuck:.1%} of the weights don't move")

# %% [markdown]
# (There are ways to do without: rounding at random, or carrying the rounding error along. DeepSpeed has a switch that leaves
# the copy out, `bf16_master_weights_and_grads`. The picture shows what to fear.)
#
# ### And fp16?
#
# fp16 has more digits than bf16 and less range: its smallest number is $2^{-24}$, where bf16 reaches $2^{-133}$. The
# gradients of the step by hand tell what that means.

# %%
gradients = torch.cat([copy.grad.flatten() for copy in master]) * max(1.0, norm)  # as they were before clipping
pictures.gradient_sizes(gradients)

# %% [markdown]
# That is what **loss scaling** is for: in fp16 the loss is multiplied by a large number, which moves the whole picture to the
# right, and the gradients are divided by it in fp32. If something overflows, the step is left out and the factor halved. In
# bf16 nobody needs it.

# %%
del policy, weights, master, adam, gradients, flat, pairs, exact, whole, added, means

# %% [markdown]
# ## Activations: the part that grows with the text
#
# The backward pass needs what the forward pass computed on its way: the inputs of matrices, normalized vectors, the MLP's inner
# numbers. These **activations** are saved for every token in every layer. Korthikanti et al. (2022) add them up for the
# architecture of GPT. Ours is the same sum for this family of models (`layer_activations` in
# `course_lib/training/zero_memory.py`).
#
# **Gradient checkpointing** (Chen et al. 2016) saves the input of each layer only, and runs the layer once more in the backward
# pass.
#
# **Predict, then measure.** From how many tokens on do activations take more than the 16 bytes a parameter? And if a backward
# pass takes twice as long as a forward pass, what does checkpointing cost in time?

# %%
from course_lib.training.holdings import activation_bytes
from course_lib.training.zero_memory import saved_activations


def saved(packed):
    return activation_bytes(lambda: trainer.engine(packed), trainer)


packs = [pack(groups[:rows]).to(machine.device()) for rows in (4, 8, 16)]
sizes = [packed.input_ids.shape for packed in packs]
curves = {"all kept": [saved(packed) for packed in packs]}
curves["all kept, predicted"] = [saved_activations(shape, rows * length, length) for rows, length in sizes]
trainer.policy.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
curves["only each layer's input"] = [saved(packed) for packed in packs]
pictures.activations([rows * length for rows, length in sizes], curves, states)


# %%
def seconds(work):
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


again = min(seconds(lambda: trainer.step(batch, loss)) for _ in range(2))
trainer.policy.model.gradient_checkpointing_disable()
plain = min(seconds(lambda: trainer.step(batch, loss)) for _ in range(2))
per_token = curves["all kept"][-1] / packs[-1].input_ids.numel()
print(f"a token leaves {per_token / 1e6:.2f} MB: {states / per_token:,.0f} tokens weigh as much as everything else")
print(
    f"checkpointing: {curves['all kept'][-1] / curves[list(curves)[-1]][-1]:.0f} times less, a step {again / plain:.2f} times the time"
)
trainer.engine.destroy()  # DeepSpeed's hooks would hold the model, and 16 bytes a parameter with it
del trainer

# %% [markdown]
# "Activations are small" is true of a single short sentence. In training they are what fills the GPU, and they are what you can
# choose: fewer tokens in a micro-batch and more micro-batches, or checkpointing, for up to a third more time.
#
# ## ZeRO: who holds what
#
# Two GPUs, plain data parallelism: each takes half of the batch, gradients are averaged, and each makes the same update to the
# same weights. It is twice as fast. And it does not help with memory at all: all 16 bytes are there twice.
#
# ZeRO (Rajbhandari et al. 2020) leaves the arithmetic as it is, and stops holding things twice. Each stage cuts one more of
# them into as many parts as there are ranks:
#
# | stage | cut | bytes a parameter on N ranks |
# |---|---|---|
# | 0 | nothing: plain data parallelism | 16 |
# | 1 | the optimizer: master copy and moments | 4 + 12/N |
# | 2 | the gradients too | 2 + 14/N |
# | 3 | the weights too | 16/N |
#
# Whoever has only a part needs the others' now and then. Three collective operations do that. A model has $\Psi$ parameters:

# %%
pictures.step_diagrams()

# %% [markdown]
# Look at the second row. An all-reduce **is** a reduce-scatter followed by an all-gather. ZeRO-1 and ZeRO-2 put the optimizer
# between the two halves, and gather new weights instead of gradients. So "ZeRO-2 saves memory by communicating more" is wrong
# by the paper: it moves the same $2\Psi$ as plain data parallelism. Only stage 3 moves half as much again.
#
# Now for real. This cell starts two processes on this machine, each of them a rank with its own DeepSpeed, talking through gloo
# on a CPU and NCCL on GPUs. They train the same steps at each stage, and report what their engines' own tensors hold. (Each rank
# needs a GPU of its own: on a machine with one, the cell shows a recorded run on two.)
#
# **Predict, then measure.** On two ranks, how many bytes a parameter at each stage? Which stage is the slowest? And do all
# stages find the same loss?

# %%
from course_lib.machine.record import RESULTS
from course_lib.training.zero_study import recorded, zero_study

workers = torch.cuda.device_count() if machine.tier() == "gpu" else len(os.sched_getaffinity(0))
on_gpus = RESULTS / "zero_2x_h200.json"
study = zero_study(folder, ranks=2, steps=2, on_line=print) if workers > 1 else recorded(on_gpus)
viz.who_holds_what(study)

# %%
pictures.zero_table(study)

# %%
for run in study.runs:
    moments = [rank.holdings.elements("exp_avg") for rank in run.ranks]
    parts = len(run.ranks) if run.plan.stage else 1
    assert all(abs(count - study.parameters / parts) < 1000 * parts for count in moments)  # padding
held_by = [f"{run.ranks[0].holdings.bytes() / study.parameters:.1f}" for run in study.runs]
moved_by = [f"{run.moved_bytes / 2 / study.parameters:.1f} Ψ" for run in study.runs]
print(
    f"optimizer elements a rank: all of them / ranks, from stage 1 on. Losses differ by {study.loss_spread:.4f} at most"
)

# %% [markdown]
# The picture is read off the engines, between two micro-batches of a step. Stages 1 and 2 cut the line of all weights once.
# Stage 3 cuts every weight by itself, so a rank has a piece of each. Two details: the gradient of a weight that lies across the
# cut is kept on both sides, and stage 3 leaves weights of up to 100,000 numbers whole, because gathering them costs more than
# it saves.
#
# The losses are the same but for the rounding of sums in another order. ZeRO is no approximation.
#
# ### The paper and the code
#
# Compare the two columns of $\Psi$. A step here has two micro-batches, and without a whole gradient to add up in, stages 2 and 3
# have to communicate in each of them. That is arithmetic. The rest is in the code:
#
# - Stages 1 and 2 move **more** than the paper says. By default, DeepSpeed sums a bucket of gradients with an **all-reduce**
#   and then keeps its part (`use_multi_rank_bucket_allreduce`; `average_tensor` in
#   `deepspeed/runtime/zero/stage_1_and_2.py`): one large operation instead of a small one for each owner. The all-gather of the
#   weights comes on top. (Its users wonder now and then: DeepSpeed issues 5758 and 7059.)
# - Stage 3 moves **less**. It gives a layer back after the forward pass only if more than $10^9$ weights are there
#   (`stage3_max_live_parameters`). A small model stays whole until its backward pass, and is gathered once instead of twice.
#
# So what everybody says of ZeRO-2 is wrong by the paper, and true of the code. And with many micro-batches a step, stage 1 moves
# a good deal less than stage 2, for the price of a whole gradient.
#
# And time? Two processes on one machine share its cores and its memory's speed, and all that is moved is moved by those cores.
# So the stages that communicate are slower here, and one process with the whole batch would be faster still. What ZeRO buys is
# memory.
#
# Does it? Look at "GB at most", the fullest moment of a rank. It hardly falls. DeepSpeed's bucket for gradients holds
# $5 \cdot 10^8$ numbers, 1 GB, whatever the model, and stage 3 gathers a small model whole. For 135 million parameters, these
# buffers eat what the cut has saved. ZeRO is for models that are larger than its buffers. The same on two GPUs, with more text
# in a micro-batch:

# %%
pictures.zero_table(recorded(on_gpus)) if on_gpus.is_file() else print("No run on two GPUs is recorded yet.")

# %% [markdown]
# There, stage 1 is even faster than plain data parallelism: each rank updates half as many weights. Stage 3 gathers and scatters
# layer by layer, in many operations, each of which is small for a model of this size.
#
# **DeepSpeed today.** Stage 3 is spread over four files in `deepspeed/runtime/zero/`: `partition_parameters.py` cuts a weight
# (`ds_tensor` is a rank's part), `partitioned_param_coordinator.py` gathers and releases (`fetch_sub_module`,
# `release_sub_module`), `parameter_offload.py` hooks them into the modules, and `stage3.py` is the optimizer. Whoever reads a
# weight outside a forward pass has to ask for it: `deepspeed.zero.GatheredParameters`. That is what our `named_weights()` does,
# and so weights get from here to vLLM.
#
# ### Offload: another place to put it
#
# With one GPU there is nobody to share with, except the host. `offload_optimizer` keeps the 12 bytes in the host's memory and
# lets the CPU make the update (ZeRO-Offload, Ren et al. 2021). In every step, gradients cross the bus to the host and weights
# come back: 4 bytes a parameter. `offload_param`, with stage 3 only, keeps the weights there too, and each layer crosses the
# bus when it is its turn.

# %%
offloaded = PolicyTrainer(folder, TrainerConfig(zero_stage=2, offload_optimizer=True, micro_batch_tokens=512))
there = []
with before_each_step(offloaded, lambda _: there.append(holdings(offloaded))):
    moved = min(seconds(lambda: offloaded.step(batch, loss)) for _ in range(3))
place = {where: there[-1].bytes(host=where == "host") / held.parameters for where in ("device", "host")}
print(f"bytes a parameter: {place['device']:.1f} on the device, {place['host']:.1f} on the host")
print(f"a step takes {moved / plain:.2f} times the time of one without offload")
offloaded.engine.destroy()
del offloaded

# %% [markdown]
# The host needs more than twelve: gradients arrive in bf16 and are kept in fp32 as well. On the CPU tier, device and host are the
# same memory, and the factor says little. On a GPU it is the price: Adam does next to no arithmetic on each number, so an update
# takes as long as its memory takes to read and write 28 bytes a parameter, and a host's memory is slower than a GPU's by a
# factor of ten and more.
#
# Back to the question. What does one GPU need for Llama-3.1-8B, with 4,096 tokens in a micro-batch?

# %%
layouts = [
    ZeroPlan(stage=0),
    ZeroPlan(stage=0, gradient_checkpointing=True),
    ZeroPlan(stage=2, offload_optimizer=True, gradient_checkpointing=True),
    ZeroPlan(stage=3, offload_optimizer=True, offload_param=True, gradient_checkpointing=True),
    *(ZeroPlan(stage=stage, ranks=8, gradient_checkpointing=True) for stage in (1, 2, 3)),
]
budgets = [training_memory(MODELS["Llama-3.1-8B"], layout, tokens=4096, length=4096) for layout in layouts]
rows = [
    [str(layout), f"{budget.device_bytes / 1e9:.0f}", f"{budget.host_bytes / 1e9:.0f}"]
    for layout, budget in zip(layouts, budgets, strict=True)
]
viz.Table("Training Llama-3.1-8B: the fullest moment of each rank", ["plan", ">GB on the GPU", ">GB on the host"], rows)

# %% [markdown]
# That answers it. One GPU of 80 GB can train this model only by offloading, with twice its memory in the host. Eight GPUs can,
# at every stage. And what stages 2 and 3 save over stage 1 is room for more text.
#
# ## The calculator
#
# The same arithmetic for any model, to play with. It works without a kernel, too.

# %%
viz.zero_calculator("Llama-3.1-8B", ranks=8, stage=2)

# %% [markdown]
# Should you believe it? Here is what it predicts for the runs above, beside the most that their ranks really held at one
# moment. (On the CPU tier a rank's device and host are one memory.)

# %%
rows = []
for run in study.runs:
    budget, real = study.predicted(run), run.peak_bytes
    expected = budget.device_bytes + (budget.host_bytes if study.machine["tier"] == "cpu" else 0)
    rows.append([str(run.plan), f"{expected / 1e9:.3f}", f"{real / 1e9:.3f}", f"{expected / real - 1:+.1%}"])
viz.Table("The fullest moment of a rank", ["plan", ">predicted, GB", ">measured, GB", ">off by"], rows)

# %% [markdown]
# ## Starting ranks
#
# Nothing tells a process that it is a rank but its environment: `RANK` (who am I), `WORLD_SIZE` (of how many), `LOCAL_RANK`
# (which GPU of this machine), and `MASTER_ADDR` and `MASTER_PORT` (where do we meet). So one script does for any number of
# ranks. Here is one, complete. The tiny policy keeps it short.

# %%
import tempfile

scratch = tempfile.TemporaryDirectory()
script = Path(scratch.name, "train.py")
_ = script.write_text("""
import os, signal, sys
from course_lib.training import Group, PolicyTrainer, TrainerConfig, supervised_loss
rank, ranks = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
trainer = PolicyTrainer(sys.argv[1], TrainerConfig(zero_stage=2, learning_rate=1e-3))
groups = [Group([5, 6, 7], [[8 + n, 9, 10]], [n]) for n in range(8)]
for step in range(4):
    loss = trainer.step(groups[rank::ranks], supervised_loss(24)).loss
    print(f"rank {rank} of {ranks}, step {step}: loss {loss:.4f}", flush=True)
    if step == 1 and sys.argv[2:] == [str(rank)]:
        os.kill(os.getpid(), signal.SIGKILL)
""")

# %% [markdown]
# A notebook's own process is rank 0 of 1, and stays that. `launch` starts ranks beside it, sets those variables, gives each
# its share of the cores, and returns what they said.

# %%
from course_lib.training.launch import LaunchError, launch

tiny, several = str(load_policy("tiny")), min(2, workers)
for output in launch(script, ranks=several, arguments=[tiny]):
    print(output, *output.text.strip().splitlines()[-2:], sep="\n  ")

# %% [markdown]
# The loss is of the whole batch, so every rank says the same number.
#
# ### When a rank dies
#
# Memory runs out, a GPU falls off the bus, somebody kills the wrong process. The others are waiting in a collective operation
# for a rank that will never come. By default they would wait for half an hour, and on a cluster that is the price of all its
# GPUs. So somebody has to watch. The script's last lines let a rank kill itself in step 1, if it is told to.
#
# **Predict, then measure.** The last rank dies. How long until the others are gone too, and what does the error say?

# %%
began = time.perf_counter()
try:
    launch(script, ranks=several, arguments=[tiny, str(several - 1)])
except LaunchError as error:
    print(error)
    gone = time.perf_counter() - began - error.outputs[several - 1].seconds
print(f"\nno rank was left {gone:.1f} s after its death")
assert gone < 30

# %% [markdown]
# What then? Start again from the last checkpoint: that is what they are for (below). With fewer ranks, if need be.
#
# ### The same script with DeepSpeed's launcher, and on many machines
#
# On a command line, `deepspeed --num_gpus 2 train.py MODEL` does the same. With a **hostfile**, which says how many ranks each
# machine has room for, it logs in to each by ssh and starts them there. Or you start it on each yourself and say which line of
# the file it is, and no ssh is needed. The script does not change.

# %%
from course_lib.training.deepspeed_launcher import deepspeed_command, run_deepspeed
from course_lib.training.hostfile import read_hostfile

hosts = Path(scratch.name, "hostfile")
hosts.write_text("worker-0 slots=8\nworker-1 slots=8\n")
print(f"{sum(read_hostfile(hosts).values())} ranks on {', '.join(read_hostfile(hosts))}")
for node in (None, 0, 1):
    command = " ".join(deepspeed_command(script, hostfile=hosts, node_rank=node, arguments=["MODEL"]))
    print(f"{'from one machine' if node is None else f'on worker-{node}'}:", command.replace(f"{scratch.name}/", ""))

# %% [markdown]
# On every machine these have to be the same: the path of the script, the Python environment, the model folder. And the first
# machine's name has to lead to it from all others: there the ranks meet. Here is DeepSpeed's launcher for real, on this machine:

# %%
for output in run_deepspeed(script, ranks=several, arguments=[tiny]):
    print(output, output.text.strip().splitlines()[-1], sep="\n  ")

# %% [markdown]
# **DeepSpeed today.** `deepspeed/launcher/runner.py` reads the hostfile and starts `deepspeed/launcher/launch.py` on every host,
# which starts the ranks and ends them all when one of them dies. Ours is `course_lib/training/launch.py`.
#
# ### What else can be wrong
#
# DeepSpeed checks some settings with an assertion in every rank, and some not at all. Better to hear it before anything starts.

# %%
from textwrap import fill

from course_lib.models import PolicyError
from course_lib.training import BatchPlan

attempts = {
    "more ranks than there is room": lambda: launch(script, ranks=1000, arguments=[tiny]),
    "a batch that doesn't divide": lambda: BatchPlan(train_batch_size=100, micro_batch_size=8, ranks=3),
    "stage 2 with weights offloaded": lambda: TrainerConfig(zero_stage=2, offload_param=True),
    "stage 3 with an offload to NVMe": lambda: TrainerConfig(zero_stage=3, offload_param="nvme"),
    "a folder that is no model": lambda: PolicyTrainer(load_policy(".")),
}
for name, attempt in attempts.items():
    try:
        attempt()
    except (PolicyError, ValueError) as error:
        print(f"{name}:", fill(str(error), 110, initial_indent="  ", subsequent_indent="  "), "", sep="\n")

# %% [markdown]
# ## Supervised fine-tuning
#
# Enough machinery. The policy is to learn its form of answer, from the conversations of the beginning. What counts is the loss
# on conversations that it has never seen, and what it says to their questions. Half way we save a checkpoint, for the next
# section.
#
# **Predict, then measure.** The loss is the mean negative logprob of the assistant's tokens, in nats. What is it before? (A
# token that is certain has 0, a choice between two 0.69.) And after so few steps?

# %%
from course_lib.training import fine_tune, held_out_loss

config = TrainerConfig(learning_rate=5e-5, warmup_steps=2, zero_stage=2, micro_batch_tokens=2048)
trainer, checkpoint = PolicyTrainer(folder, config), Path(scratch.name, "checkpoint")
exam = held_out[:32]
tuned = {"before": held_out_loss(trainer, exam)}
curve = [stats.loss for stats in fine_tune(trainer, lessons, steps=6, batch=16)]
trainer.save(checkpoint)
curve += [stats.loss for stats in fine_tune(trainer, lessons, steps=4, batch=16)]
tuned["after"] = held_out_loss(trainer, exam)
print(", ".join(f"held-out loss {when} {value:.3f}" for when, value in tuned.items()))

# %% [markdown]
# ## Checkpoints
#
# A checkpoint holds all that the next step depends on: weights, master copy, both moments, the number of steps (which decides
# the learning rate and the next samples). Each rank writes what it holds.
#
# A resumed run is right if nobody can tell. Here is a new trainer that loads what was saved at step 6 and takes the last four
# steps again. **Predict, then measure.** In how many digits do the losses agree?

# %%
trainer.engine.destroy()
del trainer
trainer = PolicyTrainer(folder, config)
trainer.load(checkpoint)
resumed = [stats.loss for stats in fine_tune(trainer, lessons, steps=4, batch=16)]
trainer.save(checkpoint)
trainer.engine.destroy()
del trainer
print(f"largest difference of a loss: {max(abs(a - b) for a, b in zip(curve[6:], resumed, strict=True))}")
assert resumed == curve[6:] or machine.tier() == "gpu"  # there, sums may come in another order
curves = {"without a stop": list(enumerate(curve)), "loaded at step 6": list(enumerate(resumed, start=6))}
pictures.losses(curves, "The resumed run takes the same steps")

# %% [markdown]
# (On GPUs the order of some sums is left to chance, and the last digits may differ.) What if only the weights had been saved?
# Then Adam would begin with empty moments, the learning rate with its warm-up and the data with the first conversation. It would
# be another run.
#
# ### From a checkpoint to vLLM
#
# A checkpoint is for going on, and only with the same stage and the same number of ranks: it lies in as many parts. For
# everybody else the parts have to be put together, into a folder as Hugging Face writes it. DeepSpeed brings the tool for that,
# `zero_to_fp32`, and puts a copy of it into every checkpoint. It takes the **master copy**, so nothing is lost. `consolidate`
# uses it, and adds the config and the tokenizer.

# %%
from vllm import SamplingParams

from course_lib.serving.vllm_engine import vllm_engine
from course_lib.training.checkpoints import consolidate

tuned_folder = consolidate(checkpoint, folder, Path(scratch.name, "tuned"))
questions, greedy = [chat[:-1] for chat in exam], SamplingParams(temperature=0, max_tokens=24)
options = {"max_model_len": 256, "enforce_eager": True, "gpu_memory_utilization": 0.5}
said = {}
for name, model in (("before", folder), ("after", tuned_folder)):
    with vllm_engine(model, **options) as llm:
        said[name] = [output.outputs[0].text for output in llm.chat(questions, greedy, use_tqdm=False)]

# %%
truth = [chat[-1]["content"] for chat in exam]
right = {name: [said[name][place] == truth[place] for place in range(len(exam))] for name in said}
rows = [[chat[0]["content"], said["before"][place], said["after"][place]] for place, chat in enumerate(exam[:5])]
caption = ", ".join(f"{sum(marks)} of {len(marks)} {name}" for name, marks in right.items())
viz.Table(f"Right sum in the right form: {caption}", ["question", "before", "after"], rows)

# %% [markdown]
# **DeepSpeed today.** `deepspeed/utils/zero_to_fp32.py`, `get_fp32_state_dict_from_zero_checkpoint`. For going on with another
# number of ranks there are universal checkpoints, `deepspeed/checkpoint/ds_to_universal.py`.
#
# ## A reward model
#
# In RL somebody has to judge, and a rule can't judge style. So a model does it: the same body, and on top of the last token
# instead of a vocabulary one single number, the **score**. But which score should a text have? People are bad at giving
# numbers, and good at saying which of two answers they like better. Bradley and Terry (1952) make scores out of comparisons:
# the probability that the chosen answer wins is
#
# $$ P(\text{chosen} \succ \text{rejected}) = \sigma(s_\text{chosen} - s_\text{rejected}),
# \qquad L = -\log \sigma(s_\text{chosen} - s_\text{rejected}) $$
#
# Only differences count: add 5 to all scores, and nothing changes. So a score of 3 says nothing by itself.
#
# Our judge is made up: he likes additions answered, right and short. What he rejects is, in turn, a wrong sum, a right answer to
# another question, a refusal, and a right answer in a lot of talk.

# %%
from course_lib.training import RewardTrainer, synthetic_preferences
from course_lib.training.preferences import KINDS

judged = synthetic_preferences(256)
trained_on, kept_back = judged[:192], judged[192:]
rows = [[pair.prompt, pair.chosen, pair.rejected] for pair in trained_on[:4]]
viz.Table("What the judge prefers", ["prompt", "chosen", "rejected"], rows)

# %% [markdown]
# **Predict, then measure.** Before training, the head is random. In what share of the pairs does it agree with the judge? After
# 12 steps of 16 pairs? And which of the four kinds will it tell from a chosen answer, and which not?

# %%
reward_trainer = RewardTrainer(folder, TrainerConfig(learning_rate=5e-5, micro_batch_tokens=2048))


def scores():
    answers = [(pair.prompt, answer) for pair in kept_back for answer in (pair.chosen, pair.rejected)]
    found = reward_trainer.scores([reward_trainer.conversation_ids(*answer) for answer in answers])
    return found[::2], found[1::2]


# %%
panels = {"before": scores()}
curve = [reward_trainer.step(trained_on[16 * step :][:16]).loss for step in range(12)]
panels["after"] = scores()
print("loss", " ".join(f"{value:.2f}" for value in curve))
reasons = [KINDS[place % len(KINDS)] for place in range(len(kept_back))]
pictures.score_strips(panels, reasons)

# %%
in_order = [good > bad for good, bad in zip(*panels["after"], strict=True)]
agreed = {}
for reason in KINDS:
    marks = [mark for mark, why in zip(in_order, reasons, strict=True) if why == reason]
    agreed[reason] = sum(marks) / len(marks)
    print(f"{reason}: {sum(marks)} of {len(marks)} pairs in the judge's order")

# %% [markdown]
# Manner is easy to learn: any token shows it. To tell a wrong sum, one has to add. So a reward model learns first what is **easy
# to see** about the chosen answers, and a policy that is trained against it finds that out soon: it will be short and sure, and
# as wrong as before. Lesson 07 is about that. One number, the accuracy over all pairs, would not have shown it.
#
# ### Served by vLLM
#
# In the loop, the reward model scores thousands of samples, and vLLM does that as it does everything: in batches, with a prefix
# cache. The trainer exports a folder, vLLM loads it with its pooling runner. **Predict, then measure.** transformers, vLLM and
# the trainer on the same texts: how far apart?

# %%
from course_lib.serving import RewardModel, transformers_scores

judge = Path(scratch.name, "judge")
reward_trainer.export(judge)
answers = [(pair.prompt, answer) for pair in kept_back[:8] for answer in (pair.chosen, pair.rejected)]
ids = [reward_trainer.conversation_ids(*answer) for answer in answers]
by = {"the trainer, in bf16,": reward_trainer.scores(ids)}
reward_trainer.engine.destroy()
del reward_trainer
with RewardModel(judge, dtype="float32", **options) as model:
    by_vllm = torch.tensor(model.score(ids))
by["transformers, in fp32,"] = transformers_scores(judge, ids)

# %%
for name, found in by.items():
    gap = float((by_vllm - torch.tensor(found)).abs().max() / by_vllm.std())
    print(f"{name} and vLLM in fp32 differ by {gap:.1e} of the scores' spread")

# %% [markdown]
# ## What else there is
#
# DeepSpeed is more than ZeRO. Here is what it offers in 2026 beside it, and when to reach for it. What takes seconds is tried
# now, in processes of its own. For the others stands what a recorded trial said.

# %%
from concurrent.futures import ThreadPoolExecutor

from course_lib.training import features

paths = {tier: RESULTS / f"features_{tier}.json" for tier in ("cpu", "h200")}
told = {tier: features.recorded(path) if path.is_file() else [] for tier, path in paths.items()}
told = {tier: {outcome.name: f"{outcome.text} (recorded)" for outcome in found} for tier, found in told.items()}
with ThreadPoolExecutor() as pool:
    now = {feature.name: pool.submit(feature.run) for feature in features.FEATURES if feature.live}
here = told["cpu" if machine.tier() == "cpu" else "h200"] | {name: trial.result().text for name, trial in now.items()}
rows = [
    [one.name, one.what, one.when, here.get(one.name, "no record yet"), told["h200"].get(one.name, "no record yet")]
    for one in features.FEATURES
]
names = ["feature", "what it does", "when to reach for it", "here", "on an H200"]
viz.Table("DeepSpeed beside ZeRO", names, rows)

# %% [markdown]
# ## What was measured
#
# On this machine, in this notebook. The bytes are the same on every machine, the seconds are not.

# %%
summary = [
    ["Bytes a parameter, always", f"{states / held.parameters:.1f}"],
    ["Weights equal after two steps by hand", f"{same:.4%}"],
    ["Weights that a bf16 update would not move", f"{stuck:.1%}"],
    ["Gradient of averaged means, off by", f"{off['means']:.0%}"],
    ["Tokens whose activations weigh as much as the rest", f"{states / per_token:,.0f}"],
    ["Bytes a parameter and rank, stages 0 to 3", " / ".join(held_by)],
    ["Numbers moved a step and rank, stages 0 to 3", " / ".join(moved_by)],
    ["Losses of the stages differ by", f"{study.loss_spread:.4f}"],
    ["A rank dies: the others are gone after", f"{gone:.1f} s"],
    ["Held-out loss, before and after", f"{tuned['before']:.2f}, {tuned['after']:.2f} nats"],
    ["Reward model agrees, by reason", ", ".join(f"{why} {share:.0%}" for why, share in agreed.items())],
    ["This notebook", f"{time.perf_counter() - started:.0f} s"],
]
viz.Table("Lesson 06 on this machine", ["what", ">found"], summary)

# %%
scratch.cleanup()

# %% [markdown]
# Where do the bytes go? Two are the weight that computes, two its gradient, twelve belong to the optimizer, and activations
# come with the text. Who holds what? As little as possible, and everybody something else.
#
# ## Exercises
#
# The memory of each stage, a partition of a flat optimizer, accumulation that equals the big batch, the Bradley-Terry loss, and
# more: [exercises/06_deepspeed_training.ipynb](../exercises/06_deepspeed_training.ipynb).
#
# ## Sources
#
# - Rajbhandari et al., *ZeRO: memory optimizations toward training trillion parameter models* (SC 2020, arXiv 1910.02054):
#   sections 3.1 (where memory goes), 5 (the stages), 7 (communication).
# - Ren et al., *ZeRO-Offload* (USENIX ATC 2021, arXiv 2101.06840).
# - Micikevicius et al., *Mixed precision training* (ICLR 2018, arXiv 1710.03740): master copy, loss scaling.
# - Korthikanti et al., *Reducing activation recomputation in large transformer models* (arXiv 2205.05198): bytes of activations.
# - Chen et al., *Training deep nets with sublinear memory cost* (arXiv 1604.06174): checkpointing.
# - Bradley and Terry, *Rank analysis of incomplete block designs* (Biometrika, 1952).
# - Ouyang et al., *Training language models to follow instructions with human feedback* (arXiv 2203.02155): supervised
#   fine-tuning, reward model, and RL in a row.
# - Unsloth, *Bugs in LLM training: gradient accumulation fix* (https://unsloth.ai/blog/gradient, October 2024).
# - DeepSpeed's pull request 4695 (all-reduce for buckets of several owners), and issues 5758 and 7059.
# - DeepSpeed's documentation and blogs: https://www.deepspeed.ai, and the files of version 0.19 that are named above.
