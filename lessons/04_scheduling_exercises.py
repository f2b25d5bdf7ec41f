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
# # 04 Exercises: the scheduler
#
# Replace each `raise NotImplementedError` by your code, run the cell, then the one with `check`. It says what holds, what does
# not, and shows a small input on which your code goes wrong. You can run it as often as you like.
# The exercises do not depend on one another; the last one puts all of them together. The lesson is
# [04_scheduling](../notebooks/04_scheduling.ipynb).

# %%
from course_lib.grading import check

# %% [markdown] exercise="04.latency"
# ## What a reader feels
#
# Tokens a second is what a server's owner looks at. A reader feels three other numbers: how long nothing came, how fast the
# text flows, and the worst stall in it. Before you tune a scheduler you have to measure them right, and there are many ways not
# to.
#
# Write `streaming_latencies`. It gets when each request arrived and when each of its tokens came, and returns a dict:
#
# - `ttft`: the median, over requests, of the wait from arrival to the first token;
# - `itl`: the median of **all** waits between a token of a request and its next one, all requests' waits together;
# - `worst`: the longest of these waits;
# - `tpot`: for each request of two tokens or more, the time from its first token to its last, divided by the number of tokens
#   after the first. Of that the mean over requests.
#
# Where no request has two tokens, the last three are 0.0.
#
# **Expected**: with arrivals `{"A": 0.0, "B": 1.0}` and tokens at `{"A": [0.5, 1.0, 3.0], "B": [1.2]}`, `ttft` is 0.35, `itl`
# 1.25, `worst` 2.0 and `tpot` 1.25.
#
# <details><summary>Hint 1: waits</summary>
#
# `itertools.pairwise` gives a list's neighbours. Use it on one request's times at a time.
#
# </details>
#
# <details><summary>Hint 2: requests of one token</summary>
#
# They have a first token, and no wait after it. Which of the four numbers do they take part in?
#
# </details>

# %% exercise="04.latency"
from itertools import pairwise
from statistics import mean, median


def streaming_latencies(arrivals: dict[str, float], token_times: dict[str, list[float]]) -> dict[str, float]:
    """Return `ttft`, `itl`, `worst` and `tpot`, all in seconds.

    Args:
        arrivals: when each request came.
        token_times: when each of its tokens came, in order; at least one token each.
    """
    # SOLUTION
    firsts = [times[0] - arrivals[name] for name, times in token_times.items()]
    waits = [after - before for times in token_times.values() for before, after in pairwise(times)]
    paces = [(times[-1] - times[0]) / (len(times) - 1) for times in token_times.values() if len(times) > 1]
    return {
        "ttft": median(firsts),
        "itl": median(waits) if waits else 0.0,
        "worst": max(waits, default=0.0),
        "tpot": mean(paces) if paces else 0.0,
    }
    # END SOLUTION


# %% exercise="04.latency"
check("04.latency", streaming_latencies)

# %% [markdown] exercise="04.catch_up"
# ## No prefill, no decode: catching up
#
# This is the idea that vLLM's scheduler is built on. A request has `num_tokens` tokens, prompt and output, and for
# `num_computed_tokens` of them the keys and values are in the cache. A step lets the second number catch up with the first.
# Whether that is called a prefill, a chunk of one, or a decode makes no difference to the scheduler.
#
# Write `plan_running`: for the requests that run already, how many tokens each computes in the next step. They are served in
# order, each with as many tokens as it is behind, as long as the budget lasts. The last one to get something may get a part.
# Who computes nothing is not in the plan. There are enough blocks.
#
# **Expected**: with a budget of 8, requests A (10 tokens, 9 computed), B (20 tokens, 4 computed) and C (5 tokens, 4 computed)
# give `{"A": 1, "B": 7}`.
#
# <details><summary>Hint 1: one line for both kinds</summary>
#
# `min(request.num_tokens - request.num_computed_tokens, budget)` is 1 for a request that generates, and a chunk for a prompt.
#
# </details>
#
# <details><summary>Hint 2: zeros</summary>
#
# A request that is not behind computes nothing. Those after it still may.
#
# </details>

# %% exercise="04.catch_up"
from course_lib.scheduling import Request


def plan_running(running: list[Request], budget: int) -> dict[str, int]:
    """Return how many tokens each request computes, by `request_id`, in order.

    Args:
        running: the running requests, in order; they stay as they are.
        budget: tokens that the step may compute in all, 0 or more.
    """
    # SOLUTION
    plan = {}
    for request in running:
        new = min(request.num_tokens - request.num_computed_tokens, budget)
        if new:
            plan[request.request_id] = new
            budget -= new
    return plan
    # END SOLUTION


