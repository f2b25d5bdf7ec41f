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
# # 03 PagedAttention
#
# **After this lesson** you can find any token's key in a cache that is cut into blocks, write the pool that hands the blocks out
# and takes them back, attend through a block table, share prefixes between requests without copying a byte, and say which of
# the famous numbers about it hold and what they depend on.
#
# **Time** 50 minutes, of which about one is computing. **You need** the KV cache of [lesson 01](01_kv_cache.ipynb), and lesson
# 02's finding: a request's slots in one piece, reserved or not, leave more than half of the memory empty.
#
# > **The question.** Cut the memory into small equal pieces and every hole fits every request. That is an idea for five minutes,
# > and operating systems had it in 1962. Then the model asks for the key of token 37. Where is it?

# %%
import os
import time

import numpy as np
import torch

from course_lib import machine, viz
from course_lib.kv_cache import Transformer, attention, generate_with_cache
from course_lib.models import load_policy
from course_lib.paged_attention import PagedKVManager, slot, slot_mapping
from course_lib.viz import lesson_03 as pictures

machine.versions()

# %% [markdown]
# ## Cut it up, and lose your way
#
# Lesson 02's requests wanted their slots in a row, for one reason: then token 37 of a request that starts at slot 500 lies in
# slot 537. One addition, and one number to remember per request. Give up the row, and with it you give up the addition.
#
# You could remember a slot for every token. That works, and costs a look-up table as long as the text. The way out is as old as
# virtual memory: pieces of **one size**, which here are called **blocks**. (A block is the *page* of "page table", and of
# PagedAttention. The slots of block $b$ are $b \cdot \text{size}$ and those after it.) Inside a block, tokens lie in a row again.
# So a request remembers one number per *block*, its **block table**, and any position splits into two parts:
#
# - `position // block_size` says which entry of the table: the part that has to be translated;
# - `position % block_size` says how far into the block: the part that stays as it is.
#
# **Predict, then measure.** Blocks of 16 slots, and a request whose tokens lie in blocks 6, 1 and 4. Which slot has token 37?

# %%
table, block_size = [6, 1, 4], 16
print("slot", slot(table, 37, block_size))
pictures.address_translation(table, length=45, position=37, block_size=block_size, num_blocks=8)

# %% [markdown]
# `table[37 // 16] * 16 + 37 % 16`: entry 2 is block 4, whose first slot is 64, and 5 further is 69.
#
# ### The formula that is often printed
#
# Look for this formula in blog posts and you will also meet it as `table[37 // size] + 37 % size`. It reads well, and it
# confuses a block's *number* with its first *slot*.
#
# **Predict, then measure.** Blocks of 4, a request in blocks 5, 2 and 7, all 12 slots written. Into how many different slots does
# the short formula put the 12 tokens?

# %%
pictures.collisions([5, 2, 7], block_size=4, num_blocks=8)

# %% [markdown]
# The last token written wins, and the ones before it now have another token's key. No error is raised: every slot exists. It
# gets worse with neighbours, since blocks 5 and 6 of two different requests overlap as well. (If the table holds each block's
# first *slot* instead of its number, the short formula is right. Then it is the picture beside it that is wrong.)
#
# **vLLM today** computes the slots of all new tokens at once on the GPU, by this formula: `_compute_slot_mapping_kernel` in
# `vllm/v1/worker/block_table.py`. Ours is `slot_mapping`, four lines of PyTorch:

# %%
slot_mapping(table, range(30, 45), block_size)

# %% [markdown]
# ## Growing, finishing, reuse: in any order
#
# Back to lesson 02's story: requests A (50 tokens), B (30) and C (80), then B ends, and D (60) comes. In one row, D did not fit
# B's hole, and A could not grow past its neighbour. Now the same in blocks of 10. Nothing is reserved: a request gets a block when
# its last one is full.
#
# **Predict, then measure.** Which blocks will D get? And where will A's token 50 go?

# %%
manager = PagedKVManager(num_blocks=20, block_size=10, enable_caching=False)
history = []
for name, length in (("A", 50), ("B", 30), ("C", 80)):
    manager.allocate(name, range(length))
    history.append(manager.snapshot(f"{name} comes with {length} tokens"))
manager.free("B")
history.append(manager.snapshot("B ends"))
manager.allocate("D", range(60))
history.append(manager.snapshot("D comes with 60 tokens"))
manager.append("A", [50])
history.append(manager.snapshot("A makes a token"))
viz.block_explorer(history, "Blocks are taken and given back in any order")

