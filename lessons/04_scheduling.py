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
# # 04 Scheduling: who runs in the next step?
#
# **After this lesson** you can say why a server refills its batch at every step, plan a step by hand as vLLM does, explain why
# there is no prefill phase and no decode phase, choose a token budget by what it does to readers, say what a preemption costs
# and who pays for it, and read a trace of the real vLLM step by step.
#
# **Time** 55 minutes, of which about two are computing. **You need** [lesson 01](01_kv_cache.ipynb) (why a batch is nearly
# free), [lesson 02](02_fragmentation.ipynb) (why batches are refilled) and [lesson 03](03_paged_attention.ipynb) (blocks, the
# free list, the prefix cache).
#
# > **The question.** A step that makes one token takes nearly as long as a step that makes sixty: the weights are read once for
# > all of them. So a server is as fast as its batch is full. But requests come when they like, with prompts of 5 or of 8,000
# > tokens, and nobody knows how long an answer will be. Who runs in the next step, and with how many tokens?

# %%
import os
import time
from dataclasses import replace
from functools import partial
from statistics import median

import numpy as np

from course_lib import machine, viz
from course_lib.fragmentation import poisson_requests, sharegpt
from course_lib.kv_cache import HARDWARE, MODELS
from course_lib.models import load_policy
from course_lib.scheduling import Request, Scheduler, SchedulerConfig
from course_lib.viz import lesson_04 as pictures

machine.prepare()
folder = load_policy(os.environ.get("COURSE_POLICY", "smollm2"))
machine.versions()

# %% [markdown]
# ## The way of a request
#
# Text comes in, and becomes token ids. They wait in a queue. Once for every step of the model, the **scheduler** looks at who
# runs, at who waits and at the block pool, and writes a plan: these requests compute so many tokens each. The workers run the
# model once, for all of them side by side, and PagedAttention reads each one's keys through its block table. A token comes out
# for each request that has nothing left to compute. It goes to its reader at once, and it is the next thing that this request
# has to compute.

# %%
pictures.pipeline()

# %% [markdown]
# The plan is the interface. The scheduler never sees a tensor, and the workers never see the queue. That is why this lesson can
# put the scheduler in front of a **clock** instead of a model. The clock says how long a step takes at least on a given GPU:
# its FLOPs and its bytes, by lesson 01's roofline. So an H100 that serves Llama-3.1-8B fits into a laptop, and hours into
# seconds.
#
# **vLLM today.** The picture's boxes are `vllm/v1/engine/async_llm.py` (API and stream), `vllm/v1/core/sched/scheduler.py`,
# `vllm/v1/worker/gpu_model_runner.py`, and one loop around them, `EngineCore.step` in `vllm/v1/engine/core.py`. Ours are
# `course_lib/scheduling` and `course_lib/serving`; the loop is `LLMEngine.step`.

# %% [markdown]
# ## Refill the batch in every step
#
# Lesson 02 counted idle rows. Here is the same with time: 640 requests that are all there from the start, on that H100. A
# **static** batch takes 32 requests, or 256, and lets nobody in until all of them are done. **Iteration-level scheduling**
# (Orca, 2022) fills each free place in the very next step. Two workloads: ShareGPT's lengths, as in the PagedAttention paper,
# and Orca's own, with prompts of 32 to 512 and outputs of 1 to 128 tokens.
#
# **Predict, then measure.** With 32 places, by which factor is iteration-level scheduling faster on Orca's lengths, where the
# longest of 32 answers is about twice the mean? And on ShareGPT's, where it is about four times the mean?

# %%
from course_lib.scheduling.replay import StaticBatching, replay, roofline
from course_lib.scheduling.workloads import OrcaLengths, at_once

clock = roofline(MODELS["Llama-3.1-8B"], HARDWARE["H100 SXM"])
gains = {}
for name, lengths in (("ShareGPT", sharegpt()), ("Orca", OrcaLengths())):
    jobs = at_once(poisson_requests(rate=1, count=640, lengths=lengths, seed=0))
    for places in (32, 256):
        wide = SchedulerConfig(max_num_batched_tokens=65536, max_num_seqs=places)
        both = [replay(jobs, wide, 40_000, clock, scheduler=kind) for kind in (StaticBatching, Scheduler)]
        gains[f"{name}, {places} places"] = both[0], both[1]
