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
# # 02 Fragmentation: where the memory goes
#
# **After this lesson** you can say why a GPU whose memory is "full" of KV cache may hold tokens in a fifth of it, name the
# three kinds of waste and read them off a memory map, tell first fit, best fit and buddy apart, say what compaction costs,
# explain why batches are refilled at every iteration, and reproduce two figures of the PagedAttention paper in seconds.
#
# **Time** 45 minutes. **You need** lesson 01: what a KV cache holds, and how many bytes a token of it takes.
#
# > **The question.** OPT-13B on one A100 with 40 GB has room for the keys and values of 15,728 tokens. Chats average 500
# > tokens. So about 31 chats should fit. A server that gives each chat one piece of memory runs 7. Where did the other three
# > quarters go?

# %%
import time

import numpy as np
import torch

from course_lib import machine, viz
from course_lib.fragmentation import BestFit, Buddy, FirstFit, History, StepTime, Waste, paper
from course_lib.fragmentation import carry_out, copy_cost, iteration_level, static_batches
from course_lib.fragmentation import poisson_requests, sharegpt, simulate, uniform
from course_lib.fragmentation import reserve_exact, reserve_max, reserve_nothing, reserve_pow2
from course_lib.viz import lesson_02

machine.versions()

# %% [markdown]
# ## One run of slots for each request
#
# Attention wants a request's keys as a tensor, and a tensor lies in one piece. So the obvious thing is to give each request
# one run of **slots**, a slot being what one token's keys and values take. The tensor is a slice of a big one, every kernel can
# read it, and nothing has to be looked up.
#
# Here is a memory of 200 slots. Requests A (50 tokens), B (30) and C (80) come; A wants one token more; B ends; then D comes
# with 60 tokens.
#
# **Predict, then measure.** When D comes, 70 slots are free. Does D fit? And can A have its 51st token?

# %%
story = History(FirstFit(200))
for owner, tokens in {"A": 50, "B": 30, "C": 80}.items():
    story.allocate(owner, tokens)
story.grow("A", 51)  # B's slots begin right behind A
story.free("B")
story.allocate("D", 60)
story.grow("A", 51)  # now they are free
viz.memory_map(story.snapshots, title="70 slots are free, and 60 do not fit")

# %% [markdown]
# Two failures, and they have different reasons.
#
# **D does not fit**, because the free slots lie in two places: 30 between A and C, 40 behind C. Memory that is free but in
# pieces too small to serve anybody is **external fragmentation**.
#
# **A could not grow** past B, however much was free elsewhere. A request's length is not known when it comes: the model decides,
# token by token, when it is done. A request that was given what it needs *now* is stuck as soon as somebody moves in next door.

# %% [markdown]
# ## Reserve first, waste later
#
# How often is that? Let a server give each request its prompt's slots and the next token's, and nothing on top. Where a request
# cannot grow, somebody has to go: the request that came last gives up its memory and starts over.
#
# **Predict, then measure.** 40 requests, 20 to 50 tokens of prompt and of output each, 300 slots. How many requests run at
# once, and how many times is somebody thrown out?

# %%
requests = poisson_requests(rate=20, count=40, lengths=uniform(20, 50), seed=2)
stuck = simulate(requests, FirstFit(300), reserve_nothing, limit=100)
print(f"{stuck.mean_batch:.1f} requests at once, {stuck.preempted} thrown out, {stuck.tokens_per_second:.0f} tokens/s")

# %% [markdown]
# Everyone's neighbour is a wall. So engines of that time **reserved**: a request gets, when it comes, the slots that it may
# need at the end. Without knowing the output's length, that is the longest sequence that the model takes.

# %%
reserved = simulate(requests, FirstFit(300), reserve_max, limit=100, max_snapshots=40)
print(
    f"{reserved.mean_batch:.1f} requests at once, {reserved.preempted} thrown out, {reserved.tokens_per_second:.0f} tokens/s"
)
viz.memory_map(reserved.snapshots, title="Reserved to the maximum: everybody ends in peace, and much stays empty")