# %% [markdown]
# D has B's three blocks and three others, last one first. Why backwards? A request gives its blocks back from the end, and the
# next one takes them from there: blocks that were used last are the likeliest to still be in the GPU's caches. Without prefix
# caching the order is of no further importance; with it, it decides what is forgotten. That comes below.
#
# Any free block is as good as any other, so there is no external waste. Nothing is reserved. What is left is the rest of each
# request's **last block**:

# %%
held = {name: manager.table(name) for name in ("A", "C", "D")}
rows = [
    [name, str(manager.length(name)), str(blocks), str(10 * len(blocks) - manager.length(name))]
    for name, blocks in held.items()
]
viz.Table("Empty slots: only in a last block", ["request", ">tokens", "block table", ">empty slots"], rows)

# %% [markdown]
# A request wastes less than one block, whatever its length, and about half a block on average.
#
# **vLLM today.** Allocation is `KVCacheManager.allocate_slots` in `vllm/v1/core/kv_cache_manager.py`, on top of
# `vllm/v1/core/block_pool.py`. Our `PagedKVManager` and `BlockPool` do the same in the same order: a test drives both through
# 1,000 random traces and compares every table, every count and the whole free list after every step.

# %% [markdown]
# ## Attention through the table
#
# A model's attention layer hands over queries, keys and values and does not care where they end up (lesson 01's `KVCache`). So a
# paged cache needs two steps: **write** the new keys and values to their slots, then **attend** through the tables. The simplest
# way to attend: gather each request's blocks into one contiguous tensor, and use lesson 01's attention.
#
# Here are two requests in one pool: one with 45 tokens that asks for its newest token (decode), one with 30 tokens of which the
# last 10 are new (a chunk of a prompt). 9 query heads share 3 KV heads. All other slots hold NaN, which spreads to whoever reads it.

# %%
from course_lib.paged_attention import paged_attention

chance = torch.Generator().manual_seed(3)
tables, seq_lens, query_lens = torch.tensor([[6, 1, 4], [0, 3, 9]]), torch.tensor([45, 30]), torch.tensor([1, 10])
queries = torch.randn(11, 9, 64, generator=chance)
keys, values = torch.randn(2, 75, 3, 64, generator=chance)  # 45 tokens of the first request, then 30 of the second
pool = torch.full((2, 8 * 16, 3, 64), torch.nan)
pool[:, slot_mapping([6, 1, 4], range(45), 16)] = torch.stack([keys[:45], values[:45]])
pool[:, slot_mapping([0, 3], range(30), 16)] = torch.stack([keys[45:], values[45:]])
key_cache, value_cache = pool.view(2, 8, 16, 3, 64)
through_table = paged_attention(queries, key_cache, value_cache, tables, seq_lens, query_lens)

dense = [attention(queries[:1], keys[:45], values[:45]), attention(queries[1:], keys[45:], values[45:])]
print(f"largest difference from dense attention: {(through_table - torch.cat(dense)).abs().max():.1e}")

# %% [markdown]
# Zero, and not by luck: after the gather it is the same computation. The second table's last entry, block 9, does not even exist.
# Entries past the last block are never looked at, which lets tables of different lengths share one tensor.
#
# ### A real model through a block table
#
# Three prompts of different lengths run together in one pool. Every step is one call of the model with all requests' new tokens
# side by side, no padding. Their tokens must be those of lesson 01's contiguous cache, one request at a time.

# %%
from transformers import AutoTokenizer

from course_lib.paged_attention import PagedKVCache, generate_paged

folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
tokenizer, model = AutoTokenizer.from_pretrained(folder), Transformer.load(folder, device=machine.device())
cache = PagedKVCache.for_model(model, num_blocks=100, block_size=16)
texts = ["Once upon a time", "The three largest cities of Europe are", "Water boils"]
prompts = {text: tokenizer(text)["input_ids"] for text in texts}
paged = generate_paged(model, cache, PagedKVManager(100, 16), prompts, new_tokens=12)
alone = {text: generate_with_cache(model, prompt, 12) for text, prompt in prompts.items()}
same_tokens = paged == alone
print(cache, "\nsame tokens as the contiguous cache:", same_tokens)
{text: tokenizer.decode(tokens) for text, tokens in paged.items()}