pictures.gains(gains)

# %% [markdown]
# The gain is the longest answer over the mean one, and little else. So it depends on the workload, and "continuous batching is
# N times faster" says nothing without one. Nor does it replace a wide batch: look at what the places alone do.
#
# Orca's paper reports **36.9 times**. That is another question: how many requests a second can a server take **before a reader
# waits too long**, for GPT-3 on 16 GPUs, compared with an engine that had more to lose than its batching. The same question
# here: requests come at random, and a reader's latency is the time from arrival to the last token, by token.
#
# **Predict, then measure.** 32 places and ShareGPT's lengths. A token of a lone request takes 4.5 ms. Up to which load does the
# median stay below 10 ms a token?

# %%
rates, places = (0.5, 1, 2, 4, 8, 16), SchedulerConfig(max_num_batched_tokens=65536, max_num_seqs=32)
curves = {"static batches": [], "iteration-level": []}
for rate in rates:
    jobs = poisson_requests(rate, count=60 + int(40 * rate), lengths=sharegpt(), seed=0)
    for (_, curve), kind in zip(curves.items(), (StaticBatching, Scheduler), strict=True):
        ends = replay(jobs, places, 20_000, clock, scheduler=kind).token_times
        curve.append(median((ends[job.id][-1] - job.arrival) / job.output_tokens for job in jobs))
pictures.latency_by_load(rates, curves, limit=0.010)

# %% [markdown]
# A newcomer to a static batch waits for somebody else's longest answer, even when the GPU has next to nothing to do. That is
# why the gain at a bound on latency is several times the gain in speed. (The axis ends at 16 because 32 places can't do more
# than 17 for long: that many requests a second are the 5,898 tokens of the table.)
#
# ### And with a model?
#
# `LLM` is the course's engine, with vLLM's own interface. It takes a scheduler as an argument, so that the same two run a real
# model on this machine: 4 places, 16 answers, most of them short and some long, the better of two runs each.

# %%
from course_lib.fragmentation import iteration_level, static_batches
from course_lib.serving import LLM, SamplingParams

answers = [4, 6, 8, 40] * 4
prompts = [{"prompt_token_ids": [7 + place] * 12} for place in range(16)]
wishes = [SamplingParams(temperature=0, max_tokens=n, ignore_eos=True, detokenize=False) for n in answers]


def serve(kind):
    llm = LLM(folder, max_model_len=256, num_blocks=200, max_num_seqs=4, scheduler=kind)
    llm.generate(prompts[:4], SamplingParams(max_tokens=4))  # the first steps are slow
    began, made = time.perf_counter(), llm.generate(prompts, wishes)
    return sum(answers) / (time.perf_counter() - began), [output.outputs[0].token_ids for output in made]


runs = [serve(kind) for kind in (StaticBatching, Scheduler) * 2]
static, joined = max(runs[::2]), max(runs[1::2])
engine_gain, steps = joined[0] / static[0], [plan(answers, rows=4).steps for plan in (static_batches, iteration_level)]
print(f"static batches {static[0]:.0f} tokens/s, iteration-level {joined[0]:.0f} tokens/s: {engine_gain:.1f} times")
print(f"by the count of steps {steps[0] / steps[1]:.1f} times; same tokens: {static[1] == joined[1]}")

# %% [markdown]
# Lesson 02's count of steps says what there is to gain where a step takes the same time whatever its batch. On a CPU a row of
# the batch is not free, and the gain may differ. On a GPU it may be nothing at all with a model this small: a step that only
# decodes is a CUDA graph, launched as one, and a step that lets somebody in is launched operation by operation, which takes
# several times as long. Refilling makes fewer steps, and more of the slow kind. In 16-bit numbers tokens may differ here and there: sums are added up in
# another order when other requests are in the batch.