# %% [markdown]
# Nobody is thrown out, and much of the memory holds nothing. Drag the slider. Each piece is in one of four states, and the paper's names
# for them are worth keeping apart (Kwon et al., SOSP 2023, section 3.1):
#
# | state | what it is | when you know |
# |---|---|---|
# | **used** | holds the keys and values of a token | now |
# | **reserved** | will hold a token that this request has not made yet; nobody else can have it meanwhile | when the request ends |
# | **internal** waste | part of a request's run that it never uses | when the request ends |
# | **external** waste | free, but in pieces that serve nobody | now |
#
# Reserved slots are no waste in the end, but they are lost to others for the request's whole life. The mean of a run says how
# much each state takes:

# %%
lesson_02.waste_bars(
    {"nothing reserved": stuck.waste, "reserved to the maximum": reserved.waste}, "A memory of 300 slots"
)

# %% [markdown]
# ## Which hole? First fit, best fit, buddy
#
# With runs of different lengths, an allocator must choose a hole. Three classic ways:
#
# - **First fit**: the first hole, by address, that is long enough.
# - **Best fit**: the shortest hole that is long enough. It keeps long holes whole, and leaves slivers.
# - **Buddy** (Knowlton, 1965): only runs of 1, 2, 4, 8, ... slots, each at a multiple of its length. A block is halved until
#   it just fits; when both halves, the *buddies*, are free they become one again. A block's buddy starts at `start ^ length`,
#   so nothing is ever searched. The price: 65 slots cost 128.

# %%
for kind in (FirstFit, BestFit, Buddy):
    memory = kind(64)
    for owner, length in {"a": 20, "b": 4, "c": 9, "d": 4}.items():
        memory.allocate(owner, length)
    memory.free("a")
    memory.free("c")
    print(f"{kind.__name__:9}", "holes", memory.holes(), " e (8) goes to", memory.allocate("e", 8))

# %% [markdown]
# Read the first two lines: same holes, different choice. In the third one the holes are blocks that start at a multiple of
# their own length. `b` and `d` keep their blocks small, but the 9 slots of `c` took 16.

# %% [markdown]
# ## The paper's workload
#
# The paper measures on chats that people shared (ShareGPT). The file with its lengths is in this repository: the bars of the
# paper's Figure 11, read off the figure. Look at the shape before you go on. The maximum, not the mean, is what a server
# without knowledge has to reserve for.

# %%
lengths = sharegpt()
lesson_02.lengths_histogram(lengths)

# %% [markdown]
# Requests come by a Poisson process, 2 a second, to OPT-13B on an A100 with 40 GB. A token's keys and values take
# 2 x 40 layers x 5120 numbers x 2 bytes = 800 KiB; 12 GiB are left for them.
#
# The paper compares with three versions of Orca that differ only in what they reserve. **Max**: 2048 slots for everybody.
# **Pow2**: the prompt, and the output rounded up to a power of two, as if one could guess that well. **Oracle**: exactly
# what the request will need, which nobody can know. All three use a buddy allocator.
#
# **Predict, then measure.** What share of the memory holds tokens, in each of the three?

# %%
print(f"{paper.KV_SLOTS:,} slots of {paper.KV_BYTES_PER_TOKEN // 1024} KiB; {paper.KV_SLOTS / 2048:.2f} times 2048")
runs = {name: [paper.orca(row.reserve, seed=seed) for seed in range(3)] for name, row in paper.ORCA.items()}
lesson_02.beside_the_paper({name: found[0] for name, found in runs.items()}, paper.ORCA)

# %% [markdown]
# That was an hour of traffic, three times over, and no GPU. Why can a laptop say what an A100 did? Because the three Orcas are
# **full**: requests come faster than they are served, there is always one more at the door, and memory alone decides who is in.
# How long a step takes cancels out. In the table the parentheses show how far an hour's luck moves the bars.

