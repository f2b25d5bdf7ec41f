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
# # 01 The KV cache
#
# **After this lesson** you can write attention from its formula, decode with a cache and prove that the tokens stay the same,
# say to the FLOP and to the byte what the cache saves and costs, and tell from a roofline why requests are served in batches.
#
# **Time** 45 minutes, of which about one is computing. **You need** matrix products, and to know that a language model
# turns tokens into a guess at the next token.
#
# > **The question.** A model has read 1,000 tokens and writes token 1,001. Then it writes token 1,002. How much of the work
# > for the second one was already done for the first, and what does it take to keep it?

# %%
import math
import os

import torch
import torch.nn.functional as F

from course_lib import machine
from course_lib.kv_cache import MODELS, ModelShape, Transformer, step_cost
from course_lib.models import load_policy
from course_lib.viz import lesson_01 as pictures
from course_lib.viz.tables import Table

machine.versions()

# %% [markdown]
# ## One formula
#
# Each token asks a question, its **query** $q$. Each token offers a **key** $k$, which says what it knows about, and a **value**
# $v$, which is what it knows. A token's answer is a mean of the values, weighted by how well its query fits their keys:
#
# $$ \mathrm{attention}(Q, K, V) = \mathrm{softmax}\left(\frac{Q K^\top}{\sqrt{d}}\right) V $$
#
# A model that writes from left to right must not see the future. So a token's scores for the tokens after it are set to
# $-\infty$, and softmax makes them 0. The formula is four lines of code, here for one head and six tokens:

# %%
chance = torch.Generator().manual_seed(1)
q, k, v = torch.randn(3, 1, 6, 64, generator=chance)  # each [1 head, 6 tokens, 64 numbers]

scores = q @ k.transpose(-2, -1) / math.sqrt(64)
future = torch.ones(6, 6, dtype=torch.bool).triu(1)
weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
by_hand = weights @ v

theirs = F.scaled_dot_product_attention(q, k, v, is_causal=True)
print(f"largest difference from PyTorch's: {(by_hand - theirs).abs().max():.1e}")
weights[0].round(decimals=2)

# %% [markdown]
# Row 3, counted from 0, holds token 3's weights. They sum to 1, and tokens 4 and 5, which it can't see, get 0.
#
# ### The one case that decoding is made of
#
# **Predict, then measure.** Now only the newest token asks: one query, six keys, and again `is_causal=True`. How many of the
# six keys does PyTorch let it see?

# %%
last = q[:, -1:]
theirs = F.scaled_dot_product_attention(last, k, v, is_causal=True)
seen = [
    count
    for count in range(1, 7)
    if torch.allclose(theirs, F.scaled_dot_product_attention(last, k[:, :count], v[:, :count]))
]
print("keys that the query saw:", seen)

# %% [markdown]
# One: the oldest. PyTorch lines the triangle up at the **top left**: query 0 sees key 0, whatever token it belongs to. With a
# cache the queries are always the *last* tokens, and the triangle belongs at the **bottom right**: query $i$ of $Q$ sees the keys
# $j \le K - Q + i$. This mistake raises no error. The model just gets worse.
#
# The course's `attention` is the formula with this alignment, and one thing more: real models share each head of keys and
# values among several query heads (**grouped-query attention**, GQA). Its layout is vLLM's, tokens first: `[tokens, heads, head_dim]`.

# %%
from course_lib.kv_cache import attention

queries, keys = torch.randn(2, 9, 64, generator=chance), torch.randn(6, 3, 64, generator=chance)
values = torch.randn(6, 3, 64, generator=chance)
ours = attention(queries, keys, values)  # the last 2 tokens of 6; 9 query heads share 3 KV heads

seen = torch.ones(2, 6, dtype=torch.bool).tril(6 - 2)
heads_first = [x.transpose(0, 1) for x in (queries, keys, values)]
theirs = F.scaled_dot_product_attention(*heads_first, attn_mask=seen, enable_gqa=True).transpose(0, 1)
print(f"largest difference from PyTorch's: {(ours - theirs).abs().max():.1e}")
seen.int()

