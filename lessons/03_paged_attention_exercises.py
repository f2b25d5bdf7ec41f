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
# # 03 Exercises: PagedAttention
#
# Replace each `raise NotImplementedError` by your code, run the cell, then the one with `check`. It says what holds, what does
# not, and shows the smallest input on which your code goes wrong. You can run it as often as you like.
# The exercises do not depend on one another. The lesson is [03_paged_attention](../notebooks/03_paged_attention.ipynb).

# %%
from course_lib.grading import check

# %% [markdown] exercise="03.slot_mapping"
# ## Where is token 37?
#
# Every kernel that writes or reads a paged cache starts here. A mistake raises no error: the slots exist, they are just
# somebody else's.
#
# Write `slot_mapping`: for each position of a request, the slot of the pool in which its key lies. The slots of block 0 come
# first, then those of block 1, and so on.
#
# **Expected**: `slot_mapping([6, 1, 4], [0, 15, 16, 37], 16)` is `[96, 111, 16, 69]`.
#
# <details><summary>Hint 1: split the position</summary>
#
# `divmod(position, block_size)` gives two numbers. One chooses an entry of the table, the other needs no translation.
#
# </details>
#
# <details><summary>Hint 2: how far into the pool does a block begin?</summary>
#
# In front of block 6 lie six blocks. How many slots are these?
#
# </details>


