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
# # 08 Exercises: your parts in the loop
#
# Five milestones, and each is a part of the loop of lesson 08: a block pool and a scheduler for the engine that samples, a reward,
# an advantage and a loss. `check` says what holds, what does not, and shows a small input on which your code goes wrong. They do
# not depend on one another, and none starts an engine.
#
# The section *Your own parts in the loop* of [08_capstone](../notebooks/08_capstone.ipynb) takes what is written **here**, checks it,
# and runs it; what is missing or wrong is replaced by the course's own, and a table says which. Whoever did the exercises of
# lessons 03, 04 and 07 brings most of it along. `make grade` grades these milestones and the newest run.

# %%
import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_lib.grading import check
from course_lib.paged_attention import Block, PagedKVManager
from course_lib.scheduling import Request, Scheduler, SchedulerConfig, SchedulerOutput

if TYPE_CHECKING:  # the names of types alone: importing them for good would start DeepSpeed
    from course_lib.rl import LossConfig, Problem, ResponseTokens

# %% [markdown] exercise="08.block_pool"
# ## Blocks for your engine
#
# Eight samples of one prompt share the blocks of that prompt, if the pool can find them. In a reinforcement-learning loop that is
# most of the prefill. It is also how an engine goes wrong without a sound: a block that is found by its old hash holds somebody
# else's text, and after a weight update every block that is found holds keys of the old weights.
#
# Write `MyBlockPool`. The first three methods are those of exercise 03.block_pool; three are new.
#
# - `cache_full_blocks(blocks, hashes)`: from now on each block is found by its hash. Write it into `block.block_hash`, too.
# - `get_cached_block(hash)`: the block, held or free, or None. Two blocks may have the same hash; either may be returned.
# - A block that is given back **stays findable**: its keys and values lie there still. Once it is handed out to somebody new it is
#   not, and its `block_hash` is None.
# - So the order matters in which free blocks are handed out: first those without a hash, then those with one, and of these the one
#   that was freed longest ago. In one call of `free_blocks`, the first block is freed first.
# - `reset_prefix_cache()`: forget all hashes and return True. While anybody holds a block, return False and forget nothing.
#
# **Expected**: for any sequence of requests, no block has two owners, free and used blocks are the pool, and what is found is what
# was looked for.
#
# <details><summary>Hint 1: what to keep</summary>
#
# All blocks by number, the free ones in a dict (it keeps the order in which they came), and a dict from hash to block.
#
# </details>
#
# <details><summary>Hint 2: in which order</summary>
#
# `sorted` is stable: sort the free blocks by whether they have a hash, and those freed longest ago stay in front.
#
# </details>
#
# <details><summary>Hint 3: two blocks with one hash</summary>
#
# Your dict knows one of them. When the other one is handed out, the entry has to stay: look whether it is the same block.
#
# </details>