# %% [markdown]
# ## Decoding without a cache
#
# A model gives logits for one next token. To write ten, it is called ten times, and each call gets the whole text so far:
# that is **autoregressive decoding**. Here is a real model doing it. `NoCache` means: attend within the tokens given,
# remember nothing. (The model is `course_lib/kv_cache/transformer.py`, 200 lines, and every lesson runs it.)

# %%
from transformers import AutoTokenizer

from course_lib.kv_cache import NoCache

folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
tokenizer, model = AutoTokenizer.from_pretrained(folder), Transformer.load(folder, device=machine.device())
model


# %%
def positions(start, end):
    return torch.arange(start, end, device=model.device)


prompt = tokenizer("Once upon a")["input_ids"][:3]
tokens = list(prompt)
for _ in range(6):
    logits = model(torch.tensor(tokens, device=model.device), positions(0, len(tokens)), NoCache())
    tokens.append(int(logits[-1].argmax()))  # greedy: the likeliest token
    print(f"{len(logits):2} tokens in, 1 token out: {tokenizer.decode(tokens)!r}")

# %% [markdown]
# Every call returns logits for *every* position, and all but the last row are thrown away. They were known before.
#
# ### The fourth token, looked at closely
#
# Three tokens are there, and the fourth is to come. Only the last position's logits matter. In every layer, that position sends
# one query over all keys so far and takes a mean of their values. `Recorder` is a `NoCache` that keeps what went through, so
# these weights are the model's own.

# %%
from course_lib.kv_cache.probes import Recorder

recorder = Recorder()
logits = model(torch.tensor(tokens[:3], device=model.device), positions(0, 3), recorder)
looks = torch.cat([recorder.weights(layer)[:, -1] for layer in range(model.config.layers)])  # [all heads, 3 keys]
most = [int(looks[:, key].argmax()) for key in (1, 2)]  # the heads that look most at tokens 2 and 3
shown = {"mean of all heads": looks.mean(dim=0)}
for head in most:
    shown["layer {}, head {}".format(*divmod(head, model.config.heads))] = looks[head]
words = [tokenizer.decode(token) for token in tokens[:4]]
pictures.next_token(words[:3], {title: look.tolist() for title, look in shown.items()}, words[3])

# %% [markdown]
# Most heads rest on the first token when they have nothing to look for (an *attention sink*, Xiao et al. 2023); a few look at
# one word sharply. All of them read every key, also those that get 0 %: a query can't know before it has looked.
#
# Now what is **not** in the picture: queries of the older tokens. Nobody asks them any more. Of an older token, only its key
# and its value are needed, in each layer.
#
# ### What was computed again
#
# Are the keys and values of the older tokens the same when a token is added? They must be: a token sees no later one, so
# nothing that happens after it can change anything about it. **Measure it.**

# %%
longer = Recorder()
model(torch.tensor(tokens[:4], device=model.device), positions(0, 4), longer)
pairs = zip(recorder.keys + recorder.values, longer.keys + longer.values, strict=True)
print(
    f"largest change of a key or value of the first 3 tokens: {max(float((a - b[:3]).abs().max()) for a, b in pairs):.1e}"
)
print(f"largest key or value: {max(float(x.abs().max()) for x in longer.keys + longer.values):.1f}")

# %% [markdown]
# Equal up to rounding (a product of another shape may add its numbers in another order). So everything that was computed for the
# first three tokens was computed again to get the same. This is why the cache is *allowed*: it holds for models that look
# only backwards. In an encoder such as BERT every new token changes all the others, and there is nothing to keep.
#
# ## The cache
#
# Keep each token's key and value, in every layer. Then a step needs only the newest token: make its query, key and value,
# append key and value, let the query look at all. The prompt goes in at once (**prefill**); after that each step takes one
# token (**decode**).