# %% [markdown]
# ### The copy that a kernel saves
#
# The gather reads every key and value, writes it to a new place, and attention reads it again there: three times the bytes, in
# a step whose time *is* its bytes (lesson 01's roofline). A kernel can look into the table while it reads. In Triton, a language
# for GPU kernels in Python, the heart of it is:
#
# ```python
# for index in range(number_of_blocks):
#     block = tl.load(table_ptr + index)                                # the page table, read inside the kernel
#     key = tl.load(key_ptr + block * stride_block + offset[:, None] * stride_slot + dim[None, :])
#     scores = tl.sum(q[None, :] * key, 1) * scale                      # one block's worth of q·k
#     ...                                                               # online softmax: no score is ever written to memory
# ```
#
# The whole of it is `course_lib/paged_attention/triton_naive.py`, one query and one head per program. `triton_attention.py` is
# the same with three things that make it fast: query heads that share a KV head are handled together, so that keys are read
# once for all of them; tensor cores do the products; long requests are split over several programs.
#
# Where there is no GPU, the same kernel runs in Triton's interpreter, one program after another in NumPy: right, and very slow.
# So on a CPU the cell below proves that it is right, and says nothing about its speed.

# %%
from course_lib.paged_attention.triton_attention import triton_paged_attention

device = machine.device()
arguments = [
    x.to(device) for x in (queries, key_cache.contiguous(), value_cache.contiguous(), tables, seq_lens, query_lens)
]
expected = paged_attention(*arguments)
kernel_error = (triton_paged_attention(*arguments) - expected).abs().max().item()
print(f"on {device}: largest difference from the gather reference {kernel_error:.1e}")

# %% [markdown]
# **Predict, then measure.** A decode step has to read every key and value once; bytes over bandwidth is its floor, whatever the
# kernel. What share of the floor's speed does a kernel of 100 lines of Triton reach? And the naive one? With a GPU, the cell
# measures yours. Without one it shows a recorded run.

# %%
pictures.kernel_times()

# %% [markdown]
# "Packed" is the kernel with grouped heads and tensor cores, "+ splits" also cuts long requests up; torch's own attention gets
# its keys already gathered, and that copy is not in its time. The paper's CUDA kernel of 2023 took 20 to 26 % longer than an
# attention kernel without a table (its Figure 18a). The table itself is small: one entry for a block of keys.
#
# **vLLM today** takes FlashAttention's or FlashInfer's paged kernels on NVIDIA GPUs. It has a Triton kernel of this kind as well,
# with 1,200 lines for all it can do: `vllm/v1/attention/ops/triton_unified_attention.py`.

# %% [markdown]
# ## Sharing: the prefix cache
#
# In a chat, every request repeats the whole conversation. In RL, 64 samples start from one prompt. In production, thousands of
# requests start with one system prompt. A table makes sharing free: two requests whose tokens **begin** the same can have the
# same block numbers in their tables.
#
# **Why only the beginning?** A token's key comes from its hidden state, and that depends on *all* tokens before it. Equal words
# after different beginnings have different keys. So a block may be shared where its own tokens are equal **and** everything
# before it. The name of a full block is a hash of its tokens and of the previous block's name, a **hash chain**:
#
# $$ h_0 = \mathrm{hash}(\text{tokens}_0), \qquad h_i = \mathrm{hash}(h_{i-1}, \text{tokens}_i) $$
#
# **Predict, then measure.** Three word sequences in blocks of 4. Which blocks of the second and the third have a name that the
# first one's have?

# %%
from course_lib.paged_attention import block_hashes

sequences = [
    "you are a helpful assistant and answer in rhymes what is the time",
    "you are a helpful assistant and answer in prose what is the time",
    "we are a helpful assistant and answer in rhymes what is the time",
]
words = sorted({word for sequence in sequences for word in sequence.split()})
chains = [block_hashes([words.index(word) for word in sequence.split()], block_size=4) for sequence in sequences]
pictures.hash_chains(sequences, chains, block_size=4)

# %% [markdown]
# The third sequence differs in its first word alone, and shares nothing. The second shares two blocks; its "what is the"
# does not help, since it comes after another word. The last word fills no block, so its block has no name yet.
#
# ### Who holds a block, and who may throw it away
#
# A shared block belongs to nobody alone, so the pool counts: `ref_cnt` is the number of tables that hold a block. Only at 0 it
# becomes free. And **free does not mean forgotten**: its keys and values stay where they are, and its name in the cache, until
# somebody needs the space. So the free list is at the same time the list of who is evicted next, and its order matters:
#
# 1. Blocks without a name go to the **front**. Nobody can ever find them again, so they are worth nothing.
# 2. Blocks with a name go to the **back**: the one that was freed longest ago is evicted first (LRU).
# 3. A request gives its blocks back **last one first**, so that the end of its text is evicted before the beginning. The
#    beginning is in more prefixes, and without it nobody finds the end.
#
# **Predict, then measure.** A pool of 8 blocks. A and B are the first two sequences, and run together. A ends, C (the third one)
# runs and ends, and then A comes a second time. How many of its 13 words are found?