# %% exercise="08.block_pool"
class MyBlockPool:
    """Blocks that are handed out, shared, found again and taken back.

    Attributes:
        blocks: all blocks, `blocks[i].block_id == i`.
    """

    def __init__(self, num_blocks: int, enable_caching: bool = True):
        # SOLUTION
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self.enable_caching = enable_caching
        self._free = dict(enumerate(self.blocks))
        self._cached: dict[bytes, Block] = {}
        # END SOLUTION

    @property
    def num_free_blocks(self) -> int:
        """How many blocks nobody holds."""
        # SOLUTION
        return len(self._free)
        # END SOLUTION

    def get_new_blocks(self, count: int) -> list[Block]:
        """Hand out free blocks, each with one holder; nobody asks for more than are free."""
        # SOLUTION
        taken = sorted(self._free.values(), key=lambda block: block.block_hash is not None)[:count]
        for block in taken:
            del self._free[block.block_id]
            block.ref_cnt = 1
            if block.block_hash is not None and self._cached.get(block.block_hash) is block:
                del self._cached[block.block_hash]
            block.block_hash = None
        return taken
        # END SOLUTION

    def touch(self, blocks: Iterable[Block]) -> None:
        """Add a holder to each block. A block without any was free, and is not any more."""
        # SOLUTION
        for block in blocks:
            self._free.pop(block.block_id, None)
            block.ref_cnt += 1
        # END SOLUTION

    def free_blocks(self, blocks: Iterable[Block]) -> None:
        """Take a holder away from each block. A block without any is free, and can be found still."""
        # SOLUTION
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self._free[block.block_id] = block
        # END SOLUTION

    def cache_full_blocks(self, blocks: Sequence[Block], hashes: Sequence[bytes]) -> None:
        """Let each of these full blocks be found by its hash."""
        # SOLUTION
        for block, block_hash in zip(blocks, hashes, strict=True):
            block.block_hash = block_hash
            self._cached[block_hash] = block
        # END SOLUTION

    def get_cached_block(self, block_hash: bytes) -> Block | None:
        """Return a block with this hash, held or free, or None."""
        # SOLUTION
        return self._cached.get(block_hash)
        # END SOLUTION

    def reset_prefix_cache(self) -> bool:
        """Forget all hashes; do nothing while a block is held. Return whether it was done."""
        # SOLUTION
        if len(self._free) < len(self.blocks):
            return False
        self._cached.clear()
        for block in self.blocks:
            block.block_hash = None
        return True
        # END SOLUTION


# %% [markdown] exercise="08.block_pool"
# Your pool in the KV manager of the engine: B and C begin as A did, and find A's blocks.

# %% exercise="08.block_pool"
manager = PagedKVManager(8, 4, block_pool=MyBlockPool)
found = {name: manager.allocate(name, [7] * 8 + own) for name, own in {"A": [1], "B": [2, 3], "C": [4]}.items()}
print("tokens found:", found, " tables:", {name: manager.table(name) for name in found})

# %% exercise="08.block_pool"
check("08.block_pool", MyBlockPool)

# %% [markdown] exercise="08.scheduler"
# ## Short ones first, and nobody forgotten
#
# First come, first served lets one long prompt hold up many short ones. Shortest first has the least mean waiting time, and a fault:
# as long as short ones come, a long one never begins. The cure is age: who waits moves up.
#
# Write `MyScheduler`, a subclass of the course's `Scheduler`. Before each step the waiting requests are put in the order of
#
#     rank = length of the prompt + AGEING * step in which the request came
#
# the smallest first, equal ones in the order in which they stand. Steps are counted from 0 by calls of `schedule`, and a request
# that came before the first call came in step 0. A request that had to give way its blocks keeps its rank. Everything else stays
# as it is: budget, places, blocks, and that nobody overtakes the first one that has to wait.
#
# **Expected**: prompts of 20, 3 and 12 tokens that come together begin in the order 3, 12, 20. One of 4 tokens that comes three
# steps after one of 20 begins after it: 4 + 8 · 3 is more than 20.
#
# <details><summary>Hint 1: which methods</summary>
#
# Three are enough: `__init__`, `add_request` (note the step), `schedule` (sort, count, and let `super()` do the rest).
#
# </details>
#
# <details><summary>Hint 2: sorting a queue</summary>
#
# `self.waiting` can be looped over, and has `remove(request)` and `add(request)`, which adds at the end. `sorted` makes a list of
# its own, so the queue may be changed in a loop over it.
#
# </details>

# %% exercise="08.scheduler"
AGEING = 8
"""As many tokens of a prompt as a step of waiting counts for."""