# %%
lesson_02.paper_table(runs, paper.ORCA)

# %% [markdown]
# **Orca (Max) needs no simulation.** Seven requests fit, whoever they are, since 15,728 / 2048 = 7.68; the .68 is the external
# waste. What do seven requests hold on average? Not the average request: one that makes many tokens stays for long, so whenever
# you look you see more of the long ones. The mean output of a request *in the batch* is $E[o^2]/E[o]$, and half of that has been
# made when you look at a random moment:
#
# $$ \text{used} = \frac{7}{15728}\Bigl(E[i] + \tfrac12 \frac{E[o^2]}{E[o]}\Bigr), \qquad
# \text{reserved} = \frac{7}{15728}\cdot \tfrac12 \frac{E[o^2]}{E[o]} $$
#
# (The code puts $E[i\,o]/E[o]$ for $E[i]$: below 2048 tokens a long prompt leaves less room for its output, so the two are
# not quite independent.)

# %%
prompt, output = lengths.draw(np.random.default_rng(0), 100_000).T.astype(float)
print(
    f"mean prompt {prompt.mean():.0f}, mean output {output.mean():.0f}, seen in the batch {(output**2).mean() / output.mean():.0f}"
)
closed = paper.orca_max_closed_form(lengths)
print("paper      ", paper.ORCA["Orca (Max)"].waste)
print("simulated  ", runs["Orca (Max)"][1].waste)
print("closed form", closed)

# %% [markdown]
# ## What the last bar hides
#
# The paper calls its last bar "external fragmentation and others". Without the "others" it reads as if a third of the memory
# were lost in *holes*. Our simulation can tell the two apart.
#
# **Predict, then measure.** Of Orca (Oracle)'s last bar, how much are holes, and how much is the buddy allocator rounding 500
# slots up to 512 and 520 up to 1024? And if first fit were used instead, how many requests would run?

# %%
systems = {
    f"{reserve.__name__}, {kind.__name__}": paper.orca(reserve, allocator=kind(paper.KV_SLOTS))
    for reserve in (reserve_pow2, reserve_exact)
    for kind in (Buddy, FirstFit, BestFit)
}
lesson_02.runs_table(systems, "The same hour, three allocators")

# %% [markdown]
# So a better contiguous allocator would have made Orca (Oracle) a good deal better than the paper's bar: rounding is a choice,
# and first fit does not round. Even the crude guess of Pow2 with first fit runs about as many requests as the oracle with
# buddies. (Textbooks count rounding as *internal* waste, and so does the memory map's pattern; the
# paper puts it in the last bar.) First fit and best fit differ little here.
#
# What no allocator can remove is the **reserved** part. It is there even if the output's length is known exactly, and it is
# *larger* than the holes. As long as a request needs one run of slots, its future has to be kept free next to its past.

# %% [markdown]
# ## Compaction: move them together
#
# Holes can be closed: slide every run down until all free slots are at the end. Operating systems and garbage collectors do it.
# The order matters. A run must not be copied onto slots that a later copy still has to read; lowest address first is safe.

# %%
story = History(FirstFit(200))
for owner, tokens in {"A": 50, "B": 30, "C": 80}.items():
    story.allocate(owner, tokens)
story.free("B")
story.allocate("D", 60)
moves = story.allocator.compact()
story.moved(moves)
story.allocate("D", 60)
viz.memory_map(story.snapshots, title="C moves down, and D fits")

# %% [markdown]
# It worked. What did it cost? C's 80 slots are read and written once each: with OPT-13B's 800 KiB a slot that is real traffic.
# Let us do the same on real tensors in this machine's memory, with SmolLM2's 45 KiB a token (fp32), in a memory of 4,000 slots,
# and look whether every number is where it should be.
#
# **Predict, then measure.** Every other one of 40 requests of 100 slots ends. How many milliseconds does it take to close the
# gaps?