# %% [markdown]
# ## One idea: catching up
#
# Older engines, and many drawings, know two kinds of steps: a *prefill* that computes prompts, and a *decode* that makes one
# token for everybody. Then somebody has to decide which kind comes next. vLLM's scheduler has no such kinds. Each request has
# two numbers:
#
# - `num_tokens`: its tokens so far, prompt and output;
# - `num_computed_tokens`: how many of them have their keys and values in the cache.
#
# A step lets the second number catch up with the first, for as many requests as a **budget of tokens** and the blocks allow. A
# new prompt is far behind. A request that generates is one token behind. That is all. Chunks of prompts, prefix hits and
# preemptions need no mechanism of their own: they are other values of the two numbers.
#
# The plan of a step is made in two passes:
#
# 1. **Who runs already**, in order: each gets as many tokens as it is behind, while the budget lasts.
# 2. **Who waits**, in order, if the first pass took nobody's blocks away: each that has a place, budget and blocks joins. At
#    the first one that can't, stop.
#
# **Predict, then measure.** A budget of 8 tokens. A has a prompt of 5, B of 18, C of 3, and each wants a few tokens. What is in
# the plans of the first four steps?

# %%
from course_lib.scheduling.dry_run import dry_run

small = SchedulerConfig(max_num_batched_tokens=8, max_num_seqs=4, max_model_len=64)
requests = [Request("A", range(5), 6), Request("B", range(100, 118), 4), Request("C", range(200, 203), 5)]
trace = dry_run(requests, small, num_blocks=16)
for step in trace.steps[:5]:
    print(f"step {step.number}: {step.plan}{'  held back: ' + step.held_back if step.held_back else ''}")
pictures.timeline(trace, "A budget of 8 tokens: B's prompt takes what A leaves of it")

# %% [markdown]
# Step 0 computes A's whole prompt and 3 tokens of B's, in one call of the model. From step 1 on A makes a token a step, and B's
# prompt gets the other 7. C waits until the budget has something left for it. Nobody decided "prefill now".
#
# Now take the same run apart. Scrub through the steps: who waits, who runs, whose each block is, and why somebody was held
# back.

# %%
viz.trace_viewer(trace, title="Two numbers and a budget")

# %% [markdown]
# **vLLM today.** The comment at the head of `Scheduler.schedule` in `vllm/v1/core/sched/scheduler.py` says it in the same
# words: "There's no 'decoding phase' nor 'prefill phase' in the scheduler." The two passes are its two `while` loops. Ours is
# `course_lib/scheduling/scheduler.py`, with the same names and a small part of the length.

# %% [markdown]
# ## The stall
#
# Eight chats a second come to our H100. One in twenty brings a document of 8,000 tokens. Without chunks, such a prompt is
# computed in one step, and everybody who is being answered waits for that step: their text stops. With chunks, the budget
# bounds what a step can take. That is **chunked prefill** (Sarathi-Serve, 2024).
#
# What readers feel is the **inter-token latency**, the wait between a token and the next, and the **time to first token**.
#
# **Predict, then measure.** A step without a document takes about 5 ms. How long is the worst wait without chunks, with a
# budget of 2,048 and with 512? And what happens to the 99th percentile: does it get better too?

# %%
from course_lib.scheduling.workloads import with_documents

jobs = with_documents(rate=8, count=240, share=0.05, tokens=8000, seed=0)
whole = SchedulerConfig(
    max_num_batched_tokens=16384, max_num_seqs=256, max_model_len=16384, enable_chunked_prefill=False
)
chunked = {f"{n}": replace(whole, max_num_batched_tokens=n, enable_chunked_prefill=True) for n in (2048, 512, 256)}
stalls = {name: replay(jobs, config, 20_000, clock) for name, config in ({"whole prompts": whole} | chunked).items()}
pictures.stalls(stalls)

# %%
pictures.stall_table(stalls)

# %% [markdown]
# Read the table by columns. The **worst** wait falls with the budget, as promised. The **p99 gets worse** before it gets
# better: with whole prompts, so few waits are hit by a document that the 99th percentile does not see them. In chunks of 2,048
# the same work is spread over more steps, so more waits are longer, and now the percentile sees them. Whoever tunes by p99
# alone would switch chunks off, and keep the stall.
#
# The price is paid by the documents: their first token comes after more steps, each of which reads the weights anew. A budget
# of 256 is less than what this GPU computes in the time in which it reads them (lesson 01's ridge), and then the price is felt.
# Speed is the same in all rows, because this GPU is not full.
#
# ### And with a model?
#
# Six chats run, and after some steps a document of 256 tokens comes. Every step is a wait of all six readers.