class MyScheduler(Scheduler):
    """Takes short prompts first, and old ones before it is too late."""

    def __init__(self, config: SchedulerConfig, kv_manager: PagedKVManager):
        super().__init__(config, kv_manager)
        # SOLUTION
        self.step = 0
        self.came: dict[str, int] = {}
        # END SOLUTION

    def add_request(self, request: Request) -> None:
        """Let a request wait for its turn.

        Raises:
            ValueError: it can never run.
        """
        # SOLUTION
        super().add_request(request)
        self.came[request.request_id] = self.step
        # END SOLUTION

    def schedule(self) -> SchedulerOutput:
        """Plan the next step."""

        # SOLUTION
        def rank(request: Request) -> int:
            return request.num_prompt_tokens + AGEING * self.came[request.request_id]

        for request in sorted(self.waiting, key=rank):
            self.waiting.remove(request)
            self.waiting.add(request)
        self.step += 1
        return super().schedule()
        # END SOLUTION


# %% exercise="08.scheduler"
planner = MyScheduler(SchedulerConfig(max_num_batched_tokens=16), PagedKVManager(32, 4))
for name, length in {"long": 20, "short": 3, "middle": 12}.items():
    planner.add_request(Request(name, list(range(length)), max_tokens=4))
planner.schedule().num_scheduled_tokens

# %% exercise="08.scheduler"
check("08.scheduler", MyScheduler)

# %% [markdown] exercise="08.reward"
# ## A little for the form
#
# A policy that never hits the answer never hears anything but 0, and learns nothing. So it is usual to pay a little for what is at
# least of the right form. Little, or the form is all that is learned.
#
# Write `my_reward` for the sums of lesson 08: 1.0 where the last number of the completion is the answer, 0.1 where the last number is
# another one, 0.0 where there is none. Numbers are whole, without sign, commas or leading zeros.
#
# A policy at temperature 1 says everything sooner or later: nothing at all, other scripts, 6,000 digits in a row. Each completion
# gets a finite number, in its place. One exception, and the run stops.
#
# **Expected**: for the answer 12, the completions `7 + 5 = 12.`, `It is 13` and `I don't know` are worth `[1.0, 0.1, 0.0]`.
#
# <details><summary>Hint 1: all numbers, then the last one</summary>
#
# `re.findall(r"[0-9]+", text)` returns a list, which may be empty.
#
# </details>
#
# <details><summary>Hint 2: 6,000 digits</summary>
#
# `int` refuses texts of more than 4,300 digits. Does it have to be an `int`?
#
# </details>


# %% exercise="08.reward"
def my_reward(problems: "Sequence[Problem]", completions: Sequence[str]) -> list[float]:
    """Return what each completion is worth.

    Args:
        problems: one for each completion; `problem.answer` is the right number, as text such as `12`.
        completions: what the policy said.
    """
    # SOLUTION
    rewards = []
    for problem, completion in zip(problems, completions, strict=True):
        found = re.findall(r"[0-9]+", completion)
        if not found:
            rewards.append(0.0)
        else:
            rewards.append(1.0 if found[-1] == problem.answer else 0.1)
    return rewards
    # END SOLUTION


# %% exercise="08.reward"
check("08.reward", my_reward)

# %% [markdown] exercise="08.advantage"
# ## Your own advantage
#
# REINFORCE, RLOO, GRPO and Dr. GRPO differ in how they turn rewards into advantages. Which one is yours? Choose, or invent one. The
# check asks only for what all of those that look at one group at a time have in common:
#
# - in a group, a better reward has a larger advantage, equal rewards have equal ones, and they add up to 0;
# - a group's advantages depend on that group alone;
# - they stay small: none is larger than the number of samples in the group, for rewards from 0 to 1 however little they differ;
# - a group of equal rewards has advantages of 0, and never NaN. In float32 the mean of seven times 0.7 need not be 0.7: what rounding
#   leaves is no signal;
# - the rewards stay as they are: the run records them after you.
#
# **Expected**: with GRPO's advantage, `[[1., 0., 0., 0.], [0.7, 0.7, 0.7, 0.7]]` gives `[[1.5, -0.5, -0.5, -0.5], [0, 0, 0, 0]]`;
# with Dr. GRPO's the first row is `[0.75, -0.25, -0.25, -0.25]`.
#
# <details><summary>Hint 1: the shortest one</summary>
#
# The reward minus the group's mean is enough.
#
# </details>
#
# <details><summary>Hint 2: with a deviation</summary>
#
# Add a small number to it before you divide: about 1e-4.
#
# </details>