# %%
from course_lib.kv_cache import ContiguousCache

cache = ContiguousCache.for_model(model, capacity=8)
known, new = list(prompt), list(prompt)
for _ in range(6):
    start = cache.length
    logits = model(torch.tensor(new, device=model.device), positions(start, start + len(new)), cache)
    new = [int(logits[-1].argmax())]
    known += new
    print(f"{len(logits)} in, 1 out: {tokenizer.decode(known)!r:52} {cache.length} of {cache.capacity} slots")

# %% [markdown]
# Two details are easy to get wrong. The **positions** go on counting: a token that is alone in a call still stands at its
# place in the text. And the *last* token that was generated is not in the cache yet: six tokens were made from three, and
# eight of nine are stored.
#
# Which tokens did each step run through the model? A hook on the embedding counts them, in the course's two generators:

# %%
from course_lib.kv_cache import generate_with_cache, generate_without_cache

work = []
hook = model.embed_tokens.register_forward_hook(lambda _module, given, _out: work.append(len(given[0])))
without = generate_without_cache(model, prompt, 8)
cached = generate_with_cache(model, prompt, 8)
hook.remove()
pictures.computed_tokens(work[:8], work[8:])

# %% [markdown]
# ### The same tokens, proved
#
# On three texts, 24 tokens each; and how far the logits are apart.

# %%
texts = ["The three primary colours are", "def fibonacci(n):\n", "Water boils at 100 degrees, and ice"]
for text in texts:
    ids = tokenizer(text)["input_ids"]
    without, cached = generate_without_cache(model, ids, 24), generate_with_cache(model, ids, 24)
    print("same 24 tokens" if without == cached else "NOT THE SAME", "|", repr(tokenizer.decode(cached))[:70])

whole = torch.tensor(ids + cached, device=model.device)
cache = ContiguousCache.for_model(model, capacity=len(whole))
steps = torch.cat([model(whole[at : at + 1], positions(at, at + 1), cache) for at in range(len(whole))])
difference = (steps - model(whole, positions(0, len(whole)), NoCache())).abs().max()
print(f"one by one against all at once: logits differ by at most {difference:.1e}")

# %% [markdown]
# "The same" is meant as mathematics means it. The sums are added up in another order, so the last bits differ. In fp32 this
# hardly ever changes which token is likeliest. In bf16 two tokens that are nearly equally likely can swap, and from there on
# the texts part. That is no fault of the cache: changing the batch size does it too.
#
# ## What it saves, exactly
#
# "The cache turns O(T²) into O(T)" is often said, and it is not quite right. Two kinds of products have to be told apart.
# **Projections** multiply a token with weights: Q, K, V, output, MLP. **Attention** multiplies tokens with tokens. With T tokens
# of context:
#
# | | one more token: projections | attention | a whole text of T: projections | attention |
# |---|---|---|---|---|
# | without a cache | O(T) | O(T²) | O(T²) | O(T³) |
# | with a cache | O(1) | O(T) | O(T) | O(T²) |
#
# So with a cache, attention over a whole text is **still quadratic**. PyTorch can count the FLOPs of what really runs. Beside
# it the course's formula, `step_cost`:

# %%
from course_lib.kv_cache.measure import count_step

shape = ModelShape.from_config(folder)
rows = []
for how, new, context in (("without", 64, 64), ("without", 128, 128), ("with", 1, 64), ("with", 1, 128)):
    cost, (projections, attended) = step_cost(shape, new, context), count_step(model, new, context)
    same = (projections, attended) == (cost.projection_flops, cost.attention_flops)
    rows.append([how, str(context), f"{projections:,}", f"{attended:,}", "equal" if same else "NOT EQUAL"])
Table("FLOPs of one more token, counted", ["cache", ">context", ">projections", ">attention", "formula"], rows)