# %%
wish, engine_stall = SamplingParams(temperature=0, max_tokens=40, ignore_eos=True, detokenize=False), {}


def waits(budget):
    llm = LLM(folder, max_model_len=512, num_blocks=200, max_num_batched_tokens=budget, enable_prefix_caching=False)
    for name, length in (*((f"chat {n}", 12) for n in range(6)), ("document", 256)):
        llm.add_request(name, {"prompt_token_ids": [40] * length}, wish)
        yield from (timed(llm.step) for _ in range(4 if length == 12 else 14))


def timed(work):
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


for budget in (512, 32) * 2:  # the first round loads kernels, which would look like a wait
    engine_stall[budget] = list(waits(budget))
for budget, times in engine_stall.items():
    print(f"budget {budget:3}: a usual step {median(times[16:24]):5.0f} ms, the worst one {max(times[4:]):5.0f} ms")

# %% [markdown]
# ## Too few blocks
#
# Nothing is reserved for answers (lesson 02 showed what that would cost). So it happens that every running request wants a
# block for its next token, and none is free. Somebody has to go: the **last to come** gives all of its blocks, waits at the
# front of the queue, and its count of computed tokens is 0. It will catch up again like anybody else. That is a **preemption by
# recompute**.
#
# **Predict, then measure.** Three requests with prompts of 12 tokens want 16 tokens each, in blocks of 4. Each ends up with 7
# blocks, and the pool has 13. How often is somebody preempted? And how much of what was lost has to be computed again?

# %%
from course_lib.scheduling.preemptions import preemptions

tight = SchedulerConfig(max_num_batched_tokens=32, max_num_seqs=4, max_model_len=64)
requests = [Request(name, range(100 * n, 100 * n + 12), 16) for n, name in enumerate("ABC")]
trace = dry_run(requests, tight, num_blocks=13)
print(preemptions(trace))
for step in trace.steps:
    for victim, taker in step.preempted.items():
        print(f"step {step.number}: {victim} gives way to {taker}")
pictures.timeline(trace, "Three requests in a pool for not quite two")

# %%
viz.trace_viewer(trace, title="A pool that is too small: who gives way, and what is found again")

# %% [markdown]
# A victim's full blocks keep their hashes, and stand at the **back** of the free list. So a part of what was lost is often
# still there when the request comes back: the prefix cache finds it, and less is computed again. How much depends on how many
# blocks were taken in the meantime. C waited long: its blocks were gone, and it computes 16 tokens again. B waited for three
# steps, found all of its full blocks, and goes on with one token as if nothing had been.
#
# Two details keep this from going round in circles. In a step that preempted, **nobody is admitted**: what was freed is for
# those who run. And the victim is the **last** to come, so the first always finishes.
#
# ### What it costs
#
# ShareGPT's requests, all there at once, in smaller and smaller pools. **Predict, then measure.** With a quarter of the blocks
# that would do for all, how much slower is it? And how much of the time goes into computing tokens again?

# %%
from course_lib.scheduling.trace import record

jobs, busy = at_once(poisson_requests(1, 120, sharegpt(), seed=3)), SchedulerConfig(512, 64)
traces = {}


def watched(blocks, config, manager):
    scheduler = Scheduler(config, manager)
    traces[blocks] = record(scheduler)
    return scheduler


sizes = (250, 500, 1000, 2000, 4000)
pools = {blocks: replay(jobs, busy, blocks, clock, scheduler=partial(watched, blocks)) for blocks in sizes}
pictures.pool_sizes(pools)

# %%
lost = {blocks: preemptions(trace) for blocks, trace in traces.items()}
per_token = 2 * MODELS["Llama-3.1-8B"].layer_weights / HARDWARE["H100 SXM"].flops
rows = []
for blocks, cost in lost.items():
    computed = sum(sum(step.plan.values()) for step in traces[blocks].steps)
    shares = [cost.found / max(1, cost.lost), cost.recomputed / computed]
    shares.append(cost.recomputed * per_token / pools[blocks].seconds)
    rows.append([f"{blocks}", f"{cost.count}", f"{cost.own}", f"{cost.lost:,}", *(f"{share:.1%}" for share in shares)])
