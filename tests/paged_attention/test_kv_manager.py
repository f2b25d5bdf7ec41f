"""Random requests, forked and not, over a pool whose every slot remembers whose key it holds: the prefix that made it."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from course_lib.paged_attention import Block, BlockPool, ForkingKVManager, PagedKVManager, slot

BLOCK_SIZE, NUM_BLOCKS = 3, 9
# Few tokens, so that prefixes meet.
some_tokens = st.lists(st.integers(0, 1), min_size=1, max_size=11)
actions = st.lists(
    st.tuples(st.sampled_from(["start", "start", "append", "append", "free", "fork"]), st.integers(0, 99), some_tokens),
    max_size=40,
)


class Shadow:
    """Slots that hold what they would: for each token the whole prefix that its key depends on."""

    def __init__(self, manager: ForkingKVManager):
        self.manager = manager
        self.slots: dict[int, tuple[int, ...]] = {}
        self.tokens: dict[str, list[int]] = {}
        self.started = 0

    def act(self, action: str, choice: int, tokens: list[int]) -> None:
        names = list(self.tokens)
        name = names[choice % len(names)] if names else ""
        if action == "start":
            self.started += 1
            name = f"r{self.started}"
            cached = self.manager.allocate(name, tokens)
            if cached is not None:
                assert cached < len(tokens)  # the last token is computed in any case
                self.tokens[name] = tokens
                self.write(name, cached)
        elif action == "append" and names:
            before = self.seen()
            if self.manager.append(name, tokens):
                self.copy()
                self.tokens[name] = self.tokens[name] + tokens
                self.write(name, len(self.tokens[name]) - len(tokens))
            else:
                assert self.seen() == before
        elif action == "free" and names:
            self.manager.free(name)
            del self.tokens[name]
        elif action == "fork" and names:
            self.started += 1
            self.manager.fork(name, f"r{self.started}")
            self.tokens[f"r{self.started}"] = list(self.tokens[name])

    def copy(self) -> None:
        for source, target in self.manager.take_copies():
            for offset in range(BLOCK_SIZE):
                self.slots[target * BLOCK_SIZE + offset] = self.slots.get(source * BLOCK_SIZE + offset, ())

    def write(self, name: str, start: int) -> None:
        table = self.manager.table(name)
        for position in range(start, len(self.tokens[name])):
            block = self.manager.pool.blocks[table[position // BLOCK_SIZE]]
            assert block.ref_cnt == 1, "writes into a block that others read"
            self.slots[slot(table, position, BLOCK_SIZE)] = tuple(self.tokens[name][: position + 1])

    def seen(self) -> Any:
        return self.manager.snapshot("")

    def check(self) -> None:
        manager, tables = self.manager, {name: self.manager.table(name) for name in self.tokens}
        for name, tokens in self.tokens.items():
            assert len(tables[name]) == -(-len(tokens) // BLOCK_SIZE)  # the only empty slots are in the last block
            read = [self.slots[slot(tables[name], position, BLOCK_SIZE)] for position in range(len(tokens))]
            assert read == [tuple(tokens[: end + 1]) for end in range(len(tokens))]
        held = [block_id for table in tables.values() for block_id in table]
        assert [block.ref_cnt for block in manager.pool.blocks] == [held.count(i) for i in range(NUM_BLOCKS)]
        assert sorted([*manager.pool.free_list, *set(held)]) == list(range(NUM_BLOCKS))
        snapshot = self.seen()
        assert snapshot.tables == {name: tuple(table) for name, table in tables.items()}
        assert snapshot.lengths == {name: len(tokens) for name, tokens in self.tokens.items()}
        for view in snapshot.blocks:  # the picture shows what the slots hold
            kept = [self.slots[view.block_id * BLOCK_SIZE + offset][-1] for offset in range(len(view.tokens))]
            assert list(view.tokens) == [str(token) for token in kept]


@settings(deadline=None, max_examples=300)
@given(actions, st.booleans())
def test_every_slot_holds_the_key_of_its_token(todo: list[tuple[str, int, list[int]]], caching: bool) -> None:
    shadow = Shadow(ForkingKVManager(NUM_BLOCKS, BLOCK_SIZE, caching))
    for action in todo:
        shadow.act(*action)
        shadow.check()
    for name in list(shadow.tokens):
        shadow.act("free", list(shadow.tokens).index(name), [])
    assert shadow.manager.pool.num_free_blocks == NUM_BLOCKS
    assert not shadow.manager.snapshot("").tables


def test_a_second_prompt_takes_over_full_blocks_with_an_equal_prefix() -> None:
    manager = PagedKVManager(8, block_size=4)
    assert manager.allocate("A", [1] * 9) == 0
    assert manager.allocate("B", [1] * 7 + [2, 2]) == 4
    assert manager.table("A") == [0, 1, 2]
    assert manager.table("B") == [0, 3, 4]
    assert manager.pool.blocks[0].ref_cnt == 2


@pytest.mark.parametrize(("length", "cached"), [(4, 0), (5, 4), (8, 4), (9, 8)])
def test_a_known_prompt_still_computes_its_last_token(length: int, cached: int) -> None:
    manager = PagedKVManager(8, block_size=4)
    manager.allocate("A", list(range(length)))
    assert manager.allocate("B", list(range(length))) == cached


def test_equal_tokens_after_another_beginning_are_other_keys() -> None:
    manager = PagedKVManager(8, block_size=2)
    manager.allocate("A", [1, 1, 5, 5, 9])
    assert manager.allocate("B", [2, 2, 5, 5, 9]) == 0


def test_a_preempted_request_finds_its_own_blocks() -> None:
    manager = PagedKVManager(8, block_size=2)
    manager.allocate("A", [1, 2, 3, 4, 5])
    manager.free("A")
    assert manager.allocate("A", [1, 2, 3, 4, 5]) == 4


def test_hits_in_the_free_list_count_as_needed() -> None:
    manager = PagedKVManager(3, block_size=2)
    manager.allocate("A", [1, 2, 3, 4, 5])
    manager.free("A")
    manager.allocate("B", [9])  # one block: the two hits and one new block for A are one too many
    before = manager.snapshot("")
    assert manager.allocate("A", [1, 2, 3, 4, 5]) is None
    assert manager.snapshot("") == before


def test_the_partial_last_block_is_copied_when_one_of_two_writes() -> None:
    manager = ForkingKVManager(8, block_size=4)
    manager.allocate("A", [1, 2, 3, 4, 5, 6])
    manager.fork("A", "B")
    assert manager.table("B") == [0, 1]
    manager.append("A", [7])
    assert (manager.table("A"), manager.table("B")) == ([0, 2], [0, 1])
    assert manager.take_copies() == [(1, 2)]
    manager.append("B", [8])  # alone with its block by now
    assert manager.table("B") == [0, 1]
    assert manager.take_copies() == []


def test_a_learners_pool_takes_the_pools_place() -> None:
    class Counting(BlockPool):
        taken = 0

        def get_new_blocks(self, count: int) -> list[Block]:
            self.taken += count
            return super().get_new_blocks(count)

    manager = PagedKVManager(4, 2, block_pool=Counting)
    manager.allocate("A", [1, 2, 3])
    assert isinstance(manager.pool, Counting)
    assert manager.pool.taken == 2


def test_what_cannot_be_is_refused() -> None:
    manager = ForkingKVManager(4, 2)
    manager.allocate("A", [1])
    for call in (manager.free, manager.table, manager.length):
        with pytest.raises(ValueError, match="no blocks of 'B' here; requests with blocks: A"):
            call("B")
    with pytest.raises(ValueError, match="no blocks of 'B' here"):
        manager.append("B", [1])
    with pytest.raises(ValueError, match="'A' has blocks already"):
        manager.allocate("A", [1])
    with pytest.raises(ValueError, match="'A' has blocks already"):
        manager.fork("A", "A")
    with pytest.raises(ValueError, match="'C' has no token"):
        manager.allocate("C", [])
    with pytest.raises(ValueError, match="block_size is 0"):
        PagedKVManager(4, 0)
    assert repr(manager) == "PagedKVManager(block_size=2, BlockPool(4 blocks, 3 free, 0 cached), tables {A: [0]})"


def test_the_end_of_a_request_is_evicted_before_its_beginning() -> None:
    manager = PagedKVManager(5, block_size=2)
    manager.allocate("A", [1, 2, 3, 4, 5])
    manager.free("A")
    assert manager.pool.free_list == [2, 3, 4, 1, 0]