# %% [markdown]
# From 64 tokens to 128: without a cache the projections double and attention grows fourfold; with one, the projections stay and
# attention doubles. Since the formula counts what runs, it may be trusted where we can't run:

# %%
contexts = [2**power for power in range(5, 18)]
pictures.flops_per_token(
    contexts,
    [step_cost(shape, context, context) for context in contexts],
    [step_cost(shape, 1, context) for context in contexts],
)

# %% [markdown]
# **Predict, then measure.** With a cache, how many times more attention FLOPs does a text of 4,096 tokens cost than one of 1,024?
# And how many times more projections?

# %%
from course_lib.kv_cache import sequence_cost

short, long = (sequence_cost(shape, 1, length, cached=True) for length in (1024, 4096))
print("four times the tokens, with a cache:")
print(f"{long.projection_flops / short.projection_flops:.1f} times the projections", end=", ")
print(f"{long.attention_flops / short.attention_flops:.1f} times the attention")
naive = sequence_cost(shape, 1, 4096, cached=False)
print(f"and without a cache: {naive.flops / long.flops:,.0f} times the FLOPs of the text with one")

# %% [markdown]
# ### On the clock
#
# FLOPs are not seconds. **Predict, then measure.** At 1,024 tokens of context, how many times faster is a step with the cache?
# The FLOPs say this:

# %%
print(f"{step_cost(shape, 1024, 1024).flops / step_cost(shape, 1, 1024).flops:,.0f} times fewer FLOPs")

# %%
from course_lib.kv_cache.measure import time_step

sweep = (64, 128, 256, 512, 1024)
slow = [time_step(model, context, context, repeats=2) for context in sweep]
fast = [time_step(model, 1, context, repeats=8) for context in sweep]
pictures.step_times(slow, fast)

# %% [markdown]
# The shapes are those of the FLOPs, and the cache wins. But it wins by far less than the FLOPs promise: a step with a cache does
# far fewer FLOPs **a second**. The section after next finds out why. (On a GPU, a model this small takes nearly the same time for
# all of these: starting a step's operations takes longer than their arithmetic, until the text is long.)
#
# ## What it costs: bytes
#
# Each token leaves a key and a value, in each KV head of each layer:
#
# $$ \text{bytes per token} = 2 \cdot \text{layers} \cdot \text{KV heads} \cdot \text{head dim} \cdot \text{bytes per number} $$
#
# **Predict, then measure.** OPT-13B has no GQA: each of its 40 heads has its own keys. How much KV does *one token* leave, and
# after how many tokens is the cache as large as the weights? Guess for Llama-3.1-8B too.

# %%
from course_lib.kv_cache import kv_bytes_per_token

pictures.kv_table([MODELS[name] for name in ("SmolLM2-135M", "Qwen3-4B", "Llama-3.1-8B", "OPT-13B")])

# %% [markdown]
# A token's id is two or four bytes. What the model keeps of it is up to 800 KiB: memory becomes the scarce thing. GQA is the
# lever that made it better: Llama-3.1-8B shares each KV head among four query heads, and keeps a quarter of what it would.
#
# Try other models, lengths and batch sizes:

# %%
from course_lib.viz import kv_calculator

kv_calculator(model="Llama-3.1-8B")

# %% [markdown]
# ## Prefill and decode are different animals
#
# A step must fetch every weight from memory once, however many tokens it computes. Prefill computes many tokens with one
# fetch; decode fetches all weights for one token. The ratio has a name, **arithmetic intensity**: FLOPs done for each byte
# fetched. A machine has two speeds, FLOPs a second and bytes a second, and a step takes at least as long as the slower of the two
# needs. Drawn over intensity this is the **roofline** (Williams et al. 2009). First, this machine's two speeds, measured:

# %%
from course_lib.kv_cache.measure import measure_hardware