columns = [">blocks", ">preemptions", ">of oneself", ">tokens lost", ">found again", ">of all computed", ">of the time"]
viz.Table("What preemptions cost", columns, rows)

# %% [markdown]
# Look at the last two columns. In the small pools a quarter of all tokens that were computed are computed again, and that is a
# few percent of the time at most. Lost tokens are computed many at a time, like a prompt, and that is what a GPU does best.
# (The last column is what their FLOPs take.) A small pool is slow because its **batch** is small. "Of oneself": the last to
# come was the one that needed a block.
#
# The paper of 2023 offered a second way, **swapping**: copy the victim's blocks to the host's memory, and back later. vLLM V1
# has no swapping. (Copies to host memory are back as a *cache*, through KV connectors, and not as a way to preempt.)
#
# **vLLM today** counts preemptions in its metrics (`vllm:num_preemptions_total`). If you see many, give the pool more memory,
# or lower `max_num_seqs`.

# %% [markdown]
# ## Prefix hits, and what they are worth
#
# Lesson 03 built the prefix cache. The scheduler is where it pays: a hit makes a request begin with `num_computed_tokens` above
# 0. Everything else stays as it is. Here are 40 conversations of four turns on the H100. All share a system prompt of 400
# tokens, and each turn sends everything that was said before again.
#
# **Predict, then measure.** What share of all prompt tokens could be found at best? And which share is found when the pool
# holds 6,400 tokens, a sixth of what all conversations need?

# %%
from course_lib.scheduling.workloads import chats

talk = chats(conversations=40, turns=4, system=400, said=120, pause=6.0, seed=0)
hits = {
    blocks: replay(talk.jobs, busy, blocks, clock, prompts=talk.prompts) for blocks in (200, 400, 800, 1600, 3200, 6400)
}
unlimited = replay(talk.jobs, busy, 100_000, clock, prompts=talk.prompts)
pictures.hit_rates(hits, unlimited.cached_tokens / unlimited.prompt_tokens)

# %% [markdown]
# Nearly half of all prompt tokens are the system prompt. It stays even in a small pool: it is used all the time, so it is never
# the oldest. What only one conversation needs has to survive until its next turn, and that takes memory. So a hit rate is a
# property of the traffic **and** of the pool.
#
# (An answer that comes back in the next prompt would be found, too. Here it is not, since the clock makes tokens up.)

# %% [markdown]
# ## The same requests, in the real vLLM
#
# So far you had to believe that the course's scheduler does what vLLM's does. Here are both, in this process, with the same
# options and the same prompts: chunked prompts, a shared beginning, and a pool that is too small.

# %%
from course_lib.paged_attention import BlockPool

options = {
    "dtype": "float32" if machine.device() == "cpu" else "bfloat16",
    "max_model_len": 256,
    "block_size": 32,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
}
begins = list(range(50, 90))
prompts = [{"prompt_token_ids": begins * (n % 2) + [100 + 7 * n] * (20 + 13 * n)} for n in range(7)]
wish = {"temperature": 0, "max_tokens": 20, "ignore_eos": True, "detokenize": False}

ours = LLM(folder, **options, num_blocks=13, block_pool=partial(BlockPool, null_block=True))
mine = record(ours.llm_engine.scheduler)
our_outputs = ours.generate(prompts, SamplingParams(**wish))
mine

# %% [markdown]
# (`null_block`: vLLM keeps block 0 for slots that nobody reads. With it, the blocks have the same numbers.) Now the real one.
# `probe` hangs itself into vLLM's scheduler and writes the same records.

# %%
import vllm

from course_lib.serving.probe import probe

quiet = {"enforce_eager": True, "skip_tokenizer_init": True, "use_tqdm_on_load": False}
real = vllm.LLM(
    str(folder),
    **options,
    **quiet,
    num_gpu_blocks_override=13,
    kv_cache_memory_bytes=256 << 20,
    gpu_memory_utilization=0.2,  # a GPU that others use too has no more; the pool is set above
    async_scheduling=False,
)
theirs = probe(real)
their_outputs = real.generate(prompts, vllm.SamplingParams(**wish), use_tqdm=False)
theirs

# %%
from course_lib.scheduling.comparable import comparable
from course_lib.scheduling.trace import first_difference

