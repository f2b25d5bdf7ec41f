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
# # 00 The loop: the whole course on one page
#
# **After this lesson** you can draw the loop that trains a language model by reinforcement learning, say why it needs two
# engines, say what fills the memory of each, and you have seen it turn on your own machine.
#
# **Time** 30 minutes. **You need** to know what a language model's weights, logits and gradients are. Nothing else.
#
# > **The question.** One model is trained. Yet every serious RL system holds it in memory twice, in two different programs, and
# > copies it from one to the other after every step. Why would anybody build it that way?

# %% [markdown]
# ## The map
#
# ![The loop](../docs/loop.svg)
#
# 1. **Generate.** The policy (that is the model being trained) answers prompts. Each answer is a *trajectory*, or *rollout*.
# 2. **Reward.** Something judges each answer: a rule, another model, or a person. Here, a rule.
# 3. **Train.** Tokens of better answers become more likely, tokens of worse ones less.
# 4. **Feed back.** The new weights go to where the answers come from. Then again from 1.
#
# Every box of this picture runs below, for real: vLLM generates, DeepSpeed trains. The rest of the course opens the boxes, one
# lesson each, and [the last one](08_capstone.ipynb) runs the loop until the model has learned something.

# %%
import os
import time

import torch
from course_lib import machine, viz
from course_lib.models import describe, load_policy
from course_lib.rl import Addition, LoopConfig, RLLoop, VLLMRollout, free_folder
from course_lib.training import Group, PolicyTrainer, TrainerConfig, tensor_bytes

started = time.perf_counter()
machine.versions()

# %% [markdown]
# ## Your machine's tier
#
# The `tier` above says which builds of the engines run here. The cells of the course are the same on both.
#
# | tier | what runs | what it is good for |
# |---|---|---|
# | `cpu` | vLLM's and DeepSpeed's CPU builds | everything in this course, with a model of 135 million parameters |
# | `gpu` | the CUDA builds | the same cells, larger models, and the speed that the engines were made for |
#
# The CPU tier is no imitation. It is the same scheduler, the same paged KV cache, the same optimizer, the same weight sync;
# only the kernels at the bottom differ. Where a lesson needs a figure from a GPU, it shows a recorded run and says so.

# %%
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
policy = describe(folder)
policy

# %% [markdown]
# ## The training engine
#
# **Why it needs memory.** Training in mixed precision keeps more than the weights. It computes in bf16, two bytes a number. But
# a step of learning changes a weight by less than bf16 can see, so the optimizer adds its steps to an fp32 *master copy*. Adam
# keeps two more fp32 numbers per weight, the running means of the gradient and of its square. And there is the gradient.
#
# **Predict, then measure.** How many bytes does training hold for each parameter? Add them up before you go on.
#
# The cell below starts DeepSpeed on the policy and takes two steps whose loss is always zero, which changes no weight. From
# inside the loss function it counts every living tensor. The last micro-batch has two tokens, so that hardly any activations
# are among them, while the gradients of the one before it are.

# %%
before = tensor_bytes()
trainer = PolicyTrainer(folder, TrainerConfig(zero_stage=0, micro_batch_tokens=512))
trainer

# %%
seen = []


def look(batch, logprobs, entropy):
    seen.append(tensor_bytes())
    return 0 * logprobs.sum()


groups = [Group(prompt_ids=[1], responses=[[2] * length], samples=[length]) for length in (300, 2)]
trainer.step(groups, look), trainer.step(groups, look)
held = {dtype: (seen[-1][dtype] - before.get(dtype, 0)) / policy.parameters for dtype in ("bfloat16", "float32")}
print({dtype: f"{size:.1f} bytes a parameter" for dtype, size in held.items()}, f"together {sum(held.values()):.1f}")

# %% [markdown]
# Sixteen: 2 for the weights and 2 for the gradients in bf16, 4 for the master copy and 8 for the two moments in fp32. That is
# the count of the ZeRO paper (section 3.1), here read off the living tensors. It does not depend on how much text there is. The
# activations of the forward pass come on top and do, but they can be traded for time, lesson 06 shows how.

# %% [markdown]
# ## The generating engine
#
# **Why it needs memory.** Generating needs no gradient, no master copy and no moments: only the weights, at 2 bytes a parameter.
# But it makes one token at a time, and each new token attends to the keys and values of all tokens before it. To compute them
# anew for every token would be absurd, so they stay in memory, the **KV cache**: for every token of every request in flight.
# What fills this engine's memory is text, not parameters.
#
# **Predict, then measure.** For this policy, how many tokens weigh as much as the weights themselves?

# %%
rollout = VLLMRollout(folder)
weights = 2 * policy.parameters
print(f"weights {weights / 1e6:.0f} MB, a token's keys and values {policy.kv_bytes_per_token / 1e3:.1f} kB")
print(f"{weights / policy.kv_bytes_per_token:,.0f} tokens weigh as much as the weights")

# %% [markdown]
# For a small model that is a few long conversations. The picture below does the same sum for larger ones, with 512 requests of
# 1,000 tokens each, which is a modest batch of an RL run.

# %%
from course_lib.kv_cache.cost import MODELS
from course_lib.viz import lesson_00 as draw

names = ("SmolLM2-135M", "Qwen3-4B", "Llama-3.1-8B", "OPT-13B")
draw.memory_by_job([MODELS[name] for name in names], tokens=512 * 1000)