# %% exercise="04.catch_up"
check("04.catch_up", plan_running)

# %% [markdown] exercise="04.admission"
# ## Who may begin?
#
# Those who run are served. Now the queue: who may begin in this step, with what is left of the budget? Every mistake here has a
# victim. Let in too many, and they throw each other out. Let short ones pass, and a long one waits for ever.
#
# Write `admit`. Look at the waiting requests in order, and stop at the first one that can't begin:
#
# - there is a place for it: at most `places` requests begin;
# - some of the budget is left. It gets as many tokens as it has, or what is left of the budget;
# - blocks for **all** of its tokens are free, even if only a part of them is computed now. Those blocks are then its own.
#
# Nothing is computed yet for any of them, and there is no prefix cache.
#
# **Expected**: with blocks of 4, a budget of 10, 3 places and 5 free blocks, requests A (6 tokens), B (9) and C (2) give
# `{"A": 6, "B": 4}`. With 4 free blocks it is `{"A": 6}`: B has to wait, and C does not pass it.
#
# <details><summary>Hint 1: blocks for n tokens</summary>
#
# `-(-n // block_size)` is n / block_size rounded up.
#
# </details>
#
# <details><summary>Hint 2: stop or go on?</summary>
#
# `break` keeps the order; `continue` lets others pass.
#
# </details>


# %% exercise="04.admission"
from course_lib.scheduling import Request


