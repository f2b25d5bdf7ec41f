# ruff: noqa: ARG001, D103  (what each gets wrong stands in its decorator; a stub's arguments are given)
"""Attention through a block table."""

import torch
from torch.nn.functional import scaled_dot_product_attention

from course_lib.kv_cache import attention
from wrong_answers import wrong


def _gather(cache, table, length):
    size = cache.shape[1]
    return cache[table[: (length + size - 1) // size]].flatten(0, 1)


@wrong("03.paged_attention", "reads-empty-slots", "Attends to whole blocks.")
def whole_blocks(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start = [], 0
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length), _gather(value_cache, table, length)
        outputs.append(attention(q[start : start + new], keys, values))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "ignores-the-table", "Reads the pool from its first slot on.")
def from_slot_zero(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start = [], 0
    for length, new in zip(seq_lens, query_lens, strict=True):
        keys, values = key_cache.flatten(0, 1)[:length], value_cache.flatten(0, 1)[:length]
        outputs.append(attention(q[start : start + new], keys, values))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "sorts-the-table", "Picks the blocks with a mask, which loses their order.")
def by_mask(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start, size = [], 0, key_cache.shape[1]
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        mine = torch.zeros(len(key_cache), dtype=torch.bool)
        mine[table[: -(-length // size)]] = True
        keys, values = key_cache[mine].flatten(0, 1)[:length], value_cache[mine].flatten(0, 1)[:length]
        outputs.append(attention(q[start : start + new], keys, values))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "forgets-the-new-tokens", "Attends to the tokens before the new ones.")
def older_only(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start = [], 0
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length), _gather(value_cache, table, length)
        end = length - new
        outputs.append(attention(q[start : start + new], keys[:end], values[:end], causal=False))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "always-the-first-queries", "Forgets to move on in q.")
def first_queries(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs = []
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length)[:length], _gather(value_cache, table, length)[:length]
        outputs.append(attention(q[:new], keys, values))
    return torch.cat(outputs)


@wrong("03.paged_attention", "sees-the-future", "Leaves out the mask, which decode does not need.")
def without_mask(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start = [], 0
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length)[:length], _gather(value_cache, table, length)[:length]
        outputs.append(attention(q[start : start + new], keys, values, causal=False))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "queries-come-first", "Takes PyTorch's is_causal, which lines up at the top left.")
def is_causal(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start = [], 0
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length)[:length], _gather(value_cache, table, length)[:length]
        heads_first = [x.transpose(0, 1) for x in (q[start : start + new], keys, values)]
        outputs.append(scaled_dot_product_attention(*heads_first, is_causal=True, enable_gqa=True).transpose(0, 1))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "wrong-kv-head", "Repeats the KV heads as a whole instead of one by one.")
def repeated(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    outputs, start, group = [], 0, q.shape[1] // key_cache.shape[2]
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length)[:length], _gather(value_cache, table, length)[:length]
        outputs.append(attention(q[start : start + new], keys.repeat(1, group, 1), values.repeat(1, group, 1)))
        start += new
    return torch.cat(outputs)


@wrong("03.paged_attention", "wrong-shape", "Returns one request's output.")
def last_request(q, key_cache, value_cache, block_tables, seq_lens, query_lens):
    for table, length, new in zip(block_tables, seq_lens, query_lens, strict=True):
        keys, values = _gather(key_cache, table, length)[:length], _gather(value_cache, table, length)[:length]
        output = attention(q[-new:], keys, values)
    return output[-1:]