# %% [markdown]
# Two engines, two ways to run out of memory, and two different cures. Training is **too large for its parameters**: the cure is
# to partition the optimizer's state over GPUs, or move it away (DeepSpeed's ZeRO, lesson 06). Generating is **too large for its
# text**: the cure is to waste none of the KV cache, to share it, and to choose well who runs (paging and scheduling, lessons 01
# to 05). When both live on one GPU they take turns, and each has to make room for the other.

# %% [markdown]
# ## Could one engine do both?
#
# The trainer holds the same weights, and transformers can generate from them: a padded batch, one token for each sequence at a
# time, with a KV cache of its own. **Predict, then measure.** 64 sequences of the same 24 tokens: how much sooner is vLLM done?
#
# This is the padded batch at its best, because all sequences end together. Where lengths differ, it waits for the longest, and
# [lesson 02](02_fragmentation.ipynb) measures what that costs.

# %%
from vllm import SamplingParams

prompts = torch.randint(3, policy.vocab, (64, 30))
model = trainer.policy.model.eval()
options = {"max_new_tokens": 24, "min_new_tokens": 24, "do_sample": True, "pad_token_id": 0}
start = time.perf_counter()
model.generate(prompts.to(model.device), attention_mask=torch.ones_like(prompts).to(model.device), **options)
padded = time.perf_counter() - start
start = time.perf_counter()
fixed = SamplingParams(max_tokens=24, ignore_eos=True, detokenize=False)
rollout.llm.generate([{"prompt_token_ids": prompt} for prompt in prompts.tolist()], fixed, use_tqdm=False)
ours = time.perf_counter() - start
print(f"transformers {padded:.1f} s, vLLM {ours:.1f} s: {padded / ours:.1f} times")

# %% [markdown]
# So the second engine pays in time as well. The other way round there is no choice at all: vLLM has no backward pass. And two
# engines need the fourth arrow of the map.

# %% [markdown]
# ## The loop turns
#
# The task is to add two numbers, asked in plain English. A step takes 8 prompts, 8 samples of each. The rule that judges: the
# last number in the answer is right, or not.
#
# Watch the **advantage**: the reward minus the mean of the same prompt's samples. Where all eight are right, or all are wrong,
# there is nothing to learn from, and it is zero.

# %%
config = LoopConfig(steps=int(os.environ.get("COURSE_STEPS", "3")), prompts_per_step=8, samples_per_prompt=8)
loop = RLLoop(trainer, rollout, Addition(), free_folder("../runs", "miniature"), config=config)
batch = loop.generate(1)
loop.judge(batch)
viz.samples_table({"step": 1, "samples": batch.table()})

# %% [markdown]
# Now a few steps in full. They are too few to teach the model anything: what they show is that every arrow works, and what each
# costs. **Predict, then measure.** Which of the four phases takes the longest here?

# %%
records = loop.run()
viz.phase_times(records)

# %% [markdown]
# The last arrow is the one that breaks without a sound: when weights don't arrive, samples come from an old policy, and no error
# says so. After every sync this loop therefore reads weights back out of the running engine, and signs a **receipt**. The gap
# says how far the two engines disagree on the logprobs of the same tokens, although their weights are equal bit for bit. It is
# rounding, and lesson 07 is about what it does to training.

# %%
viz.receipt_table(records)

# %% [markdown]
# ## What was measured
#
# On this machine, in this notebook:

# %%
steps = [record["seconds"] for record in records if record["step"] > 0]
for phase in ("generate", "reward", "train", "sync"):
    print(f"{phase:<10} {sum(step[phase] for step in steps) / len(steps):6.2f} s a step")
print(f"training   {sum(held.values()):6.1f} bytes a parameter")
print(f"generating {2:6.1f} bytes a parameter, and {policy.kv_bytes_per_token / 1e3:.1f} kB a token")
print(f"padded batch against vLLM: {padded / ours:.1f} times the seconds")
print(f"this notebook {time.perf_counter() - started:.0f} s")
rollout.shutdown()

# %% [markdown]
# ## Where each box is opened
#
# | lesson | the question that it answers |
# |---|---|
# | [01 KV cache](01_kv_cache.ipynb) | What exactly is kept, what does it save, and what does it not save? |
# | [02 Fragmentation](02_fragmentation.ipynb) | Why did engines before 2023 waste 60 to 80 % of it? |
# | [03 PagedAttention](03_paged_attention.ipynb) | How can memory be cut up and attention still find every token? |
# | [04 Scheduling](04_scheduling.ipynb) | Who runs in the next step, and who waits? |
# | 05 Serving | What does the real vLLM make of all this, and how close can our own engine come? |
# | 06 Training with DeepSpeed | How are 16 bytes a parameter spread over GPUs? |
# | 07 Policy gradients | Which loss, and what goes wrong where the two engines disagree? |
# | [08 Capstone](08_capstone.ipynb) | Does it learn? |
#
# You can go straight to the capstone now and come back for the boxes. Most people learn more in order.
#
# ## Sources
#
# - Rajbhandari et al., *ZeRO* (arXiv 1910.02054), section 3.1: where 16 bytes a parameter come from.
# - Kwon et al., *Efficient memory management for LLM serving with PagedAttention* (SOSP 2023, arXiv 2309.06180), sections 1 to 3:
#   the KV cache as the limit of serving, and the waste in it (Figure 2).
# - Sheng et al., *HybridFlow* (arXiv 2409.19256): RL for language models as a dataflow between unlike engines.