def admit(waiting: list[Request], budget: int, places: int, free_blocks: int, block_size: int) -> dict[str, int]:
    """Return how many tokens each request that begins computes, by `request_id`, in order.

    Args:
        waiting: the queue, its head first; it stays as it is.
        budget: tokens that the step may compute still.
        places: requests that may begin at most.
        free_blocks: blocks that nobody holds.
        block_size: slots in a block.
    """
    # SOLUTION
    plan = {}
    for request in waiting:
        needed = -(-request.num_tokens // block_size)
        if not budget or len(plan) == places or needed > free_blocks:
            break
        plan[request.request_id] = min(request.num_tokens, budget)
        budget -= plan[request.request_id]
        free_blocks -= needed
    return plan
    # END SOLUTION


# %% exercise="04.admission"
check("04.admission", admit)

# %% [markdown] exercise="04.hits"
# ## What does a hit cost?
#
# The prefix cache found blocks with which a request's text begins. They spare work, but they are not free of charge: a block
# that nobody holds stands in the free list, and leaves it when the request takes it over. A scheduler that forgets this admits
# a request that does not fit.
#
# Write `admission_cost`. `found` are the cached blocks from the start of the text, in order, perhaps all of its full ones.
# Return two numbers:
#
# - how many tokens need not be computed. Only whole blocks can be taken over, and the **last token** is computed in any case:
#   the next token's logits come from it;
# - how many blocks leave the free list when the request gets slots for all of its tokens: new ones, and those taken over whose
#   `ref_cnt` is 0.
#
# **Expected**: with blocks of 4 and 8 tokens, of which two cached blocks are known that nobody holds, it is `(4, 2)`. Were the
# first one held by somebody, it would be `(4, 1)`.
#
# <details><summary>Hint 1: how many blocks may be used?</summary>
#
# All tokens but the last one fill `(num_tokens - 1) // block_size` blocks.
#
# </details>
#
# <details><summary>Hint 2: counting what leaves</summary>
#
# All blocks of the text, less those taken over, are new. To that come those taken over that were free.
#
# </details>

# %% exercise="04.hits"
from course_lib.paged_attention import Block


def admission_cost(num_tokens: int, found: list[Block], block_size: int) -> tuple[int, int]:
    """Return the tokens that need not be computed, and the blocks that leave the free list.

    Args:
        num_tokens: tokens of the request's text, 1 or more.
        found: cached blocks from its start; each has a `ref_cnt`.
        block_size: slots in a block.
    """
    # SOLUTION
    usable = found[: (num_tokens - 1) // block_size]
    new = -(-num_tokens // block_size) - len(usable)
    return len(usable) * block_size, new + sum(block.ref_cnt == 0 for block in usable)
    # END SOLUTION


# %% exercise="04.hits"
check("04.hits", admission_cost)

# %% [markdown] exercise="04.preempt"
# ## Somebody has to give way
#
# A running request needs a block for its next token, and none is free. Nobody knew how long the answers would get. Somebody
# gives all of its blocks, and computes its tokens again later, or finds some of them in the prefix cache.
#
# Write `make_room`. While the pool has too few free blocks for `request` to have slots for `num_tokens` tokens, preempt a
# victim: under `fcfs` the last of `scheduler.running`, under `priority` the one with the highest `(priority, arrival_time)`. It
# may be the request itself; then stop, for it runs no more. To preempt means:
#
# - it is no longer in `scheduler.running`, and its blocks are free (`scheduler.kv_manager.free(request_id)`);
# - its `status` is `RequestStatus.PREEMPTED`, nothing of it is computed, and `num_preemptions` is one more;
# - it waits in front of the queue (`scheduler.waiting.put_back(request)`);
# - if tokens were planned for it in this step already, they are off the `plan`.
#
# **Expected**: the list of victims, in order. How many blocks are needed says
# `scheduler.kv_manager.num_blocks_needed(request_id, num_tokens)`, and how many are free
# `scheduler.kv_manager.pool.num_free_blocks`.
#
# <details><summary>Hint 1: one or more?</summary>
#
# A victim may have fewer blocks than are needed. Look again after each.
#
# </details>
#
# <details><summary>Hint 2: who was planned already?</summary>
#
# Under `fcfs` nobody who comes after the request. Under `priority` the least important one may stand anywhere in the list.
#
# </details>

# %% exercise="04.preempt"
from course_lib.scheduling import Request, RequestStatus, Scheduler


def make_room(scheduler: Scheduler, request: Request, num_tokens: int, plan: dict[str, int]) -> list[Request]:
    """Preempt until `request` can have slots for `num_tokens` tokens, or is preempted itself; return the victims.

    Args:
        scheduler: has `config.policy`, `running`, `waiting` and `kv_manager`.
        request: a running request that is to grow; this function does not give it any blocks.
        num_tokens: its tokens that need a slot, from its first.
        plan: this step's tokens so far, by `request_id`.
    """
    # SOLUTION
    manager, victims = scheduler.kv_manager, []
    while manager.num_blocks_needed(request.request_id, num_tokens) > manager.pool.num_free_blocks:
        victim = scheduler.running[-1]
        if scheduler.config.policy == "priority":
            victim = max(scheduler.running, key=lambda one: (one.priority, one.arrival_time))
        scheduler.running.remove(victim)
        manager.free(victim.request_id)
        victim.status = RequestStatus.PREEMPTED
        victim.num_computed_tokens = 0
        victim.num_preemptions += 1
        scheduler.waiting.put_back(victim)
        plan.pop(victim.request_id, None)
        victims.append(victim)
        if victim is request:
            break
    return victims
    # END SOLUTION


# %% exercise="04.preempt"
check("04.preempt", make_room)

# %% [markdown] exercise="04.scheduler"
# ## vLLM's scheduler
#
# Now all of it. The check runs your scheduler and the course's beside each other on many requests, and compares plan, queue and
# block tables after every step. The course's one equals vLLM's own on thousands of such runs, so in the end you have written
# vLLM's scheduler.
#
# Write `schedule` for first come first served, with chunked prefill. Your class inherits `add_request`, `update` and
# `_preempt(request)`, which does all that a victim needs. You have `self.config` (`max_num_batched_tokens`, `max_num_seqs`),
# `self.requests` (by id), `self.running` (a list), `self.waiting` (`first()`, `remove(request)`) and `self.kv_manager`. The
# order of things:
#
# 1. **Running requests, in order**: as in "catching up". Where `allocate_slots` gives None, the last running request is
#    preempted, until it does, or until the request itself was the victim. `output.preempted[victim id]` is the id of the
#    request that needed the blocks.
# 2. **Waiting requests**, only if nobody was preempted: as in "who may begin", and with what the prefix cache found. A request
#    that begins is taken out of the queue, joins the end of `running`, gets `RequestStatus.RUNNING`, and its
#    `num_computed_tokens` is what the cache spared it.
# 3. At last, what is planned counts as computed: each planned request's `num_computed_tokens` grows by its tokens.
#
# What you need of `self.kv_manager`, with `hashes = request.block_hashes(self.kv_manager.block_size)`:
# `get_computed_blocks(hashes, num_tokens)` returns the cached blocks that may be used; `num_blocks_needed(request_id,
# num_tokens, blocks)` says how many blocks leave the free list; `allocate_slots(request_id, num_tokens, hashes, blocks)` gives
# slots for the first `num_tokens` tokens, `blocks` being those from the cache, or returns None and changes nothing.
#
# **Expected**: no difference.
#
# <details><summary>Hint 1: going through a list that shrinks</summary>
#
# Go through a copy of `self.running`, and skip a request that is not in `self.running` any more.
#
# </details>
#
# <details><summary>Hint 2: while ... else</summary>
#
# Python's `while` has an `else`: it runs when the condition became false, and not after a `break`. That is the place to plan a
# request for which there was room.
#
# </details>
#
# <details><summary>Hint 3: all of it must fit, a part is computed</summary>
#
# `num_blocks_needed` is asked for `request.num_tokens`, `allocate_slots` for the cached tokens and the new ones.
#
# </details>

# %% exercise="04.scheduler"
from course_lib.scheduling import SchedulerOutput


class MyScheduler(Scheduler):
    """vLLM's scheduler, first come first served."""

    def schedule(self) -> SchedulerOutput:
        """Plan the next step, and give its tokens their slots."""
        # SOLUTION
        output, budget = SchedulerOutput(), self.config.max_num_batched_tokens
        plan, manager = output.num_scheduled_tokens, self.kv_manager
        for request in list(self.running):
            new = min(request.num_tokens - request.num_computed_tokens, budget)
            if request not in self.running or not new:
                continue
            tokens, hashes = request.num_computed_tokens + new, request.block_hashes(manager.block_size)
            while manager.allocate_slots(request.request_id, tokens, hashes) is None:
                victim = self.running[-1]
                self._preempt(victim)
                output.preempted[victim.request_id] = request.request_id
                if victim is request:
                    break
            else:
                plan[request.request_id] = new
                budget -= new
        while self.waiting and budget and len(self.running) < self.config.max_num_seqs and not output.preempted:
            request = self.waiting.first()
            hashes = request.block_hashes(manager.block_size)
            found = manager.get_computed_blocks(hashes, request.num_tokens)
            if manager.num_blocks_needed(request.request_id, request.num_tokens, found) > manager.pool.num_free_blocks:
                break
            cached = len(found) * manager.block_size
            new = min(request.num_tokens - cached, budget)
            manager.allocate_slots(request.request_id, cached + new, hashes, found)
            self.waiting.remove(request)
            self.running.append(request)
            request.status = RequestStatus.RUNNING
            request.num_computed_tokens = request.num_cached_tokens = cached
            plan[request.request_id] = new
            budget -= new
        for request_id, new in plan.items():
            self.requests[request_id].num_computed_tokens += new
        return output
        # END SOLUTION


# %% [markdown] exercise="04.scheduler"
# Your scheduler in the engine: a model generates for six requests in a pool that is too small for all of them.

# %% exercise="04.scheduler"
from functools import partial

from course_lib.paged_attention import BlockPool
from course_lib.scheduling.trace import record
from course_lib.serving import LLM, SamplingParams

options = {"max_model_len": 256, "block_size": 32, "max_num_seqs": 8, "max_num_batched_tokens": 64}
prompts = [{"prompt_token_ids": [10 * place + 1] * length} for place, length in enumerate((40, 90, 30, 70, 20, 100))]
sampling = {"temperature": 0, "max_tokens": 30, "ignore_eos": True, "detokenize": False}
pool = partial(BlockPool, null_block=True)  # vLLM keeps block 0 to itself
llm = LLM("tiny", **options, num_blocks=13, scheduler=MyScheduler, block_pool=pool)
mine = record(llm.llm_engine.scheduler)
outputs = llm.generate(prompts, SamplingParams(**sampling))
print(mine)

# %% [markdown] exercise="04.scheduler"
# And the real vLLM on the same requests, watched from outside. Its engine takes some seconds to start.

# %% exercise="04.scheduler"
import vllm

from course_lib.models import load_policy
from course_lib.scheduling.comparable import comparable
from course_lib.scheduling.trace import first_difference
from course_lib.serving.probe import probe

memory = {"num_gpu_blocks_override": 13, "kv_cache_memory_bytes": 64 << 20, "gpu_memory_utilization": 0.2}
quiet = {"enforce_eager": True, "skip_tokenizer_init": True, "use_tqdm_on_load": False}
real = vllm.LLM(str(load_policy("tiny")), **options, **memory, **quiet, async_scheduling=False)
theirs = probe(real)
real.generate(prompts, vllm.SamplingParams(**sampling), use_tqdm=False)
difference = first_difference(comparable(mine, tokens=False), comparable(theirs, tokens=False))
print(theirs, "\nfirst difference:", difference or "none")

# %% exercise="04.scheduler"
check("04.scheduler", MyScheduler)