mine, theirs = comparable(mine), comparable(theirs)
part = first_difference(comparable(mine, tokens=False), comparable(theirs, tokens=False))
same_tokens = [
    list(a.outputs[0].token_ids) == list(b.outputs[0].token_ids)
    for a, b in zip(our_outputs, their_outputs, strict=True)
]
print("first difference in plan, queue, block tables, free list, evictions:", part or "none")
print(f"answers with the same tokens: {sum(same_tokens)} of {len(same_tokens)}")
viz.trace_viewer(mine, other=theirs, title="Ours and vLLM's")

# %% [markdown]
# Not similar: equal, step by step, down to the order of the free list. A test of this room runs both through thousands of
# random traces, with aborts, priorities and all options, and compares everything after every step.
#
# Answers are compared as well. On a CPU in 32-bit numbers they are equal. On a GPU in 16-bit numbers, two engines may differ
# where two tokens are nearly equally likely. The plan does not depend on which token it was.
#
# ### How long does planning take?
#
# While the scheduler thinks, the GPU waits. (vLLM overlaps the two where it can: `async_scheduling`. So does our engine on a GPU, with
# `AsyncScheduler`: lesson 05.) **Predict, then measure.** Our scheduler is plain Python and a small part of the length of vLLM's,
# which is plain Python too. Which is faster, and by how much?

# %%
from course_lib.scheduling.benchmark import compare

planning = [compare(running, load_policy("tiny"), steps=30) for running in (64, 256, 1024)]
print(*planning, sep="\n")

# %% [markdown]
# That is no merit. vLLM's keeps the books of speculative tokens, LoRA adapters, encoder inputs, grammars and remote caches.
# What you see is what generality costs in Python.

# %% [markdown]
# ## The rules, one by one
#
# A scheduler that is *nearly* vLLM's is another scheduler after a hundred steps. These are the nine rules that a faithful copy
# needs:
#
# | | rule | why |
# |---|---|---|
# | 1 | Running requests first, in order; one that is not behind is skipped | nobody who was let in starves |
# | 2 | No block free: the last to come gives way, with its budget, and waits in front | the first always ends |
# | 3 | In a step that preempted, nobody is admitted | what was freed is for those who run |
# | 4 | A hit is whole blocks, and never the last token | logits come from computing it |
# | 5 | A hit in the free list counts against the free blocks | it leaves the list |
# | 6 | The whole prompt must fit at admission, not just its first chunk | no half-computed prompt that blocks others |
# | 7 | Full blocks are published when they are *planned* | two equal prompts in one step share |
# | 8 | Freed blocks: last first; without a hash to the front, with one to the back | what can be found lives longest |
# | 9 | Preempted and finished requests' blocks keep their hashes | they are found again |
#
# What is each good for? Leave it out and look. ShareGPT at once, a pool of 500 blocks, and one decision different in each row.
#
# **Predict, then measure.** Which change makes the server *faster*? Which one makes it fall over?

# %%
from course_lib.scheduling.rules import RULES


def outcome(kind):
    try:
        return replay(jobs, busy, 500, clock, scheduler=kind)
    except ValueError as error:
        return f"falls over: {str(error).partition(';')[0]}"


rules = {name: outcome(kind) for name, kind in RULES.items()}
pictures.rules_table(rules)

# %% [markdown]
# Most rows differ by little, some by nothing at all on these requests, and that is the lesson: the rules are hardly about
# speed. Preempting the request that has run **longest** is even faster here, because it frees many blocks at once. But then
# nobody is sure to finish: with the last to come as the victim, the first one always does. The back of the queue lets newcomers
# begin sooner; the last column, a reader's worst stall in the middle of an answer, says who pays for it. And one rule is no
# question of taste: who forgets rule 5 takes blocks that are not there.
#
# The row of rule 3 shows nothing, and a line of arithmetic says why: the victim stands at the head of the queue, needs all the
# blocks that it gave, and somebody has just taken one. By priority, another one may stand at the head, and then the rule
# decides.
#
# Rules 4 and 7 are about what the model would compute, and no clock sees them. Rule 7, with two equal prompts in one step:

# %%
twins = [Request(name, range(12), 3) for name in ("A", "B")]
for step in dry_run(twins, tight, num_blocks=16).steps[:1]:
    print(f"step 0: plan {step.plan}, tables {step.tables}")