# %% exercise="08.advantage"
def my_advantage(rewards: Tensor) -> Tensor:
    """Return the advantages `[groups, samples]`.

    Args:
        rewards: `[groups, samples]`, a row for each prompt; two samples or more.
    """
    # SOLUTION
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + 1e-4)
    # END SOLUTION


# %% exercise="08.advantage"
check("08.advantage", my_advantage)

# %% [markdown] exercise="08.loss"
# ## The loss of your run
#
# The loop hands your loss the response tokens of a micro-batch, whole responses one after another, without prompt and padding:
#
# $$ \text{loss} = -w\,\min\bigl(\rho A,\ \mathrm{clip}(\rho, 1 - \epsilon_\text{low}, 1 + \epsilon_\text{high})\, A\bigr),
# \qquad \rho = \frac{\pi(\text{token})}{\pi_\text{old}(\text{token})},
# \qquad w = \min\Bigl(\frac{\pi_\text{old}(\text{token})}{\pi_\text{sampler}(\text{token})},\ \text{truncate\_at}\Bigr) $$
#
# Three probabilities of the same token: `tokens.logprobs` under the weights that are trained (the only one with a gradient),
# `tokens.old_logprobs` by the trainer before the step, `tokens.sampler_logprobs` by the engine that drew it. The ratio $\rho$ says how
# far the step has moved the policy, the weight $w$ how far two engines with equal weights disagree.
#
# Write `my_loss`. `tokens.advantages` is each token's; `config` has `clip_low`, `clip_high` (`math.inf` is off) and `truncate_at`
# (0 is off: all weights are 1). What else `config` has belongs to other algorithms. Return the loss of **each token**: the loop averages
# them by the algorithm's own rule, over the whole step and not over the micro-batch.
#
# **Expected**: with `clip_low=0.2`, `clip_high=0.28` and equal engines, ratios of 0.5, 1.0 and 1.5 cost `[-0.5, -1.0, -1.28]` at an
# advantage of 1, and `[0.8, 1.0, 1.5]` at -1.
#
# <details><summary>Hint 1: from logprobs to a ratio</summary>
#
# `torch.exp(new - old)`.
#
# </details>
#
# <details><summary>Hint 2: which of the two</summary>
#
# `torch.minimum` of the two **gains**, each with its advantage, and the sign last.
#
# </details>


# %% exercise="08.loss"
def my_loss(tokens: "ResponseTokens", config: "LossConfig") -> Tensor:
    """Return the loss of each token, `[tokens]`.

    Args:
        tokens: `logprobs`, `old_logprobs`, `sampler_logprobs`, `advantages` and `samples` (which response a token belongs to), each
            `[tokens]`.
        config: `clip_low`, `clip_high`, `truncate_at`.
    """
    # SOLUTION
    ratio = torch.exp(tokens.logprobs - tokens.old_logprobs)
    clipped = ratio.clamp(1 - config.clip_low, 1 + config.clip_high)
    loss = -torch.minimum(ratio * tokens.advantages, clipped * tokens.advantages)
    if not config.truncate_at:
        return loss
    return loss * torch.exp(tokens.old_logprobs - tokens.sampler_logprobs).clamp(max=config.truncate_at)
    # END SOLUTION


# %% exercise="08.loss"
check("08.loss", my_loss)

# %% [markdown]
# ## And now, in the loop
#
# Go to [08_capstone](../notebooks/08_capstone.ipynb), section *Your own parts in the loop*. Save this notebook first.
