"""The pool on its own, against a shadow that counts. Against vLLM's pool: test_against_vllm.py."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention import Block, BlockPool


def ids(blocks: list[Block]) -> list[int]:
    return [block.block_id for block in blocks]


@settings(deadline=None)
@given(st.integers(1, 8), st.lists(st.tuples(st.sampled_from(["take", "share", "cache", "free"]), st.integers(0, 99))))
def test_free_and_used_are_the_pool_and_counts_are_the_tables(size: int, actions: list[tuple[str, int]]) -> None:
    pool = BlockPool(size)
    tables: list[list[Block]] = []
    for number, (action, choice) in enumerate(actions):
        if action == "take" and pool.num_free_blocks:
            tables.append(pool.get_new_blocks(choice % pool.num_free_blocks + 1))
        elif action == "share" and tables:
            tables.append(list(tables[choice % len(tables)]))
            pool.touch(tables[-1])
        elif action == "cache" and tables:
            fresh = [block for block in tables[choice % len(tables)] if block.block_hash is None]
            pool.cache_full_blocks(fresh, [bytes([number, place]) for place in range(len(fresh))])
        elif action == "free" and tables:
            pool.free_blocks(reversed(tables.pop(choice % len(tables))))
        held = [block_id for table in tables for block_id in ids(table)]
        assert [block.ref_cnt for block in pool.blocks] == [held.count(block_id) for block_id in range(size)]
        assert sorted([*pool.free_list, *set(held)]) == list(range(size))
        for block in pool.blocks:
            assert block.block_hash is None or pool.get_cached_block(block.block_hash) is block
    for table in tables:
        pool.free_blocks(table)
    assert sorted(pool.free_list) == list(range(size))


def test_the_order_of_eviction() -> None:
    pool = BlockPool(8)
    first, second = pool.get_new_blocks(3), pool.get_new_blocks(3)
    pool.cache_full_blocks(first[:2], [b"a", b"b"])
    pool.cache_full_blocks(second[:2], [b"c", b"d"])
    pool.free_blocks(reversed(first))
    assert pool.free_list == [2, 6, 7, 1, 0]  # unhashed to the front; of the hashed, the end of the sequence goes first
    pool.free_blocks(reversed(second))
    assert pool.free_list == [5, 2, 6, 7, 1, 0, 4, 3]
    pool.get_new_blocks(5)  # the four without a hash, and one with
    assert pool.get_cached_block(b"b") is None
    assert pool.get_cached_block(b"a") is first[0]


def test_a_touched_block_is_not_evicted() -> None:
    pool = BlockPool(2)
    blocks = pool.get_new_blocks(2)
    pool.cache_full_blocks(blocks, [b"a", b"b"])
    pool.free_blocks(reversed(blocks))
    pool.touch([blocks[1]])
    assert pool.free_list == [0]
    assert ids(pool.get_new_blocks(1)) == [0]
    assert pool.get_cached_block(b"b") is blocks[1]


def test_of_equal_blocks_the_first_is_found_until_it_is_evicted() -> None:
    pool = BlockPool(3)
    blocks = pool.get_new_blocks(3)
    pool.cache_full_blocks(blocks[1:], [b"a", b"a"])
    pool.cache_full_blocks(blocks[:1], [b"a"])
    assert pool.get_cached_block(b"a") is blocks[1]
    pool.free_blocks(blocks[1:2])
    pool.get_new_blocks(1)
    assert pool.get_cached_block(b"a") is blocks[2]


def test_without_caching_nothing_is_found_and_all_go_to_the_front() -> None:
    pool = BlockPool(3, enable_caching=False)
    blocks = pool.get_new_blocks(2)
    pool.cache_full_blocks(blocks, [b"a", b"b"])
    assert pool.get_cached_block(b"a") is None
    pool.free_blocks(reversed(blocks))
    assert pool.free_list == [1, 0, 2]


def test_the_prefix_cache_is_forgotten_when_nobody_reads_it() -> None:
    pool = BlockPool(3)
    blocks = pool.get_new_blocks(1)
    pool.cache_full_blocks(blocks, [b"a"])
    assert not pool.reset_prefix_cache()
    assert pool.get_cached_block(b"a") is blocks[0]
    pool.free_blocks(blocks)
    assert pool.reset_prefix_cache()
    assert pool.get_cached_block(b"a") is None
    assert repr(pool) == "BlockPool(3 blocks, 3 free, 0 cached)"


def test_what_cannot_be_is_refused() -> None:
    pool = BlockPool(3)
    blocks = pool.get_new_blocks(2)
    with pytest.raises(ValueError, match="2 blocks asked for, 1 free of 3"):
        pool.get_new_blocks(2)
    assert pool.free_list == [2]
    with pytest.raises(ValueError, match="-1 blocks asked for"):
        pool.get_new_blocks(-1)
    pool.free_blocks(blocks)
    with pytest.raises(ValueError, match="block 0 is free already"):
        pool.free_blocks(blocks)
    with pytest.raises(ValueError, match="num_blocks is 1; expected 2"):
        BlockPool(1, null_block=True)