# %%
tokens = [[words.index(word) for word in sequence.split()] for sequence in sequences]
manager = PagedKVManager(num_blocks=8, block_size=4)
history = []
for event in ("A comes", "B comes", "A ends", "C comes", "C ends", "A comes again"):
    name, found = event[0], ""
    if event.endswith("ends"):
        manager.free(name)
    else:
        found = f": {manager.allocate(name, tokens['ABC'.index(name)])} of 13 words found"
    history.append(manager.snapshot(event + found, text=words.__getitem__))
viz.block_explorer(history, "Shared blocks, and free blocks that are not forgotten")

# %% [markdown]
# Scrub through it. B takes over two of A's blocks: they are counted twice, and no byte was copied. When A ends, these two stay,
# because B holds them. Its partial block goes to the front of the free list, and its third one, which has a name, to the back: free,
# and still to be found. But C finds nothing and needs four blocks, the third one among them: **evicted**. So when A comes
# again, it finds what B kept alive, and nothing more.
#
# Two corners that most descriptions leave out:
#
# - **A prompt that is cached completely still computes its last token**, because the next token's logits come from it. Tables have
#   whole blocks, so a whole block is computed again.
# - **A hit in the free list is not free of charge.** It takes a block out of the free list, as a new one does. Whoever decides whether
#   a request fits has to count it. Forget that, and the pool runs dry in the middle of an allocation.
#
# ### What a hit is worth
#
# **Predict, then measure.** A system prompt of some 500 tokens and a short question. The second question comes with the same
# system prompt. By which factor is its first token sooner there?

# %%
system = tokenizer("You are a careful assistant. You answer briefly, politely and in complete sentences. " * 30)[
    "input_ids"
]
first, second = (
    system + tokenizer(f"\nQuestion: {q}\n")["input_ids"] for q in ("Why is the sky blue?", "What is rain?")
)


def seconds_to_first_token(manager, prompt):
    start = time.perf_counter()
    token = generate_paged(model, cache, manager, {"request": prompt}, 1)["request"][0]
    manager.free("request")
    return time.perf_counter() - start, token


# %%
warm, cold = PagedKVManager(100, 16), PagedKVManager(100, 16)
seconds_to_first_token(warm, first)
with_hit, without_hit = seconds_to_first_token(warm, second), seconds_to_first_token(cold, second)
hit_speedup = without_hit[0] / with_hit[0]
print(
    f"{len(second)} tokens: {1e3 * without_hit[0]:.0f} ms without a hit, {1e3 * with_hit[0]:.0f} ms with: {hit_speedup:.1f} times"
)
print("same token:", with_hit[1] == without_hit[1])

# %% [markdown]
# The token is the same, and must be. A test of this room gives every slot a memory of *which prefix* its key was computed from,
# and checks it on every read, through thousands of random requests. That test is what finds the bugs that this machinery is
# known for: outputs that are a little wrong, only under load, only on a hit.
#
# **vLLM today** has this on by default. Hashes are SHA-256 (`hash_block_tokens` in `vllm/v1/core/kv_cache_utils.py`), because
# in a shared server a collision would hand one user's cache to another. The order of the free list is `BlockPool.free_blocks`.
# Older descriptions, vLLM's own of 2025 among them, put all freed blocks at the back; today those without a name go to the front.
# After new weights, the cache must be emptied, or old keys answer for the new policy. [Lesson 08](08_capstone.ipynb) proves that it is.

# %% [markdown]
# ## Copy on write, and what became of it
#
# Several samples of one prompt diverge at their first own token. Its slot is often in the prompt's last, half-full block, which
# they all share. The paper's answer (section 4.4) is **copy on write**: whoever is about to write into a block that others hold
# takes a copy first. `ForkingKVManager` does it, on top of what you have seen:

# %%
from course_lib.paged_attention import ForkingKVManager

forking = ForkingKVManager(num_blocks=8, block_size=4)
forking.allocate("A", tokens[0][:6])
forking.fork("A", "B")
history = [forking.snapshot("A is forked to B: six words, all shared", text=words.__getitem__)]
for name, word in (("A", "rhymes"), ("B", "prose")):
    forking.append(name, [words.index(word)])
    history.append(forking.snapshot(f"{name} writes '{word}', copies {forking.take_copies()}", text=words.__getitem__))