# %% exercise="03.slot_mapping"
def slot_mapping(table: list[int], positions: list[int], block_size: int) -> list[int]:
    """Return the slot of each position.

    Args:
        table: the request's block numbers, in the order of its text.
        positions: places in the text, from 0, in any order; the table has a block for each.
        block_size: slots in a block.
    """
    # SOLUTION
    return [table[position // block_size] * block_size + position % block_size for position in positions]
    # END SOLUTION


# %% exercise="03.slot_mapping"
check("03.slot_mapping", slot_mapping)

# %% [markdown] exercise="03.new_blocks"
# ## Blocks for a growing request
#
# Nothing is reserved in paged memory. Before each step the engine asks: how many blocks does this request need in addition?
# Too few, and tokens have no slot. Too many, and the waste of lesson 02 is back.
#
# Write `new_blocks_needed`. The request holds just the blocks for its `tokens`; the empty slots of its last block are its own.
#
# **Expected**: with blocks of 16, a prompt of 33 tokens needs 3. After 33 tokens, 15 more need none, and 16 more need one.
#
# <details><summary>Hint 1: count blocks twice</summary>
#
# How many blocks do all tokens need, the old and the new ones? How many are there already?
#
# </details>
#
# <details><summary>Hint 2: rounding up</summary>
#
# `-(-a // b)` is a / b rounded up, for whole numbers, without a float.
#
# </details>


# %% exercise="03.new_blocks"
def new_blocks_needed(tokens: int, new_tokens: int, block_size: int) -> int:
    """Return how many blocks a request needs in addition.

    Args:
        tokens: tokens that it has stored; 0 for a new request.
        new_tokens: tokens to come, at least 1.
        block_size: slots in a block.
    """
    # SOLUTION
    held = -(-tokens // block_size)
    return -(-(tokens + new_tokens) // block_size) - held
    # END SOLUTION


# %% exercise="03.new_blocks"
check("03.new_blocks", new_blocks_needed)

# %% [markdown] exercise="03.paged_attention"
# ## Attention through a block table
#
# This is the function that a kernel has to equal: every new token's query over the keys of its request, wherever they lie.
#
# Write `paged_attention` by gathering: for each request, collect its keys and values in logical order, then attend. Lesson 01's
# `attention` is there for the second part; its queries are the *last* tokens of its keys.
#
# Three things to mind. The last block is rarely full. The queries of all requests stand one after another in `q`. And rows of
# `block_tables` are filled up with 0 where a request has fewer blocks than the longest one: that 0 is no block of its own.
#
# **Expected**: no difference from dense attention, for decode and for chunks.
#
# <details><summary>Hint 1: collecting</summary>
#
# `key_cache[blocks]` with a tensor of block numbers has shape `[len(blocks), block_size, kv_heads, head_dim]`. `.flatten(0, 1)`
# makes one row of slots of it.
#
# </details>
#
# <details><summary>Hint 2: which slots hold a key?</summary>
#
# The first `seq_len` ones, and no others.
#
# </details>
#
# <details><summary>Hint 3: which queries?</summary>
#
# Keep a counter `start`. A request's queries are `q[start : start + query_len]`.
#
# </details>

# %% exercise="03.paged_attention"
import torch
from torch import Tensor

from course_lib.kv_cache import attention


def paged_attention(
    q: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    block_tables: Tensor,
    seq_lens: list[int],
    query_lens: list[int],
) -> Tensor:
    """Attend causally for the new tokens of several requests.

    Args:
        q: [tokens, heads, head_dim], queries of the new tokens, one request after another.
        key_cache: [num_blocks, block_size, kv_heads, head_dim].
        value_cache: the same for values.
        block_tables: [requests, max_blocks], each request's blocks in logical order.
        seq_lens: keys of each request, those of its new tokens included; all are in the cache.
        query_lens: new tokens of each request: its last ones.

    Returns:
        [tokens, heads, head_dim].
    """
    # SOLUTION
    outputs, start, block_size = [], 0, key_cache.shape[1]
    for table, seq_len, query_len in zip(block_tables, seq_lens, query_lens, strict=True):
        blocks = table[: -(-seq_len // block_size)]
        keys = key_cache[blocks].flatten(0, 1)[:seq_len]
        values = value_cache[blocks].flatten(0, 1)[:seq_len]
        outputs.append(attention(q[start : start + query_len], keys, values))
        start += query_len
    return torch.cat(outputs)
    # END SOLUTION


# %% exercise="03.paged_attention"
check("03.paged_attention", paged_attention)

# %% [markdown] exercise="03.block_pool"
# ## A block pool that counts
#
# The pool is the one place that knows which blocks are free. If it is wrong once, two requests write into the same block, and both
# continue with each other's keys.
#
# Write `BlockPool`. A `Block` has a `block_id` and a `ref_cnt`: how many block tables hold it. The pool hands blocks out with a count of 1;
# `touch` adds a holder; `free_blocks` takes one away, and at 0 the block is free again. A block that is touched may also be a **free**
# one: the prefix cache found it. Prefix caching itself is not asked for here, so `enable_caching` needs no attention.
#
# Your class has the names that the course's engine uses, and the last part of the check runs it in there.
#
# **Expected**: for any sequence of calls, free and used blocks are the whole pool, and each count is the number of holders.
#
# <details><summary>Hint 1: what to keep</summary>
#
# All blocks in `self.blocks`, by number, and the free ones in a `collections.deque` or a dict. Take from one end.
#
# </details>
#
# <details><summary>Hint 2: refusing</summary>
#
# Look at the number of free blocks *before* you take the first one.
#
# </details>
#
# <details><summary>Hint 3: touching a free block</summary>
#
# It has a holder now. If it stays in the free list, it will be handed out to somebody else as well.
#
# </details>

# %% exercise="03.block_pool"
from collections.abc import Iterable

from course_lib.paged_attention import Block


class BlockPool:
    """Blocks that are handed out, shared and taken back.

    Attributes:
        blocks: all blocks, `blocks[i].block_id == i`.
    """

    def __init__(self, num_blocks: int, enable_caching: bool = False):
        # SOLUTION
        self.blocks = [Block(block_id) for block_id in range(num_blocks)]
        self._free = dict(enumerate(self.blocks))
        # END SOLUTION

    @property
    def num_free_blocks(self) -> int:
        """How many blocks nobody holds."""
        # SOLUTION
        return len(self._free)
        # END SOLUTION

    def get_new_blocks(self, count: int) -> list[Block]:
        """Hand out free blocks, each with one holder.

        Raises:
            ValueError: fewer are free; then nothing has changed.
        """
        # SOLUTION
        if count > len(self._free):
            raise ValueError(f"{count} blocks asked for, {len(self._free)} free")
        taken = list(self._free.values())[:count]
        for block in taken:
            del self._free[block.block_id]
            block.ref_cnt = 1
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
        """Take a holder away from each block. A block without any is free."""
        # SOLUTION
        for block in blocks:
            block.ref_cnt -= 1
            if block.ref_cnt == 0:
                self._free[block.block_id] = block
        # END SOLUTION


# %% [markdown] exercise="03.block_pool"
# Your pool in the real thing: a model generates for three requests at once, and its keys and values lie where your pool says.

# %% exercise="03.block_pool"
import os

from course_lib.kv_cache import Transformer, generate_with_cache
from course_lib.models import load_policy
from course_lib.paged_attention import PagedKVCache, PagedKVManager, generate_paged

manager = PagedKVManager(16, 4, enable_caching=False, block_pool=BlockPool)
model = Transformer.load(load_policy(os.environ.get("COURSE_POLICY", "tiny")))
prompts = {"A": [5, 6, 7, 8, 9], "B": [10, 11], "C": [12] * 17}
made = generate_paged(model, PagedKVCache.for_model(model, 16, 4), manager, prompts, 8)
print({name: manager.table(name) for name in prompts})
print("same tokens:", made == {name: generate_with_cache(model, prompt, 8) for name, prompt in prompts.items()})

# %% exercise="03.block_pool"
check("03.block_pool", BlockPool)

# %% [markdown] exercise="03.free_order"
# ## Who is evicted first?
#
# A free block that has a hash can still be found, until somebody takes it. So the order of the free list decides what the prefix
# cache forgets. The front is taken first.
#
# Write `give_back`: a request ends, it alone held the blocks of its table, and they go to the free list in vLLM's order of today:
#
# - blocks without a hash go to the front, since nobody can find them again;
# - blocks with one go to the back, since what was freed longest ago is forgotten first;
# - within both, the end of the request's text is taken before its beginning.
#
# **Expected**: `give_back([7, 3], [5, 2, 9, 4], {5, 2, 9})` is `[4, 7, 3, 9, 2, 5]`.
#
# <details><summary>Hint 1: why the end first</summary>
#
# A look-up goes from the beginning and stops at the first block that is missing. If the beginning is gone, the rest is useless.
#
# </details>
#
# <details><summary>Hint 2: two lists</summary>
#
# Go through the table backwards once, and sort its blocks into two lists.
#
# </details>


# %% exercise="03.free_order"
def give_back(free: list[int], table: list[int], hashed: set[int]) -> list[int]:
    """Return the free list after a request has given its blocks back; the arguments stay as they are.

    Args:
        free: the free blocks' numbers, the next one to be taken first.
        table: the request's blocks, in the order of its text.
        hashed: those blocks that have a hash.
    """
    # SOLUTION
    backwards = table[::-1]
    first = [block for block in backwards if block not in hashed]
    last = [block for block in backwards if block in hashed]
    return [*first, *free, *last]
    # END SOLUTION


# %% exercise="03.free_order"
check("03.free_order", give_back)

# %% [markdown] exercise="03.prefix_lookup"
# ## How much is there already?
#
# A request comes, and before anything is computed the prefix cache is asked which blocks of its text are there. An answer that
# finds too little costs time. An answer that finds too much makes the model continue another text.
#
# Write `cached_prefix`. A full block's name is `block_hash(parent, tokens)`: `parent` is the name of the block before it, `b""` for the first
# one, and `tokens` are its own. `cache` knows the names of the blocks that are there.
#
# **Expected**: with everything of `[1, 2, 3, 4, 5]` cached in blocks of 2, the prompts `[1, 2, 3, 4, 9]` and `[1, 2, 3, 4, 5]` find two blocks,
# `[1, 2, 3, 4]` finds one, and `[9, 9, 3, 4, 5]` none.
#
# <details><summary>Hint 1: how many blocks may be found at most?</summary>
#
# The last token has to be computed in any case: the next token's logits come from it. How many full blocks are in the rest?
#
# </details>
#
# <details><summary>Hint 2: the chain</summary>
#
# Keep the name of the block before. It is the parent of the next one.
#
# </details>
#
# <details><summary>Hint 3: a name that is not in the cache</summary>
#
# Everything behind it is of no use: a block table has no holes.
#
# </details>

# %% exercise="03.prefix_lookup"
from course_lib.paged_attention import block_hash


def cached_prefix(tokens: list[int], cache: dict[bytes, int], block_size: int) -> list[int]:
    """Return the numbers of the cached blocks with which this text begins, in its order.

    Args:
        tokens: the text, at least one token.
        cache: name of a block -> its number.
        block_size: slots in a block.
    """
    # SOLUTION
    found: list[int] = []
    name = b""
    for start in range(0, (len(tokens) - 1) // block_size * block_size, block_size):
        name = block_hash(name, tokens[start : start + block_size])
        if name not in cache:
            break
        found.append(cache[name])
    return found
    # END SOLUTION


# %% exercise="03.prefix_lookup"
check("03.prefix_lookup", cached_prefix)