# %%
memory, cache = FirstFit(4000), torch.randn(4000, 30, 2, 3, 64)  # slots, layers, keys and values, KV heads, head size
for number in range(40):
    memory.allocate(f"r{number}", 100)
for number in range(0, 40, 2):
    memory.free(f"r{number}")
before = {owner: cache[start : start + length].clone() for owner, (start, length) in memory.held.items()}
moves, began = memory.compact(), time.perf_counter()
carry_out(moves, cache)
seconds = time.perf_counter() - began
intact = all(torch.equal(cache[place : place + size], before[owner]) for owner, (place, size) in memory.held.items())
print(f"{copy_cost(moves, cache[0].nbytes)} here {1e3 * seconds:.0f} ms; all intact: {intact}")

# %% [markdown]
# Now the paper's machine: an A100 moves 1.555 TB/s, and at worst all 12 GiB are copied. The paper calls compaction impractical for
# a server, because the cache is so large (section 3.1). A decode step reads OPT-13B's 26 GB of weights, and the cache.
#
# **Predict, then measure.** How many decode steps does one compaction of everything cost?

# %%
everything = 2 * paper.KV_SLOTS * paper.KV_BYTES_PER_TOKEN / 1.555e12
step = StepTime().fixed + StepTime().per_context_token * paper.KV_SLOTS / 2
print(f"compaction of everything {1e3 * everything:.0f} ms, a decode step at the roofline {1e3 * step:.0f} ms")

# %% [markdown]
# One compaction of everything costs about as much as one decode step. That is a stall for every running request, but a
# server could afford it now and then. The better objection is what it **buys**: it removes the holes, and the holes are the
# smallest part. Let us grant a compaction that is free, immediate and never fails: all free slots are always in one piece.

# %%
best = systems["reserve_exact, FirstFit"].waste
holes = best.external - best.rounding
perfect = Waste(best.used / (1 - holes), best.reserved / (1 - holes), 0.0, 0.0)
bars = {
    "buddy, oracle": systems["reserve_exact, Buddy"].waste,
    "first fit, oracle": best,
    "free compaction, oracle": perfect,
}
lesson_02.waste_bars(bars, "Compaction closes holes; it cannot touch what is reserved")

# %% [markdown]
# Even an oracle with perfect, free compaction leaves a large part of the memory *reserved*. And there is no oracle: with
# reserve-to-maximum, compaction has nothing to close. Fragmentation is not the disease. **One run a request** is.

# %% [markdown]
# ## Batches: idle slots of another kind
#
# Memory decides who *can* be in the batch; there is a second waste in who *is*. A classic batch is **static**: eight
# requests start together, and the next eight start when the last of these has ended. The short ones' places idle meanwhile.
#
# **Predict, then measure.** With ShareGPT's outputs and a batch of 8, what share of the places is idle?

# %%
outputs = [int(length) for length in lengths.draw(np.random.default_rng(4), 48)[:, 1]]
schedules = {"static": static_batches(outputs, rows=8), "refilled at every iteration": iteration_level(outputs, rows=8)}
lesson_02.batch_rows(schedules)

# %% [markdown]
# Orca's idea (Yu et al., OSDI 2022): schedule **iterations**, not requests. After every step those who are done leave, and
# whoever waits comes in. It changes no kernel, only the loop. All simulations above already did it; today it is called
# *continuous batching*.
#
# How much it gains follows from the lengths alone. A static batch lasts as long as its **longest** request, and makes as many
# tokens as its **mean** one a row, so the gain is $E[\max \text{ of } n] / E[o]$.
#
# **Predict, then measure.** What happens to the gain as the batch gets wider?