viz.block_explorer(history, "Copy on write: the one who writes first takes a copy")

# %% [markdown]
# The second one to write needs no copy: by then it is alone with its block.
#
# **vLLM today does not do this.** `n=8` becomes eight ordinary requests (`ParentRequest` in `vllm/v1/engine/parallel_sampling.py`), and
# the prefix cache lets them share the prompt's full blocks. The partial one is computed eight times. No fork, no copies, tables
# that only ever grow at the end. What does it cost?
#
# **Predict, then measure.** A prompt of 100 tokens, blocks of 16, 8 samples of 50 tokens each. How many blocks without sharing,
# with copy on write, and with prefix caching?


# %%
def blocks_held(manager, start):
    start(manager)
    for name in map(str, range(8)):
        manager.append(name, [1000 + int(name)] * 50)
    return 200 - manager.pool.num_free_blocks


def as_requests(manager):
    return [manager.allocate(str(sample), range(100)) for sample in range(8)]


def as_forks(manager):
    return manager.allocate("0", range(100)), [manager.fork("0", str(sample)) for sample in range(1, 8)]


sharing = {
    "nothing": blocks_held(PagedKVManager(200, 16, enable_caching=False), as_requests),
    "full blocks: prefix caching (vLLM today)": blocks_held(PagedKVManager(200, 16), as_requests),
    "all but what is written: copy on write (2023)": blocks_held(ForkingKVManager(200, 16), as_forks),
}
viz.Table("8 samples of one prompt", ["shared", ">blocks"], [[how, str(blocks)] for how, blocks in sharing.items()])

# %% [markdown]
# Once all samples have written, the same number of blocks: each has its own copy of the partial block, copied or computed. Copy on
# write saved at most one block's computation per sample, and in-engine beam search, which forked all the time, is gone from
# vLLM V1 with it. (One copy is left, in models that mix attention with state-space layers: there a hit may end inside a
# very large block. See `prefix_match_unit` in `vllm/config/cache.py`.)

# %% [markdown]
# ## How large is a block?
#
# A small block wastes little and shares prefixes almost to the token. A large block needs a short table and few hashes, and a
# kernel reads longer runs. **Predict, then measure.** On ShareGPT's lengths, at which block size is a tenth of the held slots empty?
# The upper row is a simulated server that is always full; "gathered" is this machine's own speed.

# %%
from course_lib.fragmentation import poisson_requests, sharegpt
from course_lib.paged_attention.block_size import block_size_costs

requests = poisson_requests(rate=2, count=1500, lengths=sharegpt(), seed=0)
costs = {cost.block_size: cost for cost in block_size_costs(requests, (1, 4, 8, 16, 32, 64, 128, 256))}
pictures.block_sizes(list(costs.values()))

# %% [markdown]
# On a CPU the size of the copies hardly matters. On a GPU it does: a tile of a kernel wants at least 16 keys to multiply at
# once. So 16 is vLLM's default, where the waste is small already and the table not long any more. The paper found ShareGPT good
# between 16 and 128, and short requests (Alpaca) only up to 32 (section 7.2).

# %% [markdown]
# ## The paper's row
#
# Lesson 02 drew three rows of the paper's Figures 2 and 13a. Here is the fourth, on the same requests, the same server and the
# same accounting. The diamonds are the paper's.

# %%
from course_lib.fragmentation import StepTime
from course_lib.fragmentation.paper import ORCA, orca
from course_lib.paged_attention.paged_memory import PAPER_BATCH, PAPER_USED, serve_paged

rows = {name: orca(row.reserve, count=3600) for name, row in ORCA.items()} | {"paged": serve_paged(count=3600)}
used = {name: row.waste.used for name, row in ORCA.items()} | {"paged": PAPER_USED}
pictures.paper_rows(rows, used, {name: row.batch for name, row in ORCA.items()} | {"paged": PAPER_BATCH})

# %% [markdown]
# Nothing is reserved and nearly nothing is wasted inside: the grey part of the paged row is free blocks, which anybody can have.
# The batch fits the paper's, and the share in use does not. Before you believe either, look at what they depend on.
#
# The Orca rows need no engine: requests come faster than they can be served, a queue stands at the door, and memory alone says who
# runs. Paged memory holds so many requests that an engine of that speed **just keeps up**. Then the batch is arrival rate times
# time in the system (Little's law), and says how fast the engine is. Lesson 02's step time was *derived* from the paper's 30.42, so
# the fit of the batch is no evidence at all. Here are the same arrivals with other engines:

# %%
runs = {slower: serve_paged(step_time=StepTime().slower(slower), count=1200) for slower in (1, 1.4, 1.7, 2, 2.5, 3)}
pictures.load_dependence(runs, PAPER_BATCH)

# %% [markdown]
# One number does not move: the share of **held** slots that hold a token. It depends on lengths and block size alone, and is what
# paging promises. Even without a simulation: a request in the batch has E[i·o]/E[o] tokens of prompt and half of E[o²]/E[o] of
# output (lesson 02), and leaves half a block empty.
#
# And the paper's 96.3 %? As a share of the whole pool it is where our simulation ends when the pool is saturated. At a mean batch of
# 30.42 it cannot be the pool's share: so many requests of that length fill less. So read it as what the paper's caption says, an
# average over its experiments, at a load that it does not state.

# %%
i, o = sharegpt().draw(np.random.default_rng(0), 200_000).T.astype(float)
context = (i * o).mean() / o.mean() + (o**2).mean() / o.mean() / 2
held_share = {slower: run.waste.used / (run.waste.used + run.waste.internal) for slower, run in runs.items()}
print(f"held slots that hold a token: {min(held_share.values()):.1%} to {max(held_share.values()):.1%} simulated")
print(f"by hand: {context / (context + 15 / 2):.1%}, for 7.5 empty slots beside {context:.0f} tokens")
print(f"{PAPER_BATCH} such requests: {PAPER_BATCH * context / 15728:.1%} of 15,728 slots")
print(f"a saturated pool: {runs[3].waste.used:.1%} of all slots, {runs[3].mean_batch:.1f} requests")

# %% [markdown]
# ## What was measured
#
# On this machine, in this notebook:

# %%
waste = {name: row.waste for name, row in rows.items()}
summary = [
    ["Same tokens through a block table as in one piece of memory", "yes" if same_tokens else "no"],
    ["Largest difference of the Triton kernel from the gather reference", f"{kernel_error:.0e}"],
    ["Slots that hold a token: Orca (Oracle), of all", f"{waste['Orca (Oracle)'].used:.1%}"],
    ["... paged memory, of the held ones, whatever the engine", f"{min(held_share.values()):.1%}"],
    ["... paged memory, of all, saturated", f"{runs[3].waste.used:.1%}"],
    ["Requests at once: Orca (Oracle)", f"{rows['Orca (Oracle)'].mean_batch:.1f}"],
    ["... paged memory, saturated", f"{runs[3].mean_batch:.1f}"],
    ["First token of a prompt whose system prompt is cached", f"{hit_speedup:.1f} times sooner"],
    ["Empty slots in held blocks of 16 and of 128", f"{costs[16].empty:.1%} and {costs[128].empty:.1%}"],
]
viz.Table("Lesson 03 on this machine", ["what", ">found"], summary)

# %% [markdown]
# Token 37 is in slot `table[37 // block_size] * block_size + 37 % block_size`. All the rest is the care that this table stays true:
# nobody's block is given away while a table names it, nobody writes where others read, and nobody finds a block under a name that
# its contents don't have. **Who** gets blocks when there are too few for everybody is the scheduler's business, in lesson 04.
#
# ## Exercises
#
# Six exercises: the slot mapping, the blocks that a growing request needs, attention through a table, a block pool with reference
# counts that then runs a real model, the order of the free list, and the prefix cache's look-up. They are in
# [exercises/03_paged_attention.ipynb](../exercises/03_paged_attention.ipynb).
#
# ## Sources
#
# - Kwon et al., *Efficient memory management for large language model serving with PagedAttention* (SOSP 2023, arXiv 2309.06180):
#   sections 4.1 to 4.4 for the mechanism, 7.2 for the block size, Figures 2, 13a and 18a.
# - Kilburn, Edwards, Lanigan, Sumner, *One-level storage system* (IRE Transactions, 1962): pages and a page table.
# - vLLM 0.32: `vllm/v1/core/block_pool.py`, `kv_cache_manager.py`, `kv_cache_utils.py`, `single_type_kv_cache_manager.py`.
# - *The anatomy of a Triton attention kernel* (arXiv 2511.11581): from a naive paged kernel to one as fast as the best.
# - Milakov, Gimelshein, *Online normalizer calculation for softmax* (arXiv 1805.02867).