hardware = measure_hardware(machine.device())
print(
    f"{hardware.flops / 1e9:,.0f} GFLOP/s, {hardware.bandwidth / 1e9:,.0f} GB/s: ridge at {hardware.ridge:.0f} FLOPs a byte"
)

# %% [markdown]
# **Predict, then measure.** At batch 1 in fp32 (4 bytes a weight, 2 FLOPs a weight), what is decode's intensity? On which side of
# the ridge is it? And a prefill of 512 tokens?


# %%
def point(label, time):
    cost = step_cost(shape, time.new_tokens, time.context, time.batch, bytes_per_number=4)
    return label, cost.intensity, cost.flops / time.seconds


prefills = [point(f"{new} tokens", time_step(model, new, new)) for new in (32, 128, 512)]
batches = [time_step(model, 1, 128, batch) for batch in (1, 2, 4, 8, 16, 32)]
decodes = [point(f"batch {time.batch}", time) for time in batches[::2]]
pictures.roofline(hardware, {"prefill of a prompt": prefills, "decode, 128 tokens of context": decodes})

# %% [markdown]
# Decode at batch 1 does half a FLOP for each byte. It waits for memory, and most of the arithmetic units idle; prefill keeps them
# busy. That is where the FLOPs' promise went. What the cache removed was cheap arithmetic at high intensity. What is left is
# fetching weights, which no cache can save. (A point far below the roof has a third limit: a small model's many small operations
# have to be started one by one.)
#
# On GPUs the gap is far wider. Nominal speeds from NVIDIA's data sheets, and what they allow for Llama-3.1-8B in bf16:

# %%
from course_lib.kv_cache import HARDWARE

llama = MODELS["Llama-3.1-8B"]
pictures.limits_table(llama, list(HARDWARE.values()))

# %% [markdown]
# ## Why batches
#
# If the weights have to be fetched anyway, let more sequences use them: **batching**. A decode step for 8 sequences fetches the
# weights once. **Predict, then measure.** Batch 32 instead of 1: how many times the tokens a second?

# %%
pictures.batch_throughput(batches)

# %% [markdown]
# Two different wishes meet here. Who pays for the machine wants tokens a second: a large batch. Who reads wants *their* next
# token soon: each step takes a little longer.
#
# And it does not go on forever. Weights are shared by the batch, keys and values are not: every sequence reads its own. What the
# roofline of an H100 allows:

# %%
h100, rows = HARDWARE["H100 SXM"], []
for context in (1024, 8192, 32768):
    costs = {batch: step_cost(llama, 1, context, batch) for batch in (1, 8, 64, 512)}
    rows.append([f"{context:,}", *[f"{batch / h100.seconds(cost):,.0f}" for batch, cost in costs.items()]])
    rows[-1].append(f"{costs[512].kv_bytes / costs[512].bytes:.0%}")
columns = [">context", ">batch 1", ">batch 8", ">batch 64", ">batch 512", ">KV's share of bytes at 512"]
Table("Llama-3.1-8B on an H100: tokens a second at most (memory for the KV itself not asked)", columns, rows)

# %% [markdown]
# With long contexts a larger batch hardly helps: the bytes are the cache's own. And long before that it no longer *fits*: 512 sequences
# of 8,192 tokens of this model would be 512 GiB of keys and values, on a GPU with 80 GB. How many requests run together is decided
# by KV memory, and by how little of it is wasted. That is lesson 02.
#
# A rule of thumb says that decode leaves the slope at a batch as large as the ridge, 300 sequences on an H100. That is true of the
# projections. A whole step also fetches keys and values: the last exercise asks which batch it takes then, and where none will do.
#
# ### Two problems with batches
#
# In the batch above all sequences started together and had the same length. Real requests do neither.
#
# 1. **They come when they come.** The first one waits until the batch is full, or the batch runs half empty.
# 2. **They end when they end.** Nobody knows a request's length before it is written. Whoever is done first waits for the longest.

# %%
from course_lib.kv_cache.batching import slot_use, static_batches