# %%
many = [int(length) for length in lengths.draw(np.random.default_rng(5), 4096)[:, 1]]
gains = {}
for rows in (1, 2, 8, 32, 128):
    longest = np.mean([max(many[first : first + rows]) for first in range(0, len(many), rows)])
    gains[rows] = static_batches(many, rows).steps / iteration_level(many, rows).steps
    print(f"batch {rows:3}: {gains[rows]:.2f} times fewer steps; longest over mean {longest / np.mean(many):.2f}")

# %% [markdown]
# The two columns agree, except where the queue is so short that the end of the run shows. Steps are not seconds: a step with more
# requests takes a little longer. But as long as reading the weights is what a step costs (lesson 01), it is close.

# %% [markdown]
# ## Try it
#
# Change rate, lengths, allocator and reservation, and watch the map; it is the simulation from above, with a limit of 1,024 tokens.
# Can you find a setting in which best fit serves fewer requests at once than first fit? One in which an oracle gains nothing over
# reserving the maximum?

# %%
viz.fragmentation_playground()

# %% [markdown]
# ## How it is done today
#
# - **One run a request, reserved to the maximum**, is what transformers' static cache still does, so that a step's shapes never
#   change: `StaticLayer` in `transformers/cache_utils.py` allocates `max_cache_len` slots.
# - **Best fit** is how PyTorch's CUDA allocator picks a block from its cache: the smallest free one that is large enough, split
#   where it is too large, merged with its neighbours when freed: `c10/cuda/CUDACachingAllocator.cpp`. It fragments as well.
#   `expandable_segments` in `torch.cuda`'s notes on memory management is the cure, and it is not compaction: it lets the driver
#   map scattered physical pages behind one run of addresses.
# - **Rebatching at every iteration** is in every serving engine. vLLM's loop is `schedule()` in `vllm/v1/core/sched/scheduler.py`.
# - **vLLM gives no request one run of slots.** How it gets by without is lesson 03.

# %% [markdown]
# ## What was measured
#
# In this notebook:

# %%
oracle, pow2, most = (runs[f"Orca ({name})"][0] for name in ("Oracle", "Pow2", "Max"))
split = oracle.waste.rounding / oracle.waste.external
rows = [
    ["memory that holds tokens: Max, Pow2, Oracle", ", ".join(f"{run.waste.used:.0%}" for run in (most, pow2, oracle))],
    ["requests at once: Max, Pow2, Oracle", ", ".join(f"{run.mean_batch:.1f}" for run in (most, pow2, oracle))],
    ["rounding's part of Oracle's external waste", f"{split:.0%}"],
    ["requests at once: Oracle with first fit", f"{systems['reserve_exact, FirstFit'].mean_batch:.1f}"],
    ["reserved, with an oracle and free compaction", f"{perfect.reserved:.0%}"],
    ["one full compaction, in decode steps (A100, OPT-13B)", f"{everything / step:.1f}"],
    ["idle places of static batches of 8", f"{schedules['static'].idle:.0%}"],
    ["fewer steps by refilling, batches of 32", f"{gains[32]:.1f} times"],
]
viz.Table("Contiguous memory and static batches", ["what", ">here"], rows)

# %% [markdown]
# ## Exercises
#
# [The exercises of this lesson](../exercises/02_fragmentation.ipynb): write best fit and a first-fit allocator that serves the
# paper's workload, count waste, merge buddies, plan a compaction that overwrites nothing, and refill a batch.
#
# ## Sources
#
# - Kwon et al., *Efficient memory management for large language model serving with PagedAttention*, SOSP 2023
#   (arXiv 2309.06180): Figures 2, 11 and 13a, Table 1, section 6.1.
# - Yu et al., *Orca: a distributed serving system for transformer-based generative models*, OSDI 2022: iteration-level
#   scheduling.
# - Knowlton, *A fast storage allocator*, CACM 1965: buddies. Wilson et al., *Dynamic storage allocation: a survey and critical
#   review*, 1995: first fit, best fit, and what fragmentation is.