# %% [markdown]
# B shares A's blocks *in the step that computes them*. That is safe: a step writes all its keys before anybody reads them. And
# B computes its last block itself, by rule 4: its table has a block of its own at the end.

# %% [markdown]
# ## The paper and vLLM today
#
# The PagedAttention paper is from 2023, and vLLM's V1 engine from 2025. Whoever reads the one to understand the other should
# know what changed:
#
# | | the paper and its vLLM (2023) | vLLM 0.32 |
# |---|---|---|
# | Steps | a step computes prompts or makes tokens | both in one step, under one token budget |
# | Long prompts | computed whole | in chunks, by default |
# | Preemption | recompute, or swap to host memory | recompute only |
# | Several samples of a prompt | copy on write | separate requests that share full blocks |
# | Beam search | inside the engine, with forks | outside, on top of requests (`vllm/entrypoints`) |
# | Prefix sharing | for prefixes that the operator names | automatic, by hashes, on by default |
# | Victims | the whole sequence group of a request | one request |
# | Free list | not said | last first; since 2025/26, blocks without a hash to the front |
#
# What has stayed is blocks, block tables, and the free list that is also the cache.

# %% [markdown]
# ## What was measured
#
# Down to the preemptions, these are the clock's numbers, the same on every machine. The others are this one's.

# %%
gained = [joined.tokens_per_second / static.tokens_per_second for static, joined in gains.values()]
waited = {name: np.array(run.inter_token_latency) * 1e3 for name, run in stalls.items()}
found = {blocks: run.cached_tokens / run.prompt_tokens for blocks, run in hits.items()}
summary = [
    ["Gain of refilling the batch in every step (simulated)", f"{min(gained):.1f} to {max(gained):.1f} times"],
    *([f"Wait, {n}: p99, worst", f"{np.quantile(w, 0.99):.1f}, {w.max():.1f} ms"] for n, w in waited.items()),
    ["Prompt tokens from the cache, 400 and 6,400 blocks", f"{found[400]:.0%} and {found[6400]:.0%}"],
    ["Lost tokens found again after a preemption, 500 blocks", f"{lost[500].found / max(1, lost[500].lost):.0%}"],
    ["Gain of refilling with a model on this machine, 4 places", f"{engine_gain:.1f} times"],
    *([f"Worst step with a document, budget {n}", f"{max(times[4:]):.0f} ms"] for n, times in engine_stall.items()),
    ["Where our trace and vLLM's part", part or "nowhere"],
    ["Planning time, ours by vLLM's", " / ".join(f"{one.ratio:.2f}" for one in planning)],
]
viz.Table("Lesson 04 on this machine", ["what", ">found"], summary)

# %% [markdown]
# Who runs in the next step? Whoever runs already, then whoever comes first and fits. With how many tokens? As many as it is
# behind, if the budget has them. All the rest is care for the blocks. The engine around this scheduler is in
# `course_lib/serving`, with vLLM's interface: `LLM(model, scheduler=YourScheduler)`.
#
# ## Exercises
#
# Six exercises: the latencies that readers feel, catching up, admission, the price of a prefix hit, preemption, and then vLLM's
# `schedule` as a whole. It runs in the engine, and beside the real vLLM. They are in
# [exercises/04_scheduling.ipynb](../exercises/04_scheduling.ipynb).
#
# ## Sources
#
# - Yu et al., *Orca: a distributed serving system for transformer-based generative models* (OSDI 2022): iteration-level
#   scheduling; section 6.2 for the workload.
# - Kwon et al., *Efficient memory management for large language model serving with PagedAttention* (SOSP 2023, arXiv
#   2309.06180): sections 4.5 and 7.3 for preemption by swapping and by recomputing.
# - Agrawal et al., *Taming throughput-latency tradeoff in LLM inference with Sarathi-Serve* (OSDI 2024, arXiv 2403.02310):
#   chunked prefill, stalls.
# - vLLM 0.32: `vllm/v1/core/sched/scheduler.py`, `vllm/v1/core/kv_cache_manager.py`, `vllm/v1/core/block_pool.py`,
#   `vllm/v1/engine/core.py`.