turns = static_batches(arrivals=[0, 3, 9, 12, 14, 21, 22, 30], lengths=[14, 31, 6, 20, 9, 35, 12, 5], size=4)
print(f"steps that made a token: {slot_use(turns):.0%} of the slots' time")
print("first tokens came after", [turn.start + 1 - turn.arrival for turn in turns], "steps")
pictures.batch_timeline(turns)

# %% [markdown]
# Static batching wastes both ways. The cure is to let requests join and leave at every step. But then who gets which memory, for
# how long, when nobody knows how much it will be? The next lesson begins there.
#
# ## How it is done today
#
# - **vLLM** computes the same bytes: `vllm/v1/kv_cache_interface.py`, `AttentionSpec`. Its cache is no contiguous tensor per request,
#   but blocks (lesson 03): `vllm/v1/core/kv_cache_manager.py`. It knows no prefill and no decode either: each request has a number
#   `num_computed_tokens`, and a step computes some of the tokens after it. The positions are made from it in
#   `vllm/v1/worker/gpu_model_runner.py`, as our loop made them from `cache.length`.
# - **transformers**: `src/transformers/cache_utils.py`. Its `DynamicCache` appends with `torch.cat`, which copies all keys and
#   values of the layer at each step; `StaticCache` reserves, as our `ContiguousCache` does.
#
# ## What was measured
#
# On this machine, in this notebook:

# %%
rows = [
    ["one more token at 1,024, without a cache", f"{1e3 * slow[-1].seconds:,.1f} ms"],
    ["one more token at 1,024, with a cache", f"{1e3 * fast[-1].seconds:,.1f} ms"],
    [
        "times fewer FLOPs / times faster",
        f"{step_cost(shape, 1024, 1024).flops / step_cost(shape, 1, 1024).flops:,.0f} / {slow[-1].seconds / fast[-1].seconds:,.0f}",
    ],
    ["KV bytes for it, fp32", f"{1024 * kv_bytes_per_token(shape, 4) / 2**20:,.1f} MiB"],
    ["logits, one by one against all at once", f"differ by {difference:.1e} at most"],
    ["ridge of this machine", f"{hardware.ridge:.0f} FLOPs a byte"],
    ["decode at batch 1 / prefill of 512", f"{decodes[0][1]:.1f} / {prefills[-1][1]:.0f} FLOPs a byte"],
    ["tokens a second, batch 1 / batch 32", f"{1 / batches[0].seconds:,.0f} / {32 / batches[-1].seconds:,.0f}"],
]
Table("Lesson 01 on this machine", ["what", ">measured"], rows)

# %% [markdown]
# ## Your turn
#
# Six exercises: attention as above, bytes for any config, the cache itself, the decoding loop, FLOPs of a whole generation, and
# the batch from which on decode is no longer bound by memory. They are in [exercises/01_kv_cache.ipynb](../exercises/01_kv_cache.ipynb).
#
# ## Sources
#
# - Vaswani et al., *Attention is all you need* (arXiv 1706.03762): the formula, section 3.2.1.
# - Shazeer, *Fast transformer decoding* (arXiv 1911.02150): why decoding is bound by memory; Ainslie et al., *GQA* (arXiv 2305.13245).
# - Pope et al., *Efficiently scaling transformer inference* (arXiv 2211.05102): prefill and decode, and what each is limited by.
# - Williams, Waterman, Patterson, *Roofline* (Communications of the ACM 52(4), 2009).
# - Xiao et al., *Efficient streaming language models with attention sinks* (arXiv 2309.17453).
# - Kwon et al., *Efficient memory management for large language model serving with PagedAttention* (SOSP 2023, arXiv 2309.06180):
#   OPT-13B's 800 KiB a token, and the lessons after this one.
# - Speeds: NVIDIA's data sheets of H200, H100, A100 and L4 (dense bf16, without sparsity).
